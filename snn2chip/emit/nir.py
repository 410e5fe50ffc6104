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
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from snn2chip.emit.hdf5 import write_tree
from snn2chip.ir import layers as L
from snn2chip.ir.graph import Edge, Node, in_order
from snn2chip.ir.layers import Array, Shape
from snn2chip.ir.program import Program
from snn2chip.ir.program_file import digest, pack
from snn2chip.neurons.base import IntegerNeuron
from snn2chip.neurons.lif import IntegerLIF

# The version of the file layout, as nir 1.0.8 writes and reads it.
NIR_VERSION = "1.0.8"

# NIR's time constants are finite: a state that never decays gets one of this many steps.
_FOREVER = 2.0**40


class _NoWordError(Exception):
    """NIR has nothing for a part of the program, not even approximately."""


def write_program(program: Program, path: str | os.PathLike[str], *, dt: float = 1e-4) -> tuple[str, ...]:
    """Write ``program`` to ``path``; the same program gives the same bytes.

    Args:
        dt: seconds per step, for NIR's time constants.

    Returns:
        What the NIR graph says only approximately, one line a node and reason (the program in it is exact).

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
    return tuple(f"{name}: {reason}" for name, reasons in view.approximate.items() for reason in reasons)


def _view(program: Program, dt: float) -> _View:
    """The program as a NIR graph; where NIR has no word for a layer, its input and output alone, and why."""
    view = _View(*_in_lifs(program), dt)
    try:
        view.build()
    except _NoWordError as error:
        view = _View(program, {program.output.name: [f"the NIR graph holds input and output only: {error}"]}, dt)
        view.outline()
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


@dataclass
class _View:
    """The NIR graph of a program while it is built.

    ``scale`` is the trained network's value of one LSB of a node's output, where it is known.
    """

    program: Program
    approximate: dict[str, list[str]]
    dt: float
    nodes: dict[str, dict[str, Any]] = field(default_factory=dict)
    edges: list[tuple[str, str]] = field(default_factory=list)
    scale: dict[str, float] = field(default_factory=dict)

    def build(self) -> None:
        shapes = self.program.shapes()
        self._dequantize()
        for node in self.program:
            if type(node.layer) in _PASS_THROUGH:
                continue
            writer = next((_WRITERS[cls] for cls in type(node.layer).__mro__ if cls in _WRITERS), None)
            if writer is None:
                raise _NoWordError(f"NIR has no node for {node.where()}")
            inputs = [shapes[edge.source] for edge in node.inputs]
            self.nodes[node.name] = writer(self, node, inputs, shapes[node.name])
            for source in self._sources(node):
                self.edges.append((source, node.name))
        self._annotate()

    def _annotate(self) -> None:
        for name, reasons in self.approximate.items():
            if name in self.nodes:
                self.nodes[name]["metadata"] = {"snn2chip_approximate": "; ".join(reasons)}

    def outline(self) -> None:
        """Input and output alone, unconnected: NIR has readers check that connected shapes agree."""
        shapes = self.program.shapes()
        for node in (self.program.input, self.program.output):
            self.nodes[node.name] = _WRITERS[type(node.layer)](self, node, [], shapes[node.name])
        self._annotate()

    def note(self, node: Node, reason: str) -> None:
        """Say that the NIR graph tells this node only approximately."""
        self.approximate.setdefault(node.name, []).append(reason)

    def _sources(self, node: Node) -> list[str]:
        """What feeds the node in the NIR graph: nodes without a NIR word of their own are looked through."""
        found: list[str] = []
        for edge in node.inputs:
            source = self.program[edge.source]
            self._check_edge(node, edge, source)
            found += self._sources(source) if type(source.layer) in _PASS_THROUGH else [edge.source]
        if len(set(found)) != len(found):
            raise _NoWordError(f"NIR cannot add a node's output twice: {node.where()}")
        return found

    def _check_edge(self, node: Node, edge: Edge, source: Node) -> None:
        integrates = isinstance(source.layer, L.Neuron) and source.layer.model.v_threshold is None
        if edge.port == "u" or (edge.port == "v" and not integrates):
            self.note(node, f"reads the state {edge.port} of {edge.source}; NIR connects outputs only")
        if edge.delay > int(edge.recurrent):
            self.note(node, f"the delay of {edge.delay} steps from {edge.source} is not in the NIR graph")

    def _dequantize(self) -> None:
        """The trained value of one LSB, from the input onwards."""
        formats, shift = self.program.formats, self.program.target.arithmetic.input_shift
        for node in self.program:
            stated = formats.get(node.name)
            before = [self.scale[edge.source] for edge in node.inputs if edge.source in self.scale]
            if stated is not None:
                own = stated.scale
            elif isinstance(node.layer, L.Neuron):
                own = self.membrane(node, shift) if node.layer.model.v_threshold is None else 1.0
            elif node.layer.synaptic:
                own = self.weight_scale(node) * (before[0] if before else 1.0)
            else:
                own = before[0] if before else 1.0
            if isinstance(node.layer, L.Rescale) and stated is None:
                own *= float(1 << node.layer.shift)
            self.scale[node.name] = own

    def weight_scale(self, node: Node) -> float:
        """The trained value of one LSB of a weight; 1 where the program does not say."""
        stated = self.program.formats.get(f"{node.name}.weight")
        return 1.0 if stated is None else stated.scale

    def drive(self, node: Node) -> float:
        """The trained value of one LSB of what arrives at a population."""
        return next((self.scale[edge.source] for edge in node.inputs if edge.source in self.scale), 1.0)

    def without_memory(self, node: Node) -> bool:
        """Whether the population's current keeps nothing, so that a bias of the membrane equals one of the current."""
        model = node.layer.model  # type: ignore[attr-defined]
        return bool((model.decay_u >= 1 << self.program.target.arithmetic.decay_bits).all())

    def membrane(self, node: Node, shift: int) -> float:
        """The trained value of one LSB of the membrane; that of the input where the program does not say."""
        stated = self.program.formats.get(f"{node.name}.v")
        return self.drive(node) / (1 << shift) if stated is None else stated.scale


