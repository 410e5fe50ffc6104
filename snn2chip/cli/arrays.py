"""Data by name: ``.npz``, ``.npy``, or a function; and recordings on the way out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from snn2chip.atomic import atomic_file
from snn2chip.cli.models import file_digest
from snn2chip.cli.user_code import call
from snn2chip.errors import S2CError, UsageError
from snn2chip.evaluate.files import UNREADABLE, Parts, StoredArray, in_memory, open_arrays, unreadable
from snn2chip.evaluate.sources import gathered, is_array
from snn2chip.ir.layers import Array
from snn2chip.simulate.data import require_dense

AXES = "NTCHW"


@dataclass(frozen=True)
class Data:
    """Samples [N, ...], their labels [N] or None, and the SHA-256 of the file they came from ("" for a function)."""

    x: Array
    y: Array | None
    sha256: str = ""


def load_data(
    spec: str, *, key: str = "x", labels: str = "y", axes: str | None = None, label_file: str | None = None
) -> Data:
    """Samples and labels, in memory.

    Args:
        spec: ``file.npz`` (arrays ``key`` and ``labels``), ``file.npy``, or ``file.py:function`` that returns x, (x,
            y), a torch ``Dataset`` or ``DataLoader``, or a list of samples.
        axes: what the axes of the array are, in order, with letters of ``NTCHW``; it is brought into that order, and a
            missing N means one sample. Left out, the array is taken as it is.

    Raises:
        UsageError, S2CError: the data cannot be read; the message says why.
    """
    x, y = open_data(spec, key=key, labels=labels, axes=axes, label_file=label_file)
    # A list of lists is an array that is written down; [a, b] in it are two steps, not a sample and its label.
    written_down = isinstance(x, list) and all(isinstance(item, list) for item in x)
    if not (is_array(x) or written_down or isinstance(x, Mapping)):
        x, own = gathered(x)
        y = own if y is None else y
    digest = "" if _names_function(spec) else file_digest(spec)
    return Data(_numeric(_whole(x, spec), spec), None if y is None else _whole(y, label_file or spec), digest)


def open_data(
    spec: str, *, key: str = "x", labels: str = "y", axes: str | None = None, label_file: str | None = None
) -> tuple[Any, Any]:
    """Samples and labels (or None) to be read bit by bit.

    Args:
        spec: as for :func:`load_data`; also a folder of ``.npy`` or ``.npz`` files, and functions that return a torch
            ``Dataset``, a ``DataLoader``, or anything else to iterate.
        label_file: ``.npy`` or ``.npz`` of labels.

    Raises:
        UsageError, S2CError: the data cannot be read; the message says why.
    """
    if _names_function(spec):
        made = call(spec, "data")
        require_dense(made, spec)
        x, y = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    elif spec.endswith((".npy", ".npz")) or Path(spec).is_dir():
        x, y = open_arrays(spec, key, labels)
        _numeric(x, spec)
    else:
        raise UsageError(f"{spec!r} is no data", fix="give a .npz or .npy file, a folder of them, or file.py:function")
    if label_file is not None:
        y, _ = open_arrays(label_file, labels)
    if axes is not None:
        x = _ordered(_numeric(_whole(x, spec), spec), axes)
    return x, y


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
    except UNREADABLE as error:
        raise unreadable(file, error) from None


def save_arrays(path: str | Path, arrays: Mapping[str, Array]) -> None:
    """Write a compressed ``.npz``, all or nothing."""
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def _names_function(spec: str) -> bool:
    place = spec.rpartition(":")[0]
    return place.endswith(".py") or (bool(place) and not Path(spec).exists())


def _whole(array: Any, where: str) -> Array:
    try:
        return in_memory(array[:] if isinstance(array, StoredArray | Parts) else array)
    except UNREADABLE as error:
        raise unreadable(Path(where), error) from None


def _numeric(array: Any, where: str) -> Any:
    if array.dtype.kind not in "biuf" or not array.shape:
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
