"""Reading NetX ``.net`` files (HDF5, as lava-dl writes them) into a Program.

The meaning is that of NetX 0.6.0 (``lava/lib/dl/netx/hdf5.py``, ``blocks/process.py``) running on Lava's fixed-point
models: i decays by iDecay/4096, v by vDecay/4096, the threshold is vThMant << 6, the bias enters as bias << 6, the
reset is hard, to zero, in the step of the spike. What NetX would clip, wrap or leave out is refused; fields it does not
read are named in the program's notes. The numbers of the file are the program's; one LSB of a weight counts as 1.

Names: ``input``; the layer of group ``layer/3`` is the population ``layer.3``, fed by ``layer.3.synapse`` and, in
dense_rec layers, ``layer.3.recurrent``; a flatten layer is ``layer.3``.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from snn2chip.errors import S2CError, UsageError
from snn2chip.frontend.hdf5 import Tree, located, opened, read_tree, refuse_format
from snn2chip.ir import layers as L
from snn2chip.ir.graph import Edge, Node, Source, in_order
from snn2chip.ir.layers import Array, Shape
from snn2chip.ir.program import Format, Program
from snn2chip.ir.target import Target, load_target
from snn2chip.neurons.lif import IntegerLIF

NetReadout = Literal["spikes", "v"]

# NetX's neuron where a dense layer has none: it keeps the current, forgets the membrane and never fires.
_NO_NEURON: Tree = {"type": "CUBA", "iDecay": 0, "vDecay": 4096, "vThMant": 1 << 17}

# v saturates at 2**23 - 1, so that it never exceeds this mantissa << 6.
UNREACHABLE = 1 << 17

# Neuron fields NetX does not read, and the value that says nothing.
_UNREAD: dict[str, float] = {"refDelay": 1, "gradedSpike": 0, "wgtExp": 0, "weight_exp": 0}

_NEURONS = ("LOIHI", "CUBA")
_LAYERS_REFUSED = ("pool", "convT", "unpool", "average", "concat", "dense_comp")
_BIAS_LIMIT = (1 << 15) - 1
DELAY_LIMIT = 62


def read_net(
    path: str | os.PathLike[str],
    *,
    target: str | Target = "loihi2",
    time_steps: int | None = None,
    readout: NetReadout | None = None,
) -> Program:
    """Read a NetX network.

    Args:
        path: the ``.net`` file.
        target: the chip whose arithmetic runs it.
        time_steps: T of a sample; None takes the file's ``simulation/tSample``, or else whatever the data has.
        readout: "spikes": the spike count of the last layer; "v": its membrane after the last step. None: "v" where the
            last layer's threshold is the largest there is, so that it serves as an integrator.

    Returns:
        The Program; it takes binary spikes [N, T, *input shape], those of a file with an input neuron entering after
        that neuron (NetX does not connect it: lava-dl ``blocks/process.py``).

    Raises:
        S2CError: the file cannot be read, or holds what NetX refuses, ignores or runs with other numbers.
    """
    if readout not in (None, "spikes", "v"):
        raise UsageError(f"readout cannot be {readout!r}", fix='use "spikes" or "v"')
    if time_steps is not None and not (isinstance(time_steps, int) and time_steps >= 1):
        raise UsageError(f"time_steps is {time_steps!r}", fix="give the number of time steps of one sample, 1 or more")
    chip = load_target(target)
    with opened(path) as file:
        refuse_format(file, path, "netx")
        layers, simulation = read_tree(file["layer"]), file.get("simulation")
        stated = {} if simulation is None else read_tree(simulation)
    with located(path):
        chain = _Chain(chip)
        for fields in _in_sequence(layers):
            chain.add(fields)
        if time_steps is None and "tSample" in stated:
            (time_steps,) = _Fields("simulation", stated).integers("tSample").ravel().tolist()
        return chain.program(time_steps, readout, f"NetX file {Path(path).name}")


@dataclass(frozen=True)
class _Fields:
    """A group of the file, with readers that say what is wrong with a field."""

    where: str
    fields: Tree

    @property
    def kind(self) -> str:
        """The group's type; NetX stores it as a text or as a list of one."""
        stored = np.asarray(self.fields.get("type", ""), dtype=object).ravel()
        return str(stored[0]) if stored.size else ""

    def integers(self, name: str) -> Array:
        """A field of whole numbers, int64."""
        if name not in self.fields or isinstance(self.fields[name], dict):
            raise S2CError(f"the group has no {name}", where=self.where, fix="export the network again")
        value = np.asarray(self.fields[name])
        if value.dtype.kind not in "biuf":
            raise S2CError(f"{name} holds no numbers", where=self.where, why=f"its type is {value.dtype}")
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise S2CError(f"{name} holds NaN or infinite values", where=self.where, fix="export the network again")
        whole: Array = np.rint(value)
        if (value != whole).any():
            bad = value[value != whole].flat[0]
            raise S2CError(
                f"{name} holds {bad:.6g}",
                where=self.where,
                why="NetX files hold the integers of the chip; NetX would cut the fraction off",
                fix="export with the quantization of the training (lava-dl does it in export_hdf5)",
            )
        return whole.astype(np.int64)

    def limited(self, name: str, low: int, high: int) -> Array:
        """A field of whole numbers within bounds."""
        value = self.integers(name)
        if value.size and (value.min() < low or value.max() > high):
            raise S2CError(
                f"{name} spans {value.min()}…{value.max()}", where=self.where, why=f"it lies in {low}…{high}"
            )
        return value


