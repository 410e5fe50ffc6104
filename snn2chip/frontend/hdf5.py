"""Reading HDF5 into plain nested dictionaries, with errors for people."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import h5py
import numpy as np

from snn2chip.errors import S2CError
from snn2chip.ir.layers import Array
from snn2chip.machine import expanded

Tree = dict[str, Any]

DAMAGED = "the file is cut short or damaged; copy or export it again"


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[h5py.File]:
    """An HDF5 file, open for reading.

    Raises:
        S2CError: there is no such file, it is not HDF5, or it is damaged (at opening or while it is read).
    """
    place = expanded(path)
    if not place.is_file():
        why = "it is a directory" if place.is_dir() else "there is no such file"
        raise S2CError("the file cannot be read", where=str(path), why=why, fix="check the path")
    try:
        with place.open("rb") as raw:
            start = raw.read(8)
    except OSError as error:
        raise S2CError(
            "the file cannot be read",
            where=str(path),
            why=error.strerror or str(error),
            fix="check that you may read it",
        ) from None
    if start != b"\x89HDF\r\n\x1a\n":
        raise S2CError(
            "this is not a .nir or .net file",
            where=str(path),
            why="both are HDF5; this file is empty"
            if not start
            else "both are HDF5, and this file does not start as one",
            fix="give the file the exporting tool wrote, or export it again",
        )
    try:
        with h5py.File(place, "r") as file:
            yield file
    except S2CError:
        raise
    except Exception as error:
        # On damaged files h5py raises whatever its C library or numpy stumble over.
        raise S2CError("the file cannot be read", where=str(path), why=str(error), fix=DAMAGED) from None


def read_tree(group: h5py.Group) -> Tree:
    """Everything below a group: groups as dicts, text as str or object arrays of str, numbers as arrays or scalars."""
    return {
        str(name): read_tree(item) if isinstance(item, h5py.Group) else _value(item) for name, item in group.items()
    }


def _value(dataset: h5py.Dataset) -> Any:
    value = dataset[()]
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, np.ndarray) and value.dtype.kind in "OS":
        texts = [item.decode("utf-8") if isinstance(item, bytes) else str(item) for item in value.ravel()]
        return np.array(texts, dtype=object).reshape(value.shape)
    return value


def numbers(tree: Tree, name: str, where: str) -> Array:
    """The numbers of a field, as they are stored.

    Raises:
        S2CError: there is no such field, or it holds something else, NaN or infinite values.
    """
    if name not in tree or isinstance(tree[name], dict):
        raise S2CError(f"there is no {name}", where=where, why="the file is incomplete", fix="export the network again")
    value = np.asarray(tree[name])
    if value.dtype.kind not in "biuf":
        raise S2CError(
            f"{name} holds no numbers",
            where=where,
            why=f"its type is {value.dtype}",
            fix="export it as integers or floating-point numbers",
        )
    if not np.isfinite(value).all():
        bad = int(np.count_nonzero(~np.isfinite(value)))
        raise S2CError(
            f"{name} holds {bad} of {value.size} values that are NaN or infinite",
            where=where,
            fix="the training diverged, or the file is damaged: export weights that are finite",
        )
    return value


@contextmanager
def located(path: str | os.PathLike[str]) -> Iterator[None]:
    """Put the file's name in front of the place an error names."""
    try:
        yield
    except S2CError as error:
        if str(path) not in error.where:
            error.where = ", ".join(part for part in (str(path), error.where) if part)
        raise


def format_of(file: h5py.File) -> str:
    """What an open file holds: "program" (a .nir written by snn2chip), "nir", "netx", or "" for anything else."""
    node = file.get("node")
    if isinstance(node, h5py.Group) and "type" in node:
        return "program" if "metadata/snn2chip" in node else "nir"
    return "netx" if isinstance(file.get("layer"), h5py.Group) else ""


def refuse_format(file: h5py.File, path: str | os.PathLike[str], wanted: str) -> None:
    """Raise unless the file is of the ``wanted`` format; the message says what it is and what reads it."""
    found = format_of(file)
    if found != wanted:
        raise S2CError(
            f"this is not {_TITLES[wanted]}", where=str(path), why=_OTHERWISE[found][0], fix=_OTHERWISE[found][1]
        )


_TITLES = {
    "program": "a program written by snn2chip",
    "nir": "a NIR graph of another tool",
    "netx": "a NetX network",
}
_OTHERWISE = {
    "program": ("it is a compiled program that snn2chip wrote", "read it with snn2chip.load(path)"),
    "nir": (
        "it is a NIR graph of another tool: float numbers in continuous time, without a time step",
        "compile it: snn2chip compile FILE --dt … --reset …, or read it: snn2chip.load_graph(path, dt=…, reset=…)",
    ),
    "netx": ("it is a NetX network (it has a group 'layer')", "read it with snn2chip.load(path)"),
    "": ("it is an HDF5 file with neither a NIR 'node' nor a NetX 'layer' group", "give a .nir or .net file"),
}
