"""Convolutions and poolings over one or two axes of a sample, and over three of which one is left as it is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from snn2chip.errors import S2CError
from snn2chip.frontend.torch.context import Context, Rule, Value, affine, arguments, parameter, place, weighted
from snn2chip.frontend.torch.elements import Rows
from snn2chip.frontend.torch.recording import Call, Ref
from snn2chip.ir import layers as L

# Kernel, stride and padding, one number per axis.
Windows = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


def _conv(axes: int) -> Rule:
    layer_class = {1: L.Conv1d, 2: L.Conv2d}[axes]

    def rule(context: Context, call: Call) -> list[Value]:
        a = arguments(
            call, "input", "weight", "bias", "stride", "padding", "dilation", "groups",
            bias=None, stride=1, padding=0, dilation=1, groups=1,
        )  # fmt: skip
        weight = parameter(context, call, a["weight"], "a weight")
        bias = parameter(context, call, a["bias"], "a bias")
        assert weight is not None
        stride, dilation = _tuple(a["stride"], axes), _tuple(a["dilation"], axes)
        padding = a["padding"]
        if isinstance(padding, str):
            spans = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
            if padding == "same" and any(s % 2 for s in spans):
                raise S2CError(
                    "padding='same' with an even kernel pads one side more", where=place(call), fix="use an odd kernel"
                )
            padding = [s // 2 if padding == "same" else 0 for s in spans]
        options: dict[str, Any] = {
            "stride": stride,
            "padding": _tuple(padding, axes),
            "dilation": dilation,
            "groups": int(a["groups"]),
        }
        make = lambda w, b: layer_class(w, b, **options)  # noqa: E731
        ids = context.value(a["input"], call)
        time = next((i for i in range(axes) if _is_time(context, ids, ids.ndim - axes + i)), None)
        if time is not None:
            return [_conv_at_every_step(context, call, ids, weight, bias, options, time)]
        return [weighted(context, call, ids, weight, bias, axes + 1, make, tuple(options.values()))]

    return rule


def _is_time(context: Context, ids: Tensor, axis: int) -> bool:
    """Whether an axis holds the same places at other steps; one line of it tells most axes that do not."""
    _, steps, _, _ = context.elements.read(ids.movedim(axis, -1)[(0,) * (ids.ndim - 1)].clamp(min=0))
    return bool((steps != steps[0]).any()) and context.repeats(ids, axis)


def _conv_at_every_step(
    context: Context,
    call: Call,
    ids: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    options: Mapping[str, Any],
    time: int,
) -> Tensor:
    """A convolution one of whose axes is time, with a kernel of one element there: [N, C, T] as a Linear per step."""
    axes = weight.ndim - 2
    if weight.shape[2 + time] > 1 or options["stride"][time] > 1 or options["padding"][time]:
        raise S2CError(
            f"{call.name!r} runs over time",
            where=place(call),
            why=f"axis {ids.ndim - axes + time} of its input {tuple(ids.shape)} is time, and its kernel has "
            f"{weight.shape[2 + time]} elements there; a graph computes one step at a time",
            fix="use a kernel of one element along time, and let neurons remember; if that axis is none of time, name "
            "the one that is: trace(..., input_time_axis=0, 1 or None)",
        )
    steps_first, matrix = ids.movedim(ids.ndim - axes + time, 0).contiguous(), weight.select(2 + time, 0).contiguous()
    left = {name: _without(time, value) for name, value in options.items() if name != "groups"}
    if axes == 1:
        dense = _ungrouped(matrix, options["groups"])
        out = weighted(context, call, steps_first, dense, bias, 1, L.Linear, ())
    else:
        make = lambda w, b: L.Conv1d(w, b, **left, groups=options["groups"])  # noqa: E731
        out = weighted(context, call, steps_first, matrix, bias, axes, make, (*left.values(), options["groups"]))
    return out.movedim(0, out.ndim - axes + time)


def _ungrouped(matrix: Tensor, groups: int) -> Tensor:
    """The weights of a grouped 1×1 convolution as one matrix, zeros between the groups."""
    if groups == 1:
        return matrix
    rows = matrix.chunk(groups)
    width = matrix.shape[1]
    return torch.cat([F.pad(part, (i * width, (groups - 1 - i) * width)) for i, part in enumerate(rows)])


def _conv_transpose(axes: int) -> Rule:
    """Zeros between the elements, then a convolution with the kernel turned round (Dumoulin & Visin 2016, §4.6)."""
    layer_class = {1: L.Conv1d, 2: L.Conv2d}[axes]

    def rule(context: Context, call: Call) -> list[Value]:
        a = arguments(
            call, "input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation",
            bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1,
        )  # fmt: skip
        weight, bias = (parameter(context, call, a[name], f"a {name}") for name in ("weight", "bias"))
        assert weight is not None
        names = ("stride", "padding", "output_padding", "dilation")
        stride, padding, more, dilation = (_tuple(a[name], axes) for name in names)
        groups, spatial = int(a["groups"]), tuple(range(-axes, 0))
        ids = context.value(a["input"], call)
        found = context.rows(call, [ids], axes + 1)
        around = [d * (k - 1) - p for d, k, p in zip(dilation, weight.shape[2:], padding, strict=True)]
        even = tuple(max(width, 0) for width in around)
        index = np.arange(math.prod(found.patterns[0].shape)).reshape(found.patterns[0].shape)
        spread = np.full((index.shape[0], *((n - 1) * s + 1 for n, s in zip(index.shape[1:], stride, strict=True))), -1)
        spread[(slice(None), *(slice(None, None, s) for s in stride))] = index
        uneven = [(w - e, w - e + o) for w, e, o in zip(around, even, more, strict=True)]
        spread = _padded(spread, uneven)
        if not np.array_equal(spread, index):
            ids = affine(context, call, found, (spread.shape, spread.tobytes()), lambda share: L.Gather(spread), False)
        blocks = weight.reshape(groups, -1, *weight.shape[1:]).transpose(1, 2).flatten(0, 1)
        make = lambda w, b: layer_class(w, b, padding=even, dilation=dilation, groups=groups)  # noqa: E731
        turned = blocks.flip(spatial).contiguous()
        return [weighted(context, call, ids, turned, bias, axes + 1, make, (even, dilation, groups))]

    return rule


def _conv_of_three_axes(context: Context, call: Call) -> list[Value]:
    """A 3-d convolution with a kernel of one element along one axis, such as time: one in two axes, at every step."""
    a = arguments(
        call, "input", "weight", "bias", "stride", "padding", "dilation", "groups",
        bias=None, stride=1, padding=0, dilation=1, groups=1,
    )  # fmt: skip
    weight, bias = (parameter(context, call, a[name], f"a {name}") for name in ("weight", "bias"))
    stride, padding, dilation = (_tuple(a[name], 3) for name in ("stride", "padding", "dilation"))
    ids = context.value(a["input"], call)
    assert weight is not None
    idle = _idle(context, call, ids, (tuple(weight.shape[2:]), stride, padding))
    steps_first, image = ids.movedim(2 + idle, 0).contiguous(), weight.select(2 + idle, 0).contiguous()
    if ids.shape[2:4] == image.shape[2:] == (1, 1) and a["groups"] == 1 and not any(padding):
        vectors, matrix = steps_first[..., 0, 0].contiguous(), image[:, :, 0, 0].contiguous()
        out = weighted(context, call, vectors, matrix, bias, 1, L.Linear, ())[..., None, None]
    else:
        stride, padding, dilation = (_without(idle, x) for x in (stride, padding, dilation))
        groups = int(a["groups"])
        conv = lambda w, b: L.Conv2d(w, b, stride, padding, dilation, groups)  # noqa: E731
        out = weighted(context, call, steps_first, image, bias, 3, conv, (stride, padding, dilation, groups))
    return [out.movedim(0, 2 + idle)]


def _idle(context: Context, call: Call, ids: Tensor, windows: Windows) -> int:
    """Which of the last three axes a window leaves as it is; where there are several, the one that is time."""
    found = [i for i, window in enumerate(zip(*windows, strict=True)) if window == (1, 1, 0)]
    if not found:
        raise S2CError(
            f"{call.name!r} works on all of its three axes",
            where=place(call),
            why=f"kernel {windows[0]}; a graph computes one step at a time, in two axes",
            fix="use a kernel of one element along time",
        )
    return max(found, key=lambda axis: context.repeats(ids, ids.ndim - 3 + axis))


def _without(axis: int, values: tuple[int, ...]) -> tuple[int, ...]:
    return values[:axis] + values[axis + 1 :]


def _pool(kind: type[L.Pool], axes: int) -> Rule:
    def rule(context: Context, call: Call) -> list[Value]:
        if kind is L.AvgPool:
            a = arguments(
                call, "input", "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override",
                stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None,
            )  # fmt: skip
            if a["divisor_override"] is not None:
                raise S2CError(
                    "average pooling with divisor_override", where=place(call), fix="use a Linear or Conv layer"
                )
        else:
            a = arguments(
                call, "input", "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices",
                stride=None, padding=0, dilation=1, ceil_mode=False,
            )  # fmt: skip
            if _tuple(a["dilation"], axes) != (1,) * axes:
                raise S2CError(
                    "max pooling with dilation",
                    where=place(call),
                    why="a pooling layer of a graph takes windows without gaps",
                    fix="train without dilation",
                )
        kernel = _tuple(a["kernel_size"], axes)
        stride = _tuple(a["stride"], axes) if a["stride"] not in (None, ()) else kernel
        options: dict[str, Any] = {k: bool(a[k]) for k in ("ceil_mode", "count_include_pad") if k in a}
        return _windowed(context, call, a["input"], kind, (kernel, stride, _tuple(a["padding"], axes)), options)

    return rule


def _power_pool(context: Context, call: Call) -> list[Value]:
    """``LPPool2d(norm_type=1)``, which Sinabs calls SumPool2d: the mean times the size of the window."""
    a = arguments(call, "input", "norm_type", "kernel_size", "stride", "ceil_mode", stride=None, ceil_mode=False)
    if a["norm_type"] != 1 or a["ceil_mode"]:
        raise S2CError(
            "power-average pooling other than a sum",
            where=place(call),
            fix="use norm_type=1 without ceil_mode, or average pooling",
        )
    kernel = _tuple(a["kernel_size"], 2)
    options = (kernel, kernel if a["stride"] is None else _tuple(a["stride"], 2), (0, 0))
    return _pooled(context, call, context.value(a["input"], call), L.SumPool(*options), options)


def _pooled(context: Context, call: Call, ids: Tensor, layer: L.Pool, key: Any) -> list[Value]:
    axes = len(layer.kernel)
    if ids.ndim == axes + 1:
        # What torch takes for channels is the batch.
        return [None if x is None else x.squeeze(1) for x in _pooled(context, call, ids.unsqueeze(1), layer, key)]
    # Channels are told by what varies, not by their place: a 3-d pooling may have the batch between them and the image.
    found: Rows = context.rows(call, [ids], axes)
    if len(found.lead) != 1:
        found = context.rows(call, [ids], axes + 1)
    signal = context.signal(found.patterns[0], call)
    if isinstance(layer, L.MaxPool) and signal.over_time is not None:
        raise S2CError("max pooling follows a sum over time", where=place(call), fix="pool before summing")
    out = affine(context, call, found, key, lambda share: layer, False)
    return [out, *[None] * (len(call.values) - 1)]


def _pad(context: Context, call: Call) -> list[Value]:
    """Zeros around features; a negative width cuts them off."""
    a = arguments(call, "input", "pad", "mode", "value", mode="constant", value=None)
    if a["mode"] != "constant" or a["value"] not in (None, 0):
        raise S2CError(
            "padding with something other than zeros",
            where=place(call),
            why=f"mode {a['mode']!r}, value {a['value'] or 0}",
            fix="train with zero padding",
        )
    widths = [(int(a["pad"][i]), int(a["pad"][i + 1])) for i in range(0, len(a["pad"]), 2)][::-1]
    found = context.rows(call, [context.value(a["input"], call)], len(widths))
    shape = found.patterns[0].shape
    index = _padded(np.arange(math.prod(shape)).reshape(shape), widths)
    return [affine(context, call, found, ("pad", *widths), lambda share: L.Gather(index), False)]


def _padded(index: L.Array, widths: list[tuple[int, int]]) -> L.Array:
    """Elements with zeros before and after them along the last axes; a negative width cuts elements off."""
    every = [(0, 0)] * (index.ndim - len(widths)) + widths
    padded = np.pad(index, [(max(before, 0), max(after, 0)) for before, after in every], constant_values=-1)
    return padded[tuple(slice(max(-before, 0), min(after, 0) or None) for before, after in every)]


def _adaptive(kind: type[L.Pool], axes: int) -> Rule:
    def rule(context: Context, call: Call) -> list[Value]:
        a = arguments(call, "input", "output_size")
        size = tuple(context.value(a["input"], call).shape[-axes:])
        wanted = a["output_size"]
        given = list(wanted) if isinstance(wanted, (tuple, list)) else [wanted] * axes
        target = [s if w is None else int(w) for w, s in zip(given, size, strict=True)]
        if any(s % w and w % s for s, w in zip(size, target, strict=True)):
            raise S2CError(
                f"adaptive pooling from {size} to {tuple(target)}",
                where=place(call),
                why="its windows are of different sizes",
                fix="choose an output size that divides the input, or a pooling layer with a fixed kernel",
            )
        kernel = tuple(max(s // w, 1) for s, w in zip(size, target, strict=True))
        out, *rest = _windowed(context, call, a["input"], kind, (kernel, kernel, (0,) * axes), {})
        assert out is not None
        # Every window of a larger output holds one element.
        for axis, (s, w) in enumerate(zip(size, target, strict=True), -axes):
            out = out.repeat_interleave(max(w // s, 1), axis)
        return [out, *rest]

    return rule


def _windowed(
    context: Context, call: Call, source: Ref, kind: type[L.Pool], windows: Windows, options: dict[str, Any]
) -> list[Value]:
    """A pooling with these kernels, strides and paddings; of three axes one must be left as it is."""
    ids = context.value(source, call)
    if len(windows[0]) < 3:
        return _pooled(context, call, ids, kind(*windows, **options), (windows, *options.values()))
    idle = _idle(context, call, ids, windows)
    kernel, stride, padding = (_without(idle, x) for x in windows)
    at = ids.ndim - 3
    ids = ids.movedim(at + idle, at).contiguous()
    out = _pooled(
        context, call, ids, kind(kernel, stride, padding, **options), (kernel, stride, padding, *options.values())
    )
    return [None if x is None else x.movedim(at, at + idle) for x in out]


def _tuple(value: Any, axes: int) -> tuple[int, ...]:
    values = tuple(int(v) for v in value) if isinstance(value, (tuple, list, torch.Size)) else (int(value),)
    return values * axes if len(values) == 1 else values


RULES: dict[str, Rule] = {
    "conv1d": _conv(1),
    "conv2d": _conv(2),
    "conv3d": _conv_of_three_axes,
    "conv_transpose1d": _conv_transpose(1),
    "conv_transpose2d": _conv_transpose(2),
    "lp_pool2d": _power_pool,
    "pad": _pad,
    **{f"avg_pool{axes}d": _pool(L.AvgPool, axes) for axes in (1, 2, 3)},
    **{f"max_pool{axes}d": _pool(L.MaxPool, axes) for axes in (1, 2, 3)},
    **{f"adaptive_avg_pool{axes}d": _adaptive(L.AvgPool, axes) for axes in (1, 2, 3)},
    **{f"adaptive_max_pool{axes}d": _adaptive(L.MaxPool, axes) for axes in (1, 2, 3)},
}
