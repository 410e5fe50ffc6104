"""Populations that look up their sums, against the definition: every geometry, every cut of a run, what may be broken.

On its own the fast engine fuses only what is large and gains by it. Here the clock is always for it, and nothing is too
small.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import itertools
import mmap
import shutil
import sys
import tracemalloc
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import examples
from networks import node, population, program, spikes
from process import printed
from snn2chip.ir.graph import Coding, Edge, Node, in_order
from snn2chip.ir.layers import (
    Concat,
    Conv1d,
    Conv2d,
    Delay,
    Flatten,
    Input,
    Layer,
    Linear,
    MaxPool,
    Neuron,
    Output,
    Readout,
    windows,
)
from snn2chip.ir.program import Format, Program
from snn2chip.ir.target import load_target
from snn2chip.neurons.alif import IntegerALIF
from snn2chip.neurons.base import IntegerNeuron
from snn2chip.neurons.lif import IntegerLIF
from snn2chip.neurons.lnm import IntegerLNM
from snn2chip.neurons.per_step import IntegerPerStepLIF
from snn2chip.neurons.qif import IntegerQIF
from snn2chip.neurons.ternary import IntegerTernaryLIF
from snn2chip.neurons.tpp import IntegerTPP
from snn2chip.simulate import fast, simulate
from snn2chip.simulate.explain import explain_engine
from snn2chip.simulate.fast import compiled, cutting, fusion
from snn2chip.simulate.fast.fused import lanes, taps, words
from snn2chip.simulate.fast.fused import population as fused
from snn2chip.simulate.fast.plan import Plan
from tests.simulate.test_fast import assert_same

pytest.importorskip("numba")
from snn2chip.simulate.fast.fused import lookup

pytestmark = pytest.mark.skipif(bool(lookup.missing()), reason=lookup.missing())

Shape = tuple[int, ...]


@contextlib.contextmanager
def fusing(lanes_bytes: int = cutting.LANES_BYTES, threads: int = 1, trial: bool = True) -> Iterator[None]:
    """Every population that can look up does, in spans of ``lanes_bytes`` and in ``threads`` threads.

    Without a ``trial``, ordinary kernels are compiled where one is called, which takes a second each.
    """
    later, made = itertools.count(), compiled.from_source

    def ever_later(run: Callable[[], Any]) -> float:
        run()
        return next(later)

    def when_called(text: str, *example: Any) -> Callable[..., None]:
        return made(text, *example) if "look_up(" in text else lambda *given: made(text, *example)(*given)

    fast._plans.clear()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with contextlib.ExitStack() as stack:
            change = lambda what, **to: stack.enter_context(mock.patch.multiple(what, **to))  # noqa: E731
            change(fusion, _WORTHWHILE=0, milliseconds=ever_later)
            change(lanes, _LEAST_USED=0)
            change(cutting, LANES_BYTES=lanes_bytes)
            if not trial:
                change(fusion, _compared=lambda *_: (0, 0.0, 1.0))
                change(compiled, from_source=when_called)
            yield
    finally:
        torch.set_num_threads(before)
        fast._plans.clear()


def compared(made: Program, x: np.ndarray, record: tuple[Any, ...] = (), **options: Any) -> Plan:
    """The plan of a run whose every integer and count is the reference engine's."""
    expected = simulate(made, x, record=record, engine="reference")
    assert_same(expected, simulate(made, x, record=record, engine="fast", **options))
    return fast._plans[-1][2]


# --- random networks ---

# Few texts of kernels, whatever the numbers in them: one takes a second to compile.
NEURONS: dict[str, Callable[[Any, Any], IntegerLIF]] = {
    "hard": lambda threshold, bias: IntegerLIF(threshold, 1000, 4096, bias),
    "soft": lambda threshold, bias: IntegerLIF(threshold, 0, 1024, bias, reset="soft", fire=">="),
}


