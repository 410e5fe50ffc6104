"""What every torch operation becomes: one rule each, from the recorded call to layers of the graph.

A rule gets the call and a :class:`Context`, and returns one value per tensor the call returned: element ids, or None
for
a tensor nothing may use (the indices of a max). Operations without a rule are refused where the deployed output
depends on them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.utils._pytree as pytree
from torch import Tensor

from snn2chip.errors import S2CError
from snn2chip.frontend.torch.builder import Builder, as_array
from snn2chip.frontend.torch.elements import (
    CONSTANT,
    STATIC,
    Elements,
    Pattern,
    Rows,
    Signal,
    TimesDifferError,
    rows,
)
from snn2chip.frontend.torch.recorder import Call, Ref, names
from snn2chip.ir import layers as L

Value = Tensor | None
Coefficients = tuple[float, ...]

_CASTS = names("float to type type_as contiguous clone detach cpu data get_data requires_grad_ double half bfloat16")
_MOVES = names(
    "view reshape flatten unflatten permute transpose unsqueeze squeeze unsqueeze_ squeeze_ expand repeat "
    "repeat_interleave __getitem__ select narrow stack cat concat concatenate vstack hstack chunk split "
    "tensor_split unbind movedim moveaxis swapaxes swapdims t get_T get_mT view_as reshape_as expand_as tile "
    "flip roll index_select __setitem__ copy_ broadcast_to ravel split_with_sizes unsafe_chunk unsafe_split "
    "dsplit adjoint"
)
_DROPOUTS = names("dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout")
_ALIASES = {
    "iadd": "add", "add_": "add", "__add__": "add", "__radd__": "add", "isub": "sub", "sub_": "sub", "subtract": "sub",
    "__sub__": "sub", "__rsub__": "rsub", "imul": "mul", "mul_": "mul", "multiply": "mul", "__mul__": "mul",
    "__rmul__": "mul", "div_": "div", "idiv": "div", "itruediv": "div", "divide": "div", "true_divide": "div",
    "__truediv__": "div", "negative": "neg", "neg_": "neg", "__neg__": "neg", "mm": "matmul", "bmm": "matmul",
    "__matmul__": "matmul", "max_pool1d_with_indices": "max_pool1d", "max_pool2d_with_indices": "max_pool2d",
}  # fmt: skip
_ADVICE = {
    "softmax": "return the values before the softmax (output= picks one of several outputs)",
    "log_softmax": "return the values before the log-softmax (output= picks one of several outputs)",
    "argmax": "return the scores and take the argmax outside the model",
    "topk": "return the scores and select outside the model",
    "relu": "a rectifier on the path of spikes has no counterpart on the chip; use a spiking neuron",
    "group_norm": "normalization by the statistics of the sample cannot be folded; train with batch norm",
    "layer_norm": "normalization by the statistics of the sample cannot be folded; train with batch norm",
    "instance_norm": "normalization by the statistics of the sample cannot be folded; train with batch norm",
    "pad": "use the padding of the convolution or pooling layer",
    "sigmoid": "a sigmoid on the path of spikes has no counterpart on the chip",
    "tanh": "a tanh on the path of spikes has no counterpart on the chip",
}
COMPARISONS = names("gt ge lt le heaviside sign __gt__ __ge__ __lt__ __le__ greater greater_equal less less_equal")


@dataclass
class Context:
    """What a rule works with."""

    builder: Builder
    elements: Elements
    values: dict[tuple[Call, int], Value]

    def value(self, ref: Ref, call: Call) -> Tensor:
        """The ids of a traced tensor, or a constant itself.

        Raises:
            S2CError: the tensor is random, or was overwritten through a view, or may not be used.
        """
        if ref.call.modified:
            raise S2CError(
                "a tensor is used after it was overwritten through another view of its memory",
                where=place(call),
                why=f"{ref.call.name} made it at {ref.call.source}",
                fix="avoid the in-place operation, or clone the tensor first",
            )
        if not ref.call.depends_on_data:
            if ref.call.name == "random":
                raise S2CError(
                    "the network draws random numbers",
                    where=str(ref.call.source) or place(call),
                    why="a recorded draw would be repeated for every sample",
                    fix="encode the input before the model (give spikes of shape [N, T, ...])",
                )
            return ref.call.values[ref.out]
        found = self.values[ref.call, ref.out]
        if found is None:
            raise S2CError(f"output {ref.out} of {ref.call.name} cannot be part of a graph", where=place(ref.call))
        return found

    def traced(self, argument: Any) -> bool:
        """Whether an argument depends on the data."""
        return isinstance(argument, Ref) and argument.call.depends_on_data

    def rows(self, call: Call, ids: list[Tensor], k: int) -> Rows:
        """Ids, broadcast together, as rows."""
        if len(ids) > 1:
            shape = np.broadcast_shapes(*(tuple(x.shape) for x in ids))
            ids = [x.broadcast_to(shape).contiguous() for x in ids]
        return rows(self.elements, ids, k, place(call))

    def signal(self, pattern: Pattern, call: Call, argument: int = 0) -> Signal:
        """The signal that holds a pattern, which is the ``argument``-th traced tensor of a call.

        Layers that bring it into shape are named after the view or permute the user wrote.
        """
        moves = list(_moves_before(call, argument))
        wanted = next((m for m in moves if m.name == "flatten" and m.module), moves[0] if moves else None)
        source, name = (call.source, "reshape") if wanted is None else (wanted.source, wanted.name.strip("_"))
        return self.builder.signal(pattern, source, name)

    def out(self, signal: Signal, found: Rows) -> Tensor:
        """Ids of a layer's output in the layout of its input."""
        ids = self.elements.ids(signal, found.t, found.n)
        tail = signal.shape[len(found.lead) :]
        return found.put_back(ids.reshape(len(found.t), *found.lead, *tail))


