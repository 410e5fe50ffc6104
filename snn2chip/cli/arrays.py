"""Data by name: ``.npz``, ``.npy``, or a function; and recordings on the way out."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from snn2chip.atomic import atomic_file
from snn2chip.cli.models import file_digest
from snn2chip.cli.user_code import call
from snn2chip.errors import S2CError, UsageError
from snn2chip.ir.layers import Array

AXES = "NTCHW"


@dataclass(frozen=True)
class Data:
    """Samples [N, ...], their labels [N] or None, and the SHA-256 of the file they came from ("" for a function)."""

    x: Array
    y: Array | None
    sha256: str = ""


def load_data(spec: str, *, key: str = "x", labels: str = "y", axes: str | None = None) -> Data:
    """Samples and labels.

    Args:
        spec: ``file.npz`` (arrays ``key`` and ``labels``), ``file.npy``, or ``file.py:function`` that returns x or (x,
        y).
        axes: what the axes of the array are, in order, with letters of ``NTCHW``; it is brought into that order, and a
            missing N means one sample. Left out, the array is taken as it is.

    Raises:
        UsageError, S2CError: the data cannot be read; the message says why.
    """
    place = spec.rpartition(":")[0]
    if place.endswith(".py") or (place and not Path(spec).exists()):
        data = _from_function(spec)
    elif spec.endswith((".npy", ".npz")):
        data = _from_file(Path(spec), key, labels)
    else:
        raise UsageError(f"{spec!r} is no data", fix="give a .npz or .npy file, or file.py:function")
    return data if axes is None else Data(_ordered(data.x, axes), data.y, data.sha256)


def load_arrays(path: str | Path) -> dict[str, Array]:
    """Every array of a ``.npz`` file (``{"x": …}`` for ``.npy``); pickled objects are refused.

    Raises:
        S2CError: there is no such file, or it is damaged or of another kind.
    """
    file = Path(path)
    if not file.is_file():
        why = "it is a directory" if file.is_dir() else "there is no such file"
        raise S2CError("the data cannot be read", where=str(path), why=why, fix="check the path")
    try:
        loaded = np.load(file, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"x": loaded}
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "allow_pickle" in why:
            why = "it holds Python objects, which would execute code"
        fix = "save plain numeric arrays with numpy.savez"
        raise S2CError("the data cannot be read", where=str(path), why=why, fix=fix) from None


def save_arrays(path: str | Path, arrays: Mapping[str, Array]) -> None:
    """Write a compressed ``.npz``, all or nothing."""
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def _from_file(path: Path, key: str, labels: str) -> Data:
    arrays = load_arrays(path)
    if key not in arrays:
        if len(arrays) > 1:
            fix = f"it holds {', '.join(arrays)}; name one with --data-key"
            raise S2CError(f"there is no array {key!r}", where=str(path), fix=fix)
        key = next(iter(arrays), "")
        if not key:
            raise S2CError("the file holds no array", where=str(path))
    return Data(_numeric(arrays[key], str(path)), arrays.get(labels), file_digest(path))


def _from_function(spec: str) -> Data:
    made = call(spec, "data")
    x, y = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    return Data(_numeric(_array(x), spec), None if y is None else _array(y))


def _array(value: Any) -> Array:
    detach = getattr(value, "detach", None)
    return np.asarray(detach().cpu().numpy() if detach is not None else value)


def _numeric(array: Array, where: str) -> Array:
    if array.dtype.kind not in "biuf" or array.ndim < 1:
        kind = f"shape {array.shape} and type {array.dtype}"
        raise S2CError("the data is no array of numbers", where=where, why=f"it has {kind}", fix="give x as [N, ...]")
    return array


def _ordered(array: Array, axes: str) -> Array:
    letters = axes.upper()
    if len(letters) != array.ndim or len(set(letters)) != len(letters) or not set(letters) <= set(AXES):
        raise UsageError(
            f"--axes {axes} does not describe an array of shape {array.shape}",
            fix=f"one letter of {AXES} an axis, each at most once",
        )
    order = [letters.index(letter) for letter in AXES if letter in letters]
    return array.transpose(order) if "N" in letters else array.transpose(order)[None]
