"""Opening an ``.onnx`` file, with errors for people.

The package ``onnx`` is imported here and in the modules beside this one only when a file is read.
"""

from __future__ import annotations

import importlib.util
import os
from typing import Any

from snn2chip.errors import S2CError
from snn2chip.frontend.hdf5 import DAMAGED
from snn2chip.machine import expanded


def opened(path: str | os.PathLike[str]) -> Any:
    """The ``ModelProto`` of a file, checked, local functions inlined.

    Raises:
        S2CError: ``onnx`` is missing, there is no such file, or it is no sound ONNX model.
    """
    place = expanded(path)
    if not place.is_file():
        why = "it is a directory" if place.is_dir() else "there is no such file"
        raise S2CError("the file cannot be read", where=str(path), why=why, fix="check the path")
    if importlib.util.find_spec("onnx") is None:
        raise S2CError(
            "reading .onnx needs onnx", where=str(path), why="it is not installed", fix="pip install 'snn2chip[onnx]'"
        )
    import onnx
    import onnx.inliner
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        model = onnx.load(place)
        onnx.checker.check_model(model)
        _check_texts(model.graph)
    except (DecodeError, onnx.checker.ValidationError, OSError, ValueError, TypeError) as error:
        why = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise S2CError("this is no sound ONNX model", where=str(path), why=why, fix=DAMAGED) from None
    return onnx.inliner.inline_local_functions(model) if model.functions else model


def _check_texts(graph: Any) -> None:
    """Raise ValueError where a name is no text: a damaged one is handed out as bytes."""
    for node in graph.node:
        if not all(isinstance(text, str) for text in (node.name, node.op_type, *node.input, *node.output)):
            raise ValueError("a name of an operator or tensor is no text")
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                _check_texts(body)
