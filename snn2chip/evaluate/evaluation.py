"""What an evaluation returns: sums over samples, of one size whatever the number of samples."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from snn2chip.ir.layers import Array
from snn2chip.simulate.readout import predictions, require_classes
from snn2chip.simulate.result import Counts, Result


@dataclass(frozen=True)
class LayerTotals:
    """Operations of one layer, summed over samples and steps; what is counted says :class:`~snn2chip.simulate.Counts`.

    Plain integers, which do not overflow.
    """

    spikes: int = 0
    synops: int = 0
    neuron_updates: int = 0
    macs: int = 0

    @classmethod
    def of(cls, counts: Counts) -> LayerTotals:
        """Summed counts."""
        return cls(**{kind: int(array.sum()) for kind, array in vars(counts).items()})

    def __add__(self, other: LayerTotals) -> LayerTotals:
        return LayerTotals(*(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)))


@dataclass(frozen=True)
class Evaluation:
    """A network on a test set, or on a part of one.

    Args:
        samples: how many were simulated.
        correct: how many of them were classified as their label says; None without labels, or where the network's
            outputs are no scores.
        counts: layer name → :class:`LayerTotals`, in order of execution.
        saturated_inputs: how many input values lay outside the input format and were clipped.
    """

    samples: int
    correct: int | None
    counts: Mapping[str, LayerTotals]
    saturated_inputs: int = 0

    @classmethod
    def of(cls, result: Result, labels: Array | None = None, first: int = 0) -> Evaluation:
        """The sums of a simulation; ``labels`` [N] are class indices.

        ``first`` is the number of the first sample, for messages.

        Raises:
            S2CError: there are not as many labels as samples, or one is no class of the network.
        """
        best = predictions(result.outputs)
        correct = None
        if labels is not None and best is not None:
            require_classes(labels, len(best), result.outputs.shape[1], first)
            correct = int((best == labels).sum())
        counts = {name: LayerTotals.of(layer) for name, layer in result.counts.items()}
        return cls(len(result.outputs), correct, counts, result.saturated_inputs)

    def __add__(self, other: Evaluation) -> Evaluation:
        """Both parts of a test set; neither their order nor their sizes matter."""
        correct = None if self.correct is None or other.correct is None else self.correct + other.correct
        counts = {name: totals + other.counts[name] for name, totals in self.counts.items()}
        saturated = self.saturated_inputs + other.saturated_inputs
        return Evaluation(self.samples + other.samples, correct, counts, saturated)

    @property
    def accuracy(self) -> float | None:
        """The share of samples classified correctly, or None where ``correct`` is."""
        return None if self.correct is None else self.correct / self.samples

    def totals(self) -> dict[str, int]:
        """Every count summed over layers."""
        return dataclasses.asdict(sum(self.counts.values(), start=LayerTotals()))

    def as_dict(self) -> dict[str, Any]:
        """Everything as JSON-able data; :meth:`from_dict` reads it back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Evaluation:
        """The inverse of :meth:`as_dict`."""
        return cls(**{**data, "counts": {name: LayerTotals(**totals) for name, totals in data["counts"].items()}})