def _moves_before(call: Call, argument: int) -> Iterator[Call]:
    """The views and permutes between a call's argument and what computed it, nearest first."""
    refs = [ref for ref in call.refs() if ref.call.depends_on_data]
    while argument < len(refs) and refs[argument].call.kind == "op" and only_moves(refs[argument].call):
        before = refs[argument].call
        if before.name in _MOVES:
            yield before
        refs, argument = [ref for ref in before.refs() if ref.call.depends_on_data], 0


_ELEMENTWISE = (
    COMPARISONS
    | _CASTS
    | names("add sub rsub mul div neg where clamp clamp_min clamp_max masked_fill abs pow square logical_not exp")
)


def computes_across(call: Call) -> bool:
    """Whether an operation's elements depend on more than the elements at their own place."""
    return translated(call) not in _ELEMENTWISE


def translated(call: Call) -> str:
    """An operation's name without regard to how it was written."""
    return _ALIASES.get(call.name, call.name)


def only_moves(call: Call) -> bool:
    """Whether an operation computes nothing."""
    return call.name in _MOVES or call.name in _CASTS or call.name in _DROPOUTS


def place(call: Call) -> str:
    """A call for messages."""
    return f"{call.name}" + (f" in {call.source}" if str(call.source) else "")


def translate(context: Context, call: Call) -> list[Value]:
    """Values of a recorded operation.

    Raises:
        S2CError: no layer does this; the message says which operation, where, and what to do.
    """
    name = translated(call)
    if name in _RULES:
        return _RULES[name](context, call)
    if name in _MOVES:
        return _move(context, call)
    if name in _CASTS or name in _DROPOUTS:
        return _identity(context, call)
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


def arguments(call: Call, *names: str, **defaults: Any) -> dict[str, Any]:
    """A call's arguments by name."""
    found = dict(defaults)
    found.update(zip([*names], call.args, strict=False))
    found.update({k: v for k, v in call.kwargs.items() if v is not None or k not in defaults})
    return found


