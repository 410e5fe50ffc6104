"""Small rewrites that bring a graph into the form quantization takes: sums into dendrites, constants into weights,
zeros into padding.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from snn2chip.ir.graph import Graph, Node
from snn2chip.ir.layers import Add, Array, Conv, Gather, Linear, Neuron, Scale, Shape
from snn2chip.passes.base import Pass, only_reader, only_source, rewired, with_layer
from snn2chip.passes.fold_batchnorm import scaled_output


@dataclass(frozen=True, eq=False)
class AbsorbAdd(Pass):
    """A sum that only one population reads becomes several inputs of that population."""

    name: ClassVar[str] = "absorb_add"

    def apply(self, graph: Graph) -> tuple[Graph, tuple[str, ...]]:
        """See :meth:`Pass.apply`."""
        touched: list[str] = []
        for name in [node.name for node in graph if isinstance(node.layer, Add)]:
            node, reader = graph[name], only_reader(graph, name)
            if reader is None or not isinstance(reader.layer, Neuron | Add):
                continue
            inputs = tuple(e for edge in reader.inputs for e in (node.inputs if edge.source == name else (edge,)))
            graph = rewired(graph, {name: None, reader.name: dataclasses.replace(reader, inputs=inputs)})
            touched += [name, reader.name]
        return graph, tuple(touched)


@dataclass(frozen=True, eq=False)
class AbsorbScale(Pass):
    """A constant factor goes into the linear map before it or after it, where it is one per feature or one for all."""

    name: ClassVar[str] = "absorb_scale"

    def apply(self, graph: Graph) -> tuple[Graph, tuple[str, ...]]:
        """See :meth:`Pass.apply`."""
        touched: list[str] = []
        for name in [node.name for node in graph if isinstance(node.layer, Scale)]:
            node = graph[name]
            merged = _absorbed(graph, node, graph.shapes()[name])
            if merged is not None:
                graph = rewired(graph, {merged.name: merged, name: None}, {name: node.inputs[0].source})
                touched += [name, merged.name]
        return graph, tuple(touched)


@dataclass(frozen=True, eq=False)
class AbsorbPad(Pass):
    """Zeros around an image, as many on either side, become the padding of the one convolution that reads it."""

    name: ClassVar[str] = "absorb_pad"

    def apply(self, graph: Graph) -> tuple[Graph, tuple[str, ...]]:
        """See :meth:`Pass.apply`."""
        touched: list[str] = []
        for name in [node.name for node in graph if isinstance(node.layer, Gather)]:
            node, conv = graph[name], only_reader(graph, name)
            widths = _even_padding(node, graph.shapes()[node.inputs[0].source])
            if widths is not None and conv is not None and isinstance(conv.layer, Conv):
                padding = tuple(a + b for a, b in zip(conv.layer.padding, widths, strict=True))
                layer = dataclasses.replace(conv.layer, padding=padding)
                merged = dataclasses.replace(conv, layer=layer, inputs=node.inputs)
                graph = rewired(graph, {conv.name: merged, name: None})
                touched += [name, conv.name]
        return graph, tuple(touched)


def _even_padding(node: Node, shape: Shape) -> Shape | None:
    """The zeros on either side of each spatial axis, if that is all the layer adds."""
    assert isinstance(node.layer, Gather)
    index = node.layer.index
    more = [n - m for n, m in zip(index.shape, shape, strict=False)]
    if index.ndim != len(shape) or index.ndim < 2 or more[0] or any(n < 0 or n % 2 for n in more):
        return None
    around = [(n // 2, n // 2) for n in more]
    padded = np.pad(np.arange(math.prod(shape)).reshape(shape), around, constant_values=-1)
    return tuple(n // 2 for n in more[1:]) if np.array_equal(index, padded) else None


def _absorbed(graph: Graph, node: Node, shape: Shape) -> Node | None:
    assert isinstance(node.layer, Scale)
    factors = _per_feature(node.layer.scale, shape)
    if factors is None:
        return None
    before, after = only_source(graph, node), only_reader(graph, node.name)
    uniform = len(set(factors)) == 1
    if before is not None and isinstance(before.layer, Linear | Conv):
        layer, features = before.layer, before.layer.weight.shape[0]
        if isinstance(layer, Conv) or len(shape) == 1 or uniform:
            factor = np.full(features, factors[0]) if uniform else factors
            scaled = scaled_output(layer, factor, np.zeros(features))
            return with_layer(before, scaled if layer.bias is not None else dataclasses.replace(scaled, bias=None))
    if after is not None and isinstance(after.layer, Linear | Conv) and uniform:
        weight = (after.layer.weight.astype(np.float64) * factors[0]).astype(after.layer.weight.dtype)
        return with_layer(after, dataclasses.replace(after.layer, weight=weight))
    return None


def _per_feature(scale: Array, shape: Shape) -> Array | None:
    """The factors along axis 0, or None where they vary along another axis."""
    full = np.broadcast_to(scale, shape).reshape(shape[0], -1).astype(np.float64)
    return full[:, 0] if (full == full[:, :1]).all() else None
