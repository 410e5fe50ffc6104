"""What is decided about a Program before data comes: order, kernels, memory layout, and how much is run at once."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from snn2chip.errors import S2CError
from snn2chip.ir.graph import Edge, Node
from snn2chip.ir.layers import Conv, Delay, Input, Linear, Neuron, Output, Pool, Readout, Shape
from snn2chip.ir.program import Program
from snn2chip.neurons.base import IntegerNeuron
from snn2chip.simulate.counting import fan_out, host_macs
from snn2chip.simulate.fast import linear, stateless
from snn2chip.simulate.fast.absorbed import Absorbed, absorb
from snn2chip.simulate.fast.choice import Chosen, choose
from snn2chip.simulate.fast.components import Component, components_of
from snn2chip.simulate.fast.fused import Fused, Fusion
from snn2chip.simulate.fast.lanes import REGISTER, Lanes
from snn2chip.simulate.fast.maxima import Maximum, maxima
from snn2chip.simulate.fast.population import Inflow, Layout, Population, port_ranges
from snn2chip.simulate.fast.symbolic import state_names
from snn2chip.simulate.ranges import NetworkRanges, Range

Key = tuple[str, str]

# Bytes of one layer's sums in one chunk. Most are streamed; spikes, a quarter of it, then stay in the last-level cache,
# and the allocator reuses memory instead of asking the system for it.
CHUNK_BYTES = 8 << 20
# The same of words, where spikes are (``words.py``).
LANES_BYTES = 2 << 20
# Samples that are better run side by side, and fewer steps at once, than the other way round.
SAMPLES = 8
# Steps that are not cut.
_FEW_STEPS = 8
# Bytes of the sums that are computed and read at once on the way into a population: they stay in a second-level cache,
# and are enough to repay the calls.
PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class SynapseRun:
    """A prepared synapse: (extra delay, kernel) per group of equal synaptic delays, and how its events are counted.

    A synapse that others compute has no kernel.
    """

    parts: tuple[tuple[int, Chosen], ...]
    events: stateless.Events | None
    dtype: torch.dtype


@dataclass
class Plan:
    """A Program ready to run; read-only while it runs, so that threads share it.

    Args:
        program: what is run.
        record: whether states are recorded after every step.
        absorbed: the synapses whose sums are not stored as a whole.
        maxima: of populations that only send the maxima of windows, what computes these.
        done: of every component, the nodes whose values nobody reads after it.
        fusion: the populations that look up the sums of their synapses.
        taken: the nodes whose preparation is another plan's.
    """

    program: Program
    record: bool
    shapes: dict[str, Shape]
    ranges: NetworkRanges
    static: frozenset[str]
    components: tuple[Component, ...]
    history: dict[Key, int]
    ports: frozenset[Key]
    channels_last: dict[str, bool]
    absorbed: Absorbed
    host_macs: dict[str, int]
    done: tuple[tuple[str, ...], ...] = ()
    taken: set[str] = field(default_factory=set)
    synapses: dict[str, SynapseRun] = field(default_factory=dict)
    operations: dict[str, stateless.Operation] = field(default_factory=dict)
    populations: dict[str, Population] = field(default_factory=dict)
    maxima: Mapping[str, Maximum] = field(default_factory=dict)
    nonzeros: stateless.Counter = field(default_factory=stateless.nonzero_counter)
    fusion: Fusion = field(default_factory=Fusion)

    def dtype(self, key: Key) -> torch.dtype:
        """Of the values of a node's port."""
        return stateless.dtype_of(self.ranges.of(*key))

    @functools.cached_property
    def input_dtype(self) -> np.dtype[Any]:
        """Of the data."""
        return stateless.array_dtype(self.dtype((self.program.input.name, "out")))

    @functools.cached_property
    def step_bytes(self) -> dict[str, int]:
        """Bytes of each node's values for one sample and one step, states' histories included."""
        sizes: dict[str, int] = {}
        for node in self.program:
            width = torch.empty((), dtype=self.dtype((node.name, "out"))).element_size()
            if isinstance(node.layer, Neuron) and self.keeps_states(node.name):
                width += 8 * len(state_names(node.layer.model))
            stored = node.name not in self.absorbed.synapses
            sizes[node.name] = stored * math.prod(self.shapes[node.name]) * width
        return sizes

    @functools.cached_property
    def fused_bytes(self) -> dict[str, int]:
        """The same where populations run fused: words, and values only of what somebody reads as values."""
        sizes = dict(self.step_bytes)
        inside = {name for population in self.fusion.populations for name in self.streamed_into(population)}
        in_words = self.fusion.populations.keys() | {*self.maxima, *inside} | self.without_kernel
        others = (node for node in self.program if node.name not in in_words)
        read = {edge.source for node in others for edge in (*node.inputs, *_read_on_the_way_in(self, node))}
        for name, grid in self.fusion.grids.items():
            own = sizes[name] if name in read or name not in in_words else 0
            sizes[name] = own + grid.bytes
        return {**sizes, **dict.fromkeys(inside, 0)}

    def fused_in(self, chunk: Chunk) -> Mapping[str, Fused]:
        """The populations that run fused in chunks of that size."""
        return self.fusion.populations if Lanes(chunk.steps, chunk.samples).worthwhile else {}

    @functools.cached_property
    def without_kernel(self) -> frozenset[str]:
        """The nodes that others compute: synapses inside their population, maxima and the synapses in front of them."""
        pooled = {synapse for synapse, population in self.absorbed.streamed.items() if population in self.maxima}
        return self.absorbed.synapses | pooled | self.maxima.keys()

    def streamed_into(self, name: str) -> list[str]:
        """The synapses whose sums a population reads as they are computed."""
        sources = [read.edge.source for read in self.absorbed.reads.get(name, ())]
        return [source for source in sources if source in self.absorbed.streamed]

    def keeps_states(self, name: str) -> bool:
        """Whether the states of a population after every step are wanted."""
        return self.record or any(source == name for source, _ in self.ports)


