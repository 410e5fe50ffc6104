"""Views between a synapse and a population go behind the population: on a chip a synapse ends at its neuron."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from snn2chip.ir.graph import Edge, Graph, Node, parameters
from snn2chip.ir.layers import Add, Array, Gather, Layer, Neuron, Reshape, Scale, Shape
from snn2chip.neurons.per_step import PerStepLIF
from snn2chip.neurons.tpp import TPP
from snn2chip.passes.base import VIEWS, LocalPass, Rewrite, is_sum, only_reader, rewired
from snn2chip.simulate.ops import NumpyOps, apply

_OPS = NumpyOps()


@dataclass(frozen=True, eq=False)
class MoveViews(LocalPass):
    """f(view(x)) = view(f′(x)) for what treats every element alone: neurons, sums, factors.

    The population is then laid out as its synapse is, its parameters with it, and is called ``<name>.in_place``; what
    has its name is the view behind it, and reads as it did. Views that cancel out are dropped.

    Views stay where they are in front of several branches that are not all viewed alike, and where they take only some
    elements or add zeros.
    """

    name: ClassVar[str] = "move_views"
    kinds = (Neuron, Add, Scale)

    def rewrite(self, graph: Graph, node: Node) -> Rewrite | None:
        """See :meth:`LocalPass.rewrite`."""
        changed = _moved(graph, node)
        return (rewired(graph, changed), changed) if changed else None


def _moved(graph: Graph, node: Node) -> dict[str, Node | None]:
    """The nodes that change; none where the views stay."""
    chains = [_views(graph, node, edge) for edge in node.inputs]
    origins = tuple(chain[0].inputs[0] if chain else edge for chain, edge in zip(chains, node.inputs, strict=True))
    if not all(chains) or not any(is_sum(graph, edge) for edge in origins):
        return {}
    shapes = graph.shapes()
    inner, outer = shapes[origins[0].source], shapes[node.name]
    places = [_places(chain, shapes[edge.source]) for chain, edge in zip(chains, origins, strict=True)]
    order = places[0]
    if any(shapes[edge.source] != inner for edge in origins) or any((p != order).any() for p in places):
        return {}
    in_order = np.arange(order.size).reshape(outer)
    gone: dict[str, Node | None] = {view.name: None for chain in chains for view in chain}
    if inner == outer and (order == in_order).all():
        return gone | {node.name: dataclasses.replace(node, inputs=origins)}
    layer = _laid_out(node.layer, order, inner)
    if layer is None:
        return {}
    neurons = dataclasses.replace(node, name=f"{node.name}.in_place", layer=layer, inputs=origins)
    view = chains[0][0].layer if len(chains[0]) == 1 else Gather(order)
    if (order == in_order).all():
        view = Reshape(outer)
    return gone | {neurons.name: neurons} | _behind(graph, node, neurons, view)


def _behind(graph: Graph, node: Node, neurons: Node, view: Layer) -> dict[str, Node | None]:
    """The view on whatever is read of the population: its spikes under its name, other ports under one of their own."""
    changed: dict[str, Node | None] = {
        node.name: Node(node.name, view, (Edge(neurons.name),), node.source, node.placement)
    }
    for reader in graph.consumers(node.name):
        edges = []
        for edge in reader.inputs:
            if edge.source == node.name and edge.port != "out":
                shown = Node(f"{node.name}.{edge.port}", view, (Edge(neurons.name, port=edge.port),), node.source)
                changed[shown.name] = shown
                edge = dataclasses.replace(edge, source=shown.name, port="out")
            edges.append(edge)
        if tuple(edges) != reader.inputs:
            changed[reader.name] = dataclasses.replace(reader, inputs=tuple(edges))
    return changed


def _views(graph: Graph, node: Node, edge: Edge) -> list[Node]:
    """The views an input comes through that nothing else reads, the first one first."""
    chain: list[Node] = []
    while isinstance((view := graph[edge.source]).layer, VIEWS) and only_reader(graph, view.name) is node:
        chain.insert(0, view)
        node, (edge,) = view, view.inputs
    while chain and chain[0].inputs[0].port != "out":
        del chain[0]
    return chain


def _places(chain: list[Node], shape: Shape) -> Array:
    """For each element behind the views, its place in what they read, row-major; −1 for a zero."""
    seen = np.arange(1, np.prod(shape, dtype=int) + 1).reshape(1, *shape)
    for view in chain:
        seen = apply(view.layer, [seen], _OPS)
    places: Array = seen[0] - 1
    return places


def _laid_out(layer: Layer, order: Array, shape: Shape) -> Layer | None:
    """The layer for elements before the views; None where every element is not seen once, or places matter."""
    if order.size != np.prod(shape, dtype=int) or not (np.sort(order, axis=None) == np.arange(order.size)).all():
        return None
    if isinstance(layer, Neuron) and isinstance(layer.model, TPP) and (np.diff(order.ravel()) != 1).any():
        # Its random numbers are dealt out in the order of the neurons.
        return None
    if isinstance(layer, Neuron) and isinstance(layer.model, PerStepLIF):
        return None
    arrays = {name: _unviewed(array, order, shape) for name, array in parameters(layer).items()}
    if isinstance(layer, Neuron):
        return Neuron(dataclasses.replace(layer.model, **arrays))
    return dataclasses.replace(layer, **arrays)


def _unviewed(parameter: Array, order: Array, shape: Shape) -> Array:
    """A parameter that broadcast against the view, broadcasting against what is viewed."""
    if parameter.size == 1:
        return parameter.reshape(())
    full = np.empty(order.size, parameter.dtype)
    full[order.ravel()] = np.broadcast_to(parameter, order.shape).ravel()
    full = full.reshape(shape)
    for axis in range(full.ndim):
        first = full.take([0], axis)
        full = first if (full == first).all() else full
    return full
