"""Max pooling of binary spikes is their OR: a synapse of ones and a population without memory that fires on any."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from snn2chip.errors import S2CError
from snn2chip.ir.graph import Edge, Graph, Node
from snn2chip.ir.layers import Conv1d, Conv2d, MaxPool, Neuron
from snn2chip.neurons.base import FloatNeuron
from snn2chip.neurons.lif import LIF
from snn2chip.passes.base import Pass, rewired, with_layer


@dataclass(frozen=True, eq=False)
class LowerMaxPool(Pass):
    """Each max pooling of spikes becomes ``<name>.any`` (ones, depthwise) and a memoryless population ``<name>``."""

    name: ClassVar[str] = "lower_maxpool"

    def apply(self, graph: Graph) -> tuple[Graph, tuple[str, ...]]:
        """See :meth:`Pass.apply`."""
        touched: list[str] = []
        for node in [node for node in graph if isinstance(node.layer, MaxPool)]:
            pool, source = node.layer, graph[node.inputs[0].source]
            assert isinstance(pool, MaxPool)
            if not _binary(graph, node.inputs[0]):
                raise S2CError(
                    "a maximum of values that are not spikes cannot be computed on the chip",
                    where=node.where(),
                    why=f"it reads {source.name} ({source.layer.kind})",
                    fix="pool the spikes, behind the neuron instead of before it; or train with average pooling or a "
                    "convolution of stride 2 in its place",
                )
            shape = graph.shapes()[source.name]
            cls = {1: Conv1d, 2: Conv2d}[len(pool.kernel)]
            ones = cls(
                np.ones((shape[0], 1, *pool.kernel), np.float32),
                None,
                pool.stride,
                pool.padding,
                groups=shape[0],
            )
            if ones.output_shape(shape) != pool.output_shape(shape):
                raise S2CError(
                    "max pooling with ceil_mode has windows that reach past the edge",
                    where=node.where(),
                    fix="use ceil_mode=False",
                )
            synapse = Node(f"{node.name}.any", ones, node.inputs, node.source)
            fires = LIF(np.asarray(0.5), np.asarray(0.0), fire=">", reset="hard")
            population = Node(node.name, Neuron(fires), (Edge(synapse.name),), node.source)
            graph = rewired(graph, {node.name: with_layer(population, Neuron(fires)), synapse.name: synapse})
            touched += [node.name, synapse.name]
        return graph, tuple(touched)


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