def refusal(program: Program) -> str:
    """Why this engine does not run a Program; empty where it does."""
    for node in program:
        layer = node.layer
        if isinstance(layer, Readout):
            if layer.how not in ("sum", "last", "max"):
                return f"{node.where()}: the {layer.how} read-out is not of whole numbers"
        elif isinstance(layer, Neuron):
            if not isinstance(layer.model, IntegerNeuron):
                return f"{node.where()}: the neuron has no integer step"
        elif not isinstance(layer, (Input, Output, Linear, Conv, Delay, *stateless.COVERED)):
            return f"{node.where()}: no exact kernel for this layer"
    return ""


def prepare(program: Program, wanted: frozenset[str], samples: int, steps: int, like: Plan | None = None) -> Plan:
    """Choose and test every kernel, for a run of about ``samples`` samples of ``steps`` steps recording ``wanted``.

    Args:
        like: the plan of a Program for the same target and the same kind of run; what the two share is taken over.
    """
    if why := refusal(program):
        raise S2CError("the fast engine cannot run this program", why=why, fix='use engine="reference"')
    arithmetic = program.target.arithmetic
    shapes = program.shapes()
    ranges = NetworkRanges(
        program,
        Range(*program.formats[program.input.name].range),
        lambda node, a: port_ranges(node.layer.model, shapes[node.name], arithmetic, a and a()),  # type: ignore[attr-defined]
        None if like is None else like.ranges,
    )
    ports = frozenset((e.source, e.port) for node in program for e in node.inputs if e.port != "out")
    components = components_of(program)
    # What is to be recorded of a synapse has to exist.
    absorbed = absorb(program, components, ranges, samples, alone=bool(wanted & {"a", "out"}))
    plan = Plan(
        program,
        bool(wanted & {"u", "v"}),
        shapes,
        ranges,
        program.static(),
        tuple(replace(c, stepped=c.stepped and not absorbed.runs(c)) for c in components),
        _history(program),
        ports,
        _layouts(program, shapes),
        absorbed,
        host_macs(program),
    )
    plan.maxima = {name: run for name, run in maxima(program, absorbed, ranges).items() if not plan.keeps_states(name)}
    last = last_reader(plan)
    plan.done = tuple(tuple(name for name, end in last.items() if end == i) for i in range(len(plan.components)))
    with linear.exact_floats(), linear.one_thread():
        for node in program:
            if like is not None and _stands_alike(plan, like, node):
                _take_over(plan, like, node.name)
            else:
                _prepare_node(plan, node, samples, steps)
    return plan


