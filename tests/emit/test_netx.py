"""NetX files: the same integers back, the same states in NetX itself, and every reason where there is no file."""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from effort import examples
from snn2chip.emit.netx import reads_unchanged, write_net
from snn2chip.errors import S2CError
from snn2chip.frontend.netx import read_net
from snn2chip.ir import layers as L
from snn2chip.ir.graph import Edge, Node, in_order
from snn2chip.ir.program import Format, Program
from snn2chip.neurons.lif import IntegerLIF
from snn2chip.simulate import simulate
from snn2chip.verify.lava import shim
from tests.netx import assert_netx_agrees, needs_netx

Array = np.ndarray[Any, Any]
Build = Callable[..., Program]


def _integers(program: Program) -> list[tuple[Any, ...]]:
    """Every number of a chain, whatever its nodes are called."""
    found: list[tuple[Any, ...]] = []
    shapes = program.shapes()
    for node in program:
        if isinstance(node.layer, L.Neuron):
            m, shape = node.layer.model, shapes[node.name]
            bias = m.bias << m.bias_exp
            threshold = 1 << 17 if m.v_threshold is None else m.v_threshold
            found.append(tuple(np.broadcast_to(p, shape).tolist() for p in (threshold, m.decay_u, m.decay_v, bias)))
        elif isinstance(node.layer, L.Conv):
            layer = node.layer
            found.append((layer.weight.tolist(), layer.stride, layer.padding, layer.dilation, layer.groups))
        elif isinstance(node.layer, L.Linear):
            delay = node.layer.delay
            found.append((node.layer.weight.tolist(), None if delay is None or not delay.any() else delay.tolist()))
        elif isinstance(node.layer, (L.Input, L.Flatten)):
            found.append((node.layer.kind, shapes[node.name]))
    return sorted(found, key=repr)


def _dense_weights(program: Program) -> list[list[Array]]:
    """The matrices of every dense layer, recurrent ones with those they belong to."""
    fed_by = [[program[e.source].layer for e in node.inputs] for node in program.neurons]
    return [[s.weight for s in synapses] for synapses in fed_by if all(isinstance(s, L.Linear) for s in synapses)]


@settings(max_examples=examples(60))
@given(seed=st.integers(0, 10**6))
def test_the_same_integers_come_back(random_program: Build, seed: int) -> None:
    program = random_program(seed, native=True)
    with TemporaryDirectory() as folder:
        path = Path(folder, "n.net")
        # Small matrices are at times all zero, or all negative down to −256.
        assume(all(reads_unchanged(weights) for weights in _dense_weights(program)))
        write_net(program, path)
        again = read_net(path, target=program.target)
        assert _integers(again) == _integers(program)
        assert again.time_steps == program.time_steps
        write_net(again, Path(folder, "m.net"))
        assert Path(folder, "m.net").read_bytes() == path.read_bytes()


@needs_netx
@pytest.mark.parametrize("seed", range(12))
def test_netx_runs_the_program_itself(random_program: Build, seed: int, tmp_path: Path) -> None:
    program = random_program(seed, native=True)
    write_net(program, tmp_path / "n.net")
    shape = program.shapes()["input"]
    x = np.random.default_rng(seed).integers(0, 2, (20, *shape))
    assert_netx_agrees(tmp_path / "n.net", program, x)


def _by_netx(weights: list[Array]) -> bool:
    """Whether NetX's and Lava's own functions keep every weight, bit for bit."""
    shim.prepare_netx()
    from lava.lib.dl.netx.utils import optimize_weight_bits
    from lava.proc.dense.models import determine_sign_mode
    from lava.utils.weightutils import clip_weights, truncate_weights

    try:
        with contextlib.redirect_stdout(io.StringIO()), np.errstate(all="ignore"):
            shifted, bits, exponent, _ = optimize_weight_bits(np.hstack(weights))
            start = 0
            for weight in weights:
                part = shifted[:, start : start + weight.shape[1]]
                start += weight.shape[1]
                mode = determine_sign_mode(part)
                run = truncate_weights(clip_weights(part, mode, num_bits=8), mode, bits)
                if exponent > 0 or (run != weight << -exponent).any():
                    return False
    except (OverflowError, ValueError):
        return False
    return True


MATRICES = st.tuples(st.integers(-300, 300), st.integers(-300, 300), st.sampled_from([1, 2, 4, 8])).flatmap(
    lambda case: arrays(np.int64, (3, 4), elements=st.integers(min(case[:2]), max(case[:2]))).map(
        lambda w: w // case[2] * case[2]
    )
)


@needs_netx
@settings(max_examples=examples(400))
@given(first=MATRICES, second=st.none() | MATRICES)
def test_which_weights_netx_keeps(first: Array, second: Array | None) -> None:
    weights = [first] if second is None else [first, second[:, :3]]
    assert reads_unchanged(weights) == _by_netx(weights)


