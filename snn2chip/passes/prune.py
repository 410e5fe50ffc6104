"""Remove what the deployed output does not depend on, and layers that change nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from snn2chip.ir.graph import Graph, Node
from snn2chip.ir.layers import (
    AvgPool,
    Concat,
    Flatten,
    Gather,
    Input,
    MaxPool,
    Output,
    Permute,
    Reshape,
    Scale,
    Shape,
    SumPool,
)
from snn2chip.passes.base import Pass, rewired


@dataclass(frozen=True, eq=False)
class Prune(Pass):
    """Drop nodes that do not reach the output (training-only branches) and identities."""

    name: ClassVar[str] = "prune"

    def apply(self, graph: Graph) -> tuple[Graph, tuple[str, ...]]:
        """See :meth:`Pass.apply`."""
        live: set[str] = set()
        stack = [graph.output.name, graph.input.name]
        while stack:
            name = stack.pop()
            if name not in live:
                live.add(name)
                stack.extend(edge.source for edge in graph[name].inputs)
        shapes = graph.shapes()
        redirect = {
            node.name: node.inputs[0].source
            for node in graph
            if node.name in live and _is_identity(node, shapes[node.inputs[0].source] if node.inputs else ())
        }
        removed: dict[str, Node | None] = {n.name: None for n in graph if n.name not in live or n.name in redirect}
        return (rewired(graph, removed, redirect), tuple(removed)) if removed else (graph, ())


def _is_identity(node: Node, shape: Shape) -> bool:
    if len(node.inputs) != 1 or node.inputs[0].delay or node.inputs[0].port != "out":
        return False
    layer = node.layer
    if isinstance(layer, Input | Output):
        return False
    if isinstance(layer, Flatten | Reshape):
        return layer.output_shape(shape) == shape
    if isinstance(layer, Permute):
        return layer.dims == tuple(range(len(shape)))
    if isinstance(layer, Gather):
        return layer.index.shape == shape and bool((layer.index.ravel() == np.arange(layer.index.size)).all())
    if isinstance(layer, AvgPool | SumPool | MaxPool):
        return set(layer.kernel) == {1} and set(layer.stride) == {1} and not any(layer.padding)
    if isinstance(layer, Scale):
        return bool((layer.scale == 1).all())
    return isinstance(layer, Concat)
