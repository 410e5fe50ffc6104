"""How an example is laid out: which axis is time, which the batch."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from snn2chip.ir.graph import Coding


@dataclass(frozen=True)
class Layout:
    """How the example is laid out: its time axis (None: the same data at every step) and its batch axis."""

    time_axis: int | None
    batch_axis: int

    @property
    def coding(self) -> Coding:
        """How a graph calls it."""
        return "direct" if self.time_axis is None else "steps"

    def to_samples(self, x: Tensor) -> Tensor:
        """The example as samples: [N, ...] or [N, T, ...]."""
        if self.time_axis is None:
            return x.movedim(self.batch_axis, 0)
        return x.movedim((self.batch_axis, self.time_axis), (0, 1))

    def from_samples(self, samples: Tensor) -> Tensor:
        """The inverse of :meth:`to_samples`."""
        if self.time_axis is None:
            return samples.movedim(0, self.batch_axis)
        return samples.movedim((0, 1), (self.batch_axis, self.time_axis))
