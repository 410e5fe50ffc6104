"""Max pooling of binary spikes is their OR: a synapse of ones and a population without memory that fires on any."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from snn2chip.ir.graph import Edge, Graph, Node
from snn2chip.ir.layers import Array, Conv1d, Conv2d, Gather, MaxPool, Neuron, Shape
from snn2chip.neurons.base import FloatNeuron
from snn2chip.neurons.lif import LIF
from snn2chip.passes.base import LocalPass, Rewrite, rewired


@dataclass(frozen=True, eq=False)
class LowerMaxPool(LocalPass):
    """Each max pooling of spikes becomes ``<name>.any`` (ones, depthwise) and a memoryless population ``<name>``.

    Windows that reach past the edge (``ceil_mode``) see zeros there, ``<name>.padded``. Max pooling of anything but
    spikes stays: quantization says what can be done about it.
    """

    name: ClassVar[str] = "lower_maxpool"
    kinds = (MaxPool,)

    def rewrite(self, graph: Graph, node: Node) -> Rewrite | None:
        """See :meth:`LocalPass.rewrite`."""
        if not _binary(graph, node.inputs[0]):
            return None
        pool, shape = node.layer, graph.shapes()[node.inputs[0].source]
        assert isinstance(pool, MaxPool)
        cls = {1: Conv1d, 2: Conv2d}[len(pool.kernel)]
        weight = np.ones((shape[0], 1, *pool.kernel), np.float32)
        ones = cls(weight, None, pool.stride, pool.padding, groups=shape[0])
        fires = LIF(np.asarray(0.5), np.asarray(0.0), fire=">", reset="hard")
        synapse = Node(f"{node.name}.any", ones, node.inputs, node.source)
        nodes = [Node(node.name, Neuron(fires), (Edge(synapse.name),), node.source), synapse]
        if ones.output_shape(shape) != pool.output_shape(shape):
            padded = Node(f"{node.name}.padded", Gather(_beyond(pool, shape)), node.inputs, node.source)
            nodes.append(padded)
            nodes[1] = Node(synapse.name, ones, (Edge(padded.name),), node.source)
        return rewired(graph, {new.name: new for new in nodes}), [new.name for new in nodes]


def _beyond(pool: MaxPool, shape: Shape) -> Array:
    """The elements of a map, and zeros on the far side of every axis for a last window that starts within it."""
    missing = [
        max(0, (out - 1) * s + k - n - 2 * p)
        for out, s, k, n, p in zip(
            pool.output_shape(shape)[1:], pool.stride, pool.kernel, shape[1:], pool.padding, strict=True
        )
    ]
    every = np.arange(math.prod(shape)).reshape(shape)
    return np.pad(every, [(0, 0), *((0, more) for more in missing)], constant_values=-1)


def _binary(graph: Graph, edge: Edge) -> bool:
    """Whether an edge can carry only 0 and 1: spikes, moved, joined or multiplied."""
    node = graph[edge.source]
    if node.layer.kind in ("Flatten", "Reshape", "Permute", "Gather", "Concat", "MaxPool", "Mul"):
        return all(_binary(graph, before) for before in node.inputs)
    model = getattr(node.layer, "model", None)
    return (
        edge.port == "out"
        and isinstance(model, FloatNeuron)
        and not model.integrates_only
        and model.spikes == (0, 1)
        and model.spike_value == 1.0
    )
