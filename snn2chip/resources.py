"""Data files that ship with snn2chip."""

from __future__ import annotations

from pathlib import Path


def targets_dir() -> Path:
    """The folder of target descriptions: inside an installed wheel, or at the top of a source checkout.

    Returns:
        An existing directory that holds one ``.toml`` file per target.
    """
    return _folder("targets")


def examples_dir() -> Path:
    """The folder of examples; a wheel ships the one that ``snn2chip demo`` runs."""
    return _folder("examples")


def _folder(name: str) -> Path:
    package = Path(__file__).resolve().parent
    shipped = package / name
    return shipped if shipped.is_dir() else package.parent / name
