"""Opening a file, whatever its format: told by its content, not by its name."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable
from typing import Any

from snn2chip.errors import S2CError, UsageError
from snn2chip.frontend import nir, onnx
from snn2chip.frontend.hdf5 import format_of, opened, refuse_format
from snn2chip.frontend.netx import read_net
from snn2chip.ir.graph import Graph
from snn2chip.ir.program import Program
from snn2chip.machine import expanded


def load(path: str | os.PathLike[str], **options: Any) -> Program:
    """Read a compiled program (``.nir`` written by snn2chip) or a vendor's NetX network (``.net``), told by content.

    Args:
        path: the file.
        options: of a ``.net`` file: target, time_steps, readout, input_shape
            (:func:`snn2chip.frontend.netx.read_net`). A program takes none.

    Raises:
        UsageError: an option the file does not take.
        S2CError: the file cannot be read, is damaged, or holds something else; a NIR graph of another tool and an ONNX
            model are float networks: ``load_graph`` reads them.
    """
    if _is_onnx(path):
        raise S2CError(
            "this is not a program",
            where=str(path),
            why="it is an ONNX model: a float network",
            fix="read it with snn2chip.load_graph(path, …) and compile it",
        )
    with opened(path) as file:
        netx = format_of(file) == "netx"
        if not netx:
            refuse_format(file, path, "program")
    reader: Callable[..., Program] = read_net if netx else nir.read_program
    _check_options(reader, options, ".net files" if netx else "compiled programs")
    return reader(path, **options)


def load_graph(path: str | os.PathLike[str], **options: Any) -> Graph:
    """Read a float network of another tool: ``.nir`` or ``.onnx``, told by content.

    Args:
        path: the file.
        options: what the file cannot say; missing ones are asked for. ``.nir``: dt, reset, time_steps, fire,
            reset_timing, integration, integrator_gain, readout, output, coding
            (:func:`snn2chip.frontend.nir.read_graph`). ``.onnx``: states, start, time_steps, readout, output, coding,
            dt (:func:`snn2chip.frontend.onnx.read_graph`).

    Raises:
        UsageError: an option is missing, unknown, or contradicts the file.
        S2CError: the file cannot be read, or holds what a Graph cannot.
    """
    found = _is_onnx(path)
    reader: Callable[..., Graph] = onnx.read_graph if found else nir.read_graph
    _check_options(reader, options, ".onnx files" if found else ".nir files")
    return reader(path, **options)


def holds_graph(path: str | os.PathLike[str]) -> bool:
    """Whether a file that can be read is another tool's float network, which :func:`load_graph` is for."""
    if _is_onnx(path):
        return True
    with opened(path) as file:
        return format_of(file) == "nir"


def _check_options(reader: Callable[..., Any], options: Iterable[str], kind: str) -> None:
    known = [p.name for p in inspect.signature(reader).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for name in options:
        if name not in known:
            raise UsageError(f"{name} is no option for {kind}", fix=f"options: {', '.join(known) or 'none'}")


def _is_onnx(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins as a serialized ``ModelProto`` does, or is named so and is no HDF5 file."""
    place = expanded(path)
    try:
        with place.open("rb") as file:
            start = file.read(8)
    except OSError:
        start = b""
    # Field 1 of the message, the version of the format, is a small number and comes first.
    versioned = len(start) > 1 and start[0] == 0x08 and 0 < start[1] < 0x40
    return versioned or (place.suffix == ".onnx" and not start.startswith(b"\x89HDF"))
