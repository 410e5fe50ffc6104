"""When a project's windows open: the machine's clock.

A population at depth d computes step t of sample k at machine step k·interval + t + d. Its state is reset when its
window of T steps opens. Native neurons run on between windows, which nobody sees, for what they send then arrives
between the windows of the next layer. Where something reaches ahead in time (recurrence, delays) the gap between
windows is as long as that, and the sender is silent outside its window.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from snn2chip.emit.lava.paths import Path, on_host
from snn2chip.ir.program import Program


@dataclass(frozen=True)
class Windows:
    """The windows in which populations compute.

    Args:
        steps: T, the length of a window.
        interval: machine steps from one window to the next.
        silent: populations that must not send outside their window.
    """

    steps: int
    interval: int
    silent: frozenset[str]

    @classmethod
    def of(cls, program: Program, paths: Iterable[Path], steps: int, power_of_two: bool) -> Windows:
        """The shortest gap in which nothing meets the next sample."""
        gap, silent = 0, set()
        for path in paths:
            late = path.longest_synaptic_delay
            if not on_host(program, path.source):
                late += path.delay
                if late:
                    silent.add(path.source.name)
            gap = max(gap, late)
        interval = steps + gap
        if power_of_two:
            interval = 1 << (interval - 1).bit_length()
        return cls(steps, interval, frozenset(silent))
