"""Layers of a NetX file, appended to the program."""

from __future__ import annotations

import math

import numpy as np

from snn2chip.errors import S2CError
from snn2chip.frontend.netx.chain import Chain
from snn2chip.frontend.netx.fields import Fields
from snn2chip.frontend.netx.neurons import NEURONS, NO_NEURON, SUPPORTED, model_of, refused_neuron
from snn2chip.ir import layers as L
from snn2chip.ir.graph import Edge, Node, Source
from snn2chip.ir.layers import Array, Shape

_DELAY_LIMIT = 62


def entry(chain: Chain, layer: Fields) -> None:
    """An input layer: its shape; NetX does not connect a neuron it may have."""
    if chain.nodes:
        raise S2CError(
            "an input layer follows another layer",
            where=layer.where,
            fix="export one network a file, its input layer first",
        )
    shape = tuple(int(n) for n in layer.limited("shape", 1, 1 << 31).ravel())
    chain.begin(shape)
    if isinstance(layer.fields.get("neuron"), dict):
        kind = Fields(f"{layer.where}/neuron", layer.fields["neuron"]).kind
        if kind not in NEURONS:
            raise refused_neuron(kind, layer.where)
        chain.notes.append(
            f"{layer.where}: the file has a neuron for the input; NetX does not connect it, so the program takes the "
            "spikes it would send"
        )


def flatten(chain: Chain, layer: Fields) -> None:
    """A flatten layer."""
    shape, name = _shape_before(chain, layer), _name(layer)
    chain.nodes.append(Node(name, L.Flatten(), (Edge(chain.last),), Source(layer.where)))
    chain.shape, chain.last, chain.flattened = (math.prod(shape),), name, True


def dense(chain: Chain, layer: Fields) -> None:
    """A dense or dense_rec layer and its population."""
    recurrent, name = layer.kind == "dense_rec", _name(layer)
    if isinstance(layer.fields.get("weight"), dict):
        raise S2CError(
            "the weights are complex", where=layer.where, why="they belong to resonate-and-fire neurons", fix=SUPPORTED
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
                "a recurrent layer with delays",
                where=layer.where,
                why="NetX runs it with wrongly scaled weights",
                fix="train it without delays, or without recurrence",
            )
        back = _matrix(layer, "weight_rec", size)
        if back.shape != (size, size):
            raise S2CError(
                f"weight_rec has shape {back.shape}",
                where=layer.where,
                why=f"it connects {size} neurons to {size}",
                fix="export the network again",
            )
        chain.synapse(layer, f"{name}.recurrent", L.Linear(back), Edge(name, 1, True))
        inputs.append(Edge(f"{name}.recurrent"))
        weights.append(back)
    _check_dense_range(layer, np.hstack(weights))
    neuron = layer.fields.get("neuron", NO_NEURON)
    chain.population(layer, name, model_of(layer, neuron, (size,), chain.notes), tuple(inputs), (size,))


def conv(chain: Chain, layer: Fields) -> None:
    """A conv layer and its population."""
    before, name = _shape_before(chain, layer), _name(layer)
    if "delay" in layer.fields and layer.integers("delay").any():
        raise S2CError(
            "a conv layer with delays", where=layer.where, why="NetX leaves them out", fix="train it without delays"
        )
    if not isinstance(layer.fields.get("neuron"), dict):
        raise S2CError(
            "the layer has no neuron",
            where=layer.where,
            why="NetX needs one in a conv layer",
            fix="export the layer with its neuron",
        )
    weight = layer.integers("weight")
    if weight.ndim == 5 and weight.shape[4] == 1:
        weight = weight[..., 0]
    (groups,) = layer.limited("groups", 1, 1 << 31).ravel().tolist()
    if weight.ndim != 4 or weight.shape[0] % groups:
        raise S2CError(
            f"a weight of shape {weight.shape} with {groups} groups",
            where=layer.where,
            why="it takes (C_out, C_in/groups, k, k)",
            fix="export the network again",
        )
    stride, padding, dilation = (_pair(layer, *field) for field in (("stride", 1), ("padding", 0), ("dilation", 1)))
    synapse = L.Conv2d(weight, None, stride, padding, dilation, groups)
    try:
        shape = synapse.output_shape(before)
    except S2CError as error:
        raise S2CError(error.what, where=layer.where, why=error.why, fix=error.fix) from None
    stated = tuple(int(n) for n in layer.limited("shape", 1, 1 << 31).ravel())
    if stated != shape:
        raise S2CError(
            f"the layer says its output has shape {stated}",
            where=layer.where,
            why=f"its weights give {shape}",
            fix="export the network again, with the shape of its input",
        )
    chain.synapse(layer, f"{name}.synapse", synapse, Edge(chain.last))
    model = model_of(layer, layer.fields["neuron"], shape, chain.notes)
    chain.population(layer, name, model, (Edge(f"{name}.synapse"),), shape)


