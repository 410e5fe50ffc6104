"""Remove what the deployed output does not depend on, and layers that change nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from snn2chip.ir.graph import Graph, Node
from snn2chip.ir.layers import (
    AvgPool,
    Concat,
    Flatten,
    Gather,
    Layer,
    MaxPool,
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


# Kinds of layers, and when one changes nothing of an input of this shape.
_IDENTITIES: tuple[tuple[tuple[type[Layer], ...], Callable[[Any, Shape], bool]], ...] = (
    ((Flatten, Reshape), lambda layer, shape: layer.output_shape(shape) == shape),
    ((Permute,), lambda layer, shape: layer.dims == tuple(range(len(shape)))),
    ((Gather,), lambda layer, shape: np.array_equal(layer.index, np.arange(math.prod(shape)).reshape(shape))),
    (
        (AvgPool, SumPool, MaxPool),
        lambda layer, shape: {*layer.kernel, *layer.stride} == {1} and not any(layer.padding),
    ),
    ((Scale,), lambda layer, shape: bool((layer.scale == 1).all())),
    ((Concat,), lambda layer, shape: True),
)


def _is_identity(node: Node, shape: Shape) -> bool:
    if len(node.inputs) != 1 or node.inputs[0].delay or node.inputs[0].port != "out":
        return False
    return any(isinstance(node.layer, kinds) and unchanged(node.layer, shape) for kinds, unchanged in _IDENTITIES)
