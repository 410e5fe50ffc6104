"""Arrays in files, read as far as they are asked for: ``.npy``, arrays inside an ``.npz``, and folders of either."""

from __future__ import annotations

import itertools
import mmap
import tokenize
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from snn2chip.errors import S2CError, first_line
from snn2chip.ir.layers import Array
from snn2chip.simulate.data import as_numpy

# Everything that numpy and zipfile raise at a file that is damaged or of another kind.
UNREADABLE = (OSError, ValueError, KeyError, EOFError, SyntaxError, tokenize.TokenError, zipfile.BadZipFile)


class StoredArray:
    """An array [N, ...] inside an ``.npz``, compressed or not: slices are read in ascending order, each once.

    A slice that starts before the end of the one before it begins to read from the start again.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        self._file: IO[bytes] | None = None
        self._position = 0
        self.shape, self.fortran, self.dtype = self._open()

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, part: slice) -> Array:
        start, stop, _ = part.indices(len(self))
        count = max(0, stop - start)
        row = int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize
        if count and (self._file is None or start < self._position):
            self._open()
        content = b""
        if count:
            assert self._file is not None
            self._file.seek((start - self._position) * row, 1)
            content = self._file.read(count * row)
            self._position = stop
        if len(content) != count * row:
            raise EOFError(f"{self.path} ends within {self.name}")
        # Writable: torch complains of arrays that are not.
        return np.frombuffer(bytearray(content), self.dtype).reshape(count, *self.shape[1:])

    def _open(self) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
        with zipfile.ZipFile(self.path) as archive:
            self._file = archive.open(f"{self.name}.npy")
        version = np.lib.format.read_magic(self._file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        self._position = 0
        return read(self._file)


class Parts:
    """Arrays of one sample shape as one, in their order."""

    def __init__(self, parts: Sequence[Any]) -> None:
        self.parts = parts
        self.starts = list(itertools.accumulate((len(part) for part in parts), initial=0))
        self.dtype = np.result_type(*(part.dtype for part in parts))
        self.shape: tuple[int, ...] = (self.starts[-1], *parts[0].shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, part: slice) -> Array:
        start, stop, _ = part.indices(len(self))
        found = [
            in_memory(held[max(start - first, 0) : stop - first])
            for held, first in zip(self.parts, self.starts, strict=False)
            if start < first + len(held) and first < stop
        ]
        return (
            np.concatenate(found).astype(self.dtype, copy=False)
            if found
            else np.empty((0, *self.shape[1:]), self.dtype)
        )


def in_memory(part: Any) -> Array:
    """A part of an array in memory of its own if it is memory-mapped, so that what was read can be let go."""
    array = as_numpy(part)
    if not isinstance(part, np.memmap):
        return array
    copy = np.array(array)
    pages: Any = part
    while pages is not None and not isinstance(pages, mmap.mmap):
        pages = getattr(pages, "base", None)
    # Pages that were read stay mapped, and count as memory of this process, until the system needs them.
    if pages is not None and part.mode == "r" and hasattr(pages, "madvise"):
        pages.madvise(mmap.MADV_DONTNEED)
    return copy


def open_arrays(path: str | Path, key: str = "x", label_key: str = "y") -> tuple[Any, Any]:
    """Samples and labels (None if there are none) of a ``.npy``, a ``.npz`` or a folder of them, in order of names.

    Raises:
        S2CError: there is no such file, or it is damaged, or holds no numbers.
    """
    place = Path(path)
    if str(path) and place.is_dir():  # no name at all would be the folder this process is in
        files = sorted(file for file in place.iterdir() if file.suffix in (".npy", ".npz"))
        if not files:
            raise S2CError("the folder holds no data", where=str(path), fix="put .npy or .npz files into it")
        return _together(files, key, label_key)
    if not place.is_file():
        raise S2CError("the data cannot be read", where=str(path), why="there is no such file", fix="check the path")
    try:
        if place.suffix == ".npz":
            return _members(place, key, label_key)
        return np.lib.format.open_memmap(place, mode="r"), None
    except UNREADABLE as error:
        raise unreadable(place, error) from None


def unreadable(path: Path, error: Exception) -> S2CError:
    """What to tell about a file that could not be read."""
    why = first_line(error)
    if "allow_pickle" in why or "Python objects" in why:
        why = "it holds Python objects, which would execute code"
    elif "magic string" in why:
        why = "it is no .npy file"
    fix = "save plain numeric arrays with numpy.savez"
    return S2CError("the data cannot be read", where=str(path), why=why, fix=fix)


def _together(files: list[Path], key: str, label_key: str) -> tuple[Any, Any]:
    opened = [open_arrays(file, key, label_key) for file in files]
    for file, (x, y) in zip(files, opened, strict=True):
        if x.shape[1:] != opened[0][0].shape[1:]:
            shapes = f"{x.shape}, and {opened[0][0].shape} in {files[0].name}"
            raise S2CError(
                "the files of a folder do not belong together",
                where=str(file),
                why=f"it holds {shapes}",
                fix="keep samples of one shape in a folder, and give other folders apart",
            )
        if (y is None) != (opened[0][1] is None):
            raise S2CError(
                "some files of a folder have labels and others none",
                where=str(file),
                fix="store labels in all of them (array y), or in none",
            )
    return Parts([x for x, _ in opened]), None if opened[0][1] is None else Parts([y for _, y in opened])


def _members(path: Path, key: str, label_key: str) -> tuple[Any, Any]:
    with zipfile.ZipFile(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
    if not names:
        raise S2CError(
            "the file holds no array", where=str(path), fix="save the samples with numpy.savez(path, x=samples)"
        )
    if key not in names:
        if len(names) > 1:
            fix = f"it holds {', '.join(names)}; name one with --data-key"
            raise S2CError(f"there is no array {key!r}", where=str(path), fix=fix)
        key = names[0]
    return _member(path, key), _member(path, label_key) if label_key in names and label_key != key else None


def _member(path: Path, name: str) -> Any:
    stored = StoredArray(path, name)
    if stored.fortran or stored.dtype.hasobject or not stored.shape:
        # Samples that do not lie one after another can only be read as a whole; objects numpy refuses.
        with np.load(path, allow_pickle=False) as arrays:
            return arrays[name]
    return stored
