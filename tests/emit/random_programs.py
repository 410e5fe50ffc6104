"""Random small Programs with their data: every choice of layer and neuron that Lava must reproduce."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from hypothesis import strategies as st

from snn2chip.ir.graph import Edge, Node, in_order
from snn2chip.ir.layers import (
    Add,
    Concat,
    Conv1d,
    Conv2d,
    Delay,
    Flatten,
    Gather,
    Input,
    Layer,
    Linear,
    Neuron,
    Output,
    Permute,
    Readout,
    Rescale,
    Reshape,
    SumPool,
)
from snn2chip.ir.program import Format, Program
from snn2chip.ir.target import load_target
from snn2chip.neurons.lif import IntegerLIF

Shape = tuple[int, ...]


class Case:
    """A program and samples for it; no dataclass, whose every field hypothesis would print."""

    def __init__(self, program: Program, x: np.ndarray) -> None:
        self.program, self.x = program, x

    def __repr__(self) -> str:
        return f"{self.program}\nformats {dict(self.program.formats)}\nx {self.x.shape} {self.x.dtype}"


@st.composite
def cases(draw: Any) -> Case:
    """A Program of one to three blocks and two or three samples for it."""
    return _Builder(draw).case()


class _Builder:
    def __init__(self, draw: Any) -> None:
        self.draw = draw
        self.rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        self.nodes: list[Node] = []
        self.formats: dict[str, Format] = {}
        self.populations: list[tuple[str, Shape]] = []

    def case(self) -> Case:
        steps = self.integer(1, 6)
        shape = self.pick([(6,), (3, 7), (2, 5, 6), (3, 4, 4), (2, 6, 5)])
        direct = self.chance(0.2)
        graded = direct or self.chance(0.2)
        self.add("input", Input(shape))
        self.formats["input"] = Format(8, True, 0.03) if graded else Format(1, False, 1.0, overflow="error")
        source, spread = (
            self.host_stem("input", shape) if direct and self.chance(0.7) else ("input", 30.0 if graded else 0.6)
        )
        if source != "input":
            shape = self.shape_of[source]
            self.population("stem", [Edge(source)], shape, spread)
            source, spread = "stem", 0.6
        for block in range(self.integer(1, 3)):
            source, shape = self.block(f"{block}", source, shape, spread)
            spread = 0.6
        how, port, scale = self.head(source, shape)
        everything = in_order(
            [
                *self.nodes,
                Node("readout", Readout(how), (Edge(scale, port=port),)),
                Node("output", Output(), (Edge("readout"),)),
            ]
        )
        program = Program(
            everything,
            steps,
            "direct" if direct else "steps",
            load_target(self.pick(["loihi2", "loihi2", "loihi1"])),
            self.formats,
            np.asarray(0.125),
        ).verify()
        samples = self.integer(2, 3)
        full = (samples, *program.sample_shape)
        x = self.rng.normal(0, 1, full) if graded else self.rng.integers(0, 2, full)
        return Case(program, x)

    # --- small things ---

    @property
    def shape_of(self) -> dict[str, Shape]:
        shapes: dict[str, Shape] = {}
        for node in self.nodes:
            shapes[node.name] = node.layer.output_shape(*[shapes[e.source] for e in node.inputs if e.source in shapes])
        return shapes

    def integer(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))

    def pick(self, options: Any) -> Any:
        return self.draw(st.sampled_from(options))

    def chance(self, share: float) -> bool:
        return self.draw(st.integers(0, 99)) >= 100 * (1 - share)

    def add(self, name: str, layer: Layer, *edges: Edge, placement: Any = "chip") -> str:
        self.nodes.append(Node(name, layer, edges, placement=placement))
        return name

    def weights(self, name: str, *shape: int) -> np.ndarray:
        """Mantissas the chip holds, times a power of two; now and then odd or of one sign, as files may have them."""
        exponent = self.pick([0, 0, 0, 1, 3])
        kind = self.pick(["mixed"] * 6 + ["excitatory", "inhibitory", "odd"])
        mantissa = 2 * self.rng.integers(-50, 80, shape)
        if kind == "odd":
            mantissa = self.rng.integers(-200, 255, shape)
        elif kind != "mixed":
            mantissa = self.rng.integers(0, 255, shape) * (1 if kind == "excitatory" else -1)
        self.formats[f"{name}.weight"] = Format(9, True, 1.0, exponent)
        return (mantissa << exponent).astype(np.int64)

    # --- layers ---

    def host_stem(self, source: str, shape: Shape) -> tuple[str, float]:
        """An integer layer with bias on the host, and the shift that hands its sums to the chip."""
        bias = self.rng.integers(-500, 500, 4)
        if len(shape) == 1:
            layer: Layer = Linear(self.rng.integers(-127, 128, (4, shape[0])), bias)
        else:
            conv = Conv2d if len(shape) == 3 else Conv1d
            layer = conv(self.rng.integers(-127, 128, (4, shape[0], *(2,) * (len(shape) - 1))), bias)
            if self.chance(0.5):
                per_place = self.rng.integers(-500, 500, layer.output_shape(shape))
                layer = dataclasses.replace(layer, bias=per_place)
        self.add("stem.host", layer, Edge(source), placement="host")
        shift = self.integer(0, 6)
        return self.add("stem.rescale", Rescale(shift), Edge("stem.host"), placement="host"), 4000.0 / (1 << shift)

    def synapse(self, name: str, edge: Edge, shape: Shape, groups: bool = True) -> tuple[str, Shape]:
        if len(shape) == 1 or (len(shape) == 2 and self.chance(0.3)):
            out = self.integer(2, 6)
            weight = self.weights(name, out, shape[-1])
            delay = self.rng.integers(0, 4, weight.shape) if self.chance(0.2) else None
            layer: Layer = Linear(weight, None, delay)
        else:
            axes = len(shape) - 1
            divisors = [g for g in (1, shape[0]) if shape[0] % g == 0]
            group = self.pick(divisors) if groups else 1
            out = group * self.integer(1, 3)
            kernel = [self.integer(1, min(3, n)) for n in shape[1:]]
            dilation = tuple(
                self.integer(1, 2) if (k - 1) * 2 < n else 1 for k, n in zip(kernel, shape[1:], strict=True)
            )
            conv = Conv2d if axes == 2 else Conv1d
            layer = conv(
                self.weights(name, out, shape[0] // group, *kernel),
                None,
                tuple(self.integer(1, 2) for _ in range(axes)),
                tuple(self.integer(0, 1) for _ in range(axes)),
                dilation,
                group,
            )
        self.add(name, layer, edge)
        return name, layer.output_shape(shape)

    def block(self, tag: str, source: str, shape: Shape, spread: float) -> tuple[str, Shape]:
        """[moved or pooled] → synapse → population, with recurrence, delays and a branch from further back."""
        edge = Edge(source, delay=self.pick([0] * 5 + [1, 2]))
        if self.chance(0.1):
            edge = Edge(self.add(f"wait{tag}", Delay(self.integer(1, 2)), edge))
        if len(shape) == 3 and self.chance(0.15) and min(shape[1:]) >= 2:
            pool = SumPool((2, 2), (self.integer(1, 2),) * 2, (self.integer(0, 1),) * 2, self.chance(0.3))
            edge, shape = Edge(self.add(f"pool{tag}", pool, edge)), pool.output_shape(shape)
        if len(shape) > 1 and self.chance(0.3):
            order = Permute(tuple(self.rng.permutation(len(shape)).tolist()))
            edge, shape = Edge(self.add(f"permute{tag}", order, edge)), order.output_shape(shape)
        if len(shape) > 1 and self.chance(0.4):
            edge, shape = Edge(self.add(f"flatten{tag}", Flatten(), edge)), (math.prod(shape),)
        if self.chance(0.1):
            axis = self.integer(0, len(shape) - 1)
            join = Concat(axis)
            edge, shape = Edge(self.add(f"concat{tag}", join, edge, edge)), join.output_shape(shape, shape)
        if self.chance(0.15):
            index = self.rng.integers(-1, math.prod(shape), [self.integer(1, n + 1) for n in shape])
            edge, shape = Edge(self.add(f"gather{tag}", Gather(index), edge)), index.shape
        synapse, out = self.synapse(f"synapse{tag}", edge, shape)
        edges = [Edge(synapse)]
        earlier = [p for p in self.populations if p[0] != source]
        if earlier and self.chance(0.4):
            name, far = self.pick(earlier)
            flat = self.add(f"far{tag}.flat", Flatten(), Edge(name))
            weight = self.weights(f"far{tag}", math.prod(out), math.prod(far))
            branch = self.add(f"far{tag}", Linear(weight), Edge(flat))
            if len(out) > 1:
                branch = self.add(f"far{tag}.shape", Reshape(out), Edge(branch))
            edges.append(Edge(branch))
        if len(edges) > 1 and self.chance(0.5):
            edges = [Edge(self.add(f"sum{tag}", Add(), *edges))]
        name = f"population{tag}"
        if self.chance(0.2):
            edges.append(Edge(self.recurrent(tag, name, out)))
        self.population(name, edges, out, spread * 100)
        return name, out

    def recurrent(self, tag: str, population: str, shape: Shape) -> str:
        name = f"recurrent{tag}"
        edge = Edge(population, delay=self.integer(1, 2), recurrent=True)
        if len(shape) == 3:
            layer: Layer = Conv2d(self.weights(name, shape[0], shape[0], 3, 3), padding=(1, 1))
        else:
            layer = Linear(self.weights(name, shape[-1], shape[-1]))
        self.nodes.append(Node(name, layer, (edge,)))
        return name

    def population(self, name: str, edges: list[Edge], shape: Shape, spread: float) -> None:
        """A population whose threshold lies where inputs of this spread make it fire now and then."""
        self.nodes.append(Node(name, Neuron(self.neuron(shape, spread)), tuple(edges)))
        self.populations.append((name, shape))

    def neuron(self, shape: Shape, spread: float) -> IntegerLIF:
        rng = self.rng
        per = [(), (shape[0], *(1,) * (len(shape) - 1)), shape]
        threshold = np.maximum(1, (spread * rng.uniform(0.2, 1.5, self.pick(per))).astype(np.int64))
        bias_exp = self.integer(0, 7)
        reach = max(2, int(spread * 64) >> (bias_exp + 1))
        decay = [np.asarray(0), np.asarray(4096), rng.integers(0, 4097, self.pick(per))]
        native = self.chance(0.4)
        return IntegerLIF(
            threshold,
            self.pick(decay),
            self.pick([decay[1], decay[1], decay[2]]),
            rng.integers(-reach, reach, self.pick(per)) * self.pick([0, 1]),
            bias_exp,
            None if native or self.chance(0.8) else rng.integers(-reach, reach, self.pick(per)) << bias_exp,
            ">" if native and self.chance(0.6) else self.pick([">", ">="]),
            "hard" if native else self.pick(["hard", "soft", "none"]),
            "same" if native else self.pick(["same", "gate", "next"]),
            None if native or self.chance(0.7) else rng.integers(-500, 500, self.pick(per)),
            None if native or self.chance(0.7) else rng.integers(-500, 500, self.pick(per)),
        )

    def head(self, source: str, shape: Shape) -> tuple[str, str, str]:
        """What is read out: spikes, a membrane, an integrator, or a linear layer on the host."""
        how = self.pick(["sum", "last", "max"])
        kind = self.pick(["spikes", "v", "integrator", "host"])
        if kind == "integrator":
            flat = self.add("head.flat", Flatten(), Edge(source))
            synapse = self.add("head.synapse", Linear(self.weights("head.synapse", 3, math.prod(shape))), Edge(flat))
            model = IntegerLIF(None, np.asarray(self.pick([0, 300])), np.asarray(4096), self.rng.integers(-50, 50, 3))
            self.nodes.append(Node("head", Neuron(model), (Edge(synapse),)))
            return how, "out", "head"
        if kind == "host":
            flat = self.add("head.flat", Flatten(), Edge(source), placement="host")
            layer = Linear(self.rng.integers(-100, 100, (3, math.prod(shape))), self.rng.integers(-9, 9, 3))
            return how, "out", self.add("head", layer, Edge(flat), placement="host")
        return how, "v" if kind == "v" else "out", source
