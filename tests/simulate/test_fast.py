"""The fast engine against the definition: random programs and neurons, every cut of a run, and what may be broken."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from effort import examples
from networks import graph, node, population, program, spikes
from process import printed
from snn2chip.errors import S2CError, UsageError
from snn2chip.ir.arithmetic import Arithmetic
from snn2chip.ir.graph import Edge, Node, in_order
from snn2chip.ir.layers import (
    Add,
    Concat,
    Conv1d,
    Conv2d,
    Delay,
    Flatten,
    Input,
    Linear,
    MatMul,
    MaxPool,
    Mul,
    Output,
    Permute,
    Readout,
    Rescale,
    Reshape,
    Scale,
    SumPool,
)
from snn2chip.ir.program import Format, Program
from snn2chip.ir.target import load_target
from snn2chip.neurons.lif import LIF, IntegerLIF
from snn2chip.neurons.ternary import IntegerTernaryLIF
from snn2chip.simulate import Result, fast, simulate
from snn2chip.simulate.explain import explain_engine
from snn2chip.simulate.fast import compiled, cutting
from snn2chip.simulate.fast.explain import peak_memory
from snn2chip.simulate.fast.populations.population import Inflow, Layout, Piece, Population
from snn2chip.simulate.fast.synapses import choice, linear, methods
from snn2chip.simulate.footprint import reference_memory
from snn2chip.simulate.ops import NumpyOps, apply
from snn2chip.simulate.ranges import Range, sum_range
from snn2chip.simulate.reference import MachineClock
from tests.emit.random_programs import Case, cases

pytest.importorskip("numba")
EVERYTHING = ("u", "v", "spikes", "a", "out")
# Without "a" and "out" populations may compute synapses themselves.
RECORDED = [(), ("u", "v", "spikes"), EVERYTHING]


def assert_same(expected: Result, found: Result) -> None:
    """Two results agree in every integer, every count and every dtype."""
    assert expected.layers == found.layers
    assert expected.saturated_inputs == found.saturated_inputs
    pairs: list[tuple[str, Any, Any]] = [
        ("outputs", expected.outputs, found.outputs),
        ("outputs_int", expected.outputs_int, found.outputs_int),
    ]
    for held in ("counts", "recordings"):
        ours, theirs = getattr(expected, held), getattr(found, held)
        assert set(ours) == set(theirs)
        pairs += [(f"{n} {k}", v, getattr(theirs[n], k)) for n in ours for k, v in vars(ours[n]).items()]
    for name, a, b in pairs:
        assert (a is None) == (b is None), name
        if a is not None:
            assert a.dtype == b.dtype, name
            np.testing.assert_array_equal(a, b, err_msg=name)


@contextlib.contextmanager
def chunks(size: int, threads: int = 1) -> Iterator[None]:
    """Runs cut into chunks of ``size`` bytes, side by side in ``threads`` threads; streamed sums in a third of that."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with mock.patch.multiple(cutting, CHUNK_BYTES=size, PIECE_BYTES=size // 3):
            yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def interpreted() -> Iterator[None]:
    """Generated kernels run by Python on numpy's scalars, which tell of every overflow of 32 bits."""

    def in_python(text: str, types: tuple[str, ...], example: tuple[Any, ...]) -> Any:
        space: dict[str, Any] = {}
        exec(compile(text, "<generated kernel>", "exec"), space)
        overflow = "raise" if "a_in = int32(" in text else "ignore"

        def kernel(*arguments: Any) -> None:
            with np.errstate(over=overflow):
                space["kernel"](*arguments)

        return kernel

    with mock.patch.object(compiled, "_loaded", {}), mock.patch.object(compiled, "_compiled", in_python):
        yield


# --- whole programs ---


# Compiling takes a second a kernel: most programs, small as they are, run theirs in Python.
HOW = st.sampled_from([interpreted] * 7 + [contextlib.nullcontext])


@settings(max_examples=examples(220))
@given(
    case=cases(),
    how=HOW,
    size=st.sampled_from([1, 400, 3000, 1 << 22]),
    int8=st.booleans(),
    wanted=st.sampled_from(RECORDED),
)
def test_random_programs(case: Case, how: Any, size: int, int8: bool, wanted: tuple[str, ...]) -> None:
    expected = simulate(case.program, case.x, record=wanted, engine="reference")
    fast._plans.clear()
    with how(), chunks(size), mock.patch.object(choice, "_prefers_int8", return_value=int8):
        assert_same(expected, simulate(case.program, case.x, record=wanted, engine="fast"))


NEURONS: dict[str, dict[str, Any]] = {
    "plain": {"v_threshold": 40, "decay_v": 1000, "decay_u": 4096, "bias": 3},
    "soft": {"v_threshold": 30, "decay_v": 0, "decay_u": 1024, "bias": -2, "reset": "soft", "fire": ">="},
    "membrane": {"v_threshold": None, "decay_v": 300, "decay_u": 4096, "bias": 0},
}


def neuron(kind: str, **options: Any) -> Any:
    return population(IntegerLIF(**{**NEURONS[kind], **options}))


def ternary(v_threshold: int = 40) -> Any:
    return population(IntegerTernaryLIF(np.asarray(v_threshold), np.asarray(1000), np.asarray(3)))