def _stands_alike(plan: Plan, like: Plan, node: Node) -> bool:
    """Whether a node is prepared in the same way in both plans.

    A population may compute what the synapses before it do, so that these have to be the same too.
    """
    before = [edge.source for edge in node.inputs] if isinstance(node.layer, Neuron) else []
    return (
        plan.ranges.same_in(like.ranges, node)
        and plan.channels_last[node.name] == like.channels_last[node.name]
        and plan.keeps_states(node.name) == like.keeps_states(node.name)
        and all((name in plan.without_kernel) == (name in like.without_kernel) for name in (node.name, *before))
        and all(plan.program[name] == like.program.nodes.get(name) for name in before)
    )


def _take_over(plan: Plan, like: Plan, name: str) -> None:
    plan.taken.add(name)
    if name in like.synapses:
        plan.synapses[name] = like.synapses[name]
    if name in like.populations:
        plan.populations[name] = like.populations[name]
    if name in like.operations:
        plan.operations[name] = like.operations[name]


def _prepare_node(plan: Plan, node: Node, samples: int, steps: int) -> None:
    if node.name in plan.maxima:
        return
    layer, ranges = node.layer, plan.ranges
    inputs = tuple(plan.shapes[e.source] for e in node.inputs)
    if isinstance(layer, Linear | Conv):
        plan.synapses[node.name] = _synapse(plan, node, samples, steps)
    elif isinstance(layer, Neuron):
        layout = Layout(plan.shapes[node.name], plan.channels_last[node.name])
        inflows = [
            Inflow(read.total, stateless.array_dtype(plan.dtype((read.edge.source, read.edge.port))), read.gain)
            for read in plan.absorbed.reads[node.name]
        ]
        recurrent = plan.absorbed.recurrent.get(node.name)
        plan.populations[node.name] = Population(
            layer.model, plan.program.target.arithmetic, layout, inflows, plan.keeps_states(node.name), recurrent
        )
    elif not isinstance(layer, Input | Delay | Readout | Output):
        site = stateless.Site(layer, inputs, tuple(ranges.inputs(node)), ranges.of(node.name))
        plan.operations[node.name] = stateless.operation(site)


def _synapse(plan: Plan, node: Node, samples: int, steps: int) -> SynapseRun:
    layer, shape = node.layer, plan.shapes[node.inputs[0].source]
    assert isinstance(layer, Linear | Conv)
    (x,) = plan.ranges.inputs(node)
    fan = fan_out(layer, shape)
    events = None if node.placement == "host" else stateless.events_of(layer, fan)
    if node.name in plan.without_kernel:
        return SynapseRun((), events, plan.dtype((node.name, "out")))
    once = node.name in plan.static
    at_once = chunk_of(plan, samples, steps)
    if node.name in plan.absorbed.streamed:
        at_once = piece_of(plan, plan.absorbed.streamed[node.name], at_once.samples, at_once.steps)
    batch = at_once.samples * (1 if once else at_once.steps)
    runs = samples * (1 if once else steps) / batch
    by_delay = layer.by_delay() if isinstance(layer, Linear) else [(0, layer)]
    parts = tuple((delay, choose(linear.Case.of(part, shape, x), batch, runs)) for delay, part in by_delay)
    return SynapseRun(parts, events, plan.dtype((node.name, "out")))


def _history(program: Program) -> dict[Key, int]:
    """How many past steps of a port are still read."""
    found: dict[Key, int] = {}
    for node in program:
        own = node.layer.steps if isinstance(node.layer, Delay) else 0
        if isinstance(node.layer, Linear) and node.layer.delay is not None:
            own = int(node.layer.delay.max(initial=0))
        for edge in node.inputs:
            key = (edge.source, edge.port)
            if edge.delay + own:
                found[key] = max(found.get(key, 0), edge.delay + own)
    return found


