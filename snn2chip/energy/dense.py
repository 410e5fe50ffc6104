"""What a network would compute if no activation were zero: the dense counts papers put beside their spike counts."""

from __future__ import annotations

import math
from dataclasses import dataclass

from snn2chip.ir.graph import Network
from snn2chip.ir.layers import Input, Mul, Neuron
from snn2chip.simulate.counting import dense_macs


@dataclass(frozen=True)
class DenseOperations:
    """Operations of one time step of one sample.

    Args:
        macs: multiply-accumulates of all linear and convolution layers and matrix products. Zero padding counts,
            biases, batch norm, pooling and additions do not, as in the papers' and the usual profilers' figures.
        first_layer: those of the layers before any neuron: analog input makes them true multiplications.
        neurons: neurons updated.
    """

    macs: int
    first_layer: int
    neurons: int


def dense_operations(network: Network) -> DenseOperations:
    """Count one time step of a Graph or a Program."""
    shapes = network.shapes()
    before_neurons: set[str] = set()
    macs = first = neurons = 0
    for node in network:
        inputs = [shapes[edge.source] for edge in node.inputs]
        each = 0 if isinstance(node.layer, Mul) else dense_macs(node.layer, inputs, shapes[node.name])
        macs += each
        if isinstance(node.layer, Neuron):
            neurons += math.prod(shapes[node.name])
        elif isinstance(node.layer, Input) or all(e.source in before_neurons for e in node.inputs):
            before_neurons.add(node.name)
            first += each
    return DenseOperations(macs, first, neurons)