def integers(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(-25, 30, shape) * 2


def each_its_own(rng: np.random.Generator, channels: int) -> list[Conv2d]:
    """Convolutions that multiply every channel by a number, written in two ways, and one that nearly does."""
    gain = integers(rng, channels)
    dense = np.diag(gain)[:, :, None, None]
    return [
        Conv2d(gain[:, None, None, None], groups=channels),
        Conv2d(dense),
        Conv2d(dense + 2 * np.eye(channels, k=1, dtype=int)[:, :, None, None]),
    ]


@st.composite
def mixtures(draw: Any) -> tuple[Program, np.ndarray]:
    """Programs of the layers and edges that ``cases`` has few or none of, over few kinds of neurons."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    pick = lambda *options: draw(st.sampled_from(options))  # noqa: E731
    kind = lambda: pick(*map(neuron, NEURONS), ternary())  # noqa: E731
    space = (draw(st.integers(3, 5)), draw(st.integers(3, 5)))
    pool = pick(MaxPool, SumPool)
    kernel = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    padding = tuple(k // 2 for k in kernel)
    stride = (draw(st.integers(1, 2)), draw(st.integers(1, 2)))
    pooling = pool(kernel, stride, padding, draw(st.booleans()))
    channels, *small = pooling.output_shape((3, *space))
    tokens, width = int(np.prod(small)), channels
    steps, direct = draw(st.integers(1, 6)), draw(st.booleans())
    first = [
        node("conv", Conv2d(integers(rng, 3, 2, 3, 3), padding=(1, 1)), Edge("x", delay=pick(0, 0, 2))),
        node("n1", kind(), "conv", *([Edge("back", delay=0)] if draw(st.booleans()) else [])),
    ]
    if len(first[1].inputs) == 2:
        edge = Edge("n1", delay=draw(st.integers(1, 3)), recurrent=True, port=pick("out", "v"))
        first.insert(1, Node("scaled", Scale(np.array(pick(1, 2, -1))), (edge,)))
        first.insert(2, node("back", Rescale(pick(0, 9)), "scaled"))
    nodes = [
        *first,
        node("own", draw(st.sampled_from(each_its_own(rng, 3))), Edge("n1", delay=draw(st.integers(0, 2)))),
        node("n0", kind(), "conv", "own"),
        node("pool", pooling, "n0"),
        node("late", Delay(draw(st.integers(1, 4))), "pool"),
        node("sum", Add(), "pool", Edge("late", delay=draw(st.integers(0, 2)))),
        node("rows", Reshape((channels, tokens)), "sum"),
        node("tokens", Permute((1, 0)), "rows"),
        node("q", Linear(integers(rng, 4, width), delay=rng.integers(0, 3, (4, width))), "tokens"),
        node("k", Linear(integers(rng, 4, width)), "tokens"),
        node("also", Linear(np.diag(integers(rng, 4))), "nk"),
        node("nq", kind(), "also", "q"),
        node("nk", kind(), "k"),
        node("turned", Permute((1, 0)), "nk"),
        node("attention", MatMul(), "turned", "nq", placement=pick("chip", "host")),
        node("squared", Mul(), "attention", "attention", placement=pick("chip", "host")),
        node("joined", Concat(pick(0, 1, -1)), "attention", "squared"),
        node("flat", Flatten(), "joined"),
        node("line", Conv1d(integers(rng, 2, 3, 2), groups=1), "rows")
        if tokens > 1
        else node("line", Flatten(), "rows"),
        node("fc", Linear(integers(rng, 3, 32), rng.integers(-9, 9, 3)), "flat", placement=pick("chip", "host")),
        node("n2", neuron(pick("plain", "soft")), "fc", "fc"),
        node("ends", Flatten(), "n2"),
        Node("readout", Readout(pick("sum", "last", "max")), (Edge("ends") if pick(0, 1) else Edge("n2", port="v"),)),
        node("output", Output(), "readout"),
    ]
    form = Format(8, False, 1.0, overflow="error") if direct else Format(1, False, 1.0, overflow="error")
    everything = in_order([node("x", Input((2, *space))), *nodes])
    made = Program(
        everything, steps, "direct" if direct else "steps", load_target("loihi2"), {"x": form}, np.asarray(0.5)
    ).verify()
    x = rng.integers(0, 1 + form.range[1], (draw(st.integers(1, 3)), *made.sample_shape))
    return made, x


@settings(max_examples=examples(300))
@given(mixture=mixtures(), how=HOW, size=st.sampled_from([1, 2000, 1 << 22]), wanted=st.sampled_from(RECORDED))
def test_every_layer_and_edge(
    mixture: tuple[Program, np.ndarray], how: Any, size: int, wanted: tuple[str, ...]
) -> None:
    made, x = mixture
    expected = simulate(made, x, record=wanted, engine="reference")
    fast._plans.clear()
    with how(), chunks(size):
        assert_same(expected, simulate(made, x, record=wanted, engine="fast"))


# --- neurons ---


@st.composite
def neurons(draw: Any) -> tuple[IntegerLIF, Arithmetic, Layout, np.random.Generator]:
    """Every option of the family, arithmetic of chips that may exist, parameters up to the edge of the registers."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    pick = lambda *options: draw(st.sampled_from(options))  # noqa: E731
    shape = pick((3,), (2, 3), (2, 2, 3))
    per = lambda: pick((), (shape[0], *(1,) * (len(shape) - 1)), shape)  # noqa: E731
    bits = pick(16, 24)
    arithmetic = Arithmetic(
        decay_bits=pick(8, 12, 16),
        decay_rounding=pick("zero", "floor"),
        input_shift=pick(0, 6),
        threshold_shift=pick(0, 6),
        current_bits=bits,
        current_overflow=pick("wrap", "wrap_once", "saturate"),
        voltage_bits=bits,
        voltage_overflow=pick("wrap", "wrap_once", "saturate"),
    )
    one, top = 1 << arithmetic.decay_bits, 1 << (bits - 2 - arithmetic.threshold_shift)
    decay = lambda: pick(np.asarray(0), np.asarray(one), rng.integers(0, one + 1, per()))  # noqa: E731
    some = lambda reach: pick(None, rng.integers(-reach, reach, per()))  # noqa: E731
    model = IntegerLIF(
        pick(None, rng.integers(1, pick(20, top), per()), rng.integers(-9, 9, per())),
        decay(),
        decay(),
        rng.integers(-99, 99, per()) * pick(0, 1),
        pick(0, 3, 6),
        some(1 << (bits - 2)),
        pick(">", ">="),
        pick("hard", "soft", "none"),
        pick("same", "gate", "next"),
        some(1 << (bits - 2)),
        some(1 << (bits - 2)),
    )
    return model, arithmetic, Layout(shape, draw(st.booleans()) and len(shape) > 1), rng


@settings(max_examples=examples(400))
@given(
    case=neurons(),
    reach=st.sampled_from([0, 1, 300, 70_000, 1 << 21, (1 << 24) - 1]),
    inputs=st.integers(1, 2),
    gained=st.booleans(),
)
def test_every_option_of_a_neuron_without_any_overflow(case: Any, reach: int, inputs: int, gained: bool) -> None:
    """The kernel's source, operation by operation: equal to the numpy step, and no 32-bit operation overflows."""
    model, arithmetic, layout, rng = case
    steps, n = 4, 2
    given_ = rng.choice([-reach, 0, reach, reach // 2, -reach // 3], (inputs, steps, n, *layout.shape))
    gain = rng.integers(-5, 6, layout.shape[:1] + (1,) * (len(layout.shape) - 1)) if gained else None
    factors = [1 if gain is None else gain, 1][:inputs]
    widest = Range(-5 * reach, 5 * reach) if gained else Range(-reach, reach)
    flows = [Inflow(widest, np.dtype(np.int32), gain), Inflow(Range(-reach, reach), np.dtype(np.float32))][:inputs]
    with interpreted():
        made = Population(model, arithmetic, layout, flows, record=True)
        rows = [
            layout.to_memory(x).reshape(steps, -1).astype(flow.dtype) for x, flow in zip(given_, flows, strict=True)
        ]
        run = made.room(steps, n)
        made.run(run, Piece(0, steps, 0, n), made.start(n, carried=False), rows, first=True)
    summed = sum(x * factor for x, factor in zip(given_, factors, strict=True))
    assert made.kernel == f"compiled int{made._source.bits}"  # type: ignore[union-attr]
    state = model.start((n, *layout.shape))
    for t in range(steps):
        state, out = model.step(state, summed[t], arithmetic)
        np.testing.assert_array_equal(run.fired[t], np.count_nonzero(out.reshape(n, -1), axis=1))
        for name, row, truth in [("out", run.out, out), *((k, run.histories[k], state[k]) for k in ("u", "v"))]:
            found = layout.from_memory(row[t].reshape(n, *layout.memory_shape))
            np.testing.assert_array_equal(found, truth, err_msg=f"{name} at step {t}")
            assert Range(int(truth.min()), int(truth.max())).within(made.ranges[name])


def beyond_64_bits() -> tuple[Program, np.ndarray]:
    """A current that the chip corrects once only, and so far out that a decay by a power of two loses upper bits."""
    model = IntegerLIF(v_threshold=None, decay_v=2048, decay_u=np.array([0, 2048, 4095]), bias=0)
    twice = IntegerLIF(v_threshold=30, decay_v=4096, decay_u=0, bias=0)
    layers = node("fc", Linear(np.array([[3], [-5], [7]]) << 47), "x"), node("far", population(model), "fc")
    made = program((1,), *layers, node("near", population(twice), Edge("far", port="u")))
    return made, np.array([[[1], [0], [1], [1], [0]]])


@pytest.mark.parametrize("how", [interpreted, contextlib.nullcontext])
def test_registers_beyond_64_bits(how: Any) -> None:
    made, x = beyond_64_bits()
    expected = simulate(made, x, record=EVERYTHING, engine="reference")
    assert expected["far"].u is not None
    assert (abs(expected["far"].u) >= 1 << 51).any()
    fast._plans.clear()
    with how():
        assert_same(expected, simulate(made, x, record=EVERYTHING, engine="fast"))


def test_neurons_of_real_networks_need_32_bits_only() -> None:
    flow = Inflow(Range(-60_000, 60_000), np.dtype(np.float32))
    for kind in NEURONS:
        model = neuron(kind).model
        assert Population(model, Arithmetic(), Layout((8,), False), [flow], False).kernel == ("compiled int32")


class Unusual(IntegerLIF):
    """A step with an operation that kernels are not written from."""

    def step(self, state: Any, a: Any, arithmetic: Arithmetic) -> Any:
        state, out = super().step(state, np.where(np.sort(a, axis=0) == a, a, a), arithmetic)
        return state, out


def test_a_step_that_cannot_be_compiled_runs_as_it_is() -> None:
    rng = np.random.default_rng(0)
    made = conv_net(rng, population(Unusual(**NEURONS["plain"])))
    x = spikes(rng, 3, *made.sample_shape).astype(int)
    assert_same(
        simulate(made, x, record=EVERYTHING, engine="reference"), simulate(made, x, record=EVERYTHING, engine="fast")
    )
    (row,) = [row for row in explain_engine(made, 3, 5).rows if row.layer == "n1"]
    assert row.kernel == "numpy"
    assert "numpy.sort" in row.why


# --- cutting and threads ---


def conv_net(rng: np.random.Generator, first: Any = None) -> Program:
    return program(
        (2, 5, 6),
        node("conv", Conv2d(integers(rng, 3, 2, 3, 3), padding=(1, 1)), "x"),
        node("n1", first or neuron("plain"), "conv"),
        node("late", Delay(2), "n1"),
        node("flat", Flatten(), "late"),
        node("fc", Linear(integers(rng, 4, 90)), "flat"),
        node("back", Linear(integers(rng, 4, 4)), Edge("n2", delay=2, recurrent=True)),
        node("n2", neuron("soft"), "fc", "back"),
    )


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 4, 128])
@pytest.mark.parametrize("size", [1, 1000, 1 << 22])
def test_cuts_and_threads_change_nothing(threads: int, batch_size: int, size: int) -> None:
    rng = np.random.default_rng(3)
    made = conv_net(rng)
    x = spikes(rng, 9, *made.sample_shape).astype(int)
    for record in RECORDED:
        expected = simulate(made, x, record=record, engine="reference")
        told: list[int] = []
        with chunks(size, threads):
            found = simulate(made, x, record=record, engine="fast", batch_size=batch_size, progress=told.append)
            assert torch.get_num_threads() == threads
        assert_same(expected, found)
        assert told == sorted(told)
        assert told[-1] == 9


def test_memory_stays_within_what_is_stated() -> None:
    """64 samples of 64 steps would take a gigabyte at once."""
    script = """
        import numpy as np
        from networks import node, population, program
        from process import peak, peak_from_now
        from snn2chip.ir.layers import Conv2d, Flatten, Linear
        from snn2chip.neurons.lif import IntegerLIF
        from snn2chip.simulate import fast, simulate
        from snn2chip.simulate.fast.explain import peak_memory
        rng = np.random.default_rng(0)
        lif = lambda: population(IntegerLIF(200, 1000, 4096, 0))
        conv = lambda c: Conv2d(2 * rng.integers(-50, 50, (32, c, 3, 3)), padding=(1, 1))
        made = program(
            (4, 32, 32),
            node("c1", conv(4), "x"),
            node("n1", lif(), "c1"),
            node("c2", conv(32), "n1"),
            node("n2", lif(), "c2"),
            node("flat", Flatten(), "n2"),
            node("fc", Linear(2 * rng.integers(-50, 50, (5, 32768))), "flat"),
            time_steps=64,
        )
        x = (rng.uniform(size=(64, 64, 4, 32, 32)) < 0.2).astype(np.uint8)
        simulate(made, x[:1], engine="fast")
        plan = fast.plan_for(made, frozenset(), 64, 64)
        before = peak_from_now()
        simulate(made, x, engine="fast")
        print(peak() - before, peak_memory(plan, 64, 64, frozenset()).total // 1024)
    """
    grown, stated = map(int, printed(script, OMP_NUM_THREADS="2").split())
    assert grown < stated + 20_000
    assert stated < 5 * grown
    assert stated < 200_000


def test_a_quarter_of_the_memory_of_the_float_network_with_time_in_the_batch() -> None:
    """32 samples of 32 steps; the float network is run layer by layer, every tensor let go when it is read."""
    script = """
        import sys
        import numpy as np, torch
        import torch.nn.functional as F
        from networks import node, population, program
        from process import peak, peak_from_now
        from snn2chip.ir.layers import Conv2d, Flatten, Linear
        from snn2chip.neurons.lif import IntegerLIF
        from snn2chip.simulate import simulate
        rng, side = np.random.default_rng(0), 24
        w1, w2 = (2 * rng.integers(-50, 50, (32, c, 3, 3)) for c in (4, 32))
        w3 = 2 * rng.integers(-50, 50, (10, 32 * side * side))
        lif = lambda: population(IntegerLIF(200, 1024, 4096, 0))
        made = program((4, side, side), node("c1", Conv2d(w1, padding=(1, 1)), "x"), node("n1", lif(), "c1"),
            node("c2", Conv2d(w2, padding=(1, 1)), "n1"), node("n2", lif(), "c2"),
            node("flat", Flatten(), "n2"), node("fc", Linear(w3), "flat"), time_steps=32)
        x = (rng.uniform(size=(32, 32, 4, side, side)) < 0.2).astype(np.uint8)

        def floats(x):
            h = x.transpose(0, 1).flatten(0, 1).float()
            for w in (w1, w2):
                h = F.conv2d(h, torch.from_numpy(w).float(), padding=1).unflatten(0, (32, -1))
                v = torch.zeros_like(h[0])
                for t in range(32):
                    v = v * 0.75 + h[t]
                    h[t] = (v > 200).float()
                    v = v * (1 - h[t])
                h = h.flatten(0, 1)
            return F.linear(h.flatten(1), torch.from_numpy(w3).float()).unflatten(0, (32, -1)).sum(0)

        fast = lambda n: simulate(made, x[:n], engine="fast")
        run = {"fast": fast, "float": lambda n: floats(torch.from_numpy(x[:n]))}
        with torch.inference_mode():
            run[sys.argv[1]](1)
            before = peak_from_now()
            run[sys.argv[1]](32)
        print(peak() - before)
    """
    fast_, float_ = (int(printed(script, which, OMP_NUM_THREADS="2")) for which in ("fast", "float"))
    assert fast_ < float_ / 4


# --- trust ---


def small_vgg(bits: int, first: Any, second: Any) -> Program:
    """Convolutions, pooling and a head, with weights at the edge of 8 bits, on ``bits``-bit inputs."""
    rng = np.random.default_rng(0)
    extreme = lambda *shape: rng.choice([-256, 0, 2, 254], shape)  # noqa: E731
    return program(
        (16, 8, 8),
        node("c1", Conv2d(extreme(32, 16, 3, 3), padding=(1, 1)), "x"),
        node("n1", first, "c1"),
        node("c2", Conv2d(extreme(32, 32, 3, 3), padding=(1, 1), stride=(2, 2)), "n1"),
        node("n2", second, "c2", "shortcut"),
        node("shortcut", Conv2d(extreme(32, 16, 1, 1), stride=(2, 2)), "x"),
        node("pool", MaxPool((2, 2), (2, 2), (0, 0)), "n2"),
        node("flat", Flatten(), "pool"),
        node("fc", Linear(extreme(7, 128)), "flat"),
        bits=bits,
    )


def every_way() -> str:
    """Random programs and small VGGs in one, two and three chunks' sizes and threads; what int8 makes of them.

    Raises:
        AssertionError: an integer differs from the reference engine's.
    """

    @settings(max_examples=8, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(case=cases())
    def programs(case: Case) -> None:
        compared(case.program, case.x)

    plain = neuron("plain", v_threshold=3000)
    with mock.patch.object(choice, "_prefers_int8", return_value=True):
        programs()
        for bits, first, second in ((1, plain, plain), (7, plain, ternary(9000)), (8, ternary(9000), neuron("soft"))):
            made = small_vgg(bits, first, second)
            compared(made, np.random.default_rng(1).choice([0, 1, (1 << bits) - 1], (3, *made.sample_shape)))
            chosen = [synapse.parts[0][1] for synapse in fast._plans[-1][2].synapses.values()]
            assert any(c.kernel == "int8" or "int8" in c.rejected for c in chosen)
    # Beyond 128 processors without 8-bit dot products saturate: nothing that does may pass for right.
    wide = linear.Case.of(Conv2d(np.full((4, 16, 3, 3), 127), padding=(1, 1)), (16, 8, 8), Range(0, 255))
    return f"{methods.METHODS['int8'].refuse(wide) or 'taken'}: {choice.distrust('int8', wide) or 'right'}"


def test_the_dilation_of_a_single_tap() -> None:
    """Handed on as it is, it ends the process in oneDNN's int8 convolution."""
    layer = Conv2d(np.full((12, 1, 1, 1), 2), None, (2, 2), (0, 1), (1, 2), 4)
    case = linear.Case.of(layer, (4, 1, 1), Range(0, 1))
    assert choice.distrust("int8", case) == ""
    x = np.ones((1, 4, 1, 1), np.int64)
    with linear.exact_floats():
        found = methods.METHODS["int8"].make(case)(torch.from_numpy(x))
    np.testing.assert_array_equal(found.numpy(), apply(layer, [x], NumpyOps()))


def compared(made: Program, x: np.ndarray) -> None:
    expected = simulate(made, x, record=EVERYTHING, engine="reference")
    states = simulate(made, x, record=RECORDED[1], engine="reference")
    for size, threads, whole in ((1 << 22, 1, True), (3000, 2, False), (1, 1, False), (1 << 22, 2, False)):
        fast._plans.clear()
        with chunks(size, threads):
            found = simulate(made, x, record=EVERYTHING if whole else RECORDED[1], engine="fast")
        assert_same(expected if whole else states, found)


@pytest.mark.parametrize("limit", ["ALL", "AVX512_CORE", "AVX2", "SSE41"])
def test_every_processor_gives_the_same_integers(limit: str) -> None:
    script = "from tests.simulate.test_fast import every_way; print(every_way())"
    said, found = printed(script, OMP_NUM_THREADS="2", ONEDNN_MAX_CPU_ISA=limit).strip().rsplit(": ", 1)
    assert found == "right" or ("without 8-bit dot products" in said and "wrong" in found)
    if limit != "ALL":
        assert "without 8-bit dot products" in said


def off_by_one(case: Any) -> Any:
    right = linear.float_kernel(torch.float64)(case)
    return lambda x: right(x) + 1


def in_bfloat16(case: Any) -> Any:
    layer = case.layer
    weight = torch.from_numpy(layer.weight).to(torch.bfloat16)
    if isinstance(layer, Linear):
        return lambda x: F.linear(x.to(torch.bfloat16), weight).float()
    return lambda x: F.conv2d(x.to(torch.bfloat16), weight, None, layer.stride, layer.padding).float()


@pytest.mark.parametrize(("broken", "said"), [(off_by_one, "wrong"), (in_bfloat16, "wrong")])
def test_a_kernel_that_fails_its_self_test_is_not_used(broken: Any, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("int8", "f32"):
        monkeypatch.setitem(methods.METHODS, name, dataclasses.replace(methods.METHODS[name], make=broken))
    rng = np.random.default_rng(1)
    made = conv_net(rng)
    x = spikes(rng, 3, *made.sample_shape).astype(int)
    assert_same(
        simulate(made, x, record=EVERYTHING, engine="reference"), simulate(made, x, record=EVERYTHING, engine="fast")
    )
    rows = {row.layer: row for row in explain_engine(made, 3, 5, wanted=frozenset(EVERYTHING)).rows}
    assert rows["conv"].kernel == rows["fc"].kernel == "f64"
    assert said in rows["conv"].why


class OtherOps:
    """torch.ops.onednn as another version might have it: one operator gone or changed."""

    def __init__(self, **changed: Any) -> None:
        self._changed = changed

    def __getattr__(self, name: str) -> Any:
        if name not in self._changed:
            return getattr(ONEDNN, name)
        if self._changed[name] is None:
            raise AttributeError(f"'_OpNamespace' 'onednn' object has no attribute '{name}'")
        return self._changed[name]


ONEDNN = torch.ops.onednn


def with_one_more_argument(x: Any, scale: Any, zero: Any, weight: Any, new: Any) -> Any:
    raise AssertionError("not reached")


def deaf_to_the_zero_point(x: Any, scale: Any, zero: Any, *rest: Any) -> Any:
    return ONEDNN.qconv2d_pointwise(x, scale, 0, *rest)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"qconv_prepack": None}, "has no attribute 'qconv_prepack'"),
        ({"qconv2d_pointwise": None}, "has no attribute 'qconv2d_pointwise'"),
        ({"qconv2d_pointwise": with_one_more_argument}, "positional arguments"),
        ({"qconv2d_pointwise": lambda *args: None}, "it cannot run here"),
        ({"qconv2d_pointwise": deaf_to_the_zero_point}, "sums wrong"),
    ],
    ids=["no packing", "no product", "other arguments", "nothing", "no zero point"],
)
def test_an_operator_that_torch_changed_is_left_out_and_said(
    changed: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "_trusted", {})
    monkeypatch.setattr(choice, "_prefers_int8", lambda *case: True)
    made = small_vgg(1, ternary(3000), neuron("plain", v_threshold=3000))
    x = spikes(np.random.default_rng(1), 2, *made.sample_shape).astype(int)
    with monkeypatch.context() as patched:
        patched.setattr(torch.ops, "onednn", OtherOps(**changed))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = simulate(made, x, engine="fast")
    rows = {row.layer: row for row in explain_engine(made, 2, 5).rows}
    assert rows["c2"].kernel == "f32"
    assert said in rows["c2"].why
    assert rows["fc"].kernel == "int8"
    assert_same(simulate(made, x, engine="reference"), found)


