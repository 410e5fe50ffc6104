"""Checks of the options that the readers of files share."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from snn2chip.errors import UsageError


def one_of(name: str, value: Any, allowed: Iterable[Any]) -> None:
    """Raise UsageError unless ``value`` is among ``allowed``."""
    allowed = tuple(allowed)
    if value not in allowed:
        shown = ", ".join(repr(v) for v in allowed if v is not None)
        raise UsageError(f"{name} cannot be {value!r}", fix=f"use one of {shown}")


def check_dt(dt: Any) -> None:
    """Raise UsageError unless ``dt`` is a time step in seconds, or None."""
    if dt is not None and not (isinstance(dt, (int, float)) and 0 < dt < math.inf):
        raise UsageError(f"dt is {dt!r}", fix="give the seconds of one time step, e.g. dt=1e-4")


def check_time_steps(steps: Any, coding: str | None = None) -> None:
    """Raise UsageError unless ``steps`` counts the steps of a sample; None is left to data that has a time axis."""
    if steps is not None and not (isinstance(steps, int) and steps >= 1):
        raise UsageError(f"time_steps is {steps!r}", fix="give the number of time steps of one sample, 1 or more")
    if steps is None and coding == "direct":
        raise UsageError(
            "time_steps is missing", why="with direct coding the data does not show it", fix="give time_steps"
        )
