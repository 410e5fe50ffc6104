"""Small plots as SVG text. Colours are CSS variables of the page, so that one drawing serves light, dark and print."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

WIDTH = 640
_ROW, _VALUE, _TOP = 22, 74, 18
# Characters of a label.
_LONGEST = 28


def bars(labels: Sequence[str], values: Sequence[float], shown: Sequence[str], *, title: str) -> str:
    """Horizontal bars from zero, one a label, each with its value as text."""
    top, left = max([*values, 0.0]) or 1.0, _margin(labels)
    span = WIDTH - left - _VALUE
    parts = []
    for i, (label, value, text) in enumerate(zip(labels, values, shown, strict=True)):
        y, length = i * _ROW + 4, span * value / top
        parts += [
            _text(left - 8, y + 11, label, anchor="end", clip=True),
            f'<rect class="b" x="{left}" y="{y}" width="{length:.1f}" height="{_ROW - 8}" rx="2"/>',
            _text(left + length + 6, y + 11, text, kind="q"),
        ]
    return _svg(len(labels) * _ROW + 4, title, [_line(left, 0, left, len(labels) * _ROW + 4), *parts])


def pairs(
    labels: Sequence[str], first: Sequence[float], second: Sequence[float], *, names: tuple[str, str], title: str
) -> str:
    """Two dots a label on one axis from zero, joined by a line: how far two executions lie apart."""
    top, left = _nice(max([*first, *second, 0.0])), _margin(labels)
    span, height = WIDTH - left - 30, len(labels) * _ROW
    parts = _axis(top, left, span, height)
    for i, (label, a, b) in enumerate(zip(labels, first, second, strict=True)):
        y, xa, xb = _TOP + i * _ROW + _ROW / 2, left + span * a / top, left + span * b / top
        parts += [
            _text(left - 8, y + 4, label, anchor="end", clip=True),
            f'<line class="j" x1="{xa:.1f}" y1="{y}" x2="{xb:.1f}" y2="{y}"/>',
            f'<circle class="a" cx="{xa:.1f}" cy="{y}" r="5.5"/>',
            f'<circle class="b" cx="{xb:.1f}" cy="{y}" r="3"/>',
        ]
    parts += _legend(names, left)
    return _svg(_TOP + height + 26, title, parts)


def raster(trains: Sequence[tuple[str, str, Sequence[tuple[int, int]], int]], steps: int, *, title: str) -> str:
    """Spikes of several populations over time: one band a population, one dot a spike.

    Args:
        trains: (name, remark, [(step, row), …], rows) per population.
        steps: number of time steps.
    """
    band, gap = 72, 10
    left = _margin([name for name, _, _, _ in trains] + [remark for _, remark, _, _ in trains])
    span = WIDTH - left - 10
    parts = []
    for i, (name, remark, spikes, rows) in enumerate(trains):
        y = i * (band + gap)
        parts.append(f'<rect class="f" x="{left}" y="{y}" width="{span}" height="{band}"/>')
        parts.append(_text(left - 8, y + 14, name, anchor="end", clip=True))
        parts.append(_text(left - 8, y + 30, remark, anchor="end", kind="q"))
        tall = max(1.2, min(4.0, band / max(rows, 1)))
        wide = max(1.2, min(4.0, span / steps / 2))
        marks = [
            f"M{left + (t + 0.5) * span / steps - wide / 2:.1f} {y + (n + 0.5) * band / rows:.1f}h{wide:.1f}"
            for t, n in spikes
        ]
        parts.append(f'<path class="s" stroke-width="{tall:.1f}" d="{"".join(marks)}"/>')
    bottom = len(trains) * (band + gap)
    for tick in range(steps) if steps <= 12 else sorted({0, steps // 2, steps - 1}):
        parts.append(_text(left + (tick + 0.5) * span / steps, bottom + 8, str(tick), anchor="middle", kind="q"))
    parts.append(_text(left + span / 2, bottom + 24, "time step", anchor="middle", kind="q"))
    return _svg(bottom + 30, title, parts)


def histogram(counts: Sequence[int], low: float, high: float, mark: float | None, *, title: str) -> str:
    """Counts in equal bins from ``low`` to ``high`` on a root scale, with a vertical line at ``mark``."""
    height, width, left = 96, 300, 8
    top = math.sqrt(max([*counts, 1]))
    each = (width - 2 * left) / len(counts)
    parts = [
        f'<rect class="b" x="{left + i * each:.1f}" y="{height - tall:.1f}" width="{each - 0.6:.1f}" '
        f'height="{tall:.1f}"/>'
        for i, count in enumerate(counts)
        if (tall := (height - 8) * math.sqrt(count) / top)
    ]
    parts.append(_line(left, height, width - left, height))
    parts += [
        _text(left, height + 14, f"≤ {low:.3g}".replace("-", "−"), kind="q"),
        _text(width - left, height + 14, f"≥ {high:.3g}", anchor="end", kind="q"),
    ]
    if mark is not None and low <= mark <= high:
        x = left + (width - 2 * left) * (mark - low) / ((high - low) or 1.0)
        parts.append(f'<line class="m" x1="{x:.1f}" y1="2" x2="{x:.1f}" y2="{height}"/>')
        if x < width - 60:  # else the two labels would run into each other
            parts.append(_text(x, height + 14, f"{mark:.3g}", anchor="middle", kind="q"))
    return _svg(height + 20, title, parts, width=width)


def _margin(labels: Sequence[str]) -> float:
    return 14 + 6.6 * min(_LONGEST, max(map(len, labels), default=0))


def _axis(top: float, left: float, span: float, height: float) -> list[str]:
    parts = []
    for i in range(5):
        x = left + span * i / 4
        parts.append(_line(x, _TOP, x, _TOP + height))
        parts.append(_text(x, _TOP + height + 16, f"{top * i / 4:.3g}", anchor="middle", kind="q"))
    return parts


def _legend(names: tuple[str, str], left: float) -> list[str]:
    parts, x = [], left
    for kind, radius, name in (("a", 5.5, names[0]), ("b", 3, names[1])):
        parts += [f'<circle class="{kind}" cx="{x + 6}" cy="6" r="{radius}"/>', _text(x + 17, 10, name, kind="q")]
        x += 34 + 7 * len(name)
    return parts


def _nice(top: float) -> float:
    """The next of 1, 2, 4, 5, 8 and 10 times a power of ten; 1 for nothing."""
    if top <= 0:
        return 1.0
    unit = 10.0 ** math.floor(math.log10(top))
    return next(unit * step for step in (1, 2, 4, 5, 8, 10) if unit * step >= top * (1 - 1e-12))


def _text(x: float, y: float, text: str, *, anchor: str = "start", kind: str = "", clip: bool = False) -> str:
    text = _shortened(text) if clip else text
    style = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{style}>{html.escape(text)}</text>'


def _shortened(path: str) -> str:
    """A module's path by its words' first letters, from the left, until it fits; numbers tell blocks apart and stay."""
    words = path.split(".")
    for i, word in enumerate(words[:-1]):
        if len(".".join(words)) > _LONGEST:
            words[i] = word if word.isdigit() else word[:1]
    short = ".".join(words)
    return short if len(short) <= _LONGEST else "…" + short[1 - _LONGEST :]


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="g" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _svg(height: float, title: str, parts: Sequence[str], *, width: int = WIDTH) -> str:
    head = f'<svg viewBox="0 0 {width} {height:.0f}" width="{width}" role="img" xmlns="http://www.w3.org/2000/svg">'
    return f"{head}<title>{html.escape(title)}</title>{''.join(parts)}</svg>"
