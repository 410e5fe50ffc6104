"""Read-outs of a whole test set as one ``.npz``, without holding them."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np

from snn2chip.atomic import atomic_file, explained
from snn2chip.errors import UsageError
from snn2chip.evaluate.shard import Shard
from snn2chip.ir.graph import Network
from snn2chip.ir.layers import Array
from snn2chip.ir.program import Program

_ROWS_AT_ONCE = 1 << 20


class OutputFile:
    """Rows put in any order; written as ``outputs`` and, for a Program, ``outputs_int`` when all are there."""

    def __init__(self, network: Network, path: Path, raw: FileIO) -> None:
        self.network, self.path, self._raw = network, path, raw
        self._rows = 0
        self._shape: tuple[int, ...] = ()
        self._dtype: np.dtype[Any] = np.dtype(np.int64)

    def put(self, shard: Shard) -> None:
        """The outputs of a shard, at their place."""
        assert shard.outputs is not None
        rows = np.ascontiguousarray(shard.outputs)
        self._shape, self._dtype = rows.shape[1:], rows.dtype
        left = rows.data.cast("B") if rows.size else b""
        with explained(self.path):
            self._raw.seek(shard.first * self._row_bytes)
            while left:  # on a full disk a write takes a part, and the next one says why
                left = left[self._raw.write(left) :]
        self._rows = max(self._rows, shard.first + len(rows))

    def write(self, path: Path) -> None:
        """Everything put so far, as a compressed ``.npz``."""
        network = self.network
        with explained(self.path), zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, allowZip64=True) as archive:
            if isinstance(network, Program):
                scale = network.output_scale
                self._member(archive, "outputs", lambda rows: rows * scale)
                self._member(archive, "outputs_int", lambda rows: rows)
            else:
                self._member(archive, "outputs", lambda rows: rows)

    @property
    def _row_bytes(self) -> int:
        return int(np.prod(self._shape, dtype=np.int64)) * self._dtype.itemsize

    def _member(self, archive: zipfile.ZipFile, name: str, convert: Callable[[Array], Array]) -> None:
        like = convert(np.zeros((0, *self._shape), self._dtype))
        head = {"descr": np.lib.format.dtype_to_descr(like.dtype), "fortran_order": False}
        with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
            np.lib.format.write_array_header_1_0(file, {**head, "shape": (self._rows, *self._shape)})
            for rows in self._read():
                file.write(np.ascontiguousarray(convert(rows)).data)

    def _read(self) -> Iterator[Array]:
        self._raw.seek(0)
        at_once = max(1, _ROWS_AT_ONCE // max(1, self._row_bytes))
        for start in range(0, self._rows, at_once):
            count = min(at_once, self._rows - start)
            content = self._raw.read(count * self._row_bytes)
            yield np.frombuffer(content, self._dtype).reshape(count, *self._shape)


@contextmanager
def output_file(network: Network, path: str | os.PathLike[str]) -> Iterator[OutputFile]:
    """A file that appears at ``path`` when the block has ended well, and not at all otherwise.

    Raises:
        UsageError, S2CError: the name is not that of an ``.npz``, or the file cannot be written.
    """
    if not str(path).endswith(".npz"):
        raise UsageError(f"{path} is no .npz file", fix="name a file that ends in .npz")
    with atomic_file(path) as temporary, FileIO(temporary.parent / "rows", "w+") as raw:
        held = OutputFile(network, Path(path), raw)
        yield held
        held.write(temporary)