class Spiking:
    """A network of binary spikes, population by population, and samples for it."""

    def __init__(self, seed: int, axes: int, steps: int, samples: int, coding: Coding) -> None:
        self.rng = np.random.default_rng(seed)
        self.steps, self.samples, self.coding = steps, samples, coding
        # Sums that a register may not hold ask for kernels of their own.
        self.wide = self.chance(0.2)
        self.shapes: dict[str, Shape] = {"x": (self.channels(), *self.integers(1, 7, axes))}
        self.nodes: list[Node] = [node("x", Input(self.shapes["x"]))]

    def __repr__(self) -> str:
        return f"{self.steps} steps of {self.samples} samples through {self.program()}"

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def integers(self, low: int, high: int, count: int) -> tuple[int, ...]:
        return tuple(int(n) for n in self.rng.integers(low, high + 1, count))

    def channels(self) -> int:
        return int(self.rng.choice([1, 2, 3, 4, 5, 7, 10, 12, 20, 30, 37, 60, 61, 63, 64, 65, 70]))

    def weights(self, *shape: int) -> np.ndarray:
        """Of up to 16 bits, times a power of two; some of one sign, some nothing but zeros, some mostly."""
        reach = 1 << int(self.rng.choice([8, 11, 12, 14] if self.wide else [1, 4, 7, 7]))
        low, high = [(-reach, reach), (-reach, reach), (-reach, 0), (0, reach), (0, 0)][
            self.rng.choice(5, p=[0.4, 0.3, 0.1, 0.15, 0.05])
        ]
        values = self.rng.integers(low, high + 1, shape) * (self.rng.random(shape) < self.rng.choice([0.1, 1.0]))
        return values << int(self.rng.choice([0, 0, 1, 3, 6] if self.wide else [0, 0, 1, 3]))

    def synapse(self, name: str, source: str, to: Shape | None) -> Linear | Conv1d | Conv2d | None:
        """From a source, to a shape where one is given; None where this draw does not lead there."""
        channels, *space = self.shapes[source]
        out = self.channels() if to is None else to[0]
        if not space:
            if to not in (None, (out,)):
                return None
            gain = out == channels and self.chance(0.5)
            return Linear(np.diag(self.weights(out)) if gain else self.weights(out, channels))
        axes, kind = len(space), (Conv1d, Conv2d)[len(space) - 1]
        if to == (channels, *space) and self.chance(0.4):
            return kind(self.weights(channels, *(1,) * (axes + 1)), groups=channels)
        kernel, stride = self.integers(1, 4, axes), self.integers(1, 3, axes)
        padding, dilation = self.integers(0, 5, axes), self.integers(1, 2, axes)
        if self.chance(0.5):
            kernel, stride, dilation = (3,) * axes, (1,) * axes, (1,) * axes
            padding = self.integers(0, 1, axes)
        groups = [g for g in (channels, 2, 3, 5) if channels % g == 0]
        group = int(self.rng.choice(groups)) if self.chance(0.4) else 1
        if to is None:
            out = group * int(self.rng.integers(1, max(1, 70 // group) + 1))
        if out % group or any(
            n + 2 * p < d * (k - 1) + 1 for n, p, d, k in zip(space, padding, dilation, kernel, strict=True)
        ):
            return None
        found = (out, *windows(tuple(space), kernel, stride, padding, dilation))
        if np.prod(found) > 2500 or (to is not None and found != to):
            return None
        return kind(self.weights(out, channels // group, *kernel), None, stride, padding, dilation, group)

    def population(self, sources: list[str]) -> None:
        """One that sums what up to three synapses bring of some sources, now and then the same twice."""
        name, to = f"n{len(self.nodes)}", None
        edges: list[str] = []
        for _ in range(40):
            source = str(self.rng.choice(sources))
            synapse = self.synapse(name, source, to)
            if synapse is None:
                continue
            edges.append(f"{name}.{len(edges)}")
            self.nodes.append(node(edges[-1], synapse, source))
            to = synapse.output_shape(self.shapes[source])
            if self.chance(0.6) or len(edges) == 3:
                break
        if to is None:
            return
        per_channel = self.chance(0.5)
        size = (to[0], *(1,) * (len(to) - 1)) if per_channel else ()
        typical = max(1, int(np.mean([abs(n.layer.weight).max() for n in self.nodes if n.name in edges])))  # type: ignore[union-attr]
        threshold = self.rng.integers(-1 if self.chance(0.1) else 1, 1 + min(typical, 1 << 16), size)
        bias = self.rng.integers(-typical, typical + 1, size) // 8 if self.chance(0.4) else np.asarray(0)
        model = NEURONS[str(self.rng.choice(list(NEURONS)))](threshold, bias)
        self.shapes[name] = to
        self.nodes.append(node(name, population(model), *edges))

    def maxima(self, source: str) -> None:
        """A population that fires if anything in a window does."""
        channels, *space = self.shapes[source]
        kernel = self.integers(1, 3, len(space))
        padding = tuple(int(self.rng.integers(0, k)) for k in kernel)
        stride, ones = self.integers(1, 3, len(space)), (1,) * len(space)
        if not space or any(n + 2 * p < k for n, p, k in zip(space, padding, kernel, strict=True)):
            return
        name, kind = f"p{len(self.nodes)}", (Conv1d, Conv2d)[len(space) - 1]
        weight = np.full((channels, 1, *kernel), 6)
        self.shapes[name] = (channels, *windows(tuple(space), kernel, stride, padding, ones))
        pooled = kind(weight, None, stride, padding, ones, channels)
        self.nodes += [
            node(f"{name}.0", pooled, source),
            node(name, population(IntegerLIF(3, 4096, 4096, 0)), f"{name}.0"),
        ]

    def spikes_of(self, source: str) -> None:
        """Spikes that no population sends as they are, for whoever reads on."""
        shape, name = self.shapes[source], f"v{len(self.nodes)}"
        pool = MaxPool((2,) * (len(shape) - 1), (1,) * (len(shape) - 1), (1,) * (len(shape) - 1))
        choices: list[Layer] = [Flatten(), Delay(2), Concat(0), *([pool] if len(shape) > 1 else [])]
        layer = choices[self.rng.integers(len(choices))]
        edges = [source] * (1 + isinstance(layer, Concat))
        found = layer.output_shape(*[shape] * len(edges))
        if np.prod(found) <= 2500:
            self.shapes[name] = found
            self.nodes.append(node(name, layer, *edges))

    def cycle(self, source: str) -> None:
        """A population of the source's shape that is run step by step, as it reads its own spikes."""
        channels, *space = self.shapes[source]
        if not space:
            return
        name, kind, ones = f"c{len(self.nodes)}", (Conv1d, Conv2d)[len(space) - 1], (1,) * len(space)
        in_, back = (self.rng.integers(-90, 150, (channels, 1, *(3 * one for one in ones))) for _ in range(2))
        options = {"padding": ones, "groups": channels}
        self.nodes += [
            node(f"{name}.in", kind(in_, **options), source),
            node(f"{name}.back", kind(back, **options), Edge(name, delay=1, recurrent=True)),
            node(name, population(NEURONS["hard"](200, 0)), f"{name}.in", f"{name}.back"),
        ]
        self.shapes[name] = (channels, *space)

    def others(self, source: str) -> None:
        """Readers that want values: late ones, a cycle, a dense layer over all places."""
        size = int(np.prod(self.shapes[source]))
        name = f"o{len(self.nodes)}"
        late = Edge(source, delay=int(self.rng.integers(0, 3)))
        self.nodes += [
            node(f"{name}.late", Delay(1), late) if self.chance(0.3) else node(f"{name}.late", Flatten(), late),
            node(f"{name}.flat", Flatten(), f"{name}.late"),
            node(f"{name}.fc", Linear(self.rng.integers(-20, 30, (6, size))), f"{name}.flat"),
            node(f"{name}.back", Linear(self.rng.integers(-20, 20, (6, 6))), Edge(name, delay=1, recurrent=True)),
            node(name, population(NEURONS["hard"](40, 0)), f"{name}.fc", f"{name}.back"),
        ]
        self.shapes[name] = (6,)

    def program(self) -> Program:
        """All of it; what the last population sends is read out."""
        ends = node("readout", Readout("sum"), list(self.shapes)[-1]), node("output", Output(), "readout")
        form = Format(8 if self.coding == "direct" else 1, False, 1.0, overflow="error")
        everything = in_order([*self.nodes, *ends])
        return Program(
            everything, self.steps, self.coding, load_target("loihi2"), {"x": form}, np.asarray(1.0)
        ).verify()

    def data(self, made: Program) -> np.ndarray:
        top = 1 + made.formats["x"].range[1]
        found = self.rng.integers(0, top, (self.samples, *made.sample_shape))
        return np.asarray(found if self.coding == "direct" else found & (self.rng.random(found.shape) < 0.6))


SIZES = [(8, 8), (4, 8), (16, 2), (40, 1), (10, 3), (7, 9), (3, 16), (5, 33), (2, 70), (1, 64), (12, 20), (25, 6)]


@st.composite
def networks(draw: Any) -> Spiking:
    """Two to four populations that may be fused, between some that are not."""
    steps, samples = draw(st.sampled_from(SIZES))
    coding: Coding = draw(st.sampled_from(["steps"] * 5 + ["direct"]))
    seed, axes = draw(st.integers(0, 2**32 - 1)), draw(st.sampled_from([0, 1, 2, 2, 2]))
    made = Spiking(seed, axes, steps, samples, coding)
    for _ in range(draw(st.integers(2, 4))):
        made.population(list(made.shapes))
        if draw(st.booleans()):
            made.maxima(list(made.shapes)[-1])
        if (add := draw(st.sampled_from([None, None, made.others, made.cycle, made.spikes_of]))) is not None:
            add(list(made.shapes)[-1])
    return made


@settings(max_examples=examples(36))
@given(
    drawn=networks(),
    lanes_bytes=st.sampled_from([1, 1 << 12, 1 << 16, cutting.LANES_BYTES]),
    threads=st.sampled_from([1, 1, 2, 3]),
    batch_size=st.sampled_from([128, 128, 9]),
    record=st.sampled_from([(), ("spikes",)]),
)
def test_random_networks(
    drawn: Spiking, lanes_bytes: int, threads: int, batch_size: int, record: tuple[str, ...]
) -> None:
    made = drawn.program()
    with fusing(lanes_bytes, threads, trial=False):
        compared(made, drawn.data(made), record, batch_size=batch_size)


def small(**options: Any) -> Program:
    """Three populations in a row, of 13, 6 and 5 channels on 5·6 places, the second beside a shortcut."""
    rng = np.random.default_rng(0)
    lif = lambda: population(IntegerLIF(30, 1000, 4096, 0))  # noqa: E731
    return program(
        (3, 5, 6),
        node("c1", Conv2d(rng.integers(-25, 30, (13, 3, 3, 3)), padding=(1, 1)), "x"),
        node("n1", lif(), "c1"),
        node("c2", Conv2d(rng.integers(-25, 30, (6, 13, 3, 3)), padding=(1, 1)), "n1"),
        node("c2s", Conv2d(rng.integers(-25, 30, (6, 3, 1, 1))), "x"),
        node("n2", lif(), "c2", "c2s"),
        node("c3", Conv2d(rng.integers(-25, 30, (5, 6, 2, 3)), stride=(2, 1), padding=(0, 2)), "n2"),
        node("n3", lif(), "c3"),
        **options,
    )


def test_every_population_of_spikes_is_fused() -> None:
    """None of the other tests passes because nothing happened."""
    made = small()
    x = spikes(np.random.default_rng(1), 20, *made.sample_shape).astype(int)
    with fusing():
        plan = compared(made, x)
        assert list(plan.fusion.populations) == ["n1", "n2", "n3"]
        assert plan.fusion.reads["n2"] == ("n1", "x")
        rows = {row.layer: row for row in explain_engine(made, 20, 5, engine="fast").rows}
    assert [rows[name].kernel for name in ("n1", "n2", "n3", "c1", "c2", "c3")] == ["fused"] * 3 + ["looked up"] * 3
    assert "with its synapses: " in rows["n1"].why


@pytest.mark.parametrize(("most", "shares"), [(0.75, {1, 2}), (1.1, {1})])
def test_threads_share_the_only_chunk_where_most_of_it_is_fused(most: float, shares: set[int]) -> None:
    """Eight samples of four steps fill a register; four would leave half of it empty."""
    made, run, found = small(time_steps=4), fused.side_by_side, set()
    x = spikes(np.random.default_rng(2), 8, *made.sample_shape).astype(int)

    def counted(calls: list[Any]) -> None:
        found.add(len(calls))
        run(calls)

    change = mock.patch.object
    with (
        fusing(threads=2),
        change(lanes, "_LEAST_USED", 0.6),
        change(cutting, "_MOST", most),
        change(fused, "side_by_side", counted),
    ):
        plan = compared(made, x)
    assert plan.fusion.share == 1
    assert found == shares


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 7, 128])
@pytest.mark.parametrize("lanes_bytes", [1, 3000, cutting.LANES_BYTES])
def test_cuts_and_threads_change_nothing(threads: int, batch_size: int, lanes_bytes: int) -> None:
    """A plan without recordings serves a run that records spikes; states and sums are recorded by others."""
    made = small(time_steps=11)
    x = spikes(np.random.default_rng(2), 45, *made.sample_shape).astype(int)
    expected = simulate(made, x, record=("spikes",), engine="reference")
    with fusing(lanes_bytes, threads, trial=False):
        plan = compared(made, x, batch_size=batch_size)
        found = simulate(made, x, record=("spikes",), engine="fast", batch_size=batch_size)
        assert fast._plans[-1][2] is plan
        assert len(plan.fusion.populations) == 3
    assert_same(expected, found)


@pytest.mark.parametrize("record", [("v",), ("u", "spikes"), ("a",), ("out",)])
def test_what_only_stands_alone_is_recorded_unfused(record: tuple[Any, ...]) -> None:
    made = small()
    x = spikes(np.random.default_rng(3), 8, *made.sample_shape).astype(int)
    with fusing():
        assert len(compared(made, x).fusion.populations) == 3
        assert not compared(made, x, record).fusion.populations


# --- neurons ---

PER_CHANNEL = np.arange(20, 80, 10)[:, None, None]
MODELS: dict[str, IntegerNeuron] = {
    "next": IntegerLIF(40, 1000, 4096, 3, reset="soft", reset_timing="next"),
    "gate": IntegerLIF(40, 512, 4096, 3, reset_timing="gate"),
    "resting": IntegerLIF(40, 1000, 2048, 0, v_reset=-900, v_start=PER_CHANNEL * 20, bias_u=PER_CHANNEL - 50),
    "always": IntegerLIF(-5, 1000, 4096, 0),
    "never": IntegerLIF(2**17 - 1, 4096, 4096, 0),
    "no reset": IntegerLIF(PER_CHANNEL, 2000, 4096, 1, reset="none"),
    "adaptive": IntegerALIF(PER_CHANNEL, 1000, 2048, 300, 2000, 1),
    "quadratic": IntegerQIF(40, 1, 18, 0, 1000, PER_CHANNEL // 9),
    "nonlinear": IntegerLNM(40, (900, -5), 12, 2, 4000, 1),
    "step by step": IntegerPerStepLIF(
        IntegerLIF(40, 1000, 4096, 0), tuple(PER_CHANNEL + t for t in range(5)), (1, -2, 3, 0, 9), 6, np.asarray(0)
    ),
}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_every_neuron(model: IntegerNeuron) -> None:
    """Those that fire without input among them, where lanes and places without a sample may not count."""
    plan = between(model)
    assert list(plan.fusion.populations) == ["n1", "n2"]


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (IntegerTernaryLIF(40, 1000, 3), "sends more than spikes"),
        (IntegerLIF(None, 1000, 4096, 0), "sends more than spikes"),
        (IntegerLIF(40, 1000, 4096, np.arange(120).reshape(6, 5, 4)), "differ from place to place"),
        (IntegerLIF(40, 1000, 4096, 0, v_start=np.arange(120).reshape(6, 5, 4)), "differ from place to place"),
        (IntegerTPP(40, 3, 7, 0, 2), "no kernel of 32 bits"),
    ],
)
def test_neurons_that_run_apart(model: IntegerNeuron, why: str) -> None:
    plan = between(model)
    assert list(plan.fusion.populations) == ["n1"]
    assert why in plan.fusion.why["n2"]


def between(model: IntegerNeuron) -> Plan:
    """The compared plan of a network whose second population, "n2" [6, 5, 4], is of that model."""
    rng = np.random.default_rng(4)
    made = program(
        (3, 5, 4),
        node("c1", Conv2d(rng.integers(-25, 30, (7, 3, 3, 3)), padding=(1, 1)), "x"),
        node("n1", population(IntegerLIF(30, 1000, 4096, 0)), "c1"),
        node("c2", Conv2d(rng.integers(-25, 30, (6, 7, 3, 3)), padding=(1, 1)), "n1"),
        node("n2", Neuron(model), "c2"),
        node("c3", Conv2d(rng.integers(-25, 30, (2, 6, 3, 3)), stride=(2, 2)), "n2"),
    )
    with fusing(trial=False):
        return compared(made, spikes(rng, 11, *made.sample_shape).astype(int), ("spikes",))


# --- sums ---


@pytest.mark.parametrize(
    ("weight", "parts"), [(1, 1), (6553, 5), (6555, None), (-6553, 5), (6554, 5), (2047, 2), (1 << 20, 1), (5 << 16, 1)]
)
def test_sums_at_the_edge_of_16_bits(weight: int, parts: int | None) -> None:
    """25 inputs that all fire, of one sign; common powers of two do not count."""
    layer = Linear(np.full((3, 25), weight))
    made = program((25,), node("fc", layer, "x"), node("n", population(IntegerLIF(20, 1000, 4096, 0)), "fc"))
    with fusing(trial=False):
        plan = compared(made, np.ones((9, 5, 25), int))
    if parts is None:
        assert plan.fusion.why["n"] == "five weights together may exceed 16 bits"
    else:
        assert len(plan.fusion.populations["n"]._sources) == parts


def test_groups_are_not_written_out() -> None:
    """A depthwise convolution as wide as transformers have them would be 50 MB if it were dense."""
    layer = Conv2d(np.ones((512, 1, 5, 5), int), padding=(2, 2), groups=512)
    tracemalloc.start()
    try:
        (part,) = taps.Taps.of(layer).parts(0, lanes.Grid((512, 8, 8), (2, 2), (2, 2)), (8, 8))  # type: ignore[union-attr]
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()
    assert int(part.weights.sum()) == 512 * 25


# --- words ---


@pytest.mark.parametrize("channels", range(1, 132))
def test_packing(channels: int) -> None:
    """Channel c is bit c % 5 of word c // 5, and nothing else is set; silence around."""
    rng = np.random.default_rng(channels)
    x = (rng.random((3, 6, channels, 2, 2)) < 0.7).astype(np.uint8)
    found = words.packed(torch.from_numpy(x), lanes.Grid((channels, 2, 2), (1, 0), (0, 2)), lanes.Lanes(3, 6))
    expected = np.zeros((3, 4, found.bits.shape[1], found.bits.shape[2]), np.uint16)
    for c, w, t, n in itertools.product(range(channels), [0, 1], range(3), range(6)):
        expected[1:, w, c // 5, 8 * t + n] |= x[t, n, c, :, w].astype(np.uint16) << c % 5
    np.testing.assert_array_equal(found.bits.reshape(expected.shape)[1:, :2], expected[1:, :2])
    assert not found.bits.reshape(expected.shape)[0].any()
    assert not found.bits.reshape(expected.shape)[:, 2:].any()
    np.testing.assert_array_equal(found.unpacked().numpy(), x)
    places = rng.integers(0, 99, 4)
    np.testing.assert_array_equal(found.counted(places), (x.sum(axis=2).reshape(3, 6, 4) * places).sum(axis=2))


def test_more_spikes_of_a_place_than_16_bits_count() -> None:
    layer = Linear(np.ones((66_000, 2), int))
    made = program((2,), node("fc", layer, "x"), node("n", population(IntegerLIF(0, 1000, 4096, 0)), "fc"))
    with fusing(trial=False):
        plan = compared(made, np.ones((8, 5, 2), int))
    assert list(plan.fusion.populations) == ["n"]


# --- memory of others ---


def behind_guards() -> None:
    """Random networks, packing and unpacking on memory with a page right behind, or before, that nobody may touch.

    Raises:
        AssertionError: an integer differs from the reference engine's. A read or a write outside ends the process.
    """
    forbid = ctypes.CDLL(None).mprotect
    forbid.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    page = mmap.PAGESIZE

    def guarded(behind: bool, dtype: Any, *shape: int) -> np.ndarray:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        inside = -(-size // page) * page
        whole = mmap.mmap(-1, inside + 2 * page)
        start = np.frombuffer(whole, np.uint8).ctypes.data
        assert forbid(start, page, 0) == 0
        assert forbid(start + page + inside, page, 0) == 0
        offset = page + (inside - size if behind else 0)
        found = np.frombuffer(whole, np.uint8)[offset : offset + size]
        found[:] = 0xCD
        return found.view(dtype).reshape(shape)

    def empty(behind: bool, shape: Any, dtype: Any = float) -> np.ndarray:
        return guarded(behind, dtype, *np.atleast_1d(shape))

    @settings(max_examples=examples(12), deadline=None, derandomize=True, database=None)
    @given(
        drawn=networks(),
        lanes_bytes=st.sampled_from([1, 1 << 14, cutting.LANES_BYTES]),
        threads=st.sampled_from([1, 3]),
    )
    def programs(drawn: Spiking, lanes_bytes: int, threads: int) -> None:
        made = drawn.program()
        with fusing(lanes_bytes, threads, trial=False):
            compared(made, drawn.data(made))

    for behind in (True, False):
        with contextlib.ExitStack() as stack:
            registers = functools.partial(guarded, behind, np.uint16)
            room = types.SimpleNamespace(**{**vars(np), "empty": functools.partial(empty, behind)})
            for module in (words, fused):
                stack.enter_context(mock.patch.multiple(module, registers=registers, np=room))
            programs()
        for channels in range(1, 132):
            x = guarded(behind, np.uint8, 3, 6, 2, 2, channels)
            x[:] = 1
            found = words.packed(torch.from_numpy(x).movedim(-1, 2), lanes.Grid((channels, 2, 2)), lanes.Lanes(3, 6))
            assert (found.counted(np.ones(4, int)) == 4 * channels).all()
            assert found.unpacked().all()


def test_nothing_outside_is_read_or_written() -> None:
    assert printed("from tests.simulate.test_fused import behind_guards; print(behind_guards())").strip() == "None"


# --- what may be missing, wrong or slower ---


def test_what_is_not_fused_says_why() -> None:
    made, run = small(), fused.Fused.run
    x = spikes(np.random.default_rng(5), 20, *made.sample_shape).astype(int)

    def rows() -> dict[str, str]:
        plan = compared(made, x)
        assert not plan.fusion.populations
        return {row.layer: row.why for row in explain_engine(made, 20, 5, engine="fast").rows}

    def wrong(self: Any, *given: Any) -> words.Words:
        found = run(self, *given)
        found.bits[found.grid.inner[-1], 0] ^= 1
        return found

    with fusing(), mock.patch.object(fused.Fused, "run", wrong):
        assert "not fused with its synapses: its self-test has" in rows()["n1"]
    with fusing(), mock.patch.object(fusion, "_compared", return_value=(0, 2.0, 1.0)):
        assert "not fused with its synapses: 2.00 ms, apart 1.00 ms" in rows()["n2"]
    with fusing(), mock.patch.object(lookup, "missing", return_value="the processor has no 512-bit look-ups"):
        rows()
    with fusing(), mock.patch.object(compiled, "missing", return_value="numba cannot be imported"):
        rows()
    with fusing(), mock.patch.object(fused, "fused_source", side_effect=TypeError("no such pointer\nat all")):
        assert "not fused with its synapses: it cannot be compiled here: no such pointer" in rows()["n1"]
    with fusing(), mock.patch.dict(sys.modules, {fusion._MACHINE_CODE: None}):
        assert "not fused" not in rows()["n1"]


def test_a_numba_that_does_not_tell_of_the_processor_looks_nothing_up() -> None:
    lookup.missing.cache_clear()
    try:
        with mock.patch.object(lookup, "cpu_target", object()):
            assert "does not say" in lookup.missing()
    finally:
        lookup.missing.cache_clear()


@pytest.mark.parametrize(
    "environment", [{"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": ""}, {"NUMBA_DISABLE_JIT": "1"}]
)
def test_processors_without_look_ups_and_numba_without_a_compiler(environment: dict[str, str]) -> None:
    script = """
        import numpy as np
        from networks import spikes
        from tests.simulate.test_fused import compared, fusing, small
        with fusing():
            made = small()
            plan = compared(made, spikes(np.random.default_rng(1), 20, *made.sample_shape).astype(int))
            print(len(plan.fusion.populations))
    """
    assert printed(script, **environment).strip() == "0"


def test_a_cache_that_is_damaged_or_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = (
        node("fc", Linear(np.arange(60).reshape(4, 15)), "x"),
        node("n", population(IntegerLIF(200, 0, 4096, 0)), "fc"),
    )
    made = program((15,), *layers)
    x = spikes(np.random.default_rng(6), 9, *made.sample_shape).astype(int)
    monkeypatch.setenv(compiled.CACHE_VARIABLE, str(tmp_path))
    for damage in (lambda: None, lambda: [p.write_bytes(b"none") for p in tmp_path.rglob("*.nb?")]):
        damage()
        monkeypatch.setattr(compiled, "_loaded", {})
        with fusing(trial=False):
            assert len(compared(made, x).fusion.populations) == 1
    (tmp_path / "kernels").chmod(0o777)
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(compiled, "_loaded", {})
    with fusing(trial=False):
        assert len(compared(made, x).fusion.populations) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_kernels_of_other_modules_are_not_taken_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Machine code holds numbers of the modules it was compiled from, such as the gap between steps."""
    here = Path(compiled.__file__).parent
    shutil.copytree(here, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr(compiled, "__file__", str(tmp_path / "compiled.py"))
    texts = set()
    for name in ("", "fused/lookup.py", "fused/lanes.py"):
        if name:
            (tmp_path / name).write_text((tmp_path / name).read_text() + "# another one\n")
        compiled._state.cache_clear()
        texts.add(compiled.importing("snn2chip.simulate.fast.fused.lookup", "merge"))
    compiled._state.cache_clear()
    assert len(texts) == 3