def _in_sequence(layers: Tree) -> list[_Fields]:
    missing = [str(i) for i in range(len(layers)) if not isinstance(layers.get(str(i)), dict)]
    if missing or not layers:
        found = ", ".join(layers) or "none"
        raise S2CError(
            "the layers are not numbered 0, 1, 2, …",
            where="layer",
            why=f"found {found}",
            fix="export the network again",
        )
    return [_Fields(f"layer/{i}", layers[str(i)]) for i in range(len(layers))]


@dataclass
class _Chain:
    """The program so far: NetX networks are chains."""

    target: Target
    nodes: list[Node] = field(default_factory=list)
    formats: dict[str, Format] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    shape: Shape | None = None
    last: str = "input"
    flattened: bool = False

    def add(self, layer: _Fields) -> None:
        """Append one layer of the file."""
        kind = layer.kind
        if kind not in _LAYERS:
            known = "NetX does not implement it" if kind in _LAYERS_REFUSED else "NetX skips what it does not know"
            raise S2CError(
                f"the file holds a layer of type {kind!r}",
                where=layer.where,
                why=f"{known}; known are {', '.join(_LAYERS)}",
                fix="train the network without it, or express it as conv or dense",
            )
        _LAYERS[kind](self, layer)

    def begin(self, shape: Shape) -> None:
        """Put the input in front."""
        self.shape = shape
        self.nodes.append(Node("input", L.Input(shape)))
        # One bit each, and nothing else accepted.
        self.formats["input"] = Format(1, False, 1.0, overflow="error")

    def synapse(self, layer: _Fields, name: str, synapse: L.Linear | L.Conv, source: Edge) -> None:
        """Append a synapse and the format of its weights."""
        self.nodes.append(Node(name, synapse, (source,), Source(layer.where)))
        reach = int(np.abs(synapse.weight).max(initial=0))
        bits = max(self.target.weights.bits + 1, reach.bit_length() + 1)
        self.formats[f"{name}.weight"] = Format(bits, True, 1.0)
        legal = self.target.weights
        if (
            reach
            and (synapse.weight.min() < 0 < synapse.weight.max())
            and (synapse.weight % legal.step(legal.bits)).any()
        ):
            self.notes.append(f"{name}: weights of both signs that are odd; Lava runs them, the chip has even ones")
        if isinstance(synapse, L.Conv) and (synapse.weight.min(initial=0) < legal.minimum or reach > -legal.minimum):
            self.notes.append(
                f"{name}: weights beyond {legal.minimum}…{legal.maximum}; Lava runs them, the chip cannot"
            )

    def population(self, layer: _Fields, name: str, model: IntegerLIF, inputs: tuple[Edge, ...], shape: Shape) -> None:
        """Append a population and the formats of its states."""
        a = self.target.arithmetic
        self.nodes.append(Node(name, L.Neuron(model), inputs, Source(layer.where)))
        unit = 2.0**-a.input_shift
        self.formats[f"{name}.u"] = Format(
            a.current_bits, True, unit, overflow=a.current_overflow, rounding=a.decay_rounding
        )
        self.formats[f"{name}.v"] = Format(
            a.voltage_bits, True, unit, overflow=a.voltage_overflow, rounding=a.decay_rounding
        )
        if int(np.abs(model.bias).max(initial=0)) > self.target.limits.bias_max:
            self.notes.append(f"{name}: biases beyond ±{self.target.limits.bias_max}; Lava runs them, the chip cannot")
        self.shape, self.last, self.flattened = shape, name, False

    def program(self, time_steps: int | None, readout: NetReadout | None, origin: str) -> Program:
        """The finished program."""
        populations = [node for node in self.nodes if isinstance(node.layer, L.Neuron)]
        if not populations:
            raise S2CError("the file holds no layer with synapses", where="layer", why="there is nothing to run")
        end = populations[-1]
        model: IntegerLIF = end.layer.model  # type: ignore[attr-defined]
        assert model.v_threshold is not None
        silent = bool((model.v_threshold >= UNREACHABLE).all())
        if readout is None:
            readout = "v" if (model.v_threshold >= self.target.limits.threshold_max).all() else "spikes"
            if readout == "v":
                self.notes.append(
                    f"{end.name}: its threshold is the largest there is, so its membrane is read, not its spikes"
                )
        if silent:
            integrator = IntegerLIF(None, model.decay_v, model.decay_u, model.bias)
            self.nodes[self.nodes.index(end)] = Node(end.name, L.Neuron(integrator), end.inputs, end.source)
        edge = Edge(self.last) if readout == "spikes" else Edge(end.name, port="v")
        how: Literal["sum", "last"] = "sum" if readout == "spikes" else "last"
        if readout == "spikes" and silent:
            raise UsageError(
                "the last layer never fires",
                where=end.name,
                why="its threshold cannot be reached",
                fix='give readout="v"',
            )
        self.nodes += [
            Node("readout", L.Readout(how), (edge,), placement="host"),
            Node("output", L.Output(), (Edge("readout"),), placement="host"),
        ]
        scale = 1.0 if readout == "spikes" else self.formats[f"{end.name}.v"].scale
        return Program(
            in_order(self.nodes),
            time_steps,
            "steps",
            self.target,
            self.formats,
            np.asarray(scale),
            notes=tuple(self.notes),
            origin=origin,
        ).verify()


