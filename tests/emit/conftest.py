"""Random small programs for the writers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from snn2chip.ir import layers as L
from snn2chip.ir.graph import Edge, Node, in_order
from snn2chip.ir.program import Format, LayerQuantization, PassRecord, Program
from snn2chip.ir.target import load_target
from snn2chip.neurons.lif import IntegerLIF

Build = Callable[..., Program]


@pytest.fixture(scope="session")
def random_program() -> Build:
    """``random_program(seed, native=False)``: a checked Program; ``native`` keeps to what NetX runs."""
    return build


def build(seed: int, native: bool = False) -> Program:
    rng = np.random.default_rng(seed)
    target = load_target(str(rng.choice(["loihi1", "loihi2"])))
    nodes: list[Node] = []
    formats: dict[str, Format] = {"input": Format(1, False, 1.0, overflow="error")}
    conv = bool(rng.integers(2))
    shape: tuple[int, ...] = (
        (2, int(rng.integers(4, 8)), int(rng.integers(4, 8))) if conv else (int(rng.integers(2, 6)),)
    )
    nodes.append(Node("input", L.Input(shape)))
    last = "input"
    for i in range(int(rng.integers(1, 4))):
        inputs: list[Edge] = []
        if conv and i == 0:
            groups = int(rng.choice([1, 2]))
            kernel = (3, 3) if native else tuple(int(k) for k in rng.integers(1, 4, 2))
            layer: L.Layer = L.Conv2d(
                2 * rng.integers(-128, 128, (4, 2 // groups, *kernel)),
                None,
                tuple(int(s) for s in rng.integers(1, 3, 2)),
                tuple(int(p) for p in rng.integers(0, 2, 2)),
                groups=groups,
            )
        else:
            if len(shape) > 1:
                if not native and rng.integers(2) and min(shape[1:]) >= 2:
                    pool = L.SumPool((2, 2), (2, 2), (0, 0))
                    nodes.append(Node("pool", pool, (Edge(last),)))
                    last, shape = "pool", pool.output_shape(shape)
                nodes.append(Node("flatten", L.Flatten(), (Edge(last),)))
                last, shape = "flatten", (int(np.prod(shape)),)
            width = int(rng.integers(2, 6))
            recurrent = bool(rng.integers(3) == 0)
            delay = rng.integers(0, 63, (width, shape[0])) if rng.integers(3) == 0 and not recurrent else None
            layer = L.Linear(2 * rng.integers(-128, 128, (width, shape[0])), None, delay)
            if recurrent:
                back = L.Linear(2 * rng.integers(-128, 128, (width, width)))
                nodes.append(Node(f"rec{i}", back, (Edge(f"pop{i}", 1, True),)))
                formats[f"rec{i}.weight"] = Format(9, True, 0.25)
                inputs.append(Edge(f"rec{i}"))
        shape = layer.output_shape(shape)
        nodes.append(Node(f"syn{i}", layer, (Edge(last),)))
        formats[f"syn{i}.weight"] = Format(9, True, 0.25)
        formats[f"pop{i}.v"] = Format(24, True, 0.25 / 64, overflow="saturate", rounding="zero")
        neuron = _neuron(rng, shape, native)
        nodes.append(Node(f"pop{i}", L.Neuron(neuron), (Edge(f"syn{i}"), *inputs)))
        last = f"pop{i}"
    port: Any = "v" if rng.integers(3) == 0 else "out"
    nodes.append(Node("readout", L.Readout(str(rng.choice(["sum", "last", "max"]))), (Edge(last, port=port),)))  # type: ignore[arg-type]
    nodes.append(Node("out", L.Output(), (Edge("readout"),)))
    steps = None if rng.integers(4) == 0 else int(rng.integers(1, 20))
    record = PassRecord("merge_pool", ("pool",), True, float(rng.random()), 10, 0, 0)
    measured = LayerQuantization(
        "pop0", 0.1, {"syn0": {"e": 1.0}}, 3, 0.0, float("nan"), 0.0, 0.0, {}, {}, {}, True, ("x",)
    )
    return Program(
        in_order(nodes),
        steps,
        "steps",
        target,
        formats,
        rng.random(()),
        passes=(record,),
        quantization=(measured,),
        notes=("äöü → note",),
        options={"seed": seed, "weight_bits": 8, "encoder": "host", "fine": True, "share": 0.5},
        origin="test",
    ).verify()


def _neuron(rng: np.random.Generator, shape: tuple[int, ...], native: bool) -> IntegerLIF:
    def parameter(low: int, high: int) -> Any:
        sizes: list[tuple[int, ...]] = [(), shape]
        if len(shape) == 3:
            sizes.append((shape[0], 1, 1))
        return rng.integers(low, high, sizes[rng.integers(len(sizes))])

    plain = (
        {}
        if native
        else {
            "bias_exp": int(rng.integers(0, 8)),
            "bias_u": parameter(-500, 500) if rng.integers(2) else None,
            "fire": str(rng.choice([">", ">="])),
            "reset": str(rng.choice(["hard", "soft", "none"])),
            "reset_timing": str(rng.choice(["same", "gate", "next"])),
            "v_start": parameter(-500, 500) if rng.integers(2) else None,
        }
    )
    return IntegerLIF(
        None if not native and rng.integers(5) == 0 else parameter(1, 500),
        parameter(0, 4097),
        np.asarray(4096) if rng.integers(2) else parameter(0, 4097),
        parameter(-100, 100),
        **plain,  # type: ignore[arg-type]
    )
