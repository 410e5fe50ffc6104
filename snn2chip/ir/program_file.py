"""A Program as a tree of text and arrays, and back without a bit lost; a digest tells when the file was changed.

The tree goes into the metadata of a ``.nir`` file. Arrays are stored flat with their shapes beside them, because NIR's
own writer cannot store arrays without axes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from snn2chip.errors import S2CError
from snn2chip.ir.program import Program
from snn2chip.ir.structure import decode, encode

FORMAT = 1


def pack(program: Program) -> dict[str, Any]:
    """The program as text (JSON) and flat arrays ``arrays/0``, ``arrays/1`` and so on."""
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    structure = encode(program, arrays)
    index = [[name, list(array.shape)] for name, array in arrays.items()]
    return {
        "format": FORMAT,
        "program": json.dumps({"structure": structure, "arrays": index}, ensure_ascii=True),
        "arrays": {str(i): array.ravel() for i, array in enumerate(arrays.values())},
    }


def unpack(packed: Mapping[str, Any]) -> Program:
    """The inverse of :func:`pack`.

    Raises:
        S2CError: the tree is of a newer format, incomplete, or describes no program.
    """
    try:
        version = int(packed["format"])
        if version != FORMAT:
            raise S2CError(
                f"the program is stored in format {version}",
                why=f"this version of snn2chip reads format {FORMAT}",
                fix="install the version of snn2chip that wrote the file, or compile again",
            )
        document = json.loads(packed["program"])
        stored = packed.get("arrays", {})
        arrays = {name: stored[str(i)].reshape(shape) for i, (name, shape) in enumerate(document["arrays"])}
        program = decode(document["structure"], arrays)
        if not isinstance(program, Program):
            raise S2CError(
                "the file describes no program",
                why=f"it holds a {type(program).__name__}",
                fix="compile the network again",
            )
        return program.verify()
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise S2CError(
            "the description of the program is incomplete or damaged",
            why=f"{type(error).__name__}: {error}",
            fix="compile the network again",
        ) from None


def digest(tree: Mapping[str, Any]) -> str:
    """SHA-256 over names, types, shapes and values of a tree of dicts, text and numbers, in any order."""
    total = hashlib.sha256()
    _update(total, tree)
    return total.hexdigest()


def _update(total: Any, value: Any) -> None:
    if isinstance(value, Mapping):
        for name in sorted(value):
            total.update(f"<{name}>".encode())
            _update(total, value[name])
            total.update(f"</{name}>".encode())
        return
    array = np.asarray(value)
    if array.dtype.kind in "UO":
        total.update(f"text{array.shape}".encode())
        for text in array.ravel().tolist():
            total.update(f"{len(text)}:{text}".encode())
        return
    array = array.astype(array.dtype.newbyteorder("<"))
    total.update(f"{array.dtype.str}{array.shape}".encode())
    total.update(np.ascontiguousarray(array).tobytes())