def _input(chain: _Chain, layer: _Fields) -> None:
    if chain.nodes:
        raise S2CError("an input layer follows another layer", where=layer.where)
    shape = tuple(int(n) for n in layer.limited("shape", 1, 1 << 31).ravel())
    chain.begin(shape)
    if isinstance(layer.fields.get("neuron"), dict):
        kind = _Fields(f"{layer.where}/neuron", layer.fields["neuron"]).kind
        if kind not in _NEURONS:
            raise _refused_neuron(kind, layer.where)
        chain.notes.append(
            f"{layer.where}: the file has a neuron for the input; NetX does not connect it, so the program takes the "
            "spikes it would send"
        )


def _flatten(chain: _Chain, layer: _Fields) -> None:
    if chain.shape is None:
        raise S2CError(
            "a flatten layer without an input", where=layer.where, why="the file has no input layer before it"
        )
    name = _name(layer)
    chain.nodes.append(Node(name, L.Flatten(), (Edge(chain.last),), Source(layer.where)))
    chain.shape, chain.last, chain.flattened = (math.prod(chain.shape),), name, True


def _dense(chain: _Chain, layer: _Fields) -> None:
    recurrent, name = layer.kind == "dense_rec", _name(layer)
    if isinstance(layer.fields.get("weight"), dict):
        raise S2CError(
            "the weights are complex", where=layer.where, why="they belong to resonate-and-fire neurons", fix=_SUPPORTED
        )
    size = math.prod(int(n) for n in layer.limited("shape", 1, 1 << 31).ravel())
    weight = _matrix(layer, "weight", size)
    _take_vector(chain, layer, weight.shape[1])
    delay = _delays(layer, weight.shape) if "delay" in layer.fields else None
    synapse = L.Linear(weight, None, delay)
    chain.synapse(layer, f"{name}.synapse", synapse, Edge(chain.last))
    inputs = [Edge(f"{name}.synapse")]
    weights = [weight]
    if recurrent:
        if delay is not None and delay.any():
            raise S2CError(
                "a recurrent layer with delays", where=layer.where, why="NetX runs it with wrongly scaled weights"
            )
        back = _matrix(layer, "weight_rec", size)
        if back.shape != (size, size):
            raise S2CError(
                f"weight_rec has shape {back.shape}", where=layer.where, why=f"it connects {size} neurons to {size}"
            )
        chain.synapse(layer, f"{name}.recurrent", L.Linear(back), Edge(name, 1, True))
        inputs.append(Edge(f"{name}.recurrent"))
        weights.append(back)
    _check_dense_range(layer, np.hstack(weights))
    neuron = layer.fields.get("neuron", _NO_NEURON)
    chain.population(layer, name, _model(chain, layer, neuron, (size,)), tuple(inputs), (size,))