def _input(view: _View, node: Node, inputs: list[Shape], shape: Shape) -> dict[str, Any]:
    return {"type": "Input", "shape": np.array(shape)}


def _output(view: _View, node: Node, inputs: list[Shape], shape: Shape) -> dict[str, Any]:
    return {"type": "Output", "shape": np.array(shape)}


def _linear(view: _View, node: Node, inputs: list[Shape], shape: Shape) -> dict[str, Any]:
    layer = node.layer
    assert isinstance(layer, L.Linear)
    if layer.delay is not None and layer.delay.any():
        view.note(node, "synaptic delays are not in the NIR graph")
    if len(shape) > 1:
        view.note(node, "NIR's linear layers take one axis; this one acts on the last of several")
    fields: dict[str, Any] = {"type": "Linear", "weight": layer.weight * view.weight_scale(node)}
    bias = _bias(view, node, layer.bias)
    return fields if bias is None else fields | {"type": "Affine", "bias": np.broadcast_to(bias, shape[-1:])}


def _conv(view: _View, node: Node, inputs: list[Shape], shape: Shape) -> dict[str, Any]:
    layer = node.layer
    assert isinstance(layer, L.Conv)
    bias = _bias(view, node, layer.bias)
    if len(set(layer.kernel)) > 1 or layer.groups > 1:
        view.note(node, "nir 1.0.8 infers a wrong shape (kernel not square, or groups): read with type_check=False")
    one = layer.axes == 1
    sizes = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}
    fields: dict[str, Any] = {name: value[0] if one else np.array(value) for name, value in sizes.items()}
    fields["input_shape"] = inputs[0][1] if one else np.array(inputs[0][1:])
    return fields | {
        "type": layer.kind,
        "weight": layer.weight * view.weight_scale(node),
        "groups": layer.groups,
        "bias": np.zeros(shape[0]) if bias is None else np.broadcast_to(bias, shape[:1]),
    }


