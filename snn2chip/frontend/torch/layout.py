"""How an example is laid out: which axis is time, which the batch, and which layouts it could have."""

from __future__ import annotations

import types
from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from snn2chip.errors import UsageError
from snn2chip.ir.graph import Coding

TimeAxis = int | None | types.EllipsisType


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


def layouts(x: Tensor, steps: int, time_axis: TimeAxis) -> list[Layout]:
    """The layouts an example of T steps could have, the one without time first.

    Args:
        time_axis: what was said of it; ``...`` for nothing.

    Raises:
        UsageError: the axis that was named is not T long.
    """
    if time_axis is ...:
        axes = [axis for axis in range(x.ndim) if x.shape[axis] == steps and x.ndim > 2]
        return [Layout(None, 0), *(_timed(axis) for axis in axes)]
    if time_axis is None:
        return [Layout(None, 0)]
    if x.shape[time_axis] != steps:
        raise UsageError(
            f"axis {time_axis} of the example has {x.shape[time_axis]} elements, not T = {steps}",
            fix="correct input_time_axis",
        )
    return [_timed(time_axis % x.ndim)]


def _timed(axis: int) -> Layout:
    return Layout(axis, 1 if axis == 0 else 0)


def ambiguous(x: Tensor, found: Iterable[Layout]) -> UsageError:
    """The refusal of an example that has none of these layouts, or several."""
    ways = ["none" if layout.time_axis is None else f"axis {layout.time_axis}" for layout in found]
    return UsageError(
        f"which axis of the example {tuple(x.shape)} is time cannot be told",
        why=f"the model runs with {' and with '.join(ways) or 'none'}",
        fix="say so: input_time_axis=None (the same input at every step), 0 ([T, N, ...]) or 1 ([N, T, ...])",
    )