def _identity(context: Context, call: Call) -> list[Value]:
    source = call.args[0] if call.args else call.kwargs["input"]
    before, after = source.call.values[source.out].dtype, call.values[0].dtype
    if call.name in _DROPOUTS and arguments(call, "input", "p", "training", training=True)["training"]:
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
    data_position = {
        "__setitem__": (0, 2),
        "copy_": (0, 1),
        "stack": (0,),
        "cat": (0,),
        "concat": (0,),
        "concatenate": (0,),
    }
    positions = data_position.get(call.name, (0,))

    def ids(leaf: Any) -> Any:
        if not isinstance(leaf, Ref):
            return leaf
        value = context.value(leaf, call)
        return value if leaf.call.depends_on_data else torch.full(value.shape, CONSTANT)

    def plain(leaf: Any) -> Any:
        return context.value(leaf, call) if isinstance(leaf, Ref) else leaf

    args = [
        pytree.tree_map(ids if i in positions else plain, argument, is_leaf=lambda a: isinstance(a, Ref))
        for i, argument in enumerate(call.args)
    ]
    kwargs = {
        key: pytree.tree_map(ids if key in ("input", "tensors") else plain, value, is_leaf=lambda a: isinstance(a, Ref))
        for key, value in call.kwargs.items()
    }
    if call.name in ("__setitem__", "copy_"):
        args[0] = args[0].clone()
        value_at = positions[1]
        if not isinstance(args[value_at], Tensor):
            args[value_at] = CONSTANT
    assert call.func is not None
    out = call.func(*args, **kwargs)
    if call.name == "__setitem__":
        return [args[0]]
    return [leaf for leaf in pytree.tree_leaves(out) if isinstance(leaf, Tensor)]


def _constant(context: Context, call: Call, argument: Any, what: str) -> Tensor | None:
    """A parameter that must not depend on the data."""
    if argument is None:
        return None
    if context.traced(argument):
        raise S2CError(f"{what} depends on the data", where=place(call), why="a chip's synapses are fixed")
    return context.value(argument, call) if isinstance(argument, Ref) else torch.as_tensor(argument)


def _affine(
    context: Context, call: Call, found: Rows, key: Any, layer: Callable[[float], L.Layer], has_bias: bool
) -> Tensor:
    """One layer on one input. Behind a sum over time it moves in front of it, its bias shared among the steps."""
    signal = context.signal(found.patterns[0], call)
    if signal.over_time is None:
        made = context.builder.add(layer(1.0), [signal], key, call.source, call.name)
        return context.out(made, found)
    base, coefficients = combined(context, call, signal)
    total = math.fsum(coefficients)
    if has_bias and total == 0:
        raise S2CError("a layer with a bias follows a combination of steps that adds up to zero", where=place(call))
    made = context.builder.add(layer(1 / total if has_bias else 1.0), [base], (key, total), call.source, call.name)
    return context.out(context.builder.over_time({made: coefficients}), found)


def combined(context: Context, call: Call, signal: Signal) -> tuple[Signal, Coefficients]:
    """The one signal, and its weight per step, that a combination over time is made of."""
    if not isinstance(signal.over_time, dict):
        raise S2CError(
            "a layer follows the maximum over time",
            where=place(call),
            why="it cannot be computed step by step",
            fix="apply the layer before the maximum, or read out the mean or the sum",
        )
    parts = list(signal.over_time.items())
    coefficients = parts[0][1]
    if any(c != coefficients for _, c in parts):
        raise S2CError("layers are summed over different steps and then combined", where=place(call))
    if len(parts) == 1:
        return parts[0]
    made = context.builder.add(L.Add(), [s for s, _ in parts], "over time", call.source, "add")
    return made, coefficients


def _linear(context: Context, call: Call) -> list[Value]:
    a = arguments(call, "input", "weight", "bias", bias=None)
    weight = _constant(context, call, a["weight"], "a weight")
    bias = _constant(context, call, a["bias"], "a bias")
    return _weighted(context, call, a["input"], weight, bias, 1, lambda w, b: L.Linear(w, b), ())


def _weighted(
    context: Context,
    call: Call,
    source: Ref,
    weight: Tensor | None,
    bias: Tensor | None,
    k: int,
    make: Callable[[Any, Any], L.Layer],
    options: Any,
) -> list[Value]:
    assert weight is not None
    found = context.rows(call, [context.value(source, call)], k)
    key = (context.builder.digest(weight), context.builder.digest(bias), options)
    w, b = as_array(weight), None if bias is None else as_array(bias)
    layer = lambda share: make(w, None if b is None else b * b.dtype.type(share))  # noqa: E731
    return [_affine(context, call, found, key, layer, b is not None)]


