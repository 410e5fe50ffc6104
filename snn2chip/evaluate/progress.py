"""How far an evaluation is, how fast, and when it will be done."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """Told after every shard.

    Args:
        done: samples whose results are there; ``resumed`` of them were there before.
        total: N, or None where only reading tells.
        seconds: since the first sample was simulated.
        damaged: files of earlier shards that were not what was written, and are computed again.
    """

    done: int
    resumed: int
    total: int | None
    seconds: float
    damaged: int = 0

    @property
    def throughput(self) -> float | None:
        """Samples simulated per second, those of an earlier run not counted; None before the first."""
        computed = self.done - self.resumed
        return computed / self.seconds if computed and self.seconds else None

    @property
    def remaining(self) -> float | None:
        """Seconds left at this throughput, or None where that cannot be told."""
        if self.total is None or self.throughput is None:
            return None
        return (self.total - self.done) / self.throughput