def _layouts(program: Program, shapes: dict[str, Shape]) -> dict[str, bool]:
    """Whether a node's values lie channels last: what convolutions and pooling give, and what is fed by them."""
    last: dict[str, bool] = {}
    for node in program:
        if isinstance(node.layer, Conv | Pool):
            last[node.name] = True
        elif isinstance(node.layer, Neuron) or type(node.layer).__name__ in ("Add", "Rescale", "Scale", "Delay"):
            last[node.name] = any(last.get(e.source, False) for e in node.inputs) and len(shapes[node.name]) > 1
        else:
            last[node.name] = False
    return last


# --- how much at once ---


@dataclass(frozen=True)
class Chunk:
    """Samples and steps computed at once."""

    samples: int
    steps: int


def chunk_of(plan: Plan, samples: int, steps: int, limit: int | None = None, workers: int = 1) -> Chunk:
    """How much is computed at once where ``workers`` threads share the samples, and at most ``limit`` are wanted."""
    most = min(samples, limit or samples)
    if plan.fusion.populations:
        whole = _in_lanes(plan, most, steps)
        shared = Chunk(_shared(whole.samples, samples, workers), whole.steps)
        # Threads can also share the places of one chunk.
        chunk = shared if plan.fused_in(shared) or samples > whole.samples else whole
        if plan.fused_in(chunk):
            return chunk
    room = max(1, CHUNK_BYTES // max(1, _largest(plan, plan.step_bytes, steps)))
    # Steps of a cycle are taken one by one: many samples at once amortise the calls.
    stepped = any(component.stepped for component in plan.components)
    at_once = _shared(max(1, min(most, room if stepped else room // steps)), samples, workers)
    return Chunk(at_once, max(1, min(steps, room // at_once)))


def _largest(plan: Plan, sizes: Mapping[str, int], steps: int) -> int:
    """Bytes of the largest layer for one step of one sample."""
    return max((size // steps if name in plan.static else size for name, size in sizes.items()), default=1)


def _shared(at_once: int, samples: int, workers: int) -> int:
    """Samples at once, fewer where the threads then share them evenly."""
    if workers > 1 and samples > at_once:
        rounds = math.ceil(samples / (at_once * workers)) * workers
        return math.ceil(samples / rounds)
    return max(1, min(at_once, math.ceil(samples / workers)))


def _in_lanes(plan: Plan, most: int, steps: int) -> Chunk:
    """So many samples and steps that they fill registers and, where that is no more, stay in a second-level cache."""
    room = max(1, LANES_BYTES // max(1, _largest(plan, plan.fused_bytes, steps)))
    samples = Lanes.full(min(most, max(SAMPLES, room // steps)))
    if steps <= _FEW_STEPS:
        return Chunk(Lanes.filled(samples, most, steps), steps)
    whole = max(1, REGISTER // Lanes(1, samples).batch)
    return Chunk(samples, min(steps, max(1, room // samples // whole) * whole))


def piece_of(plan: Plan, name: str, samples: int, steps: int) -> Chunk:
    """How much of a population is computed at once: all, or what keeps its streamed sums within ``PIECE_BYTES``."""
    bytes_ = sum(plan.step_bytes[source] for source in plan.streamed_into(name))
    room = max(1, PIECE_BYTES // bytes_) if bytes_ else samples * steps
    return Chunk(max(1, min(samples, room // steps)), min(steps, room))


def _read_on_the_way_in(plan: Plan, node: Node) -> Iterator[Edge]:
    """What a population reads in place of its inputs: behind factors, behind streamed synapses."""
    for read in plan.absorbed.reads.get(node.name, ()):
        yield read.edge
        if read.edge.source in plan.absorbed.streamed:
            yield from plan.program[read.edge.source].inputs


def last_reader(plan: Plan) -> dict[str, int]:
    """The component after which a node's values are needed no more."""
    found: dict[str, int] = {}
    for i, component in enumerate(plan.components):
        for node in component.nodes:
            found[node.name] = max(found.get(node.name, 0), i)
            for edge in (*node.inputs, *_read_on_the_way_in(plan, node)):
                found[edge.source] = i
    return found
