"""Numbers as people read them; "–" stands for what does not apply."""

from __future__ import annotations

NONE = "–"
_NARROW = "\u202f"
_ENERGY = ((1e12, "J"), (1e9, "mJ"), (1e6, "µJ"), (1e3, "nJ"), (1.0, "pJ"))
_MEMORY = ((8 * 1024**2, "MiB"), (8 * 1024, "KiB"), (8, "B"), (1, "bit"))


def sign(value: float) -> str:
    """A proper minus for negative numbers."""
    return "−" if value < 0 else ""


def count(value: int) -> str:
    """A whole number in groups of three."""
    return sign(value) + f"{abs(value):,}".replace(",", _NARROW)


def counted(value: int, noun: str) -> str:
    """A whole number of things: "1 layer", "2 layers"."""
    return f"{count(value)} {noun}{'s' * (value != 1)}"


def number(value: float | None) -> str:
    """Up to four figures; whole numbers whole; powers of ten only where they save the reader zeros."""
    if value is None:
        return NONE
    size = abs(value)
    if size >= 1000 or value == int(value):
        return count(round(value)) if size < 1e12 else f"{value:.3g}"
    if 0 < size < 1e-3:
        return f"{value:.2e}".replace("-", "−")
    return sign(value) + f"{size:.4g}"


def _decimals(value: float, places: int) -> str:
    """Rounded, and without a sign where nothing is left."""
    rounded = round(value, places)
    return f"{sign(rounded)}{abs(rounded):.{places}f}"


def percent(value: float | None) -> str:
    """A share with two decimals."""
    return NONE if value is None else f"{_decimals(100 * value, 2)} %"


def share(value: float | None) -> str:
    """A share near 0 or 1 with as many decimals as tell it from them."""
    if value is None:
        return NONE
    for decimals in range(2, 7):
        text = f"{abs(100 * value):.{decimals}f}"
        if float(text) not in (0.0, 100.0) or value in (0.0, 1.0):
            return f"{sign(value)}{text} %"
    return "< 0.000001 %" if abs(value) < 0.5 else "> 99.999999 %"


def points(value: float) -> str:
    """A difference of two shares in percentage points."""
    return f"{_decimals(100 * value, 2)} points"


def interval(low: float, high: float) -> str:
    """From one difference of two shares to another, in percentage points."""
    return f"{points(low).removesuffix(' points')} to {points(high)}"


def decibel(value: float | None) -> str:
    """A ratio in dB with one decimal."""
    return NONE if value is None else f"{_decimals(value, 1)} dB"


def energy(picojoules: float | None) -> str:
    """An energy in the unit that keeps it between 1 and 1000."""
    if picojoules is None:
        return "not in this table"
    return _scaled(picojoules, _ENERGY) or f"{picojoules:.3g} pJ"


def bits(value: int) -> str:
    """An amount of memory."""
    return _scaled(value, _MEMORY) or "0"


def _scaled(value: float, units: tuple[tuple[float, str], ...]) -> str:
    """In the first unit that the value holds at least once; empty where it holds none."""
    for size, unit in units:
        if abs(value) >= size:
            amount = value / size
            return f"{amount:.3g} {unit}" if amount < 1000 else f"{amount:.0f} {unit}"
    return ""
