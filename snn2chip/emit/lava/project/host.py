"""What the host computes, in plain numpy: the integers of the data, the layers before the first population
and after the last one, the read-out. And the way from samples to machine steps and back.
"""

from __future__ import annotations

import numpy as np
from reference.ops import NumpyOps, apply
from reference.structure import decode

_READOUTS = {
    "": lambda steps: steps,
    "sum": lambda steps: steps.sum(axis=1),
    "last": lambda steps: steps[:, -1],
    "max": lambda steps: steps.max(axis=1),
}


def integers(description, x):
    """The integers the input format makes of the data: int64 [N, T, ...], [N, 1, ...] if every step is the same.

    Raises:
        ValueError: the data does not fit the network.
    """
    form = description["input"]
    x = np.asarray(x)
    low = -(1 << form["bits"] - 1) if form["signed"] else 0
    high = low + (1 << form["bits"]) - 1
    if x.dtype.kind not in "biuf" or not np.isfinite(x).all():
        raise ValueError(f"the data must be finite numbers, not {x.dtype} with NaN or infinite values")
    if description["coding"] == "direct":
        x = x[:, None]
    elif x.ndim < 2 or x.shape[1] != description["time_steps"]:
        steps = description["time_steps"]
        raise ValueError(f"the data has shape {x.shape}; this network takes [N, {steps}, ...]")
    shape = tuple(description["host"]["input_shape"])
    if x.shape[2:] != shape:
        raise ValueError(f"one step of the data has shape {x.shape[2:]}; this network takes {shape}")
    if form["scale"] == 1.0 and form["overflow"] == "error":
        if ((x != np.rint(x)) | (x < low) | (x > high)).any():
            raise ValueError(f"this network takes whole numbers from {low} to {high}")
        return x.astype(np.int64)
    return np.clip(np.rint(x.astype(np.float64) / form["scale"]), low, high).astype(np.int64)


def streams(description, arrays, x, number_of_steps):
    """What enters the chip: per stream int32 (W, H, C, steps), zero where no sample is.

    Args:
        description: network.json.
        arrays: weights.npz.
        x: what :func:`integers` gave.
        number_of_steps: machine steps of the run.
    """
    values = _evaluate(description, arrays, {(description["host"]["input"], "out"): x})
    time_steps, interval = description["time_steps"], description["interval"]
    data = {}
    for name, stream in description["streams"].items():
        value = values[stream["source"], "out"]
        value = np.broadcast_to(value, (len(value), time_steps, *value.shape[2:]))
        shape = lava_shape(value.shape[2:])
        rows = np.zeros((number_of_steps, *shape), dtype=np.int32)
        for k, sample in enumerate(value):
            # A step delayed beyond the end of its sample is lost, as in the sample's own clock.
            for t in range(time_steps - stream["delay"]):
                step = k * interval + t + stream["delay"] + stream["late"]
                rows[step] = sample[t].transpose().reshape(shape)
        data[name] = np.moveaxis(rows, 0, -1)
    return data


def samples(description, name, rows, count):
    """A recording of a population, [steps, W, H, C], in the sample's clock: [N, T, C, H, W]."""
    population = description["populations"][name]
    starts = np.arange(count)[:, None] * description["interval"] + population["depth"]
    picked = rows[starts + np.arange(description["time_steps"])]
    shape = population["shape"]
    picked = picked.reshape(*picked.shape[:2], *shape[::-1])
    return picked.transpose(0, 1, *range(picked.ndim - 1, 1, -1))


def read_out(description, arrays, x, recorded):
    """The outputs: (integers, in the units of the trained network).

    Args:
        description: network.json.
        arrays: weights.npz.
        x: what :func:`integers` gave.
        recorded: (population, quantity) → [N, T, ...], at least what :func:`needed` names.
    """
    known = {(description["host"]["input"], "out"): x}
    for name, quantity in needed(description):
        port = "out" if quantity == _output_of(description, name) else quantity
        known[name, port] = known[name, quantity] = recorded[name, quantity].astype(np.int64)
    values = _evaluate(description, arrays, known)
    edge = description["host"]["output"]
    value = _at(values, edge)
    value = np.broadcast_to(value, (len(value), description["time_steps"], *value.shape[2:]))
    result = _READOUTS[description["host"]["readout"]](value)
    return result, result * arrays["output_scale"]


def needed(description):
    """The (population, quantity) pairs that the outputs are computed from."""
    host = description["host"]
    edges = [edge for layer in host["layers"] for edge in layer["inputs"]] + [host["output"]]
    pairs = {
        (e["source"], _output_of(description, e["source"]) if e["port"] == "out" else e["port"])
        for e in edges
        if e["source"] in description["populations"]
    }
    return sorted(pairs)


def lava_shape(shape):
    """Lava's order of axes, (W, H, C), for PyTorch's (C, H, W); (C, L) becomes (L, 1, C)."""
    return (shape[1], 1, shape[0]) if len(shape) == 2 else tuple(shape[::-1])


def _output_of(description, name):
    return "v" if description["populations"][name]["integrates_only"] else "spikes"


def _evaluate(description, arrays, known):
    """All host layers whose inputs are known, over all samples and steps at once."""
    values, ops = dict(known), NumpyOps()
    for entry in description["host"]["layers"]:
        if any((edge["source"], edge["port"]) not in values for edge in entry["inputs"]):
            continue
        inputs = [_at(values, edge, description["time_steps"]) for edge in entry["inputs"]]
        length = max(x.shape[1] for x in inputs)
        inputs = [np.broadcast_to(x, (len(x), length, *x.shape[2:])) for x in inputs]
        layer = decode(entry["layer"], arrays)
        if steps := getattr(layer, "steps", 0):
            values[entry["name"], "out"] = _later(inputs[0], steps, description["time_steps"])
            continue
        flat = apply(layer, [x.reshape(-1, *x.shape[2:]) for x in inputs], ops)
        values[entry["name"], "out"] = flat.reshape(-1, length, *flat.shape[1:])
    return values


def _at(values, edge, time_steps=None):
    value = values[edge["source"], edge["port"]]
    return _later(value, edge["delay"], time_steps or value.shape[1]) if edge["delay"] else value


def _later(value, steps, time_steps):
    value = np.broadcast_to(value, (len(value), time_steps, *value.shape[2:]))
    shifted = np.zeros_like(value)
    shifted[:, steps:] = value[:, : max(time_steps - steps, 0)]
    return shifted
