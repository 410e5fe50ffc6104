"""Intervals against published worked examples, and against coverage counted out in full."""

from __future__ import annotations

import itertools
import math

import pytest

from snn2chip.report.statistics import Paired, wilson


@pytest.mark.parametrize(
    ("correct", "samples", "low", "high"),
    # Newcombe, Stat. Med. 17 (1998) 857–872, Table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_against_the_published_table(correct: int, samples: int, low: float, high: float) -> None:
    assert wilson(correct, samples) == pytest.approx((low, high), abs=5e-5)


def test_no_sample_says_nothing() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("counts", "low", "high"),
    # Newcombe, Stat. Med. 17 (1998) 2635–2650, method 10.
    [((36, 12, 2, 0), 0.0569, 0.3404), ((20, 12, 2, 16), 0.0562, 0.3292)],
)
def test_paired_interval_against_published_examples(counts: tuple[int, int, int, int], low: float, high: float) -> None:
    assert Paired(*counts).difference == pytest.approx(0.2)
    assert Paired(*counts).interval() == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("shares", [(0.8, 0.1, 0.05, 0.05), (0.5, 0.2, 0.1, 0.2), (0.9, 0.04, 0.04, 0.02)])
def test_paired_interval_covers_the_truth(shares: tuple[float, ...]) -> None:
    """Every possible outcome of 24 samples, weighted with its probability."""
    n, truth, covered = 24, shares[1] - shares[2], 0.0
    for both, first, second in itertools.product(range(n + 1), repeat=3):
        neither = n - both - first - second
        if neither < 0:
            continue
        counts = (both, first, second, neither)
        ways = math.factorial(n) / math.prod(map(math.factorial, counts))
        low, high = Paired(*counts).interval()
        if low <= truth <= high:
            covered += ways * math.prod(p**k for p, k in zip(shares, counts, strict=True))
    assert covered >= 0.94, "few samples may make it wider than asked for, never much narrower"


def test_mcnemar_is_the_binomial_tail() -> None:
    assert Paired(90, 5, 1, 4).p_value() == pytest.approx(2 * (1 + 6) / 2**6)
    assert Paired(90, 3, 3, 4).p_value() == 1.0
    assert Paired(90, 0, 0, 10).p_value() == 1.0
