"""Running code of the user's: models, datasets, and what goes wrong in them."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import site
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from snn2chip.errors import S2CError, UsageError

_OURS = Path(__file__).resolve().parents[1]
_LIBRARIES = tuple(
    str(Path(path).resolve())
    for path in (*site.getsitepackages(), site.getusersitepackages(), sysconfig.get_paths()["stdlib"], str(_OURS))
)


def call(spec: str, what: str) -> Any:
    """What the function that ``path.py:name`` or ``package.module:name`` names returns; it takes no argument.

    Raises:
        UsageError, S2CError: it cannot be found, needs arguments, or raises; the message shows the user's line.
    """
    function = _resolve(spec, what)
    try:
        inspect.signature(function).bind()
    except TypeError as error:
        fix = "name a function without arguments that makes the choice"
        raise S2CError(f"{spec} needs arguments", why=str(error), fix=fix) from None
    except ValueError:
        pass  # builtins have no signature; calling them tells
    with blamed(f"{spec} failed"):
        return function()


def _resolve(spec: str, what: str) -> Callable[..., Any]:
    """The callable that ``path.py:name`` or ``package.module:name`` names.

    Raises:
        UsageError: the text is not of that form.
        S2CError: there is no such file, module or name, or importing it fails.
    """
    place, colon, name = spec.rpartition(":")
    if not colon or not place or not name:
        raise UsageError(
            f"{spec!r} does not name {what}",
            fix="write it as path/to/file.py:function or package.module:function",
        )
    with blamed(f"{place} cannot be imported"):
        module = load_module(Path(place)) if place.endswith(".py") else _from_path(place)
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
        if found is None:
            names = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
            raise S2CError(
                f"{place} has no {name!r}", where=spec, fix=f"it defines {', '.join(names) or 'nothing to call'}"
            )
    if not callable(found):
        raise S2CError(
            f"{name!r} cannot be called",
            where=spec,
            why=f"it is a {type(found).__name__}",
            fix="name a function or a class: path/to/file.py:function",
        )
    return found  # type: ignore[no-any-return]


@contextlib.contextmanager
def blamed(what: str) -> Iterator[None]:
    """Show an exception of the user's code as its file, line and message; what it prints goes to stderr.

    Raises:
        S2CError: for any exception of the block, unless nothing of the user's was running.
    """
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except S2CError:
        raise
    except (Exception, SystemExit) as error:
        frame = _users_frame(error)
        if frame is None and not isinstance(error, ImportError | SystemExit | SyntaxError):
            raise
        where = f"{frame.filename}:{frame.lineno} in {frame.name}" if frame else ""
        if isinstance(error, SyntaxError) and error.filename:
            where = f"{error.filename}:{error.lineno}"
        line = f"\n{frame.line}" if frame and frame.line else ""
        raise S2CError(what, where=where, why=f"{type(error).__name__}: {error}{line}") from None


def _users_frame(error: BaseException) -> traceback.FrameSummary | None:
    """The innermost frame outside of snn2chip, installed packages and the standard library."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not f.filename.startswith("<") and not _of_library(f.filename)]
    return own[-1] if own else None


def _of_library(filename: str) -> bool:
    path = str(Path(filename).resolve())
    return any(path.startswith(prefix) for prefix in _LIBRARIES)


def load_module(path: Path) -> ModuleType:
    """The module of a Python file; its neighbours can be imported.

    Raises:
        S2CError: there is no such file. What the file itself raises is for :func:`blamed`.
    """
    if not path.is_file():
        raise S2CError("there is no such file", where=str(path), fix="check the path before the colon")
    name = path.stem if path.stem.isidentifier() else "model"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # So that the file's neighbours import, and so that classes defined in it can be found by name.
    sys.path.insert(0, str(path.resolve().parent))
    sys.modules.setdefault(name, module)
    spec.loader.exec_module(module)
    return module


def _from_path(name: str) -> ModuleType:
    if sys.path[0] != "":
        sys.path.insert(0, "")
    return importlib.import_module(name)