def _chain(**changes: Any) -> Program:
    """Conv – LIF – flatten – dense – LIF, with nodes or fields replaced."""
    from snn2chip.ir.target import load_target

    rng = np.random.default_rng(5)
    neuron = L.Neuron(IntegerLIF(np.asarray(150), np.asarray(9), np.asarray(4096), np.asarray(5)))
    nodes = {
        "input": Node("input", L.Input((2, 5, 6))),
        "conv": Node("conv", L.Conv2d(2 * rng.integers(-60, 100, (3, 2, 3, 3))), (Edge("input"),)),
        "lif": Node("lif", neuron, (Edge("conv"),)),
        "flat": Node("flat", L.Flatten(), (Edge("lif"),)),
        "fc": Node("fc", L.Linear(2 * rng.integers(-60, 100, (4, 36))), (Edge("flat"),)),
        "end": Node("end", neuron, (Edge("fc"),)),
        "readout": Node("readout", L.Readout("sum"), (Edge("end"),)),
        "out": Node("out", L.Output(), (Edge("readout"),)),
    }
    fields = {k: changes.pop(k) for k in ("coding", "formats", "time_steps") if k in changes}
    for name, change in changes.items():
        if isinstance(change, Node):
            nodes[name] = change
        else:
            nodes[name] = dataclasses.replace(nodes[name], **change)
    formats = {"input": Format(1, False, 1.0, overflow="error")}
    program = Program(in_order(nodes.values()), 7, "steps", load_target("loihi2"), formats, np.ones(()))
    return dataclasses.replace(program, **fields).verify()


def _neuron(**changes: Any) -> L.Neuron:
    fields = {"v_threshold": 150, "decay_v": 9, "decay_u": 4096, "bias": 5} | changes
    return L.Neuron(
        IntegerLIF(**{k: np.asarray(v) if isinstance(v, int) and k != "bias_exp" else v for k, v in fields.items()})
    )


def test_a_plain_chain_is_written(tmp_path: Path) -> None:
    program = _chain()
    write_net(program, tmp_path / "n.net")
    again = read_net(tmp_path / "n.net")
    assert again.time_steps == 7
    x = np.random.default_rng(0).integers(0, 2, (4, 7, 2, 5, 6))
    np.testing.assert_array_equal(simulate(again, x).outputs, simulate(program, x).outputs_int)


def test_a_bias_of_another_exponent_is_written_where_it_is_a_multiple(tmp_path: Path) -> None:
    write_net(_chain(lif={"layer": _neuron(bias=6, bias_exp=7)}), tmp_path / "n.net")
    assert read_net(tmp_path / "n.net")["layer.1"].layer.model.bias.ravel()[0] == 12  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"lif": {"layer": _neuron(reset="soft")}}, "lif (LIF): is not the native LIF"),
        ({"lif": {"layer": _neuron(fire=">=")}}, "v >= 150"),
        ({"lif": {"layer": _neuron(reset_timing="next")}}, "(next)"),
        ({"lif": {"layer": _neuron(bias=5, bias_exp=3)}}, "no multiple of 64"),
        ({"lif": {"layer": _neuron(bias=1 << 16)}}, "bias mantissa of 65536"),
        ({"fc": {"layer": L.Linear(np.zeros((4, 36), dtype=np.int64))}}, "back unchanged"),
        ({"fc": {"layer": L.Linear(np.tile([[700], [-2]], (2, 36)))}}, "(-2…700) back unchanged"),
        ({"fc": {"layer": L.Linear(np.full((4, 36), 2), None, np.full((4, 36), 63))}}, "delays by 63"),
        ({"fc": {"inputs": (Edge("flat", delay=2),)}}, "delayed value"),
        ({"conv": {"placement": "host"}}, "conv (Conv2d): runs on the host"),
        ({"flat": {"layer": L.Flatten(1)}, "fc": {"layer": L.Linear(np.full((3, 12), 2))}, "end": {}}, "leaves axes"),
        (
            {
                "end": {"inputs": (Edge("fc"), Edge("skip"))},
                "skip": Node("skip", L.Linear(np.full((4, 36), 2)), (Edge("flat"),)),
            },
            "chain",
        ),
        (
            {
                "pool": Node("pool", L.SumPool((1, 1), (1, 1), (0, 0)), (Edge("lif"),)),
                "flat": {"inputs": (Edge("pool"),)},
            },
            "no such layer",
        ),
        ({"coding": "direct"}, "stays over the steps"),
        ({"formats": {"input": Format(8, True, 0.1)}}, "more than binary spikes"),
    ],
)
def test_every_reason_is_told_and_no_file_is_left(changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(S2CError) as caught:
        write_net(_chain(**changes), tmp_path / "n.net")
    assert says in caught.value.why
    assert list(tmp_path.iterdir()) == []


def test_all_reasons_at_once(tmp_path: Path) -> None:
    program = _chain(
        lif={"layer": _neuron(reset="soft")},
        end={"layer": _neuron(fire=">=", bias=1, bias_exp=0)},
        formats={"input": Format(8, True, 0.1)},
    )
    with pytest.raises(S2CError) as caught:
        write_net(program, tmp_path / "n.net")
    reasons = caught.value.why.splitlines()
    assert [reason.split(" ")[0] for reason in reasons] == ["input", "lif", "end", "end"]
