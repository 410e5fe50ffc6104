"""Sums, means and maxima: over features they pool, over time they read out."""

from __future__ import annotations

import math
from dataclasses import replace

from torch import Tensor

from snn2chip.errors import S2CError
from snn2chip.frontend.torch.builder import joints
from snn2chip.frontend.torch.context import Context, Rule, Value, arguments, place
from snn2chip.frontend.torch.elements import Pattern, partly_constant, rows
from snn2chip.frontend.torch.recording import Call
from snn2chip.ir import layers as L

_POOLS: dict[str, type[L.Pool]] = {"mean": L.AvgPool, "sum": L.SumPool, "max": L.MaxPool}


def _reduce(how: str) -> Rule:
    def rule(context: Context, call: Call) -> list[Value]:
        a = arguments(call, "input", "dim", "keepdim", dim=None, keepdim=False, axis=None)
        if how == "max" and context.traced(a["dim"]):
            raise S2CError(
                "the maximum of two computed values",
                where=place(call),
                why="no layer of a graph compares two tensors with each other",
                fix="take it over an axis of one tensor, as max pooling does",
            )
        ids = context.value(a["input"], call)
        dim = a["axis"] if a["dim"] is None else a["dim"]
        axes = (
            list(range(ids.ndim)) if dim is None else [d % ids.ndim for d in ([dim] if isinstance(dim, int) else dim)]
        )
        ids = reduced(context, call, ids, axes, how)
        if not a["keepdim"]:
            for d in sorted(axes, reverse=True):
                ids = ids.squeeze(d)
        return [ids, *[None] * (len(call.values) - 1)]

    return rule


def reduced(context: Context, call: Call, ids: Tensor, axes: list[int], how: str) -> Tensor:
    """The sum, mean or maximum over some axes, which are kept with one element."""
    if bool((ids < 0).any()):
        raise partly_constant(place(call))
    _, t, n, _ = context.elements.read(ids)
    over_time = [d for d in axes if bool((t != t.narrow(d, 0, 1)).any())]
    if any(bool((n != n.narrow(d, 0, 1)).any()) for d in axes):
        raise S2CError(f"the {how} runs over the samples of the batch", where=place(call), fix="keep the batch axis")
    features = [d for d in axes if d not in over_time]
    if features:
        ids = _reduce_features(context, call, ids, features, how)
    for d in over_time:
        ids = _reduce_time(context, call, ids, d, how)
    return ids


def _reduce_features(context: Context, call: Call, ids: Tensor, axes: list[int], how: str) -> Tensor:
    """Pool over whole axes of a sample; they stay as axes of one element."""
    k, count = len(axes), math.prod(ids.shape[d] for d in axes)
    if count == 1:
        return ids
    moved = ids.movedim(axes, list(range(-k, 0))).contiguous()
    found = rows(context.elements, [moved], k, place(call))
    pattern = found.patterns[0]
    if how == "sum" and k == 1 and len(joints(pattern, len(found.lead))) == count:
        parts = [pattern.part(len(found.lead), slice(i, i + 1)) for i in range(count)]
        signals = [context.signal(Pattern(p.which.squeeze(-1), p.position.squeeze(-1)), call) for p in parts]
        if all(signal.over_time is None for signal in signals):
            total = context.builder.add(L.Add(), signals, "stacked", call.source, "add")
            return context.out(total, replace(found, patterns=[])).unsqueeze(-1).movedim(-1, axes[0])
    image = k == 2 and len(found.lead) == 1
    shape = pattern.shape if image else (math.prod(found.lead), count)
    arranged = Pattern(pattern.which.reshape(shape), pattern.position.reshape(shape))
    kernel = shape[1:]
    layer = _POOLS[how](kernel, kernel, (0,) * len(kernel))
    signal = context.signal(arranged, call)
    if signal.over_time is not None:
        raise S2CError(
            f"a {how} over features follows a combination over time", where=place(call), fix="do it at every step"
        )
    made = context.builder.add(layer, [signal], (how, kernel), call.source, how)
    out = context.elements.ids(made, found.t, found.n).reshape(len(found.t), *found.lead, *[1] * k)
    return found.put_back(out).movedim(list(range(-k, 0)), axes)


def _reduce_time(context: Context, call: Call, ids: Tensor, axis: int, how: str) -> Tensor:
    which, t, n, position = context.elements.read(ids)
    steps = t.movedim(axis, 0).reshape(ids.shape[axis], -1)
    same = all(bool((x == x.narrow(axis, 0, 1)).all()) for x in (which, n, position))
    if not same or bool((steps != steps[:, :1]).any()):
        raise S2CError(
            f"the {how} mixes time with something else",
            where=place(call),
            fix="reduce the time axis on its own, before or after the others",
        )
    found = rows(context.elements, [ids.select(axis, 0).contiguous()], 0, place(call))
    signal = context.signal(found.patterns[0], call)
    if how == "max":
        if sorted(steps[:, 0].tolist()) != list(range(context.elements.steps)):
            raise S2CError(
                "the maximum runs over some of the steps only",
                where=place(call),
                why=f"it reads {len(set(steps[:, 0].tolist()))} of {context.elements.steps} steps",
                fix="take it over all steps, or read out the sum or the mean of some",
            )
        return context.out(context.builder.over_time(signal), found).unsqueeze(axis)
    share = 1 / len(steps) if how == "mean" else 1.0
    coefficients = [0.0] * context.elements.steps
    for step in steps[:, 0].tolist():
        coefficients[step] += share
    return context.out(context.builder.over_time({signal: tuple(coefficients)}), found).unsqueeze(axis)


RULES: dict[str, Rule] = {
    "mean": _reduce("mean"),
    "sum": _reduce("sum"),
    "amax": _reduce("max"),
    "max": _reduce("max"),
}
