"""Structural equality and a lossless codec for the frozen dataclasses that make up the IR.

Every layer, neuron model, format and program is a frozen dataclass deriving from :class:`Struct`. One codec for
all of them means that a new layer or neuron is saved and compared without a line of code of its own.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from snn2chip.errors import S2CError

_REGISTRY: dict[str, type[Struct]] = {}


class Struct:
    """Base of the IR's frozen dataclasses: compared by content, arrays included, and saved by :func:`encode`."""

    __hash__: ClassVar[None]  # type: ignore[assignment]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _REGISTRY[cls.__name__] = cls

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and all(
            same(getattr(self, field.name), getattr(other, field.name))
            for field in dataclasses.fields(self)  # type: ignore[arg-type]
            if field.compare
        )


def same(a: Any, b: Any) -> bool:
    """Whether two values are equal in content; arrays must agree in dtype, shape and every element."""
    if a is b:
        return True
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return (
            isinstance(a, np.ndarray)
            and isinstance(b, np.ndarray)
            and a.dtype == b.dtype
            and a.shape == b.shape
            and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
        )
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (tuple, list)) and isinstance(b, (tuple, list)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    # Not a number equals itself here, as it does in arrays: a structure is equal to its own copy.
    return bool(a == b) or bool(a != a and b != b)


def encode(value: Any, arrays: dict[str, np.ndarray], path: str = "") -> Any:
    """Turn ``value`` into JSON-able data; its arrays go into ``arrays`` under their path in the structure."""
    if isinstance(value, Struct):
        fields = dataclasses.fields(value)  # type: ignore[arg-type]
        body = {f.name: encode(getattr(value, f.name), arrays, f"{path}/{f.name}") for f in fields}
        return {"struct": type(value).__name__, "fields": body}
    if isinstance(value, np.ndarray):
        arrays[path] = value
        return {"array": path}
    if isinstance(value, np.generic):
        return encode(value.item(), arrays, path)
    if isinstance(value, Mapping):
        items = [[key, encode(item, arrays, f"{path}/{key}")] for key, item in value.items()]
        return {"mapping": items}
    if isinstance(value, (tuple, list)):
        return {"tuple": [encode(item, arrays, f"{path}/{i}") for i, item in enumerate(value)]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"the IR cannot save a {type(value).__name__} at {path or 'the top'}")


def fingerprint(value: Any) -> str:
    """SHA-256 of an array (type, shape and content) or of a structure."""
    arrays: dict[str, np.ndarray] = {}
    structure = encode(value, arrays)
    found = hashlib.sha256(json.dumps(structure, sort_keys=True).encode())
    for key, array in sorted(arrays.items()):
        found.update(f"{key} {array.dtype.str} {array.shape}".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def decode(data: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """The inverse of :func:`encode`.

    Raises:
        S2CError: a structure of this data is unknown to this version, or an array it names is missing.
    """
    if not isinstance(data, dict):
        return data
    if "array" in data:
        if data["array"] not in arrays:
            raise S2CError("the file lacks an array its description names", where=data["array"])
        return arrays[data["array"]]
    if "tuple" in data:
        return tuple(decode(item, arrays) for item in data["tuple"])
    if "mapping" in data:
        return {key: decode(item, arrays) for key, item in data["mapping"]}
    if data.get("struct") not in _REGISTRY:
        raise S2CError(
            f"the file holds a structure named {data.get('struct')!r}",
            why="this version of snn2chip has none of that name",
            fix="read it with the version that wrote it (the file's metadata names it)",
        )
    cls = _REGISTRY[data["struct"]]
    return cls(**{key: decode(item, arrays) for key, item in data["fields"].items()})
