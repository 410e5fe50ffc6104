"""What every torch operation becomes: one rule each, from the recorded call to layers of the graph.

A rule gets the call and a :class:`Context`, and returns one value per tensor the call returned: element ids, or None
for a tensor nothing may use (the indices of a max). Operations without a rule are refused where the deployed output
depends on them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.utils._pytree as pytree
from torch import Tensor

from snn2chip.errors import S2CError
from snn2chip.frontend.torch import elementwise, reductions
from snn2chip.frontend.torch.builder import as_array
from snn2chip.frontend.torch.context import (
    Context,
    Rule,
    Value,
    affine,
    arguments,
    parameter,
    per_step,
    place,
    weighted,
)
from snn2chip.frontend.torch.einsum import einsum
from snn2chip.frontend.torch.elements import CONSTANT
from snn2chip.frontend.torch.opnames import CASTS, COMPARISONS, DROPOUTS, MOVES, translated
from snn2chip.frontend.torch.recorder import Call, Ref
from snn2chip.ir import layers as L

_BEFORE = "apply it outside the model: output= selects what comes before, also by module: output='path.of.module'"
_ADVICE = {
    "softmax": _BEFORE,
    "log_softmax": _BEFORE,
    "argmax": _BEFORE,
    "topk": _BEFORE,
    "group_norm": "normalization by the statistics of the sample cannot be folded; train with batch norm",
    "layer_norm": "normalization by the statistics of the sample cannot be folded; train with batch norm",
    "instance_norm": "normalization by the statistics of the sample cannot be folded; train with batch norm",
    "pad": "use the padding of the convolution or pooling layer",
    "sigmoid": "a sigmoid on the path of spikes has no counterpart on the chip",
    "tanh": "a tanh on the path of spikes has no counterpart on the chip",
}


def translate(context: Context, call: Call) -> list[Value]:
    """Values of a recorded operation.

    Raises:
        S2CError: no layer does this; the message says which operation, where, and what to do.
    """
    name = translated(call)
    rule = _RULES.get(name)
    if rule is None and name in MOVES:
        rule = _move
    elif rule is None and (name in CASTS or name in DROPOUTS):
        rule = _identity
    if rule is not None:
        try:
            return rule(context, call)
        except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
            raise S2CError(
                f"the operation {call.name!r} is called in a way that is not known",
                where=place(call),
                why=f"{type(error).__name__}: {error}",
                fix="write it in its usual form, with a batch axis",
            ) from error
    if name in COMPARISONS:
        raise S2CError(
            "a value is compared with a threshold outside a neuron that is known",
            where=place(call),
            why="this looks like a spiking neuron written as plain code that could not be identified",
            fix="put the neuron's update into a module of its own (state in self.v or passed in and out), or "
            "snn2chip.frontend.torch.register_neuron(YourNeuron, to_lif)",
        )
    raise S2CError(
        f"the operation {call.name!r} has no counterpart in a spiking network graph",
        where=place(call),
        why="the deployed output depends on it",
        fix=_ADVICE.get(
            name,
            "leave it out of the deployed path (output= selects what is deployed), or write it with supported layers",
        ),
    )


def _identity(context: Context, call: Call) -> list[Value]:
    source = call.args[0] if call.args else call.kwargs["input"]
    before, after = source.call.values[source.out].dtype, call.values[0].dtype
    if call.name in DROPOUTS and arguments(call, "input", "p", "training", training=True)["training"]:
        raise S2CError(
            "dropout is active although the model is in eval mode",
            where=place(call),
            fix="use nn.Dropout, or F.dropout(x, p, training=self.training)",
        )
    if before != after and after not in (torch.float32, torch.float64):
        raise S2CError(
            f"the model rounds values to {after}",
            where=place(call),
            why="a graph computes in float32",
            fix="trace the model in float32, without integer casts",
        )
    return [context.value(source, call)]


def _move(context: Context, call: Call) -> list[Value]:
    """Do to the ids what was done to the data."""
    # Which arguments hold data; a constant among them (zeros to write into) has no ids.
    written = {"__setitem__": 2, "copy_": 1}.get(call.name, 0)

    def ids(leaf: Any) -> Any:
        if not isinstance(leaf, Ref):
            return leaf
        value = context.value(leaf, call)
        return value if leaf.call.depends_on_data else torch.full(value.shape, CONSTANT)

    def plain(leaf: Any) -> Any:
        if context.traced(leaf) and not call.name.endswith("_as"):
            raise S2CError(
                "elements are selected by computed indices",
                where=place(call),
                why="which elements they are depends on the data",
                fix="select with fixed indices, or multiply with a mask",
            )
        return context.value(leaf, call) if isinstance(leaf, Ref) else leaf

    args = [
        pytree.tree_map(ids if i in (0, written) else plain, argument, is_leaf=lambda a: isinstance(a, Ref))
        for i, argument in enumerate(call.args)
    ]
    kwargs = {
        key: pytree.tree_map(ids if key in ("input", "tensors") else plain, value, is_leaf=lambda a: isinstance(a, Ref))
        for key, value in call.kwargs.items()
    }
    if written:
        args[0] = args[0].clone()
        if not isinstance(args[written], Tensor):
            args[written] = CONSTANT
    assert call.func is not None
    out = call.func(*args, **kwargs)
    if call.name == "__setitem__":
        return [args[0]]
    return [leaf for leaf in pytree.tree_leaves(out) if isinstance(leaf, Tensor)]


def _linear(context: Context, call: Call) -> list[Value]:
    a = arguments(call, "input", "weight", "bias", bias=None)
    weight = parameter(context, call, a["weight"], "a weight")
    bias = parameter(context, call, a["bias"], "a bias")
    assert weight is not None
    return [weighted(context, call, context.value(a["input"], call), weight, bias, 1, L.Linear, ())]


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
        return [weighted(context, call, ids, weight, bias, axes + 1, make, tuple(options.values()))]

    return rule


def _conv_over_image(context: Context, call: Call) -> list[Value]:
    """A 3-d convolution of [N, C, H, W, T] that takes every step by itself: how lava-dl computes its synapses."""
    a = arguments(
        call, "input", "weight", "bias", "stride", "padding", "dilation", "groups",
        bias=None, stride=1, padding=0, dilation=1, groups=1,
    )  # fmt: skip
    weight, bias = (parameter(context, call, a[name], f"a {name}") for name in ("weight", "bias"))
    stride, padding, dilation = (_tuple(a[name], 3) for name in ("stride", "padding", "dilation"))
    ids = context.value(a["input"], call)
    if weight is None or ids.ndim != 5 or (weight.shape[4], stride[2], padding[2]) != (1, 1, 0):
        raise S2CError("a 3-d convolution that mixes what lies along its last axis", where=place(call))
    steps_first, image = ids.movedim(4, 0).contiguous(), weight[..., 0].contiguous()
    if ids.shape[2:4] == image.shape[2:] == (1, 1) and a["groups"] == 1 and not any(padding):
        vectors, matrix = steps_first[..., 0, 0].contiguous(), image[:, :, 0, 0].contiguous()
        out = weighted(context, call, vectors, matrix, bias, 1, L.Linear, ())[..., None, None]
    else:
        options = (stride[:2], padding[:2], dilation[:2], int(a["groups"]))
        conv = lambda w, b: L.Conv2d(w, b, *options)  # noqa: E731
        out = weighted(context, call, steps_first, image, bias, 3, conv, options)
    return [out.movedim(0, 4)]


def _batch_norm(context: Context, call: Call) -> list[Value]:
    a = arguments(
        call, "input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps",
        weight=None, bias=None, training=False, eps=1e-5,
    )  # fmt: skip
    mean = parameter(context, call, a["running_mean"], "a mean")
    var = parameter(context, call, a["running_var"], "a variance")
    if a["training"] or mean is None or var is None:
        raise S2CError(
            "batch norm uses the statistics of the batch although the model is in eval mode",
            where=place(call),
            why="track_running_stats=False, or training=True was passed",
            fix="train with track_running_stats=True",
        )
    weight = parameter(context, call, a["weight"], "a weight")
    bias = parameter(context, call, a["bias"], "a bias")
    digest = context.builder.digest
    gain = np.ones(len(mean), np.float32) if weight is None else as_array(weight)
    shift = np.zeros(len(mean), np.float32) if bias is None else as_array(bias)
    ids = context.value(a["input"], call)
    found = context.rows(call, [ids], ids.ndim - 1)
    key = (digest(mean), digest(var), digest(weight), digest(bias), a["eps"])

    def layer(share: float) -> L.Layer:
        # Behind a sum over time, γ(x−μ)/σ + β needs both its constants shared among the steps.
        scale = np.float32(share)
        return L.BatchNorm(gain, shift * scale, as_array(mean) * scale, as_array(var), float(a["eps"]))

    return [affine(context, call, found, key, layer, True)]


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
                raise S2CError("max pooling with dilation", where=place(call))
        kernel = _tuple(a["kernel_size"], axes)
        stride = _tuple(a["stride"], axes) if a["stride"] not in (None, ()) else kernel
        extra = (bool(a["count_include_pad"]),) if kind is L.AvgPool else ()
        options = (kernel, stride, _tuple(a["padding"], axes), bool(a["ceil_mode"]), *extra)
        return _pooled(context, call, a["input"], axes, kind(*options), options)

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
    return _pooled(context, call, a["input"], 2, L.SumPool(*options), options)


def _pooled(context: Context, call: Call, source: Ref, axes: int, layer: L.Layer, options: Any) -> list[Value]:
    found = context.rows(call, [context.value(source, call)], axes + 1)
    signal = context.signal(found.patterns[0], call)
    if isinstance(layer, L.MaxPool) and signal.over_time is not None:
        raise S2CError("max pooling follows a sum over time", where=place(call), fix="pool before summing")
    out = affine(context, call, found, options, lambda share: layer, False)
    return [out, *[None] * (len(call.values) - 1)]


def _adaptive(kind: type[L.Pool], axes: int) -> Rule:
    def rule(context: Context, call: Call) -> list[Value]:
        a = arguments(call, "input", "output_size")
        size = tuple(context.value(a["input"], call).shape[-axes:])
        wanted = a["output_size"]
        given = list(wanted) if isinstance(wanted, (tuple, list)) else [wanted] * axes
        target = [s if w is None else int(w) for w, s in zip(given, size, strict=True)]
        if any(s % w for s, w in zip(size, target, strict=True)):
            raise S2CError(
                f"adaptive pooling from {size} to {tuple(target)}",
                where=place(call),
                why="its windows are of different sizes",
                fix="choose an output size that divides the input, or a pooling layer with a fixed kernel",
            )
        kernel = tuple(s // w for s, w in zip(size, target, strict=True))
        options = (kernel, kernel, (0,) * axes)
        return _pooled(context, call, a["input"], axes, kind(*options), options)

    return rule


def _tuple(value: Any, axes: int) -> tuple[int, ...]:
    values = tuple(int(v) for v in value) if isinstance(value, (tuple, list, torch.Size)) else (int(value),)
    return values * axes if len(values) == 1 else values


def _matmul(context: Context, call: Call) -> list[Value]:
    a = arguments(call, "input", "mat2")
    left, right = a["input"], a["mat2"] if "mat2" in a else a["other"]
    if context.traced(left) and not context.traced(right):
        weight = context.value(right, call)
        if weight.ndim != 2:
            raise S2CError("a product with a constant that is no matrix", where=place(call))
        return [weighted(context, call, context.value(left, call), weight.mT.contiguous(), None, 1, L.Linear, ())]
    if not (context.traced(left) and context.traced(right)):
        raise S2CError("a constant matrix multiplies from the left", where=place(call), fix="use a Linear layer")
    one, two = (context.rows(call, [context.value(ref, call)], 2) for ref in (left, right))
    signals = [context.signal(found.patterns[0], call, i) for i, found in enumerate((one, two))]
    per_step(call, signals)
    if not (torch.equal(one.t, two.t) and torch.equal(one.n, two.n)):
        raise S2CError("a product of tensors laid out differently over time and batch", where=place(call))
    made = context.builder.add(L.MatMul(), signals, "", call.source, "matmul")
    return [context.out(made, one)]


def _addmm(context: Context, call: Call) -> list[Value]:
    a = arguments(call, "input", "mat1", "mat2", beta=1, alpha=1)
    bias, weight = (parameter(context, call, a[name], "a weight") for name in ("input", "mat2"))
    if a["beta"] != 1 or a["alpha"] != 1 or weight is None or bias is None or bias.ndim != 1:
        raise S2CError("addmm other than x W + b", where=place(call), fix="use a Linear layer")
    return [weighted(context, call, context.value(a["mat1"], call), weight.mT.contiguous(), bias, 1, L.Linear, ())]


_RULES: dict[str, Rule] = {
    "linear": _linear,
    "conv1d": _conv(1),
    "conv2d": _conv(2),
    "conv3d": _conv_over_image,
    "batch_norm": _batch_norm,
    "avg_pool1d": _pool(L.AvgPool, 1),
    "avg_pool2d": _pool(L.AvgPool, 2),
    "lp_pool2d": _power_pool,
    "max_pool1d": _pool(L.MaxPool, 1),
    "max_pool2d": _pool(L.MaxPool, 2),
    "adaptive_avg_pool1d": _adaptive(L.AvgPool, 1),
    "adaptive_avg_pool2d": _adaptive(L.AvgPool, 2),
    "adaptive_max_pool1d": _adaptive(L.MaxPool, 1),
    "adaptive_max_pool2d": _adaptive(L.MaxPool, 2),
    "matmul": _matmul,
    "addmm": _addmm,
    "einsum": einsum,
    **elementwise.RULES,
    **reductions.RULES,
}
