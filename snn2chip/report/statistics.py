"""Intervals and tests for accuracies: closed forms, so that the same counts always give the same report."""

from __future__ import annotations

import math
from dataclasses import dataclass

Interval = tuple[float, float]

# Two-sided 95 % of the normal distribution.
_Z = 1.959963984540054

WILSON = "Wilson score interval, 95 %"
PAIRED = "Newcombe's score interval for a paired difference (Stat. Med. 17, 1998, method 10), 95 %"
MCNEMAR = "exact McNemar test, two-sided"


def wilson(correct: int, samples: int) -> Interval:
    """95 % interval of a proportion (Wilson 1927); (0, 1) where there is no sample."""
    if samples == 0:
        return 0.0, 1.0
    share, scale = correct / samples, 1 + _Z**2 / samples
    centre = (share + _Z**2 / (2 * samples)) / scale
    half = _Z * math.sqrt(share * (1 - share) / samples + _Z**2 / (4 * samples**2)) / scale
    return max(0.0, centre - half), min(1.0, centre + half)


@dataclass(frozen=True)
class Paired:
    """How two classifiers did on the same samples.

    Args:
        both, only_first, only_second, neither: numbers of samples that were right for whom.
    """

    both: int
    only_first: int
    only_second: int
    neither: int

    @property
    def samples(self) -> int:
        """How many samples there are."""
        return self.both + self.only_first + self.only_second + self.neither

    @property
    def difference(self) -> float:
        """Accuracy of the first minus accuracy of the second."""
        return (self.only_first - self.only_second) / self.samples

    def interval(self) -> Interval:
        """95 % interval of :attr:`difference`, which counts that both saw the same samples (``PAIRED``)."""
        first, second = self.both + self.only_first, self.both + self.only_second
        n = self.samples
        p, q = first / n, second / n
        (low_p, high_p), (low_q, high_q) = wilson(first, n), wilson(second, n)
        rho = self._correlation()
        down, up = (p - low_p, high_q - q), (high_p - p, q - low_q)
        below, above = (math.sqrt(max(0.0, a * a - 2 * rho * a * b + b * b)) for a, b in (down, up))
        return max(-1.0, self.difference - below), min(1.0, self.difference + above)

    def _correlation(self) -> float:
        margins = (
            (self.both + self.only_first)
            * (self.only_second + self.neither)
            * (self.both + self.only_second)
            * (self.only_first + self.neither)
        )
        product = self.both * self.neither - self.only_first * self.only_second
        corrected = product if product < 0 else max(0.0, product - self.samples / 2)
        return corrected / math.sqrt(margins) if margins else 0.0

    def p_value(self) -> float:
        """Probability of a split this uneven if both were equally good (``MCNEMAR``)."""
        n, k = self.only_first + self.only_second, min(self.only_first, self.only_second)
        tail = sum(math.comb(n, i) for i in range(k + 1))
        return min(1.0, 2 * tail / (1 << n))
