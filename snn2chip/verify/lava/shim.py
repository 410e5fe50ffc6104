"""Entry points that make Lava usable in this process, or say how to install it.

The compatibility code itself is :mod:`snn2chip.lava_compat`, which emitted Lava projects carry too.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

from snn2chip import lava_compat
from snn2chip.errors import S2CError

LAVA_INSTALL = "pip install scipy networkx asteval && pip install --no-deps --ignore-requires-python lava-nc==0.10.0"
NETX_INSTALL = "pip install --no-deps --ignore-requires-python lava-dl==0.6.0"


def installed() -> bool:
    """Return whether lava-nc can be found, without importing it."""
    return found("lava.magma")


def netx_installed() -> bool:
    """Return whether lava-dl's netx can be found, without importing it."""
    return found("lava.lib.dl.netx")


def prepare() -> None:
    """Make ``import lava...`` work in this process. Call it before importing anything of Lava.

    Raises:
        S2CError: lava-nc or a package it needs is missing.
    """
    _prepare(lava_compat.prepare, installed(), LAVA_INSTALL)


def prepare_netx() -> None:
    """Make ``import lava.lib.dl.netx`` work in this process, with or without torch.

    Raises:
        S2CError: lava-nc, lava-dl or a package they need is missing.
    """
    commands = LAVA_INSTALL if netx_installed() else f"{LAVA_INSTALL} && {NETX_INSTALL}"
    _prepare(lava_compat.prepare_netx, installed() and netx_installed(), commands)


def _prepare(steps: Callable[[], None], found: bool, commands: str) -> None:
    if not found:
        raise S2CError(
            "Lava is not installed.",
            why="this check runs Intel Lava's own code; everything else works without it",
            fix=commands,
        )
    try:
        steps()
    except ImportError as error:
        raise S2CError("Lava is installed but cannot be imported.", why=str(error), fix=commands) from error


def found(module: str) -> bool:
    """Return whether ``module`` (dotted) can be found; only its parent packages are imported."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False