def _bias(view: _View, node: Node, own: Array | None) -> Array | None:
    """The bias of a synapse: its own on the host, that of the population it feeds on the chip; in trained units."""
    if own is not None:
        return own * view.scale[node.name]
    readers = view.program.consumers(node.name)
    if len(readers) != 1 or not isinstance(readers[0].layer, L.Neuron) or _bias_synapse(view, readers[0]) != node.name:
        return None
    per_step = _membrane_bias if view.without_memory(readers[0]) else _current_bias
    bias = per_step(view, readers[0])
    return bias.reshape(bias.shape[0], -1)[:, 0] if bias.ndim else bias


def _bias_synapse(view: _View, population: Node) -> str | None:
    """The synapse that carries the population's bias in the NIR graph; None without a bias, or if no synapse can."""
    model = population.layer.model  # type: ignore[attr-defined]
    biases = [model.bias_u] if model.bias_u is not None and model.bias_u.any() else []
    if view.without_memory(population) and model.bias.any():
        biases.append(model.bias)
    for edge in population.inputs if biases else ():
        node = view.program[edge.source]
        forward = any(not e.recurrent for e in node.inputs)
        own = forward and not edge.recurrent and len(view.program.consumers(node.name)) == 1
        if own and isinstance(node.layer, (L.Linear, L.Conv)) and node.layer.bias is None:
            axes = node.layer.axes if isinstance(node.layer, L.Conv) else 0
            return node.name if all(_per_channel(bias, axes) for bias in biases) else None
    return None


def _per_channel(bias: Array, axes: int) -> bool:
    """Whether a bias is one number per channel, as a synapse with ``axes`` spatial axes adds it."""
    if bias.ndim == 0:
        return True
    return bias.ndim == axes + 1 and bool((bias == bias[(slice(None), *(slice(0, 1),) * axes)]).all())


def _membrane_bias(view: _View, node: Node) -> Array:
    """The bias a membrane without current memory gets in one step, in the unit of the population's input."""
    model, shift = node.layer.model, view.program.target.arithmetic.input_shift  # type: ignore[attr-defined]
    p = model.parameters(view.program.target.arithmetic)
    return np.asarray((p["bias"] + p["bias_u"]) * (view.drive(node) / (1 << shift)))


def _current_bias(view: _View, node: Node) -> Array:
    """The bias the current gets in one step, in the unit of the population's input."""
    model, shift = node.layer.model, view.program.target.arithmetic.input_shift  # type: ignore[attr-defined]
    return np.asarray(model.bias_u * (view.drive(node) / (1 << shift)))


def _pool(view: _View, node: Node, inputs: list[Shape], shape: Shape) -> dict[str, Any]:
    layer = node.layer
    assert isinstance(layer, L.Pool)
    if len(layer.kernel) != 2:
        raise _NoWordError(f"NIR pools over two axes only: {node.where()}")
    if isinstance(layer, L.MaxPool):
        view.note(node, "max pooling is written as sum pooling; NIR has no max pooling")
    if layer.ceil_mode:
        view.note(node, "NIR pools without ceil_mode")
    kind = "AvgPool2d" if isinstance(layer, L.AvgPool) else "SumPool2d"
    sizes = {"kernel_size": layer.kernel, "stride": layer.stride, "padding": layer.padding}
    return {"type": kind} | {name: np.array(value) for name, value in sizes.items()}


def _flatten(view: _View, node: Node, inputs: list[Shape], shape: Shape) -> dict[str, Any]:
    layer = node.layer
    start, end = (layer.start_dim, layer.end_dim) if isinstance(layer, L.Flatten) else (0, -1)
    if isinstance(layer, L.Reshape) and len(layer.shape) != 1:
        raise _NoWordError(f"NIR has no Reshape: {node.where()}")
    start, end = start % len(inputs[0]), end % len(inputs[0])
    last = -1 if end == len(inputs[0]) - 1 else end
    return {"type": "Flatten", "start_dim": start, "end_dim": last, "input_type": np.array(inputs[0])}


def _scale(view: _View, node: Node, inputs: list[Shape], shape: Shape) -> dict[str, Any]:
    layer = node.layer
    if isinstance(layer, L.Rescale):
        view.note(node, f"the rounding of the shift by {layer.shift} is not in the NIR graph")
        return {"type": "Scale", "scale": np.ones(shape)}
    assert isinstance(layer, L.Scale)
    return {"type": "Scale", "scale": np.broadcast_to(layer.scale.astype(np.float64), shape)}