def _conv(axes: int) -> Callable[[Context, Call], list[Value]]:
    layer_class = {1: L.Conv1d, 2: L.Conv2d}[axes]

    def rule(context: Context, call: Call) -> list[Value]:
        a = arguments(
            call, "input", "weight", "bias", "stride", "padding", "dilation", "groups",
            bias=None, stride=1, padding=0, dilation=1, groups=1,
        )  # fmt: skip
        weight = _constant(context, call, a["weight"], "a weight")
        bias = _constant(context, call, a["bias"], "a bias")
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
        return _weighted(context, call, a["input"], weight, bias, axes + 1, make, tuple(options.values()))

    return rule


def _batch_norm(context: Context, call: Call) -> list[Value]:
    a = arguments(
        call, "input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps",
        weight=None, bias=None, training=False, eps=1e-5,
    )  # fmt: skip
    mean = _constant(context, call, a["running_mean"], "a mean")
    var = _constant(context, call, a["running_var"], "a variance")
    if a["training"] or mean is None or var is None:
        raise S2CError(
            "batch norm uses the statistics of the batch although the model is in eval mode",
            where=place(call),
            why="track_running_stats=False, or training=True was passed",
            fix="train with track_running_stats=True",
        )
    weight = _constant(context, call, a["weight"], "a weight")
    bias = _constant(context, call, a["bias"], "a bias")
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

    return [_affine(context, call, found, key, layer, True)]


def _pool(kind: type[L.Pool], axes: int) -> Callable[[Context, Call], list[Value]]:
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


def _pooled(context: Context, call: Call, source: Ref, axes: int, layer: L.Layer, options: Any) -> list[Value]:
    found = context.rows(call, [context.value(source, call)], axes + 1)
    signal = context.signal(found.patterns[0], call)
    if isinstance(layer, L.MaxPool) and signal.over_time is not None:
        raise S2CError("max pooling follows a sum over time", where=place(call), fix="pool before summing")
    out = _affine(context, call, found, options, lambda share: layer, False)
    return [out, *[None] * (len(call.values) - 1)]


def _adaptive(kind: type[L.Pool], axes: int) -> Callable[[Context, Call], list[Value]]:
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


def _add(context: Context, call: Call) -> list[Value]:
    """``a·x + b·y`` with signs a, b; either may be a constant."""
    a = arguments(call, "input", "other", alpha=1)
    if a["alpha"] != 1:
        raise S2CError("an addition with alpha", where=place(call), fix="multiply first")
    signs = {"sub": (1, -1), "rsub": (-1, 1)}.get(translated(call), (1, 1))
    data: list[Tensor] = []
    constant: Tensor | None = None
    for argument, sign in zip((a["input"], a["other"]), signs, strict=True):
        if context.traced(argument):
            ids = context.value(argument, call)
            data.append(ids if sign > 0 else _scaled(context, call, ids, torch.tensor(-1.0)))
        else:
            value = _constant(context, call, argument, "a constant")
            assert value is not None
            constant = sign * value
    if len(data) == 2:
        return [_sum(context, call, *data)]
    assert constant is not None
    return [_shifted(context, call, data[0].expand(call.values[0].shape), constant)]


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
        raise S2CError("tensors of different shapes are accumulated over time", where=place(call))
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
    """Data plus a constant: a batch norm that only shifts."""
    if not bool((value != 0).any()):
        return data
    found = context.rows(call, [data], 0)
    constant = _per_sample(call, value, data, found)
    shape = found.patterns[0].shape
    channels = shape[0] if shape else 1
    per_channel = np.broadcast_to(constant, shape).reshape(channels, -1)
    if not shape or (per_channel != per_channel[:, :1]).any():
        raise S2CError(
            "a constant that differs within a channel is added", where=place(call), fix="use the bias of a layer"
        )
    offset = np.ascontiguousarray(per_channel[:, 0])
    one, zero = np.ones_like(offset), np.zeros_like(offset)
    layer = lambda share: L.BatchNorm(one, offset * offset.dtype.type(share), zero, one, 0.0)  # noqa: E731
    return _affine(context, call, found, offset.tobytes(), layer, True)


