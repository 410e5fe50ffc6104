"""Numbers as they are printed."""

from __future__ import annotations

import pytest

from snn2chip.report.units import bits, count, counted, decibel, energy, number, percent, points, share


@pytest.mark.parametrize(
    ("printed", "expected"),
    [
        (count(1234567), "1\u202f234\u202f567"),
        (count(-5), "−5"),
        (counted(1, "layer"), "1 layer"),
        (counted(1200, "layer"), "1\u202f200 layers"),
        (number(None), "–"),
        (number(0), "0"),
        (number(3.14159), "3.142"),
        (number(123456.7), "123\u202f457"),
        (number(2.5e-7), "2.50e−07"),
        (percent(0.98765), "98.77 %"),
        (percent(None), "–"),
        (share(1.0), "100.00 %"),
        (share(0.999999), "99.9999 %"),
        (share(1 - 1e-12), "> 99.999999 %"),
        (share(1e-16), "< 0.000001 %"),
        (share(0.0), "0.00 %"),
        (points(-0.0019), "−0.19 points"),
        (points(-1e-6), "0.00 points"),
        (decibel(-0.04), "0.0 dB"),
        (decibel(-0.06), "−0.1 dB"),
        (energy(None), "not in this table"),
        (energy(0.0), "0 pJ"),
        (energy(1234.0), "1.23 nJ"),
        (energy(4.5e9), "4.5 mJ"),
        (bits(8 * 1024 * 3), "3 KiB"),
        (bits(5), "5 bit"),
        (bits(0), "0"),
    ],
)
def test_printed(printed: str, expected: str) -> None:
    assert printed == expected
