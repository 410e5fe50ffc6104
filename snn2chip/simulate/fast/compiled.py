"""Compiling kernels with numba, which is optional: where it is missing, nothing here is called.

Generated source is kept as files in the user's cache folder, with numba's machine code beside it, so that a second run
starts at once. A folder that cannot be written, or that others can write, is not used: kernels are then compiled anew.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import inspect
import os
import stat
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from snn2chip.atomic import atomic_file
from snn2chip.errors import first_line
from snn2chip.machine import home

CACHE_VARIABLE = "SNN2CHIP_CACHE"
# nogil: chunks run in threads. No fast-math: integers in floats are moved, not computed.
_OPTIONS: dict[str, Any] = {"nogil": True, "boundscheck": False, "error_model": "numpy"}
_lock = threading.Lock()


@functools.cache
def missing() -> str:
    """Why kernels cannot be compiled; empty where they can."""
    why = cannot_import("numba")
    if not why and importlib.import_module("numba").config.DISABLE_JIT:
        return "numba is told not to compile (NUMBA_DISABLE_JIT)"
    return why


def cannot_import(name: str) -> str:
    """Why a package cannot be used; empty where it can."""
    try:
        importlib.import_module(name)
    except Exception as error:  # whatever the libraries below it raise when they do not load
        return f"{name} cannot be imported ({first_line(error)})"
    return ""


def cache_folder() -> Path | None:
    """The folder of compiled kernels, made if need be: $SNN2CHIP_CACHE, else below the user's cache folder.

    None where it cannot be written, or where someone else could put code into it.
    """
    base = _cache_base()
    if base is None:
        return None
    folder = base / "kernels"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
    except OSError:
        return None
    foreign = found.st_uid != os.getuid() or bool(found.st_mode & (stat.S_IWGRP | stat.S_IWOTH))
    return None if foreign or not os.access(folder, os.W_OK) else folder


def _cache_base() -> Path | None:
    if own := os.environ.get(CACHE_VARIABLE):
        return Path(own)
    if caches := os.environ.get("XDG_CACHE_HOME"):
        return Path(caches, "snn2chip")
    users = home()
    return None if users is None else users / ".cache" / "snn2chip"


def cache_remark() -> str:
    """What a user should know about the cache; empty where it works."""
    if missing() or cache_folder() is not None:
        return ""
    return f"compiled kernels are not kept: no safe cache folder (set {CACHE_VARIABLE} to a folder of your own)"


_Key = tuple[str, tuple[Any, ...]]
_loaded: dict[_Key, Callable[..., None]] = {}


def _key(text: str, arguments: tuple[Any, ...]) -> _Key:
    """What a kernel is compiled for: its source and the types of its arrays."""
    return text, tuple(getattr(a, "dtype", None) for a in arguments)


def from_source(text: str, *example: Any) -> Callable[..., None]:
    """The function ``kernel`` of generated source, compiled for arguments like ``example`` (which must do nothing).

    A damaged cache costs a compilation, nothing else.
    """
    key = _key(text, example)
    with _lock:
        if key not in _loaded:
            _loaded[key] = _compiled(text, tuple("" if dtype is None else str(dtype) for dtype in key[1]), example)
        return _loaded[key]


# What functions of this package may name.
_HEADER = """from __future__ import annotations

from typing import Any

from numpy import floor, int32, uint16, uint64
"""


def importing(module: str, *names: str) -> str:
    """The line that imports what kernels call from a module beside this one, and names the state of them all."""
    return f"from {module} import {', '.join(names)}  # {_state()}\n"


@functools.cache
def _state() -> str:
    """A digest of the modules here: machine code keeps the numbers that they import from one another."""
    modules = sorted(Path(__file__).parent.rglob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in modules)).hexdigest()[:16]


def from_function(function: Callable[..., None], imports: str = "") -> Callable[..., None]:
    """A function of this package on contiguous arrays and numbers, compiled once for each combination of dtypes.

    ``imports``: of :func:`importing`, what it names beside numpy's.
    """
    source = inspect.getsource(function).replace(f"def {function.__name__}(", "def kernel(", 1)
    text = f"{_HEADER}{imports}\n\n{source}"

    def run(*args: Any) -> None:
        kernel = _loaded.get(_key(text, args))
        if kernel is None:
            nothing = (np.empty((0,) * a.ndim, a.dtype) if isinstance(a, np.ndarray) else a for a in args)
            kernel = from_source(text, *nothing)
        kernel(*args)

    return run


def _compiled(text: str, types: tuple[str, ...], example: tuple[Any, ...]) -> Callable[..., None]:
    folder = cache_folder()
    if folder is not None:
        try:
            kept = _jit(_imported(folder, text, types), cache=True)
            kept(*example)
            # Another layout of an array would be compiled into the same file.
            kept.disable_compile()
            found: Callable[..., None] = kept
            return found
        except Exception:  # whatever unpickling machine code of another day can raise
            pass
    space: dict[str, Any] = {}
    exec(compile(text, "<generated kernel>", "exec"), space)
    fresh: Callable[..., None] = _jit(space["kernel"], cache=False)
    fresh(*example)
    return fresh


def _imported(folder: Path, text: str, types: tuple[str, ...]) -> Callable[..., None]:
    """The function, from a file of that text: numba keys its cache by the file, and asks for the module by name.

    Each combination of argument types has a file of its own: two processes that compile one file for different types at
    the same time can leave numba an index that names the other's machine code.
    """
    name = f"snn2chip_kernel_{hashlib.sha256(repr((text, types)).encode()).hexdigest()[:32]}"
    path = folder / f"{name}.py"
    if not path.is_file() or path.read_text() != text:
        with atomic_file(path) as temporary:
            temporary.write_text(text)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    function: Callable[..., None] = module.kernel
    return function


def _jit(function: Callable[..., None], cache: bool) -> Any:
    import numba

    return numba.njit(cache=cache, **_OPTIONS)(function)