@pytest.mark.parametrize(
    ("magnitude", "kernel"), [(1 << 12, "f32"), (1 << 13, "f64"), (1 << 41, "f64"), (1 << 43, "int64")]
)
def test_sums_too_wide_for_a_kernel_go_to_a_wider_one(magnitude: int, kernel: str) -> None:
    """All-positive sums at the edge of the mantissa: random signs would hide what is lost."""
    weight = np.full((2, 9), magnitude) + np.arange(18).reshape(2, 9)
    made = program((9,), node("fc", Linear(weight), "x"), bits=8)
    x = np.full((2, 5, 9), 255)
    expected = simulate(made, x, engine="reference")
    assert_same(expected, simulate(made, x, engine="fast"))
    assert expected.outputs_int is not None
    assert expected.outputs_int[0, 0] == 5 * 255 * int(weight[0].sum())
    (row,) = [row for row in explain_engine(made, 2, 5).rows if row.layer == "fc"]
    assert row.kernel == kernel


@given(seed=st.integers(0, 10**6), low=st.integers(-9, 9), width=st.integers(0, 9), padding=st.integers(0, 2))
def test_no_sum_leaves_its_proved_range(seed: int, low: int, width: int, padding: int) -> None:
    rng = np.random.default_rng(seed)
    layer = Conv2d(rng.integers(-9, 10, (2, 2, 3, 3)) * 4, rng.integers(-9, 9, 2) * 2, padding=(padding, padding))
    x = rng.choice([low, low + width], (20, 2, 3, 4))
    sums = apply(layer, [x], NumpyOps())
    proved = sum_range(layer, Range(low, low + width))
    assert Range(int(sums.min()), int(sums.max())).within(proved.out)
    assert not (sums % proved.out.step).any()
    assert abs(sums).max() <= proved.partial * proved.out.step