def _delay(view: _View, node: Node, inputs: list[Shape], shape: Shape) -> dict[str, Any]:
    assert isinstance(node.layer, L.Delay)
    return {"type": "Delay", "delay": np.full(shape, node.layer.steps * view.dt)}


def _neuron(view: _View, node: Node, inputs: list[Shape], shape: Shape) -> dict[str, Any]:
    """LIF, CubaLIF or IF, or without a threshold LI, CubaLI or I; see the module's text for the units."""
    model, arithmetic = node.layer.model, view.program.target.arithmetic  # type: ignore[attr-defined]
    if not isinstance(model, IntegerLIF):
        raise _NoWordError(f"NIR has no {model.kind} neuron: {node.where()}")
    _note_choices(view, node, model)
    p = model.parameters(arithmetic)
    full = 1 << arithmetic.decay_bits
    v_scale = view.membrane(node, arithmetic.input_shift)
    # One step turns an input x into x · gain on the membrane, whatever the decays.
    gain = (v_scale * (1 << arithmetic.input_shift)) / view.drive(node)

    current = not view.without_memory(node)
    bias_on_synapse = not current and _bias_synapse(view, node) is not None
    own_bias = 0 if bias_on_synapse else p["bias"] + (p["bias_u"] if not current else 0)
    if current and model.bias_u is not None and model.bias_u.any() and _bias_synapse(view, node) is None:
        view.note(node, "the bias of the current is not in the NIR graph")
    leaks = bool(model.decay_v.any()) or bool(np.any(own_bias)) or current

    lost_v = np.where(model.decay_v > 0, model.decay_v / full, 1 / _FOREVER)
    fields: dict[str, Any] = {}
    if leaks:
        fields = {
            "tau_mem" if current else "tau": view.dt / lost_v,
            "r": gain / lost_v,
            "v_leak": own_bias * v_scale / lost_v,
        }
    else:
        fields["r"] = gain / view.dt
    if current:
        lost_u = np.where(model.decay_u > 0, model.decay_u / full, 1 / _FOREVER)
        fields |= {"tau_syn": view.dt / lost_u, "w_in": 1 / lost_u}
    if model.v_threshold is not None:
        fields |= {"v_threshold": p["threshold"] * v_scale, "v_reset": p["v_reset"] * v_scale}
    kind = {(True, True): "CubaLI", (True, False): "LI", (False, False): "I"}[leaks, current]
    spelled = kind if model.v_threshold is None else kind + "F"
    return {"type": spelled} | {
        name: np.ascontiguousarray(np.broadcast_to(np.asarray(value, dtype=np.float64), shape))
        for name, value in fields.items()
    }


def _note_choices(view: _View, node: Node, model: IntegerLIF) -> None:
    if model.v_threshold is not None:
        if model.reset != "hard":
            view.note(
                node, {"soft": "reset by subtraction", "none": "no reset"}[model.reset] + "; NIR resets to v_reset"
            )
        if model.reset_timing != "same" and model.reset != "none":
            view.note(node, f"the reset acts in the next step ({model.reset_timing}); NIR resets with the spike")
        if model.fire != ">":
            view.note(node, "fires at v >= v_threshold; NIR at v > v_threshold")
    if model.v_start is not None and model.v_start.any():
        view.note(node, "NIR has no word for the membrane's start value")


Writer = Callable[[_View, Node, list[Shape], Shape], dict[str, Any]]

# Layers NIR needs no node for: it adds what arrives at a node, and reads out nothing.
_PASS_THROUGH = (L.Add, L.Readout)

_WRITERS: Mapping[type[L.Layer], Writer] = {
    L.Input: _input,
    L.Output: _output,
    L.Linear: _linear,
    L.Conv: _conv,
    L.Pool: _pool,
    L.Flatten: _flatten,
    L.Reshape: _flatten,
    L.Scale: _scale,
    L.Rescale: _scale,
    L.Delay: _delay,
    L.Neuron: _neuron,
}