def _scaled(context: Context, call: Call, data: Tensor, value: Tensor) -> Tensor:
    """Data times a constant."""
    if value.ndim == 0 and bool(value == 1):
        return data
    found = context.rows(call, [data], 0)
    constant = _per_sample(call, value, data, found)
    signal = context.signal(found.patterns[0], call)
    if isinstance(signal.over_time, dict) and constant.ndim == 0:
        parts = {s: tuple(float(constant) * c for c in cs) for s, cs in signal.over_time.items()}
        mean = 1 / context.elements.steps
        # A sum divided by T is a mean; any other factor is a layer.
        if all(math.isclose(c, mean, rel_tol=1e-6) for cs in parts.values() for c in cs):
            return context.out(context.builder.over_time(parts), found)
    key = (constant.shape, constant.tobytes())
    return _affine(context, call, found, key, lambda share: L.Scale(constant), False)


def _per_sample(call: Call, value: Tensor, data: Tensor, found: Rows) -> Any:
    """A constant as it meets one sample at one step, of the smallest shape that broadcasts."""
    if value.numel() == 1:
        return as_array(value.reshape(()))
    spread = found.arrange(value.broadcast_to(data.shape).contiguous())
    if bool((spread != spread[:1]).any()):
        raise S2CError(
            "a constant differs from step to step or from sample to sample",
            where=place(call),
            why="weights or scales per time step (TEBN and the like) are not one network repeated T times",
            fix="train with parameters shared by all steps",
        )
    constant = as_array(spread[0])
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
        _per_step(call, signals)
        return [context.out(context.builder.add(L.Mul(), signals, "", call.source, "mul"), found)]
    data, constant = (left, right) if context.traced(left) else (right, left)
    value = _constant(context, call, constant, "a constant")
    assert value is not None
    return [_scaled(context, call, context.value(data, call).expand(call.values[0].shape), value)]


def _div(context: Context, call: Call) -> list[Value]:
    a = arguments(call, "input", "other", rounding_mode=None)
    value = None if context.traced(a["other"]) else _constant(context, call, a["other"], "a constant")
    if value is None or a["rounding_mode"] is not None:
        raise S2CError("a division by a computed value, or one that rounds", where=place(call))
    inverse = 1 / value.double() if value.ndim == 0 else 1 / value
    return [_scaled(context, call, context.value(a["input"], call).expand(call.values[0].shape), inverse)]


def _neg(context: Context, call: Call) -> list[Value]:
    return [_scaled(context, call, context.value(call.args[0], call), torch.tensor(-1.0))]


def _per_step(call: Call, signals: list[Signal]) -> None:
    if any(s.over_time is not None for s in signals):
        raise S2CError(
            "a product of values that were summed over time", where=place(call), fix="multiply at every step"
        )


def _matmul(context: Context, call: Call) -> list[Value]:
    a = arguments(call, "input", "mat2")
    left, right = a["input"], a["mat2"] if "mat2" in a else a["other"]
    if context.traced(left) and not context.traced(right):
        weight = context.value(right, call)
        if weight.ndim != 2:
            raise S2CError("a product with a constant that is no matrix", where=place(call))
        return _weighted(context, call, left, weight.mT.contiguous(), None, 1, lambda w, b: L.Linear(w, b), ())
    if not (context.traced(left) and context.traced(right)):
        raise S2CError("a constant matrix multiplies from the left", where=place(call), fix="use a Linear layer")
    one, two = (context.rows(call, [context.value(ref, call)], 2) for ref in (left, right))
    signals = [context.signal(found.patterns[0], call, i) for i, found in enumerate((one, two))]
    _per_step(call, signals)
    if not (torch.equal(one.t, two.t) and torch.equal(one.n, two.n)):
        raise S2CError("a product of tensors laid out differently over time and batch", where=place(call))
    made = context.builder.add(L.MatMul(), signals, "", call.source, "matmul")
    return [context.out(made, one)]


def _addmm(context: Context, call: Call) -> list[Value]:
    a = arguments(call, "input", "mat1", "mat2", beta=1, alpha=1)
    bias, weight = (_constant(context, call, a[name], "a weight") for name in ("input", "mat2"))
    if a["beta"] != 1 or a["alpha"] != 1 or weight is None or bias is None or bias.ndim != 1:
        raise S2CError("addmm other than x W + b", where=place(call), fix="use a Linear layer")
    return _weighted(context, call, a["mat1"], weight.mT.contiguous(), bias, 1, lambda w, b: L.Linear(w, b), ())


