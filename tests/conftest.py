"""What all tests share: the hypothesis profile and the recordings outside the repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Lava and torch make the first example of a test much slower than the rest, whatever the machine.
# CI draws the same examples every time; `make fuzz` (the profile "fuzz") draws new and many more.
settings.register_profile("ci", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("fuzz", parent=settings.get_profile("ci"), derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(scope="session")
def material() -> Path:
    """The folder of recordings (SNN2CHIP_MATERIAL, or ``../shared/material`` next to the checkout)."""
    default = Path(__file__).parents[2] / "shared" / "material"
    folder = Path(os.environ.get("SNN2CHIP_MATERIAL", default))
    if not folder.is_dir():
        pytest.skip(f"no recordings in {folder}; set SNN2CHIP_MATERIAL to their folder")
    return folder
