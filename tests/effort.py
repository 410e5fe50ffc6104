"""How many examples the random tests draw: SNN2CHIP_FUZZ times as many as in CI (``make fuzz``)."""

from __future__ import annotations

import os


def examples(count: int) -> int:
    return count * int(os.environ.get("SNN2CHIP_FUZZ", "1"))
