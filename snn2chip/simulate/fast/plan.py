"""What is decided about a Program before data comes: order, kernels and memory layout."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from snn2chip.ir.graph import Edge, Node
from snn2chip.ir.layers import Neuron, Shape
from snn2chip.ir.program import Program
from snn2chip.simulate.fast import stateless
from snn2chip.simulate.fast.absorbed import Absorbed
from snn2chip.simulate.fast.components import Component
from snn2chip.simulate.fast.fused.lanes import Lanes
from snn2chip.simulate.fast.fused.population import Fused, Fusion
from snn2chip.simulate.fast.maxima import Maximum
from snn2chip.simulate.fast.populations.population import Population
from snn2chip.simulate.fast.populations.symbolic import state_names
from snn2chip.simulate.fast.synapses.choice import Chosen
from snn2chip.simulate.ranges import NetworkRanges

Key = tuple[str, str]


@dataclass(frozen=True)
class Chunk:
    """Samples and steps computed at once."""

    samples: int
    steps: int


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