def _reduce(how: str) -> Callable[[Context, Call], list[Value]]:
    def rule(context: Context, call: Call) -> list[Value]:
        a = arguments(call, "input", "dim", "keepdim", dim=None, keepdim=False, axis=None)
        if how == "max" and context.traced(a["dim"]):
            raise S2CError("the maximum of two computed values", where=place(call))
        ids = context.value(a["input"], call)
        dim = a["axis"] if a["dim"] is None else a["dim"]
        axes = (
            list(range(ids.ndim)) if dim is None else [d % ids.ndim for d in ([dim] if isinstance(dim, int) else dim)]
        )
        _, t, n, _ = context.elements.read(ids.clamp(min=0))
        over_time = [d for d in axes if bool((t != t.narrow(d, 0, 1)).any())]
        if any(bool((n != n.narrow(d, 0, 1)).any()) for d in axes):
            raise S2CError(
                f"the {how} runs over the samples of the batch", where=place(call), fix="keep the batch axis"
            )
        features = [d for d in axes if d not in over_time]
        if features:
            ids = _reduce_features(context, call, ids, features, how)
        for d in over_time:
            ids = _reduce_time(context, call, ids, d, how)
        if not a["keepdim"]:
            for d in sorted(axes, reverse=True):
                ids = ids.squeeze(d)
        return [ids, *[None] * (len(call.values) - 1)]

    return rule


def _reduce_features(context: Context, call: Call, ids: Tensor, axes: list[int], how: str) -> Tensor:
    """Pool over whole axes of a sample; they stay as axes of one element."""
    k, count = len(axes), math.prod(ids.shape[d] for d in axes)
    if count == 1:
        return ids
    moved = ids.movedim(axes, list(range(-k, 0))).contiguous()
    found = rows(context.elements, [moved], k, place(call))
    pattern = found.patterns[0]
    image = k == 2 and len(found.lead) == 1
    shape = pattern.shape if image else (math.prod(found.lead), count)
    arranged = Pattern(pattern.which.reshape(shape), pattern.position.reshape(shape))
    kernel = shape[1:]
    kind = L.MaxPool if how == "max" else L.AvgPool
    layer = kind(kernel, kernel, (0,) * len(kernel))
    signal = context.signal(arranged, call)
    if signal.over_time is not None:
        raise S2CError(
            f"a {how} over features follows a combination over time", where=place(call), fix="do it at every step"
        )
    made = context.builder.add(layer, [signal], (how, kernel), call.source, how)
    if how == "sum":
        made = context.builder.add(L.Scale(np.asarray(np.float32(count))), [made], count, call.source, "count")
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
            raise S2CError("the maximum runs over some of the steps only", where=place(call))
        return context.out(context.builder.over_time(signal), found).unsqueeze(axis)
    share = 1 / len(steps) if how == "mean" else 1.0
    coefficients = [0.0] * context.elements.steps
    for step in steps[:, 0].tolist():
        coefficients[step] += share
    return context.out(context.builder.over_time({signal: tuple(coefficients)}), found).unsqueeze(axis)


_RULES: dict[str, Callable[[Context, Call], list[Value]]] = {
    "linear": _linear,
    "conv1d": _conv(1),
    "conv2d": _conv(2),
    "batch_norm": _batch_norm,
    "avg_pool1d": _pool(L.AvgPool, 1),
    "avg_pool2d": _pool(L.AvgPool, 2),
    "max_pool1d": _pool(L.MaxPool, 1),
    "max_pool2d": _pool(L.MaxPool, 2),
    "adaptive_avg_pool1d": _adaptive(L.AvgPool, 1),
    "adaptive_avg_pool2d": _adaptive(L.AvgPool, 2),
    "adaptive_max_pool1d": _adaptive(L.MaxPool, 1),
    "adaptive_max_pool2d": _adaptive(L.MaxPool, 2),
    "add": _add,
    "sub": _add,
    "rsub": _add,
    "mul": _mul,
    "div": _div,
    "neg": _neg,
    "matmul": _matmul,
    "addmm": _addmm,
    "mean": _reduce("mean"),
    "sum": _reduce("sum"),
    "amax": _reduce("max"),
    "max": _reduce("max"),
}
