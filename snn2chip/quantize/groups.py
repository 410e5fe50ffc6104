"""The form quantization works on: populations, each fed by synapses; a head; a host prefix."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

import numpy as np

from snn2chip.errors import S2CError
from snn2chip.ir.graph import Edge, Graph, Node
from snn2chip.ir.layers import (
    Add,
    Array,
    Concat,
    Conv,
    Conv1d,
    Conv2d,
    Delay,
    Flatten,
    Gather,
    Input,
    Layer,
    Linear,
    MatMul,
    MaxPool,
    Mul,
    Neuron,
    Output,
    Permute,
    Readout,
    Reshape,
    Scale,
    Shape,
    SumPool,
)
from snn2chip.passes.fuse_linear import obstacle
from snn2chip.quantize.pools import Pooled, host_pools, pooled

# Layers that only move or add integers: they need no scale of their own.
TRANSPARENT = (Flatten, Reshape, Permute, Gather, Concat, Add, SumPool, Delay)

# Layers that multiply two tensors of the network: the product of their units is the unit of the product.
PRODUCTS = (MatMul, Mul)
# Layers behind which a unit is worth what it was before.
KEEPING = (*TRANSPARENT, MaxPool)
# All layers that spikes pass on their way to a synapse.
PASSING = (*KEEPING, *PRODUCTS, Scale)


@dataclass(frozen=True)
class Group:
    """One population and the synapses whose sums meet in it, the recurrent ones last.

    Args:
        pooled: those sums of which the host takes maxima on the way.
    """

    population: Node
    synapses: tuple[Node, ...]
    pooled: tuple[Pooled, ...] = ()

    @property
    def recurrent(self) -> tuple[Node, ...]:
        """The synapses fed by the population itself, a step earlier."""
        return tuple(s for s in self.synapses if Edge(self.population.name, 1, recurrent=True) in s.inputs)


def with_identity_synapses(graph: Graph) -> Graph:
    """The graph with a synapse of weight one wherever a population reads spikes, data or maxima without one, or a sum
    that max pooling reads.
    """
    shapes, nodes, on_host = graph.shapes(), [], host_pools(graph)
    for node in graph:
        edges = []
        for edge in node.inputs:
            source = graph[edge.source].layer
            adds = isinstance(node.layer, Add) and node.name in on_host and edge.source not in on_host
            if adds or (isinstance(node.layer, Neuron) and not isinstance(source, Linear | Conv)):
                name = f"{node.name}.from.{edge.source}"
                nodes.append(Node(name, identity(shapes[edge.source]), (edge,), node.source))
                edge = Edge(name)
            edges.append(edge)
        nodes.append(Node(node.name, node.layer, tuple(edges), node.source, node.placement))
    return graph.with_nodes(nodes)


def with_delays_in_front(graph: Graph) -> Graph:
    """The graph with delays behind synapses moved in front of them, where zeros give zeros.

    Raises:
        S2CError: a bias that arrives late: a chip's population adds its bias from the first step on.
    """
    nodes = dict(graph.nodes)
    for population in graph.neurons:
        for edge in population.inputs:
            synapse = graph[edge.source]
            if not (edge.delay and isinstance(synapse.layer, Linear | Conv)):
                continue
            if synapse.layer.bias is not None and synapse.layer.bias.any():
                raise S2CError(
                    f"the bias of this layer reaches {population.name} from step {edge.delay} on",
                    where=synapse.where(),
                    why="a chip's population adds its bias at every step, the first included",
                    fix="train the layer without a bias; in a loop over steps, let it read zeros at first instead of "
                    "leaving it out",
                )
            (before,) = synapse.inputs
            late = replace(before, delay=before.delay + edge.delay, recurrent=before.recurrent or edge.recurrent)
            nodes[synapse.name] = replace(synapse, inputs=(late,))
            inputs = tuple(Edge(e.source) if e == edge else e for e in nodes[population.name].inputs)
            nodes[population.name] = replace(nodes[population.name], inputs=inputs)
    return graph.with_nodes(nodes.values())


def identity(shape: Shape) -> Linear | Conv:
    """A synapse that passes every element on, weight one."""
    if len(shape) in (2, 3):
        cls = {2: Conv1d, 3: Conv2d}[len(shape)]
        return cls(np.ones((shape[0], 1, *(1,) * (len(shape) - 1)), np.float32), groups=shape[0])
    return Linear(np.eye(shape[-1], dtype=np.float32))


def groups(graph: Graph) -> tuple[Group, ...]:
    """The populations with their synapses, in order of execution."""
    found = []
    for node in graph.neurons:
        direct = [graph[edge.source] for edge in node.inputs]
        arms = {synapse.name: arm for synapse in direct if (arm := pooled(graph, synapse)) is not None}
        synapses = [synapse for synapse in direct if synapse.name not in arms]
        synapses += [synapse for arm in arms.values() for synapse in arm.synapses]
        for synapse in synapses:
            if shown := next((edge for edge in _edges_back(graph, synapse) if _is_membrane(graph, edge)), None):
                raise S2CError(
                    f"this layer carries a membrane, {shown}, to a population",
                    where=synapse.where(),
                    why="between the chip's populations there are spikes only",
                    fix="feed on the spikes instead; a synaptic current is the current_decay of its neuron",
                )
        for synapse in (*synapses, *(step for arm in arms.values() for step in (*arm.between, arm.entry))):
            readers = graph.consumers(synapse.name)
            if len(readers) != 1:
                raise S2CError(
                    "the output of this layer is read by more than one population",
                    where=synapse.where(),
                    why=f"read by {', '.join(r.name for r in readers)}; each population has a scale of its own",
                    fix="give each reader its own synapse",
                )
        synapses.sort(key=lambda s: any(e.recurrent for e in s.inputs))
        found.append(Group(node, tuple(synapses), tuple(arms.values())))
    return tuple(found)


def _edges_back(graph: Graph, node: Node) -> Iterator[Edge]:
    """The edges a synapse is fed by, through layers that only move or add."""
    for edge in node.inputs:
        yield edge
        if isinstance(graph[edge.source].layer, PASSING):
            yield from _edges_back(graph, graph[edge.source])


def factor(layer: Layer) -> float | None:
    """What a Scale that is the same for all elements multiplies by; None for other layers."""
    if not isinstance(layer, Scale) or layer.scale.min() != layer.scale.max() or layer.scale.min() <= 0:
        return None
    return float(layer.scale.flat[0])


def _is_membrane(graph: Graph, edge: Edge) -> bool:
    """Whether an edge carries a membrane: a port of its own, or all that an integrator gives."""
    layer = graph[edge.source].layer
    return edge.port != "out" or (isinstance(layer, Neuron) and layer.model.integrates_only)


def check_form(graph: Graph, host: Collection[str] = ()) -> None:
    """Every layer must be one that quantization knows what to do with, in a place where it does.

    Args:
        graph: with a synapse before every population.
        host: what may run on the host, by name.

    Raises:
        S2CError: the first layer that is not, and what it would take.
    """
    known = (Input, Output, Readout, Neuron, Linear, Conv, *TRANSPARENT)
    for node in graph:
        if isinstance(node.layer, PRODUCTS) and "products" not in host:
            raise S2CError(
                f"a {node.layer.kind} layer has no integer form on the chip",
                where=node.where(),
                why="both factors are computed, as in attention, and a synapse multiplies by weights that are stored",
                fix='let the host multiply, between the chip\'s layers: --host products (host=["products"])',
            )
        if isinstance(node.layer, MaxPool) and "pools" not in host:
            source = graph[node.inputs[0].source]
            raise S2CError(
                "a maximum of values that are not spikes cannot be computed on the chip",
                where=node.where(),
                why=f"it reads {source.name} ({source.layer.kind}), and a neuron adds up what reaches it",
                fix="pool the spikes, behind the neuron instead of before it; or train with average pooling or a "
                "convolution of stride 2 in its place; or let the host take the maxima, between the chip's layers: "
                '--host pools (host=["pools"])',
            )
        if not isinstance(node.layer, (*known, *PRODUCTS, MaxPool)) and factor(node.layer) is None:
            raise S2CError(
                f"a {node.layer.kind} layer has no integer form",
                where=node.where(),
                why="the passes could not make it part of a synapse",
                fix="see `snn2chip inspect` for the graph after the passes; put it next to a linear or conv layer",
            )
        if isinstance(node.layer, Linear | Conv):
            for edge in node.inputs:
                source = _through(graph, edge.source)
                if isinstance(source.layer, Linear | Conv):
                    left = obstacle(graph, source, node)
                    pads = isinstance(node.layer, Conv) and any(node.layer.padding)
                    between = "put a neuron between them" + pads * (
                        f"; or train with {source.name} behind {node.name}, or without padding"
                    )
                    raise S2CError(
                        f"two synaptic layers in a row, {source.name} and {node.name}, with no neuron between them",
                        where=node.where(),
                        why="the chip has no sum between two synapses but a neuron's"
                        + (f", and they cannot become one: {left}" if left else ""),
                        fix=between if left else "put a neuron between them, or run the pass fuse_linear",
                    )


def _through(graph: Graph, name: str) -> Node:
    node = graph[name]
    while isinstance(node.layer, (*TRANSPARENT, Scale)) and len(node.inputs) == 1:
        node = graph[node.inputs[0].source]
    return node


def is_binary(x: Array) -> bool:
    """Whether data holds nothing but 0 and 1."""
    return bool(np.isin(x, (0, 1)).all())