def test_sums_beyond_64_bits() -> None:
    """All of them multiples of a large power of two, so that floats hold every one, and integers do not."""
    rng = np.random.default_rng(0)
    made = program(
        (1, 4, 4),
        node("conv", Conv2d(rng.integers(-9, 9, (3, 1, 3, 3)) << 53), "x"),
        node("flat", Flatten(), "x"),
        node("fc", Linear(rng.integers(-9, 9, (12, 16)) << 52), "flat"),
        node("image", Reshape((3, 2, 2)), "fc"),
        node("three", Add(), "image", "image", "conv"),
        node("back", Rescale(30), "three"),
        node("lif", neuron("plain"), "back"),
        bits=8,
    )
    x = rng.integers(0, 256, (2, *made.sample_shape))
    assert_same(
        simulate(made, x, record=EVERYTHING, engine="reference"), simulate(made, x, record=EVERYTHING, engine="fast")
    )


def test_windows_of_nothing_but_padding_are_kept_from_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its 8-bit convolutions read beyond their memory there, which no self-test survives."""
    monkeypatch.setattr(choice, "_prefers_int8", lambda *case: True)
    rng = np.random.default_rng(0)
    layers = [
        node("wide", Conv2d(rng.integers(-9, 9, (4, 2, 2, 2)), stride=(2, 2), padding=(0, 2), dilation=(1, 2)), "x"),
        node("point", Conv2d(rng.integers(-9, 9, (2, 4, 1, 1)), padding=(0, 1)), "wide"),
        node("line", Conv2d(rng.integers(-9, 9, (2, 2, 2, 2)), padding=(1, 3), dilation=(1, 2)), "x"),
    ]
    made = program((2, 4, 3), *layers, bits=8)
    x = rng.integers(0, 256, (3, *made.sample_shape))
    assert_same(simulate(made, x, engine="reference"), simulate(made, x, engine="fast"))
    kernels = {row.layer: row for row in explain_engine(made, 3, 5).rows}
    assert kernels["wide"].kernel == "int8"
    for name in ("point", "line"):
        assert kernels[name].kernel == "f32"
    assert "nothing but padding" in kernels["line"].why


@pytest.mark.parametrize(
    ("weight", "options", "shape", "x"),
    [
        (
            (8, 1, 2, 2),
            {"groups": 4, "stride": (1, 4), "padding": (1, 1), "dilation": (2, 1)},
            (4, 1, 40),
            Range(-1, 1),
        ),
        ((160, 1, 3, 6), {"groups": 4, "stride": (3, 4)}, (4, 6, 60), Range(-1, 1)),
        (
            (198, 1, 2, 2),
            {"groups": 6, "stride": (1, 2), "padding": (1, 0), "dilation": (2, 1)},
            (6, 8, 3),
            Range(0, 1),
        ),
        ((33, 1, 3, 5), {"stride": (1, 2), "padding": (2, 0), "dilation": (2, 1)}, (1, 7, 6), Range(-128, 127)),
        ((14, 1, 2, 3), {"stride": (1, 4), "padding": (1, 1)}, (1, 4, 4), Range(0, 1)),
    ],
)
def test_convolutions_that_read_what_nobody_wrote(weight: Any, options: Any, shape: Any, x: Range) -> None:
    """The 8-bit ones of oneDNN on some processors: not used, and if they were, the self-test would find them out."""
    rng = np.random.default_rng(0)
    layer = Conv2d(rng.integers(-128, 128, weight), **options)
    case = linear.Case.of(layer, shape, x)
    assert "oneDNN may" in methods.METHODS["int8"].refuse(case)
    assert right_among_junk(case, rng) or choice._self_test(methods.METHODS["int8"], case)


def right_among_junk(case: Any, rng: np.random.Generator) -> bool:
    """Whether the int8 kernel gives numpy's sums whatever lies in the memory it is handed."""
    data = rng.integers(case.x.low, case.x.high + 1, (2, *case.input_shape))
    truth = apply(case.layer, [data], NumpyOps())
    for junk in (1, 0x4D, 0xFF):
        choice._litter(case.layer.weight.size, junk)
        with linear.exact_floats():
            run = methods.METHODS["int8"].make(case)
            choice._litter(truth.size, junk)
            if not np.array_equal(run(torch.from_numpy(data)).numpy(), truth):
                return False
    return True


