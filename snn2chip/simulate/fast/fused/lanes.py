"""Where spikes lie to be looked up: steps of samples in the lanes of registers, places of a population in a grid."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from snn2chip.ir.layers import Array, Shape

# Channels of a word, lanes of a register, and the channels whose sums are looked up at once.
BITS, REGISTER, OUTPUTS = 5, 32, 4
# Lanes left free between a step and the next of sums: at distances of 4 KiB a first-level cache holds few lines.
GAP = 32
# Samples side by side where there are few; more come in whole registers.
_FEW = (1, 2, 4, 8, 16)
# The share of lanes in use below which sums are sooner multiplied than looked up.
_LEAST_USED = 0.6
# The share that is enough not to look for more samples.
_FULL = 0.8


@dataclass(frozen=True)
class Lanes:
    """How the steps of some samples lie in the lanes of a word: step after step, in each the samples and room for more.

    Args:
        steps, samples: that there are.
    """

    steps: int
    samples: int

    @property
    def batch(self) -> int:
        """Lanes of a step."""
        return next((few for few in _FEW if self.samples <= few), _up(self.samples, REGISTER))

    @property
    def total(self) -> int:
        """Lanes of a word: whole registers."""
        return _up(self.steps * self.batch, REGISTER)

    @property
    def used(self) -> float:
        """The share of the lanes that is not room for more."""
        return self.steps * self.samples / self.total

    @property
    def worthwhile(self) -> bool:
        """Whether enough of the lanes are in use."""
        return self.used >= _LEAST_USED

    @classmethod
    def filled(cls, samples: int, most: int, steps: int) -> int:
        """So many samples, or twice or four times as many where these steps of them leave lanes empty."""
        wider = (n for n in (samples, 2 * samples, 4 * samples) if n <= most and cls(steps, n).used >= _FULL)
        return next(wider, samples)

    @classmethod
    def full(cls, samples: int) -> int:
        """At most so many samples that no lane of a step is without one."""
        few = max((few for few in _FEW if few <= samples), default=1)
        return samples // REGISTER * REGISTER if samples >= REGISTER else few

    def of_samples(self, values: Array) -> Array:
        """What was found for every lane [total, …], for the steps and samples there are: [steps, samples, …]."""
        steps = self.total // self.batch
        return values.reshape(steps, self.batch, *values.shape[1:])[: self.steps, : self.samples]


def _up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


@dataclass(frozen=True)
class Grid:
    """The places of a population, and the silent border around them: no window needs to know where it ends.

    Args:
        shape: of the population, (C,), (C, W) or (C, H, W).
        before, after: width of the border along both axes.
    """

    shape: Shape
    before: tuple[int, int] = (0, 0)
    after: tuple[int, int] = (0, 0)

    @property
    def space(self) -> tuple[int, int]:
        """Rows and columns of places."""
        height, width = (1, 1, *self.shape[1:])[-2:]
        return height, width

    @property
    def outer(self) -> tuple[int, int]:
        """Rows and columns with the border."""
        (top, left), (bottom, right), (height, width) = self.before, self.after, self.space
        return top + height + bottom, left + width + right

    @property
    def bytes(self) -> int:
        """Of the words of one lane."""
        return 2 * self.row * math.prod(self.outer)

    @property
    def row(self) -> int:
        """Words of a place."""
        return -(-self.shape[0] // BITS)

    def places(self, rows: Array, columns: Array) -> Array:
        """Places counted along the rows of the whole grid, for every row and column counted inside the border."""
        return ((rows[:, None] + self.before[0]) * self.outer[1] + columns + self.before[1]).ravel()

    @functools.cached_property
    def inner(self) -> Array:
        """The places of the population."""
        height, width = self.space
        return self.places(np.arange(height), np.arange(width))