def _conv(chain: _Chain, layer: _Fields) -> None:
    name = _name(layer)
    if chain.shape is None:
        raise S2CError(
            "a conv layer without an input",
            where=layer.where,
            why="the file has no input layer before it, so the size is unknown",
        )
    if "delay" in layer.fields and layer.integers("delay").any():
        raise S2CError(
            "a conv layer with delays", where=layer.where, why="NetX leaves them out", fix="train it without delays"
        )
    if not isinstance(layer.fields.get("neuron"), dict):
        raise S2CError("the layer has no neuron", where=layer.where, why="NetX needs one in a conv layer")
    weight = layer.integers("weight")
    if weight.ndim == 5 and weight.shape[4] == 1:
        weight = weight[..., 0]
    (groups,) = layer.limited("groups", 1, 1 << 31).ravel().tolist()
    if weight.ndim != 4 or weight.shape[0] % groups:
        raise S2CError(
            f"a weight of shape {weight.shape} with {groups} groups",
            where=layer.where,
            why="it takes (C_out, C_in/groups, k, k)",
        )
    stride, padding, dilation = (_pair(layer, *field) for field in (("stride", 1), ("padding", 0), ("dilation", 1)))
    synapse = L.Conv2d(weight, None, stride, padding, dilation, groups)
    try:
        shape = synapse.output_shape(chain.shape)
    except S2CError as error:
        raise S2CError(error.what, where=layer.where, why=error.why, fix=error.fix) from None
    stated = tuple(int(n) for n in layer.limited("shape", 1, 1 << 31).ravel())
    if stated != shape:
        raise S2CError(
            f"the layer says its output has shape {stated}", where=layer.where, why=f"its weights give {shape}"
        )
    chain.synapse(layer, f"{name}.synapse", synapse, Edge(chain.last))
    model = _model(chain, layer, layer.fields["neuron"], shape)
    chain.population(layer, name, model, (Edge(f"{name}.synapse"),), shape)


_LAYERS: dict[str, Callable[[_Chain, _Fields], None]] = {
    "input": _input,
    "flatten": _flatten,
    "dense": _dense,
    "dense_rec": _dense,
    "conv": _conv,
}
_SUPPORTED = f"supported are {' and '.join(_NEURONS)} neurons with real weights"


def _name(layer: _Fields) -> str:
    return layer.where.replace("/", ".")


def _matrix(layer: _Fields, name: str, rows: int) -> Array:
    weight = layer.integers(name)
    if weight.ndim == 1 and weight.size % rows == 0:
        weight = weight.reshape(rows, -1)
    if weight.ndim != 2 or weight.shape[0] != rows or not weight.size:
        raise S2CError(
            f"{name} has shape {weight.shape}",
            where=layer.where,
            why=f"the layer has {rows} neurons: it takes ({rows}, inputs)",
        )
    return weight


def _take_vector(chain: _Chain, layer: _Fields, width: int) -> None:
    """Make what comes before fit a dense layer of ``width`` inputs, as NetX connects it."""
    if chain.shape is None:
        chain.begin((width,))
    assert chain.shape is not None
    if len(chain.shape) > 1 and chain.last == "input":
        # NetX gives its first dense layer a flat input whatever the input layer says.
        if math.prod(chain.shape) == width and max(chain.shape) != width:
            chain.notes.append(
                f"{layer.where}: no flatten before it, so the program takes flat inputs of {width}, as NetX does"
            )
        chain.nodes.clear()
        chain.begin((width,))
    if chain.shape != (width,):
        fix = "" if chain.flattened or len(chain.shape) == 1 else "put a flatten layer before it"
        raise S2CError(
            f"a dense layer of {width} inputs follows a layer of shape {chain.shape}", where=layer.where, fix=fix
        )


