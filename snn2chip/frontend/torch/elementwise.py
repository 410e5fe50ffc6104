"""Sums, differences, products and quotients: of two signals, with constants, and of values of different steps."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from snn2chip.errors import S2CError
from snn2chip.frontend.torch.builder import as_array
from snn2chip.frontend.torch.context import (
    Coefficients,
    Context,
    Rule,
    Value,
    affine,
    arguments,
    parameter,
    per_step,
    place,
)
from snn2chip.frontend.torch.elements import STATIC, Rows, Signal, TimesDifferError
from snn2chip.frontend.torch.opnames import translated
from snn2chip.frontend.torch.per_step import PER_STEP, NormsDifferError
from snn2chip.frontend.torch.recording import Call
from snn2chip.ir import layers as L
from snn2chip.ir.layers import Array


def _add(context: Context, call: Call) -> list[Value]:
    """``a·x + b·y`` with signs a, b; either may be a constant."""
    a = arguments(call, "input", "other", alpha=1)
    if a["alpha"] != 1:
        raise S2CError("an addition with alpha", where=place(call), fix="multiply first")
    signs = {"sub": (1, -1), "rsub": (-1, 1)}.get(translated(call), (1, 1))
    data: list[Tensor] = []
    fixed: Tensor | None = None
    for argument, sign in zip((a["input"], a["other"]), signs, strict=True):
        if context.traced(argument):
            ids = context.value(argument, call)
            data.append(ids if sign > 0 else scaled(context, call, ids, torch.tensor(-1.0)))
        else:
            value = parameter(context, call, argument, "a constant")
            assert value is not None
            fixed = sign * value
    if len(data) == 2:
        return [_sum(context, call, *data)]
    assert fixed is not None
    return [_shifted(context, call, _spread(call, data[0]), fixed)]


def _spread(call: Call, data: Tensor) -> Tensor:
    """Ids as they broadcast in an operation; a late input may start from zeros of fewer axes than it has later."""
    return data.expand(np.broadcast_shapes(tuple(data.shape), tuple(call.values[0].shape)))


def _sum(context: Context, call: Call, left: Tensor, right: Tensor) -> Tensor:
    try:
        found = context.rows(call, [left, right], 0)
    except TimesDifferError:
        return _accumulated(context, call, left, right)
    a, b = (context.signal(pattern, call, i) for i, pattern in enumerate(found.patterns))
    if a.over_time is not None or b.over_time is not None:
        return _accumulated(context, call, left, right)
    return context.out(context.builder.add(L.Add(), [a, b], "", call.source, "add"), found)


def _accumulated(context: Context, call: Call, left: Tensor, right: Tensor) -> Tensor:
    """Add values of different steps: an accumulator over time."""
    parts: dict[Signal, list[float]] = {}
    layout: Rows | None = None
    for ids in (left, right):
        found = context.rows(call, [ids], 0)
        layout = layout or found
        signal = context.signal(found.patterns[0], call)
        weights = _weights(context, call, signal, found)
        for part, coefficients in weights.items():
            before = parts.setdefault(part, [0.0] * context.elements.steps)
            parts[part] = [x + y for x, y in zip(before, coefficients, strict=True)]
    assert layout is not None
    if len({s.shape for s in parts}) != 1:
        shapes = ", ".join(sorted({str(s.shape) for s in parts}))
        raise S2CError(
            "tensors of different shapes are accumulated over time",
            where=place(call),
            why=f"without the batch they are {shapes}",
            fix="bring them into one shape before they are added",
        )
    return context.out(context.builder.over_time({s: tuple(c) for s, c in parts.items()}), layout)


def _weights(context: Context, call: Call, signal: Signal, found: Rows) -> dict[Signal, Coefficients]:
    if isinstance(signal.over_time, dict):
        return signal.over_time
    step = int(found.t[0])
    if signal.over_time is not None or step == STATIC or bool((found.t != step).any()):
        raise S2CError(
            "values of different steps are combined in a way that is neither a neuron nor a read-out",
            where=place(call),
            why="only sums, means, maxima and the last step can be read out over time",
            fix="if this is part of a neuron, put it into a module of its own",
        )
    return {signal: tuple(float(t == step) for t in range(context.elements.steps))}


def _shifted(context: Context, call: Call, data: Tensor, value: Tensor) -> Tensor:
    """Data plus a constant: a batch norm that only shifts, or a convolution where every place has a constant."""
    if not bool((value != 0).any()):
        return data
    found = context.rows(call, [data], 0)
    if (rows := _differing(context, call, value, data, found)) is not None:
        return _by_row(context, call, found, rows, lambda constant: _shift(call, constant, found, 1.0))
    constant = _per_sample(value, data, found)
    shape = found.patterns[0].shape
    per_place = len(shape) in (2, 3) and any(n > 1 for n in constant.shape[-len(shape) + 1 :])
    made = _at_every_place if per_place else functools.partial(_shift, call)
    key = (constant.shape, constant.tobytes())
    return affine(context, call, found, key, lambda share: made(constant, found, share), True)


def _at_every_place(constant: Array, found: Rows, share: float) -> L.Conv:
    """The convolution that adds a constant of one sample, which differs within a channel."""
    return L.added(np.broadcast_to(constant, found.patterns[0].shape) * constant.dtype.type(share))


def _shift(call: Call, constant: Array, found: Rows, share: float) -> L.BatchNorm:
    """The batch norm that adds a constant of one sample."""
    shape = found.patterns[0].shape
    channels = shape[0] if shape else 1
    per_channel = np.broadcast_to(constant, shape).reshape(channels, -1)
    if not shape or (per_channel != per_channel[:, :1]).any():
        raise S2CError(
            "a constant that differs within a channel is added",
            where=place(call),
            why=f"a sample is of shape {shape}",
            fix="use the bias of a layer",
        )
    offset = np.ascontiguousarray(per_channel[:, 0])
    one, zero = np.ones_like(offset), np.zeros_like(offset)
    return L.BatchNorm(one, offset * offset.dtype.type(share), zero, one, 0.0)


def scaled(context: Context, call: Call, data: Tensor, value: Tensor) -> Tensor:
    """Data times a constant."""
    if value.ndim == 0 and bool(value == 1):
        return data
    found = context.rows(call, [data], 0)
    if (rows := _differing(context, call, value, data, found)) is not None:
        return _by_row(context, call, found, rows, L.Scale)
    constant = _per_sample(value, data, found)
    signal = context.signal(found.patterns[0], call)
    if isinstance(signal.over_time, dict) and constant.ndim == 0:
        parts = {s: tuple(float(constant) * c for c in cs) for s, cs in signal.over_time.items()}
        mean = 1 / context.elements.steps
        # A sum divided by T is a mean; any other factor is a layer.
        if all(math.isclose(c, mean, rel_tol=1e-6) for cs in parts.values() for c in cs):
            return context.out(context.builder.over_time(parts), found)
    key = (constant.shape, constant.tobytes())
    return affine(context, call, found, key, lambda share: L.Scale(constant), False)


def _differing(context: Context, call: Call, value: Tensor, data: Tensor, found: Rows) -> Tensor | None:
    """The constant of every row [rows, ...], where they are not all the same one.

    Raises:
        S2CError: they differ, and that was not asked for.
    """
    if value.numel() == 1:
        return None
    spread = found.arrange(value.broadcast_to(data.shape).contiguous())
    if not bool((spread != spread[:1]).any()):
        return None
    if not context.per_step:
        raise NormsDifferError(
            "a constant differs from step to step or from sample to sample",
            where=place(call),
            why="weights or scales per time step (TEBN and the like) are not one network repeated T times",
            fix=f"train with parameters shared by all steps; {PER_STEP}",
        )
    return spread


def _by_row(context: Context, call: Call, found: Rows, rows: Tensor, layer: Callable[[Array], L.Layer]) -> Tensor:
    """A layer of its own for the rows of each constant; the neuron behind them puts the steps together again."""
    signal = context.signal(found.patterns[0], call)
    per_step(call, [signal])
    constants, which = torch.unique(rows.flatten(1), dim=0, return_inverse=True)
    ids = torch.empty((len(rows), *signal.shape), dtype=torch.int64)
    for i in dict.fromkeys(which.tolist()):
        constant = _smallest(as_array(constants[i].reshape(rows.shape[1:])))
        key = (constant.shape, constant.tobytes())
        made = context.builder.add(layer(constant), [signal], key, call.source, call.name)
        own = context.elements.ids(made, found.t, found.n)
        ids = torch.where((which == i).reshape(-1, *[1] * len(signal.shape)), own, ids)
    return found.put_back(ids.reshape(len(rows), *found.lead, *signal.shape[len(found.lead) :]))


def _per_sample(value: Tensor, data: Tensor, found: Rows) -> Array:
    """A constant as it meets one sample at one step, of the smallest shape that broadcasts."""
    if value.numel() == 1:
        return as_array(value.reshape(()))
    return _smallest(as_array(found.arrange(value.broadcast_to(data.shape).contiguous())[0]))


def _smallest(constant: Array) -> Array:
    for axis in range(constant.ndim):
        first = constant.take([0], axis)
        if (constant == first).all():
            constant = first
    return constant.reshape(()) if constant.size == 1 else constant


def _mul(context: Context, call: Call) -> list[Value]:
    a = arguments(call, "input", "other")
    left, right = a["input"], a["other"]
    if context.traced(left) and context.traced(right):
        found = context.rows(call, [context.value(ref, call) for ref in (left, right)], 0)
        signals = [context.signal(pattern, call, i) for i, pattern in enumerate(found.patterns)]
        per_step(call, signals)
        return [context.out(context.builder.add(L.Mul(), signals, "", call.source, "mul"), found)]
    data, constant = (left, right) if context.traced(left) else (right, left)
    value = parameter(context, call, constant, "a constant")
    assert value is not None
    return [scaled(context, call, _spread(call, context.value(data, call)), value)]


def _div(context: Context, call: Call) -> list[Value]:
    a = arguments(call, "input", "other", rounding_mode=None)
    value = None if context.traced(a["other"]) else parameter(context, call, a["other"], "a constant")
    if value is None or a["rounding_mode"] is not None:
        raise S2CError(
            "a division by a computed value, or one that rounds",
            where=place(call),
            why="a chip's synapses multiply by stored numbers",
            fix="divide by a constant, without rounding; at the end of the network, divide outside the model",
        )
    inverse = 1 / value.double() if value.ndim == 0 else 1 / value
    return [scaled(context, call, _spread(call, context.value(a["input"], call)), inverse)]


def _neg(context: Context, call: Call) -> list[Value]:
    return [scaled(context, call, context.value(call.args[0], call), torch.tensor(-1.0))]


# Layers whose output has no negative value where none of their inputs has.
_KEEP_SIGN = (L.Pool, L.Flatten, L.Reshape, L.Permute, L.Gather, L.Add, L.Mul, L.MatMul, L.Concat, L.Delay)


def _rectified(context: Context, call: Call) -> list[Value]:
    """A rectifier of spikes, and of what pools and sums make of spikes, changes nothing."""
    ids = context.value(arguments(call, "input")["input"], call)
    signal = context.signal(context.rows(call, [ids], 0).patterns[0], call)
    if not _never_negative(context, signal):
        raise S2CError(
            f"the operation {call.name!r} has no counterpart in a spiking network graph",
            where=place(call),
            why="it changes negative values, which its input can have",
            fix="use a spiking neuron in its place",
        )
    return [ids]


def _never_negative(context: Context, signal: Signal) -> bool:
    if isinstance(signal.over_time, Signal):
        return _never_negative(context, signal.over_time)
    if signal.over_time is not None:
        parts = signal.over_time.items()
        return all(_never_negative(context, part) and min(weights) >= 0 for part, weights in parts)
    pending = [(signal.name, signal.port)]
    while pending:
        name, port = pending.pop()
        node = context.builder.nodes[name]
        if isinstance(node.layer, L.Neuron):
            model: Any = node.layer.model
            if port != "out" or model.integrates_only or model.spike_value < 0 or model.spikes[0] < 0:
                return False
        elif isinstance(node.layer, _KEEP_SIGN) or (isinstance(node.layer, L.Scale) and (node.layer.scale >= 0).all()):
            pending += [(edge.source, edge.port) for edge in node.inputs]
        else:
            return False
    return True


RULES: dict[str, Rule] = {
    "add": _add,
    "sub": _add,
    "rsub": _add,
    "mul": _mul,
    "div": _div,
    "neg": _neg,
    "relu": _rectified,
    "leaky_relu": _rectified,
    "abs": _rectified,
}
