"""Reading ``.nir`` files: graphs of other tools into a float Graph, programs snn2chip wrote back into a Program.

NIR describes a network in continuous time. What it cannot say is asked for: the time step, the kind of reset and when
it acts, the fire test. The time step enters by forward Euler, as in the NIR paper and its exporters:

    I[t] = (1 − dt/τ_syn)·I[t−1] + (w_in·dt/τ_syn)·x[t]
    v[t] = (1 − dt/τ_mem)·v[t−1] + (dt/τ_mem)·(v_leak + r·I[t])

with the new current in the membrane's equation (snnTorch, Lava). States start at zero. A loop is closed one time step
late: the recurrent synapse reads the spikes of the step before.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from snn2chip.errors import S2CError, UsageError
from snn2chip.frontend.hdf5 import Tree, located, opened, read_tree, refuse_format
from snn2chip.frontend.nir_structure import Links, cut_loops, inlined, reaching
from snn2chip.ir import layers as L
from snn2chip.ir.graph import Coding, Edge, Graph, Node, Source, in_order
from snn2chip.ir.layers import Array, Shape
from snn2chip.ir.program import Program
from snn2chip.ir.program_file import digest, unpack
from snn2chip.neurons.base import Fire, ResetTiming
from snn2chip.neurons.lif import LIF

ResetKind = Literal["zero", "v_reset", "subtract", "none"]
Integration = Literal["euler", "exponential"]
IntegratorGain = Literal["r*dt", "r"]
ReadoutKind = Literal["sum", "mean", "last", "max", "none"]

# Time constants are often float32 numbers divided by each other: gains and delays within this of a whole number are it.
_ROUNDING = 1e-6


def read_graph(
    path: str | os.PathLike[str],
    *,
    dt: float | None = None,
    reset: ResetKind | Mapping[str, ResetKind] | None = None,
    time_steps: int | None = None,
    fire: Fire = ">",
    reset_timing: ResetTiming = "same",
    integration: Integration = "euler",
    integrator_gain: IntegratorGain | None = None,
    readout: ReadoutKind = "sum",
    output: str | None = None,
    coding: Coding = "steps",
) -> Graph:
    """Read a NIR graph of another tool.

    Args:
        path: the ``.nir`` file.
        dt: seconds per time step; needed as soon as the file holds a neuron with a time constant or a delay.
        reset: what a spike does to the membrane, for all populations or by name: "zero", "v_reset" (to the file's
            value), "subtract" (the threshold), "none". Needed where the file holds firing neurons with v_reset 0,
            because exporters write that for every kind of reset.
        time_steps: T of a sample; None takes it from the data.
        fire: the fire test; NIR and snnTorch ">", SpikingJelly ">=".
        reset_timing: "same" (NIR; SpikingJelly; snnTorch "zero" gives the same spikes), "next" (snnTorch "subtract"),
            "gate"; see ``snn2chip/neurons/lif.py``.
        integration: "euler", or "exponential": decays exp(−dt/τ) and gains 1 − exp(−dt/τ) in place of dt/τ.
        integrator_gain: what an input of 1 adds to an I or IF membrane in one step: "r*dt" (the equation, SpikingJelly)
            or "r" (inputs are impulses: sinabs, snnTorch). Asked for where r is 1 and the two differ.
        readout: what becomes of the T outputs; "none" returns them all.
        output: the node whose output is read; needed where the file has several Output nodes.
        coding: "steps": a sample is [T, ...]; "direct": [...], the same at every step.

    Returns:
        The checked Graph; nodes keep their NIR names, those of subgraphs as ``subgraph.node``.

    Raises:
        UsageError: an option is missing, unknown, or contradicts the file.
        S2CError: the file cannot be read, holds an unknown node or a number that is none, or its shapes do not fit.
    """
    _check_choices(locals())
    with opened(path) as file:
        refuse_format(file, path, "nir")
        tree = read_tree(file["node"])
    choices = _Choices(dt, reset, fire, reset_timing, integration, integrator_gain)
    with located(path):
        nodes, edges = inlined(tree)
        for name, fields in nodes.items():
            if fields["type"] not in _KNOWN:
                raise S2CError(
                    f"the file holds a node of type {fields['type']!r}",
                    where=name,
                    why=f"known are {', '.join(sorted([*_KNOWN, 'NIRGraph']))}",
                    fix="replace it in the exporting tool, or pick an earlier node with output=",
                )
        last = _output(nodes, edges, output)
        links = cut_loops(nodes, reaching(nodes, edges, last), last)
        graph = _build(nodes, links, choices, readout, time_steps, coding)
        return _with_origin(graph, dt, path).verify()


def read_program(path: str | os.PathLike[str]) -> Program:
    """Read a program that :func:`snn2chip.emit.nir.write_program` wrote; equal to what was written.

    Raises:
        S2CError: the file cannot be read, was changed after it was written, or is no program.
    """
    with opened(path) as file:
        refuse_format(file, path, "program")
        tree = read_tree(file["node"])
    with located(path):
        packed = tree["metadata"]["snn2chip"]
        written = packed.pop("sha256", "")
        if digest(tree) != written:
            raise S2CError(
                "the program was changed after it was written",
                why="its contents do not match the checksum stored beside them",
                fix="compile the network again; to run an edited graph, delete metadata/snn2chip and use load_graph",
            )
        return unpack(packed)


def _check_choices(given: Mapping[str, Any]) -> None:
    allowed: dict[str, tuple[Any, ...]] = {
        "fire": get_args(Fire),
        "reset_timing": get_args(ResetTiming),
        "integration": get_args(Integration),
        "integrator_gain": (None, *get_args(IntegratorGain)),
        "readout": get_args(ReadoutKind),
        "coding": get_args(Coding),
    }
    kinds = given["reset"].values() if isinstance(given["reset"], Mapping) else [given["reset"]]
    asked = [(name, given[name], values) for name, values in allowed.items()]
    for name, value, values in [*asked, *(("reset", kind, (None, *get_args(ResetKind))) for kind in kinds)]:
        if value not in values:
            shown = ", ".join(repr(v) for v in values if v is not None)
            raise UsageError(f"{name} cannot be {value!r}", fix=f"use one of {shown}")
    dt, steps = given["dt"], given["time_steps"]
    if dt is not None and not (isinstance(dt, (int, float)) and 0 < dt < math.inf):
        raise UsageError(f"dt is {dt!r}", fix="give the seconds of one time step, e.g. dt=1e-4")
    if steps is not None and not (isinstance(steps, int) and steps >= 1):
        raise UsageError(f"time_steps is {steps!r}", fix="give the number of time steps of one sample, 1 or more")
    if steps is None and given["coding"] == "direct":
        raise UsageError(
            "time_steps is missing", why="with direct coding the data does not show it", fix="give time_steps"
        )


@dataclass(frozen=True)
class _Choices:
    """What the user said about everything NIR does not say."""

    dt: float | None
    reset: ResetKind | Mapping[str, ResetKind] | None
    fire: Fire
    reset_timing: ResetTiming
    integration: Integration
    integrator_gain: IntegratorGain | None

    def step(self, node: _Fields) -> float:
        """The time step, or the question for it."""
        if self.dt is None:
            raise UsageError(
                "the length of a time step is missing",
                where=node.where,
                why="NIR describes a network in continuous time; no file says in which steps it was trained",
                fix="give dt in seconds, as used in training, e.g. dt=1e-4",
            )
        return self.dt

    def decay(self, tau: Array, node: _Fields, field: str) -> Array:
        """The share of a state that is lost in one step."""
        dt = self.step(node)
        if (tau <= 0).any():
            raise S2CError(f"{field} is {tau.min():.6g}", where=node.where, why="a time constant is positive")
        if self.integration == "exponential":
            return -np.expm1(-dt / tau)
        lost = dt / tau
        if (lost > 1 + _ROUNDING).any():
            raise UsageError(
                f"dt = {dt:.6g} s is longer than {field} = {tau.min():.6g} s",
                where=node.where,
                why="with forward Euler the state would change its sign in every step",
                fix='give the dt the network was trained with, or integration="exponential"',
            )
        return np.minimum(lost, 1.0)

    def reset_of(self, node: _Fields, v_reset: Array) -> ResetKind:
        """The kind of reset of one population, or the question for it."""
        kind = self.reset.get(node.name) if isinstance(self.reset, Mapping) else self.reset
        stated = bool(v_reset.any())
        if kind is None and stated:
            return "v_reset"
        if kind is None:
            raise UsageError(
                "the kind of reset is missing",
                where=node.where,
                why="NIR has no word for it: exporters write v_reset = 0 for a reset by subtraction too",
                fix='give reset="zero", "subtract" or "none", as trained; or a dict by node name',
            )
        if stated and kind != "v_reset":
            raise UsageError(
                f"reset={kind!r} contradicts the file",
                where=node.where,
                why="its v_reset is not 0",
                fix='give reset="v_reset"',
            )
        return kind


@dataclass(frozen=True)
class _Fields:
    """One node of the file, with readers that say what is wrong with a field."""

    name: str
    fields: Tree

    @property
    def where(self) -> str:
        return f"{self.name} ({self.fields['type']})"

    def has(self, field: str) -> bool:
        return field in self.fields

    def array(self, field: str) -> Array:
        """A numeric field: finite, float as stored, integers as float32."""
        if field not in self.fields:
            raise S2CError(f"the node has no {field}", where=self.where, fix="export the network again")
        value = np.asarray(self.fields[field])
        if value.dtype.kind not in "biuf":
            raise S2CError(f"{field} holds no numbers", where=self.where, why=f"its type is {value.dtype}")
        if not np.isfinite(value).all():
            bad = int(np.count_nonzero(~np.isfinite(value)))
            raise S2CError(
                f"{field} holds {bad} of {value.size} values that are NaN or infinite",
                where=self.where,
                fix="the training diverged, or the file is damaged: export weights that are finite",
            )
        return value if value.dtype.kind == "f" else value.astype(np.float32)

    def integers(self, field: str, count: int) -> tuple[int, ...]:
        """``count`` whole numbers, one number standing for all."""
        value = self.array(field).ravel()
        if value.size not in (1, count) or (value != np.rint(value)).any():
            raise S2CError(f"{field} is {value.tolist()}", where=self.where, why=f"it takes {count} whole numbers")
        return tuple(int(v) for v in np.broadcast_to(value, count))

    def parameter(self, field: str, shape: Shape | None) -> Array:
        """A float64 parameter that broadcasts against ``shape``, as small as can be: ``()``, ``(C, 1, 1)`` or full."""
        return fitted(self.array(field).astype(np.float64), shape, self.where, field)


def fitted(value: Array, shape: Shape | None, where: str, field: str) -> Array:
    """A parameter brought to broadcast against ``shape`` and stripped of repetition.

    Raises:
        S2CError: it fits in no way, or in two.
    """
    if value.size and (value == value.flat[0]).all():
        return value.reshape(-1)[:1].reshape(())
    if shape is None:
        return value
    if value.ndim == 1 and len(shape) > 1 and value.shape[0] == shape[0] and value.shape[0] != shape[-1]:
        value = value.reshape(-1, *(1,) * (len(shape) - 1))
    try:
        fits = np.broadcast_shapes(value.shape, shape) == shape
    except ValueError:
        fits = False
    if not fits or (value.ndim == 1 and len(shape) > 1):
        raise S2CError(
            f"{field} has shape {value.shape}, which does not fit {shape} neurons",
            where=where,
            fix="export one value per neuron",
        )
    if value.shape == shape and len(shape) > 1:
        first = value[(slice(None), *(slice(0, 1),) * (len(shape) - 1))]
        return first if (value == first).all() else value
    return value


def _output(nodes: Mapping[str, Tree], edges: Iterable[tuple[str, str]], asked: str | None) -> str:
    outputs = [name for name, fields in nodes.items() if fields["type"] == "Output"]
    if asked is not None:
        if asked not in nodes:
            raise UsageError(f"there is no node {asked!r} to read", fix=f"nodes: {', '.join(nodes)}")
        return asked
    if len(outputs) != 1:
        raise UsageError(
            f"the graph has {len(outputs)} Output nodes",
            why=", ".join(outputs),
            fix=f"name the node to read: output={(outputs or list(nodes))[-1]!r}",
        )
    if all(target != outputs[0] for _, target in edges):
        raise S2CError("nothing reaches the output", where=f"{outputs[0]} (Output)")
    return outputs[0]


def _build(
    nodes: Mapping[str, Tree], links: Links, choices: _Choices, readout: str, time_steps: int | None, coding: Coding
) -> Graph:
    built: dict[str, Node] = {}
    shapes: dict[str, Shape | None] = {}
    for name in links.order:
        node = _Fields(name, nodes[name])
        inputs = links.inputs[name]
        known = [shape for edge in inputs if (shape := shapes.get(edge.source)) is not None]
        shape = known[0] if known else None
        kind = nodes[name]["type"]
        if kind == "Input":
            layer: L.Layer = L.Input(_shape(node, "shape"))
        elif kind == "Output":
            layer = L.Output()
        elif kind == "Flatten":
            layer = _flatten(node, shape, [_Fields(n, nodes[n]) for n in links.consumers(name)])
        elif kind == "Delay":
            layer = L.Delay(_delay(node, choices) - links.advanced.get(name, 0))
        else:
            layer = _READERS[kind](node, shape, choices)
        if layer.inputs_allowed[1] == 1 and len(inputs) > 1:
            total = Node(f"{name}.sum", L.Add(), inputs, Source(name))
            built[total.name] = total
            inputs = (Edge(total.name),)
        built[name] = Node(name, layer, inputs, Source(name), "host" if kind == "Output" else "chip")
        shapes[name] = _output_shape(built[name], known)
    finished = _finished(list(built.values()), links.output, readout)
    return Graph(in_order(finished), time_steps, coding)


def _output_shape(node: Node, known: list[Shape]) -> Shape | None:
    if isinstance(node.layer, L.Input):
        return node.layer.shape
    if not known:
        # Inside a loop: only what the layer itself says.
        return node.layer.weight.shape[:1] if isinstance(node.layer, L.Linear) else None
    try:
        return node.layer.output_shape(known[0])
    except S2CError as error:
        raise S2CError(error.what, where=node.where(), why=error.why, fix=error.fix) from None


def _finished(nodes: list[Node], last: str, readout: str) -> list[Node]:
    """The nodes with one read-out and one Output at the end, both on the host."""
    end = next(node for node in nodes if node.name == last)
    name, edge = "output", Edge(last)
    if isinstance(end.layer, L.Output):
        nodes = [node for node in nodes if node.name != last]
        name, (edge,) = last, end.inputs
    taken = {node.name for node in nodes}
    if readout != "none":
        how: Any = readout
        summary = _free("readout", taken)
        nodes = [*nodes, Node(summary, L.Readout(how), (edge,), placement="host")]
        edge = Edge(summary)
    return [*nodes, Node(_free(name, taken), L.Output(), (edge,), placement="host")]


def _free(name: str, taken: set[str]) -> str:
    return name if name not in taken else f"network {name}"


def _with_origin(graph: Graph, dt: float | None, path: str | os.PathLike[str]) -> Graph:
    return Graph(graph.nodes, graph.time_steps, graph.coding, dt, f"nir file {Path(path).name}")


def _shape(node: _Fields, field: str) -> Shape:
    value = node.array(field).ravel()
    if not value.size or (value < 1).any() or (value != np.rint(value)).any():
        raise S2CError(
            f"{field} is {value.tolist()}", where=node.where, why="a shape is a list of whole numbers above 0"
        )
    return tuple(int(v) for v in value)


def _linear(node: _Fields, shape: Shape | None, choices: _Choices) -> L.Layer:
    weight = node.array("weight")
    bias = node.array("bias") if node.fields["type"] == "Affine" else None
    if weight.ndim != 2 or (bias is not None and bias.shape != weight.shape[:1]):
        shown = "" if bias is None else f" and a bias of shape {bias.shape}"
        raise S2CError(
            f"a weight of shape {weight.shape}{shown}", where=node.where, why="it takes (out, in) and (out,)"
        )
    return L.Linear(weight, bias)


def _conv(node: _Fields, shape: Shape | None, choices: _Choices) -> L.Layer:
    cls: type[L.Conv] = {"Conv1d": L.Conv1d, "Conv2d": L.Conv2d}[node.fields["type"]]
    axes = cls.axes
    weight, bias = node.array("weight"), node.array("bias")
    (groups,) = node.integers("groups", 1)
    if weight.ndim != axes + 2 or bias.shape != weight.shape[:1] or groups < 1 or weight.shape[0] % groups:
        raise S2CError(
            f"a weight of shape {weight.shape}, a bias of shape {bias.shape} and {groups} groups do not fit",
            where=node.where,
            why=f"it takes (out, in/groups{', k' * axes}) and (out,)",
        )
    stride, dilation = node.integers("stride", axes), node.integers("dilation", axes)
    padding = _padding(node, weight.shape[2:], stride, dilation)
    if min(*stride, *dilation) < 1 or min(padding) < 0:
        raise S2CError(
            f"stride {stride}, dilation {dilation}, padding {padding}",
            where=node.where,
            why="they count from 1, 1 and 0",
        )
    return cls(weight, bias if bias.any() else None, stride, padding, dilation, groups)


def _padding(node: _Fields, kernel: Shape, stride: Shape, dilation: Shape) -> Shape:
    named = node.fields.get("padding")
    if not isinstance(named, str):
        return node.integers("padding", len(kernel))
    if named == "valid":
        return (0,) * len(kernel)
    total = tuple(d * (k - 1) for k, d in zip(kernel, dilation, strict=True))
    if named != "same" or set(stride) != {1} or any(t % 2 for t in total):
        raise S2CError(
            f"padding {named!r} with kernel {kernel}, stride {stride}, dilation {dilation}",
            where=node.where,
            why='"same" is supported with stride 1 and odd kernels, where it pads both sides alike',
        )
    return tuple(t // 2 for t in total)


def _pool(node: _Fields, shape: Shape | None, choices: _Choices) -> L.Layer:
    cls: type[L.Pool] = {"AvgPool2d": L.AvgPool, "SumPool2d": L.SumPool}[node.fields["type"]]
    kernel, stride, padding = (node.integers(f, 2) for f in ("kernel_size", "stride", "padding"))
    return cls(kernel, stride, padding)


def _scale(node: _Fields, shape: Shape | None, choices: _Choices) -> L.Layer:
    return L.Scale(fitted(node.array("scale"), shape, node.where, "scale"))


def _flatten(node: _Fields, shape: Shape | None, consumers: list[_Fields]) -> L.Layer:
    """NIR counts axes without the batch, and its default is 1: exporters write 0 or 1 and mean the whole tensor.

    A first axis of 1 or more is read as counting the batch wherever that suits the next layer, else as it stands.
    """
    start, end = node.integers("start_dim", 1)[0], node.integers("end_dim", 1)[0]
    if shape is None or start < 1:
        return L.Flatten(start, end)
    batch_counted = L.Flatten(start - 1, end - 1 if end > 0 else end)
    literal = L.Flatten(start, end)
    if start >= len(shape) or _suits(batch_counted.output_shape(shape), consumers):
        return batch_counted
    return literal if _suits(literal.output_shape(shape), consumers) else batch_counted


def _suits(shape: Shape, consumers: list[_Fields]) -> bool:
    """Whether every consumer that says what it takes would take this shape."""
    takes = []
    for node in consumers:
        if node.fields["type"] in ("Linear", "Affine"):
            takes.append(shape == node.array("weight").shape[1:])
        elif sized := next((name for name in ("r", "threshold", "scale") if node.has(name)), None):
            values = node.array(sized)
            takes.append(values.size == 1 or values.shape == shape)
        elif node.has("shape"):
            takes.append(_shape(node, "shape") == shape)
    return bool(takes) and all(takes)


def _delay(node: _Fields, choices: _Choices) -> int:
    delay = np.unique(node.array("delay").astype(np.float64))
    if delay.size != 1:
        raise S2CError(
            "every element has a delay of its own",
            where=node.where,
            why=f"{delay.size} values from {delay[0]:.6g} to {delay[-1]:.6g} s; one delay per node is supported",
        )
    steps = float(delay[0]) / choices.step(node)
    if steps < 0 or abs(steps - round(steps)) > _ROUNDING * max(1.0, steps):
        raise S2CError(
            f"a delay of {delay[0]:.6g} s is {steps:.6g} time steps",
            where=node.where,
            why="a delay is a whole number of steps",
            fix="give another dt",
        )
    return round(steps)


def _threshold(node: _Fields, shape: Shape | None, choices: _Choices) -> L.Layer:
    return L.Neuron(LIF(node.parameter("threshold", shape), np.zeros(()), fire=choices.fire, reset="none"))


def _neuron(node: _Fields, shape: Shape | None, choices: _Choices) -> L.Layer:
    kind = node.fields["type"]
    leaky, current = kind not in ("I", "IF"), kind.startswith("Cuba")
    r = node.parameter("r", shape)
    options: dict[str, Any] = {}
    if leaky:
        field = "tau_mem" if current else "tau"
        lost = choices.decay(node.parameter(field, shape), node, field)
        gain, v_leak = _near_one(r * lost), node.parameter("v_leak", shape)
        if current:
            tau_syn = choices.decay(node.parameter("tau_syn", shape), node, "tau_syn")
            w_in = node.parameter("w_in", shape) if node.has("w_in") else np.ones(())
            # Counted before w_in the current needs no gain of its own; the membrane is the same.
            gain = gain * _near_one(w_in * tau_syn)
            options["current_decay"] = 1 - tau_syn
        options |= _leak(lost, gain, v_leak, driven_like_leak=not current and bool((r == 1).all()))
    else:
        options |= {"decay": np.ones(()), "gain": _integrator_gain(node, r, choices)}
    if kind in ("I", "LI", "CubaLI"):
        return L.Neuron(LIF(np.asarray(np.inf), reset="none", **options))
    v_reset = node.parameter("v_reset", shape) if node.has("v_reset") else np.zeros(())
    reset = choices.reset_of(node, v_reset)
    model = LIF(
        node.parameter("v_threshold", shape),
        fire=choices.fire,
        reset={"zero": "hard", "v_reset": "hard", "subtract": "soft", "none": "none"}[reset],  # type: ignore[arg-type]
        reset_timing=choices.reset_timing,
        v_reset=v_reset,
        **options,
    )
    return L.Neuron(model)


def _leak(lost: Array, gain: Array, v_leak: Array, driven_like_leak: bool) -> dict[str, Any]:
    """Decay and gain in the form whose float operations are those of the framework that trains it so."""
    if driven_like_leak and (lost > 0).all():
        return {"decay": 1 / lost, "decay_form": "tau", "v_rest": v_leak}
    if v_leak.any() and (lost > 0).all():
        return {"decay": 1 / lost, "decay_form": "tau_undriven", "v_rest": v_leak, "gain": gain}
    return {"decay": 1 - lost, "gain": gain}


def _near_one(gain: Array) -> Array:
    return np.where(np.abs(gain - 1) < _ROUNDING, 1.0, gain)


def _integrator_gain(node: _Fields, r: Array, choices: _Choices) -> Array:
    if choices.integrator_gain == "r":
        return r
    dt = choices.step(node)
    if choices.integrator_gain is None and (r == 1).all() and dt != 1:
        raise UsageError(
            "what one input adds to the membrane is not clear",
            where=node.where,
            why=f"r is 1: {dt:.6g} by NIR's equation v' = r·I over a step; 1 in tools that count inputs as impulses",
            fix='give integrator_gain="r" (sinabs, snnTorch) or integrator_gain="r*dt" (the equation)',
        )
    return _near_one(r * dt)


_READERS: dict[str, Callable[[_Fields, Shape | None, _Choices], L.Layer]] = {
    "Linear": _linear,
    "Affine": _linear,
    "Scale": _scale,
    "Conv1d": _conv,
    "Conv2d": _conv,
    "SumPool2d": _pool,
    "AvgPool2d": _pool,
    "Threshold": _threshold,
    **dict.fromkeys(("I", "LI", "IF", "LIF", "CubaLI", "CubaLIF"), _neuron),
}

_KNOWN = ("Input", "Output", "Flatten", "Delay", *_READERS)
