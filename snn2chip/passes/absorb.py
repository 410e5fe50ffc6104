"""Small rewrites that bring a graph into the form quantization takes: sums into dendrites, constants into weights."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from snn2chip.ir.graph import Graph, Node
from snn2chip.ir.layers import Add, Array, Conv, Linear, Neuron, Scale, Shape
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
