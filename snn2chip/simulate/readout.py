"""What becomes of the outputs of one sample's steps."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from snn2chip.errors import S2CError
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


def classes(network: Network) -> int | None:
    """How many classes :func:`predictions` tells apart, or None where its outputs are no scores."""
    (edge,) = network.output.inputs
    shape = network.shapes()[edge.source]
    scores = isinstance(network[edge.source].layer, Readout) and len(shape) == 1 and shape[0] > 1
    return shape[0] if scores else None


def require_classes(labels: Array, samples: int, classes: int | None, first: int = 0) -> None:
    """Counted from 1, or rounded, labels would give an accuracy too, and a wrong one.

    Args:
        labels: class indices [N].
        samples: N.
        classes: how many there are; None where that is not known.
        first: number of the first sample in the data, for messages.

    Raises:
        S2CError: there are not as many labels as samples, or one is no class; the message says of which sample.
    """
    if labels.shape != (samples,):
        raise S2CError(
            f"labels of shape {labels.shape} do not fit {samples} samples",
            where="labels",
            fix="give the class index of each sample, [N]",
        )
    numbers = labels.dtype.kind in "biuf"
    end = np.inf if classes is None else classes
    wrong = (labels < 0) | (labels >= end) | (labels != np.floor(labels)) if numbers else np.ones(samples, bool)
    if wrong.any():
        at = int(np.argmax(wrong))
        raise S2CError(
            f"the label {labels[at]} is no class",
            where=f"labels, sample {first + at}",
            why="" if classes is None else f"the network tells {classes} classes apart, 0 to {classes - 1}",
            fix="give class indices counted from 0, and leave out samples that belong to none",
        )


_READOUTS: dict[str, Callable[[list[Array]], Array]] = {
    "sum": lambda steps: np.sum(steps, axis=0),
    "mean": lambda steps: np.sum(steps, axis=0) / np.asarray(len(steps), dtype=steps[0].dtype),
    "last": lambda steps: steps[-1],
    "max": lambda steps: np.max(steps, axis=0),
}