@settings(max_examples=examples(300))
@given(data=st.data())
def test_int8_convolutions_of_any_geometry(data: st.DataObject) -> None:
    """What is neither refused nor found out by its self-test is right."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    one, some, many = (lambda: 1), (lambda: int(rng.integers(2, 9))), (lambda: int(rng.integers(1, 40)))
    groups, inputs, outputs = data.draw(st.sampled_from([(one, many, many), (many, one, one), (some, one, many)]))
    groups, inputs, outputs = groups(), inputs(), outputs()
    pair = lambda low, high: tuple(int(n) for n in rng.integers(low, high + 1, 2))  # noqa: E731
    weight = rng.integers(-128, 128, (groups * outputs, inputs, *pair(1, 5)))
    layer = Conv2d(weight, None, pair(1, 4), pair(0, 3), pair(1, 2), groups)
    spans = [d * (k - 1) + 1 for d, k in zip(layer.dilation, layer.kernel, strict=True)]
    shape = (
        groups * inputs,
        *(max(1, span - 2 * p) + int(rng.integers(0, 9)) for span, p in zip(spans, layer.padding, strict=True)),
    )
    case = linear.Case.of(layer, shape, data.draw(st.sampled_from([Range(0, 1), Range(0, 255), Range(-1, 1)])))
    method = methods.METHODS["int8"]
    if not method.refuse(case) and not choice._self_test(method, case):
        assert right_among_junk(case, rng)


def test_outputs_that_never_change_beside_a_cycle() -> None:
    """The cycle is run step by step; what is read out is there once for all steps, and counts at every one."""
    made = Program(
        in_order(
            [
                node("x", Input((3,))),
                node("back", Linear(np.ones((3, 3), int)), Edge("lif", delay=1, recurrent=True)),
                node("lif", neuron("plain"), "x", Edge("back", delay=1)),
                node("fc", Linear(np.arange(6).reshape(2, 3)), "x"),
                node("readout", Readout("sum"), "fc"),
                node("output", Output(), "readout"),
            ]
        ),
        4,
        "direct",
        load_target("loihi2"),
        {"x": Format(8, False, 1.0, overflow="error")},
        np.asarray(1.0),
    ).verify()
    x = np.array([[1, 2, 3], [200, 0, 9]])
    found = simulate(made, x, engine="fast")
    assert found.outputs_int is not None
    np.testing.assert_array_equal(found.outputs_int, 4 * x @ np.arange(6).reshape(2, 3).T)
    with chunks(1):
        assert_same(simulate(made, x, engine="reference"), simulate(made, x, engine="fast"))


def test_a_shared_power_of_two_leaves_the_mantissa(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "_prefers_int8", lambda *case: True)
    made = program((9,), node("fc", Linear(np.arange(-128, -110).reshape(2, 9) << 30), "x"))
    x = np.ones((1, 5, 9), int)
    assert_same(simulate(made, x, engine="reference"), simulate(made, x, engine="fast"))
    assert [row.kernel for row in explain_engine(made, 1, 5).rows if row.layer == "fc"] == ["int8"]


# --- what may be missing ---


def test_without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "missing", lambda: "numba cannot be imported (No module named 'numba')")
    rng = np.random.default_rng(2)
    made = conv_net(rng)
    x = spikes(rng, 3, *made.sample_shape).astype(int)
    assert_same(
        simulate(made, x, record=EVERYTHING, engine="reference"), simulate(made, x, record=EVERYTHING, engine="fast")
    )
    told = explain_engine(made, 10**6, 5)
    assert told.engine == "reference"
    assert "numba cannot be imported" in told.remarks[0]


def broken_library(name: str) -> Any:
    """Importing ``name`` ends as it does where a shared library below it does not load."""
    found = importlib.import_module

    def imported(other: str, *rest: Any) -> Any:
        if other == name:
            raise OSError(f"Could not find/load shared object file 'lib{name}.so'")
        return found(other, *rest)

    return mock.patch.object(importlib, "import_module", imported)


def test_a_numba_or_a_torch_that_does_not_load_is_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    made = conv_net(rng)
    x = spikes(rng, 3, *made.sample_shape).astype(int)
    expected = simulate(made, x, engine="reference")
    monkeypatch.setattr(fast, "_WORTHWHILE", 0)
    for name, why in (("numba", compiled.missing), ("torch", fast.torch_missing)):
        why.cache_clear()
        try:
            with broken_library(name):
                assert why() == f"{name} cannot be imported (Could not find/load shared object file 'lib{name}.so')"
            assert_same(expected, simulate(made, x))
            if name == "torch":
                with pytest.raises(S2CError, match="the fast engine needs torch"):
                    simulate(made, x, engine="fast")
        finally:
            why.cache_clear()


def test_a_user_without_a_home_has_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (compiled.CACHE_VARIABLE, "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", mock.Mock(side_effect=RuntimeError("Could not determine home directory.")))
    assert compiled.cache_folder() is None
    assert compiled.CACHE_VARIABLE in compiled.cache_remark()


def test_the_cache_is_a_folder_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(compiled.CACHE_VARIABLE, str(tmp_path))
    folder = compiled.cache_folder()
    assert folder == tmp_path / "kernels"
    assert compiled.cache_remark() == ""
    folder.chmod(0o777)
    assert compiled.cache_folder() is None
    assert compiled.CACHE_VARIABLE in compiled.cache_remark()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o777
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(compiled.CACHE_VARIABLE, str(tmp_path / "file"))
    assert compiled.cache_folder() is None


def test_without_a_cache_folder_kernels_are_compiled_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(compiled.CACHE_VARIABLE, str(tmp_path / "file"))
    monkeypatch.setattr(compiled, "_loaded", {})
    made = conv_net(np.random.default_rng(2))
    x = spikes(np.random.default_rng(3), 2, *made.sample_shape).astype(int)
    fast._plans.clear()
    assert_same(simulate(made, x, engine="reference"), simulate(made, x, engine="fast"))
    told = explain_engine(made, 2, 5)
    assert [row.kernel for row in told.rows if row.layer == "n1"] == ["compiled int32"]
    assert compiled.CACHE_VARIABLE in told.remarks[0]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


TEXT = "from numpy import int32\n\n\ndef kernel(n, x):\n    for i in range(n):\n        x[i] = int32(x[i] + int32(7))\n"


def test_a_damaged_cache_costs_a_compilation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(compiled.CACHE_VARIABLE, str(tmp_path))
    for damage in (lambda path: None, lambda path: path.write_bytes(b"no machine code"), lambda path: None):
        for path in tmp_path.rglob("*.nb?"):
            damage(path)
        monkeypatch.setattr(compiled, "_loaded", {})
        x = np.zeros(3, np.int32)
        compiled.from_source(TEXT, 0, x)(3, x)
        np.testing.assert_array_equal(x, 7)
    assert list(tmp_path.rglob("*.nbi"))


def test_every_combination_of_types_has_a_cache_file_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processes that compile one file for different types at once can be handed each other's machine code."""
    monkeypatch.setenv(compiled.CACHE_VARIABLE, str(tmp_path))
    monkeypatch.setattr(compiled, "_loaded", {})
    for dtype in (np.int32, np.int64):
        x = np.zeros(3, dtype)
        compiled.from_source(TEXT, 0, x)(3, x)
        np.testing.assert_array_equal(x, 7)
    indices = list(tmp_path.rglob("*.nbi"))
    assert len(indices) == len(list(tmp_path.rglob("*.nbc"))) == 2


