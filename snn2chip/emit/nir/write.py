"""A Program as a ``.nir`` file: a NIR graph any NIR tool reads, with the exact program in its metadata.

The graph's numbers are the dequantized integers, neurons in the units of the trained network, for a forward-Euler step
of ``dt`` seconds. Where NIR has no word for what the chip does, the nearest node is written, ``snn2chip_approximate``
in its metadata says what is lost, and the caller gets the same as notes. ``snn2chip.frontend.nir.read_program``
restores the program from the metadata, equal to what was written.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from snn2chip.emit.hdf5 import write_tree
from snn2chip.emit.nir import layers
from snn2chip.emit.nir.neurons import neuron
from snn2chip.emit.nir.view import PASS_THROUGH, NoWordError, View
from snn2chip.ir import layers as L
from snn2chip.ir.graph import Node, in_order
from snn2chip.ir.layers import Shape
from snn2chip.ir.program import Program
from snn2chip.ir.program_file import digest, pack
from snn2chip.neurons.base import IntegerNeuron

# The version of the file layout, as nir 1.0.8 writes and reads it.
NIR_VERSION = "1.0.8"


def write_program(program: Program, path: str | os.PathLike[str], *, dt: float = 1e-4) -> tuple[str, ...]:
    """Write ``program`` to ``path``; the same program gives the same bytes.

    Args:
        dt: seconds per step, for NIR's time constants.

    Returns:
        What the NIR graph says only approximately (the program in it is exact): a line a reason, with its nodes.

    Raises:
        S2CError: the file cannot be written.
    """
    view = _view(program, dt)
    packed = pack(program)
    tree = {
        "type": "NIRGraph",
        "nodes": view.nodes,
        "edges": np.array(view.edges, dtype=object).reshape(-1, 2),
        "metadata": {"snn2chip": packed},
    }
    packed["sha256"] = digest(tree)
    write_tree(path, {"version": NIR_VERSION, "node": tree})
    nodes: dict[str, list[str]] = {}
    for name, reasons in view.approximate.items():
        for reason in reasons:
            nodes.setdefault(reason, []).append(name)
    return tuple(f"{', '.join(names)}: {reason}" for reason, names in nodes.items())


def _view(program: Program, dt: float) -> View:
    """The program as a NIR graph; where NIR has no word for a layer, its input and output alone, and why."""
    view = View(*_in_lifs(program), dt)
    try:
        _build(view)
    except NoWordError as error:
        view = View(program, {program.output.name: [f"the NIR graph holds input and output only: {error}"]}, dt)
        _outline(view)
    return view


def _in_lifs(program: Program) -> tuple[Program, dict[str, list[str]]]:
    """The program with every neuron that NIR has no word for as the nearest LIF, and what each of them was."""
    nodes, lost = [], {}
    for node in program:
        model = getattr(node.layer, "model", None)
        if isinstance(model, IntegerNeuron) and (nearest := model.nearest_lif(program.target.arithmetic)) is not model:
            lost[node.name] = [f"NIR has no {model.kind} neuron; this is the nearest LIF to {model.describe()}"]
            node = dataclasses.replace(node, layer=L.Neuron(nearest))
        nodes.append(node)
    return dataclasses.replace(program, nodes=in_order(nodes)), lost


def _build(view: View) -> None:
    """Every layer that has a word in NIR, connected."""
    shapes = view.program.shapes()
    view.dequantize()
    for node in view.program:
        if type(node.layer) in PASS_THROUGH:
            continue
        writer = next((_WRITERS[cls] for cls in type(node.layer).__mro__ if cls in _WRITERS), None)
        if writer is None:
            raise NoWordError(f"NIR has no node for {node.where()}")
        inputs = [shapes[edge.source] for edge in node.inputs]
        view.nodes[node.name] = writer(view, node, inputs, shapes[node.name])
        for source in view.sources(node):
            view.edges.append((source, node.name))
    _annotate(view)


def _outline(view: View) -> None:
    """Input and output alone, unconnected: NIR has readers check that connected shapes agree."""
    shapes = view.program.shapes()
    for node in (view.program.input, view.program.output):
        view.nodes[node.name] = _WRITERS[type(node.layer)](view, node, [], shapes[node.name])
    _annotate(view)


def _annotate(view: View) -> None:
    for name, reasons in view.approximate.items():
        if name in view.nodes:
            view.nodes[name]["metadata"] = {"snn2chip_approximate": "; ".join(reasons)}


Writer = Callable[[View, Node, list[Shape], Shape], dict[str, Any]]

_WRITERS: Mapping[type[L.Layer], Writer] = {
    L.Input: layers.entry,
    L.Output: layers.exit_,
    L.Linear: layers.linear,
    L.Conv: layers.conv,
    L.Pool: layers.pool,
    L.Flatten: layers.flatten,
    L.Reshape: layers.flatten,
    L.Scale: layers.scale,
    L.Rescale: layers.scale,
    L.Delay: layers.delay,
    L.Neuron: neuron,
}
