"""What becomes of the outputs of one sample's steps."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from snn2chip.ir.graph import Network
from snn2chip.ir.layers import Array, Readout


def read_out(network: Network, steps: list[Array]) -> Array:
    """The read-out over the steps' outputs, or the outputs themselves [N, T, ...] where the network has none."""
    (edge,) = network.output.inputs
    layer = network[edge.source].layer
    if not isinstance(layer, Readout):
        return np.stack(steps, axis=1)
    return _READOUTS[layer.how](steps)


def predictions(outputs: Array) -> Array | None:
    """The class each sample's read-out names, or None where outputs are no scores [N, classes]."""
    return outputs.argmax(axis=1) if outputs.ndim == 2 and outputs.shape[1] > 1 else None


_READOUTS: dict[str, Callable[[list[Array]], Array]] = {
    "sum": lambda steps: np.sum(steps, axis=0),
    "mean": lambda steps: np.sum(steps, axis=0) / np.asarray(len(steps), dtype=steps[0].dtype),
    "last": lambda steps: steps[-1],
    "max": lambda steps: np.max(steps, axis=0),
}
