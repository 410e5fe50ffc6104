"""Writing nested dictionaries as HDF5: the same tree gives the same bytes, and the file appears whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np

from snn2chip.atomic import atomic_file

# Below this an array is stored as it is: chunks and filters cost more than they save.
_COMPRESS_FROM = 512


def write_tree(path: str | os.PathLike[str], tree: Mapping[str, Any]) -> None:
    """Write ``tree`` to ``path``: dicts become groups, str and numbers and arrays datasets.

    Raises:
        S2CError: the file cannot be written; what was at ``path`` is untouched.
    """
    with atomic_file(path) as temporary, h5py.File(temporary, "w", track_order=False) as file:
        _write_group(file, tree)


def _write_group(group: h5py.Group, tree: Mapping[str, Any]) -> None:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            _write_group(group.create_group(name), value)
            continue
        array = np.asarray(value)
        text = array.dtype.kind in "UO"
        # Chunked storage is refused for scalars and needs at least one element.
        options = {"compression": "gzip"} if not text and array.size >= _COMPRESS_FROM else {}
        data = array.astype(object) if text else array
        group.create_dataset(
            name, data=data, dtype=h5py.string_dtype() if text else array.dtype, track_times=False, **options
        )
