"""A Program as an ``.onnx`` file: one time step in int64, which any ONNX runtime computes to the same integers.

Inputs are the data of one step and the states; outputs the states after it, the spikes of every population, and what
the read-out reads. Convolutions and pooling gather their windows and multiply int64 matrices, because ONNX has no wide
integer convolution; shifts are divisions of exact multiples, because ``Div`` rounds negative numbers in no common way.
Every neuron is a local function made of the operations its integer step runs on symbols.

What lies outside a step is in the file's metadata: T, coding, read-out, scales, the pairs of states, and start values
that are not zero.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from typing import Any

from snn2chip.atomic import atomic_file
from snn2chip.emit.onnx import layers
from snn2chip.emit.onnx.graph import Writer
from snn2chip.emit.onnx.neurons import neuron
from snn2chip.errors import S2CError
from snn2chip.ir import layers as L
from snn2chip.ir.graph import Node
from snn2chip.ir.program import Program

# Protocol buffers hold no message larger than this.
_LARGEST = 2**31 - 1


def write_onnx(program: Program, path: str | os.PathLike[str]) -> None:
    """Write one time step of ``program`` to ``path``; the same program gives the same bytes.

    The states named in the metadata ``snn2chip.states`` ({input: output}) are fed back from step to step; they start at
    zero, or at the values in ``snn2chip.start``. Data and outputs are the integers of :func:`snn2chip.simulate`.

    Raises:
        S2CError: ``onnx`` is missing, a layer or neuron has no integer operations in ONNX, or the file cannot be
            written.
    """
    if importlib.util.find_spec("onnx") is None:
        raise S2CError(
            "writing .onnx needs onnx", where=str(path), why="it is not installed", fix="pip install 'snn2chip[onnx]'"
        )
    model = _model(program)
    if model.ByteSize() > _LARGEST:
        raise S2CError(
            "the program is too large for one .onnx file",
            where=str(path),
            why="it exceeds 2 GiB",
            fix="use model.nir, which has no such limit",
        )
    with atomic_file(path) as temporary:
        temporary.write_bytes(model.SerializeToString(deterministic=True))


def _model(program: Program) -> Any:
    w = Writer(program)
    for node in program:
        writer = next((_WRITERS[cls] for cls in type(node.layer).__mro__ if cls in _WRITERS), None)
        if writer is None:
            raise w.refuse(node, f"{node.layer.kind} has no exact integer operator in ONNX")
        writer(w, node, node.layer)
    return w.model()


_WRITERS: dict[type[L.Layer], Callable[[Writer, Node, Any], None]] = {
    L.Input: layers.entry,
    L.Linear: layers.linear,
    L.Conv: layers.conv,
    L.SumPool: layers.pool,
    L.MaxPool: layers.pool,
    L.Flatten: layers.view,
    L.Reshape: layers.view,
    L.Permute: layers.permute,
    L.Gather: layers.gather,
    L.Concat: layers.concat,
    L.Add: layers.add,
    L.Mul: layers.product("Mul"),
    L.MatMul: layers.product("MatMul"),
    L.Scale: layers.scale,
    L.Delay: layers.delay,
    L.Rescale: layers.rescale,
    L.Neuron: neuron,
    L.Readout: layers.readout,
    L.Output: layers.exit_,
}