# --- the door ---


def test_auto_takes_it_where_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    made = conv_net(rng)
    x = spikes(rng, 2, *made.sample_shape).astype(int)
    taken: list[str] = []
    run = fast.run
    monkeypatch.setattr(fast, "run", lambda *args, **options: (taken.append("fast"), run(*args, **options))[1])
    simulate(made, x)
    assert taken == []
    assert explain_engine(made, 2, 5).engine == "reference"
    monkeypatch.setattr(fast, "_WORTHWHILE", fast.work(made) * 10)
    simulate(made, x)
    assert taken == ["fast"]
    simulate(made, x, engine="reference")
    simulate(made, x, clock="machine")
    assert taken == ["fast"]
    assert explain_engine(made, 2, 5).engine == "fast"


def test_every_engine_is_explained() -> None:
    """Which engine ran is seen in what the explanations state: the fast one's plan, or the definition's memory."""
    rng = np.random.default_rng(4)
    made = conv_net(rng)
    fast_one, auto = explain_engine(made, 2, 5, engine="fast"), explain_engine(made, 2, 5)
    assert (fast_one.engine, fast_one.why, auto.engine) == ("fast", "it is asked for", "reference")
    assert fast_one.rows == auto.rows
    told = explain_engine(made, 2, 5, engine="reference")
    assert (told.engine, told.why, told.rows, told.chunk) == ("reference", "it is asked for", (), None)
    assert told.memory == reference_memory(made, 2, 5, 128)
    assert explain_engine(made, 2, 5, engine="reference", wanted=frozenset("v")).memory is None
    clocked = explain_engine(made, 2, 5, machine=MachineClock())
    assert (clocked.engine, clocked.why) == ("reference", "the machine's clock is the reference engine's")
    with pytest.raises(UsageError, match="does not run the machine's clock"):
        explain_engine(made, 2, 5, engine="fast", machine=MachineClock())


