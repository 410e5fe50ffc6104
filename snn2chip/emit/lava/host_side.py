"""The part of a network that a project computes beside Lava, before and after it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np

from snn2chip.errors import S2CError
from snn2chip.ir.graph import Node
from snn2chip.ir.layers import Array, Input, Neuron, Output, Readout
from snn2chip.ir.program import Program
from snn2chip.ir.structure import encode


def host_side(program: Program, sources: Iterable[str], arrays: dict[str, Array]) -> dict[str, Any]:
    """The layers that ``run.py`` computes: what the streams and the output need, back to the populations.

    Args:
        program: what they belong to.
        sources: what the streams play.
        arrays: where the arrays of the layers go.

    Raises:
        S2CError: one of them has synaptic delays.
    """
    needed: set[str] = set()
    pending = [program.output.name, *sources]
    while pending:
        node = program[pending.pop()]
        if node.name in needed or isinstance(node.layer, Neuron):
            continue
        needed.add(node.name)
        pending += [edge.source for edge in node.inputs]
    nodes, readout = [], ""
    for node in program:
        if node.name not in needed:
            continue
        if isinstance(node.layer, Readout):
            readout = node.layer.how
        elif not isinstance(node.layer, Input | Output):
            nodes.append(_layer(node, arrays))
    source = program.output.inputs[0]
    if readout:
        source = program[source.source].inputs[0]
    arrays["output_scale"] = np.asarray(program.output_scale, dtype=np.float64)
    return {
        "input": program.input.name,
        "input_shape": list(program.shapes()[program.input.name]),
        "layers": nodes,
        "output": dataclasses.asdict(source),
        "readout": readout,
    }


def _layer(node: Node, arrays: dict[str, Array]) -> dict[str, Any]:
    if getattr(node.layer, "delay", None) is not None:
        raise S2CError("a layer on the host has synaptic delays", where=node.where(), fix="place it on the chip")
    layer = encode(node.layer, arrays, node.name)
    return {"name": node.name, "layer": layer, "inputs": [dataclasses.asdict(edge) for edge in node.inputs]}