def _name(layer: Fields) -> str:
    return layer.where.replace("/", ".")


def _shape_before(chain: Chain, layer: Fields) -> Shape:
    """The shape a layer gets, which its weights do not tell."""
    if chain.shape is None:
        raise S2CError(
            f"a {layer.kind} layer without an input",
            where=layer.where,
            why="the file has no input layer before it, so the size is unknown",
            fix="give the shape of the input: snn2chip.load(path, input_shape=(C, H, W)), or --input-shape C,H,W",
        )
    return chain.shape


def _matrix(layer: Fields, name: str, rows: int) -> Array:
    weight = layer.integers(name)
    if weight.ndim == 1 and weight.size % rows == 0:
        weight = weight.reshape(rows, -1)
    if weight.ndim != 2 or weight.shape[0] != rows or not weight.size:
        raise S2CError(
            f"{name} has shape {weight.shape}",
            where=layer.where,
            why=f"the layer has {rows} neurons: it takes ({rows}, inputs)",
            fix="export the weights as a matrix of this shape",
        )
    return weight


def _take_vector(chain: Chain, layer: Fields, width: int) -> None:
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


def _pair(layer: Fields, name: str, low: int) -> tuple[int, int]:
    value = layer.limited(name, low, 1 << 31).ravel()
    if value.size not in (1, 2):
        raise S2CError(
            f"{name} has {value.size} entries",
            where=layer.where,
            why="it takes one, or one per axis (H, W)",
            fix="export one number, or one per axis",
        )
    height, width = np.broadcast_to(value, 2).tolist()
    return height, width


def _delays(layer: Fields, shape: tuple[int, ...]) -> Array:
    """Delays as (out, in). One per layer, per output (also where the matrix is square), per input, or per synapse."""
    delay = layer.integers("delay")
    if delay.size and (delay.min() < 0 or delay.max() > _DELAY_LIMIT):
        raise S2CError(
            f"delays of {delay.min()}…{delay.max()} steps",
            where=layer.where,
            why=f"the chip delays by 0…{_DELAY_LIMIT}; NetX would clamp them",
            fix="train with shorter delays",
        )
    if delay.ndim == 1 and delay.size == shape[0]:
        delay = delay[:, None]
    if delay.size != 1 and delay.shape not in ((shape[0], 1), shape[1:], shape):
        raise S2CError(
            f"delay has shape {delay.shape}",
            where=layer.where,
            why=f"it takes one, {shape[0]}, {shape[1]} or {shape} numbers",
            fix="export the delays in one of these shapes",
        )
    return np.broadcast_to(delay.ravel() if delay.size == 1 else delay, shape).copy()


def _check_dense_range(layer: Fields, weight: Array) -> None:
    low, high = int(weight.min()), int(weight.max())
    bounds = (-256, 254) if low < 0 < high else (-255, 255)
    if low < bounds[0] or high > bounds[1]:
        raise S2CError(
            f"weights span {low}…{high}",
            where=layer.where,
            why=f"the chip holds {bounds[0]}…{bounds[1]} here; NetX would clip them without an error",
            fix="quantize them to 8 bits before the export",
        )