def _pair(layer: _Fields, name: str, low: int) -> tuple[int, int]:
    value = layer.limited(name, low, 1 << 31).ravel()
    if value.size not in (1, 2):
        raise S2CError(
            f"{name} has {value.size} entries", where=layer.where, why="it takes one, or one per axis (H, W)"
        )
    height, width = np.broadcast_to(value, 2).tolist()
    return height, width


def _delays(layer: _Fields, shape: tuple[int, ...]) -> Array:
    """Delays as (out, in). One per layer, per output (also where the matrix is square), per input, or per synapse."""
    delay = layer.integers("delay")
    if delay.size and (delay.min() < 0 or delay.max() > DELAY_LIMIT):
        raise S2CError(
            f"delays of {delay.min()}…{delay.max()} steps",
            where=layer.where,
            why=f"the chip delays by 0…{DELAY_LIMIT}; NetX would clamp them",
            fix="train with shorter delays",
        )
    if delay.ndim == 1 and delay.size == shape[0]:
        delay = delay[:, None]
    if delay.size != 1 and delay.shape not in ((shape[0], 1), shape[1:], shape):
        raise S2CError(
            f"delay has shape {delay.shape}",
            where=layer.where,
            why=f"it takes one, {shape[0]}, {shape[1]} or {shape} numbers",
        )
    return np.broadcast_to(delay.ravel() if delay.size == 1 else delay, shape).copy()


def _check_dense_range(layer: _Fields, weight: Array) -> None:
    low, high = int(weight.min()), int(weight.max())
    bounds = (-256, 254) if low < 0 < high else (-255, 255)
    if low < bounds[0] or high > bounds[1]:
        raise S2CError(
            f"weights span {low}…{high}",
            where=layer.where,
            why=f"the chip holds {bounds[0]}…{bounds[1]} here; NetX would clip them without an error",
            fix="quantize them to 8 bits before the export",
        )


def _model(chain: _Chain, layer: _Fields, stored: Any, shape: Shape) -> IntegerLIF:
    neuron = _Fields(f"{layer.where}/neuron", stored if isinstance(stored, dict) else {})
    if neuron.kind not in _NEURONS:
        raise _refused_neuron(neuron.kind, layer.where)
    if "messageBits" in neuron.fields:
        raise S2CError(
            "the neuron states messageBits", where=neuron.where, why="NetX fails on it", fix="remove the field"
        )
    for name, nothing in _UNREAD.items():
        value = np.asarray(neuron.fields.get(name, nothing))
        if value.dtype.kind in "biuf" and (value != nothing).any():
            chain.notes.append(f"{neuron.where}: {name} is {value.ravel()[0]}; NetX does not read it")
    decay_u, decay_v = (_placed(neuron, name, neuron.limited(name, 0, 4096), shape) for name in ("iDecay", "vDecay"))
    threshold = _placed(neuron, "vThMant", neuron.integers("vThMant"), shape)
    bias = layer.limited("bias", -_BIAS_LIMIT, _BIAS_LIMIT) if "bias" in layer.fields else np.zeros((), dtype=np.int64)
    return IntegerLIF(threshold, decay_v, decay_u, _placed(layer, "bias", bias, shape))


def _placed(group: _Fields, name: str, value: Array, shape: Shape) -> Array:
    """A neuron parameter as (C, H, W): NetX has one per layer, per channel, or per neuron as (W, H, C)."""
    if value.size == 1:
        return value.reshape(())
    if value.shape == shape[::-1]:
        return value.T.copy()
    if len(shape) == 3 and value.shape == shape[:1]:
        return value.reshape(-1, 1, 1)
    raise S2CError(f"{name} has shape {value.shape}", where=group.where, why=f"the layer has {shape} neurons (C, H, W)")


def _refused_neuron(kind: str, where: str) -> S2CError:
    families = {"SDNN": "sigma-delta neurons", "RF": "resonate-and-fire neurons", "ALIF": "adaptive neurons"}
    family = next((title for key, title in families.items() if key in kind), "a neuron this version does not know")
    if kind.startswith("ADRF"):
        family = "adaptive resonate-and-fire neurons, which NetX runs as plain ones"
    return S2CError(f"the neuron is of type {kind!r}", where=where, why=f"these are {family}", fix=_SUPPORTED)