def test_without_torch_the_reference_engine_is_explained() -> None:
    made = conv_net(np.random.default_rng(4))
    why = "torch cannot be imported (No module named 'torch')"
    with mock.patch.object(fast, "torch_missing", return_value=why):
        assert (explain_engine(made, 10**6, 5).engine, explain_engine(made, 10**6, 5).why) == ("reference", why)
        with pytest.raises(S2CError, match="the fast engine needs torch"):
            explain_engine(made, 2, 5, engine="fast")


def test_what_it_does_not_run_is_said() -> None:
    rng = np.random.default_rng(5)
    made = conv_net(rng)
    x = spikes(rng, 2, *made.sample_shape).astype(int)
    with pytest.raises(UsageError, match="does not run the machine's clock"):
        simulate(made, x, engine="fast", clock="machine")
    with pytest.raises(UsageError, match="no engine 'swift'"):
        simulate(made, x, engine="swift")  # type: ignore[arg-type]
    floats = graph((4,), node("lif", population(LIF(np.asarray(1.0), np.asarray(0.5))), "x"))
    with pytest.raises(UsageError, match="does not run a float network"):
        simulate(floats, np.zeros((1, 5, 4)), engine="fast")
    nodes = {**made.nodes, "readout": dataclasses.replace(made["readout"], layer=Readout("mean"))}
    with pytest.raises(S2CError, match="cannot run this program") as caught:
        simulate(dataclasses.replace(made, nodes=nodes), x, engine="fast")
    assert "mean read-out" in caught.value.why
    with pytest.raises(S2CError, match="no sample"):
        simulate(made, x[:0], engine="fast")


@pytest.mark.parametrize("engine", ["reference", "fast"])
def test_a_bad_value_is_found_whatever_the_cut(engine: Any) -> None:
    rng = np.random.default_rng(6)
    made = conv_net(rng)
    x = spikes(rng, 7, *made.sample_shape).astype(int)
    x[5, 2, 1, 0, 3] = 2
    with chunks(1, threads=2), pytest.raises(S2CError, match="the input holds 2") as caught:
        simulate(made, x, engine=engine, batch_size=2)
    assert caught.value.where == "input, index (5, 2, 1, 0, 3)"


def test_memory_grows_with_what_is_recorded_and_with_threads() -> None:
    made = conv_net(np.random.default_rng(7))
    plan = fast.plan_for(made, frozenset(EVERYTHING), 50, 5)
    plain, recorded = (peak_memory(plan, 50, 5, wanted) for wanted in (frozenset(), frozenset(EVERYTHING)))
    assert recorded.result - plain.result == 50 * 5 * (
        94 * 28 + 8 * sum(int(np.prod(plan.shapes[n.name])) for n in made if n.name not in ("n1", "n2"))
    )
    with chunks(1, threads=2):
        assert peak_memory(plan, 50, 5, frozenset()).workers == 2
