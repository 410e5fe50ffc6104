"""What every torch operation becomes: one rule each, from the recorded call to layers of the graph.

A rule gets the call and a :class:`Context`, and returns one value per tensor the call returned: element ids, or None
for a tensor nothing may use (the indices of a max). Operations without a rule are refused where the deployed output
depends on them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from snn2chip.errors import S2CError
from snn2chip.frontend.torch import elementwise, reductions, windows
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
from snn2chip.frontend.torch.nests import all_of, mapped
from snn2chip.frontend.torch.opnames import CASTS, COMPARISONS, DROPOUTS, MOVES, translated
from snn2chip.frontend.torch.recording import Call, Ref
from snn2chip.ir import layers as L

_BEFORE = "apply it outside the model: output= selects what comes before, also by module: output='path.of.module'"
_ATTENTION = "train attention without it, as a product of spikes times a constant (docs/zoo.md has such networks)"
_NORM = "normalization by the statistics of the sample cannot be folded; train with batch norm"
_ACTIVATION = "train with a spiking neuron in its place, or without it; at the end of the network: " + _BEFORE
_ADVICE = {
    **dict.fromkeys(("softmax", "log_softmax"), f"at the end of the network: {_BEFORE}; inside: {_ATTENTION}"),
    **dict.fromkeys(("argmax", "topk"), _BEFORE),
    **dict.fromkeys(
        ("multi_head_attention_forward", "scaled_dot_product_attention"), f"it holds a softmax: {_ATTENTION}"
    ),
    **dict.fromkeys(("group_norm", "layer_norm", "instance_norm"), _NORM),
    **dict.fromkeys(("sigmoid", "tanh", "gelu", "silu", "elu", "leaky_relu", "softplus"), _ACTIVATION),
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
    ids = context.value(source, call)
    if before != after and after not in (torch.float32, torch.float64) and not _fits(context, call, ids, after):
        raise S2CError(
            f"the model rounds values to {after}",
            where=place(call),
            why="a graph computes in float32",
            fix="trace the model in float32, without integer casts",
        )
    return [ids]


def _fits(context: Context, call: Call, ids: Tensor, dtype: torch.dtype) -> bool:
    """Whether a type holds every value: spikes of 0 and 1 are the same as integers and as truth values."""
    signal = context.signal(context.rows(call, [ids], 0).patterns[0], call)
    if dtype.is_floating_point or signal.over_time is not None or signal.port != "out":
        return False
    layer = context.builder.nodes[signal.name].layer
    if not isinstance(layer, L.Neuron) or layer.model.integrates_only:
        return False
    return tuple(layer.model.spikes) == (0, 1) and layer.model.spike_value == 1


def _move(context: Context, call: Call) -> list[Value]:
    """Do to the ids what was done to the data."""
    # Which arguments hold data; a constant among them (zeros to write into) has no ids.
    written = {"__setitem__": 2, "copy_": 1}.get(call.name, 0)

    def ids(ref: Ref) -> Tensor:
        value = context.value(ref, call)
        return value if ref.call.depends_on_data else torch.full(value.shape, CONSTANT)

    def plain(ref: Ref) -> Tensor:
        if context.traced(ref) and not call.name.endswith("_as"):
            raise S2CError(
                "elements are selected by computed indices",
                where=place(call),
                why="which elements they are depends on the data",
                fix="select with fixed indices, or multiply with a mask",
            )
        return context.value(ref, call)

    args = [mapped(argument, Ref, ids if i in (0, written) else plain) for i, argument in enumerate(call.args)]
    kwargs = {k: mapped(v, Ref, ids if k in ("input", "tensors") else plain) for k, v in call.kwargs.items()}
    if written:
        args[0] = args[0].clone()
        if not isinstance(args[written], Tensor):
            args[written] = CONSTANT
    assert call.func is not None
    if call.name == "interpolate":
        return [_enlarged(call, args, kwargs)]
    out = call.func(*args, **kwargs)
    return [args[0]] if call.name == "__setitem__" else [*all_of(out, Tensor)]


def _enlarged(call: Call, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
    """Nearest neighbours are repetitions, whatever the sizes; torch takes them of floats, which hold ids exactly."""
    a = arguments(call, "input", "size", "scale_factor", "mode", mode="nearest")
    if not a["mode"].startswith("nearest"):
        raise S2CError(
            f"interpolation with mode {a['mode']!r}",
            where=place(call),
            why="between two spikes a chip has no values",
            fix="use mode='nearest', or a transposed convolution",
        )
    assert call.func is not None
    given = {**kwargs, **dict(zip(("input",), args, strict=False))}
    data = given.pop("input")
    found: Tensor = call.func(data.double(), *args[1:], **given)
    return found.long()


def _broadcast_tensors(context: Context, call: Call) -> list[Value]:
    shape = call.values[0].shape
    return [context.value(ref, call).expand(shape) if context.traced(ref) else None for ref in call.args]


def _linear(context: Context, call: Call) -> list[Value]:
    a = arguments(call, "input", "weight", "bias", bias=None)
    weight = parameter(context, call, a["weight"], "a weight")
    bias = parameter(context, call, a["bias"], "a bias")
    assert weight is not None
    return [weighted(context, call, context.value(a["input"], call), weight, bias, 1, L.Linear, ())]


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
    # Time may lie among the axes behind the channels, as in BatchNorm3d on [N, C, T, H, W].
    times = [axis for axis in range(2, ids.ndim) if context.repeats(ids, axis)]
    ids = ids.movedim(times, list(range(len(times))))
    found = context.rows(call, [ids.contiguous()], ids.ndim - 1 - len(times))
    key = (digest(mean), digest(var), digest(weight), digest(bias), a["eps"])

    def layer(share: float) -> L.Layer:
        # Behind a sum over time, γ(x−μ)/σ + β needs both its constants shared among the steps.
        scale = np.float32(share)
        return L.BatchNorm(gain, shift * scale, as_array(mean) * scale, as_array(var), float(a["eps"]))

    return [affine(context, call, found, key, layer, True).movedim(list(range(len(times))), times)]


def _matmul(context: Context, call: Call) -> list[Value]:
    a = arguments(call, "input", "mat2")
    left, right = a["input"], a["mat2"] if "mat2" in a else a["other"]
    if context.traced(left) and not context.traced(right):
        weight = context.value(right, call)
        if weight.ndim != 2:
            raise S2CError(
                "a product with a constant that is no matrix",
                where=place(call),
                why=f"the constant has shape {tuple(weight.shape)}",
                fix="multiply by one matrix (in, out), as a Linear layer does",
            )
        return [weighted(context, call, context.value(left, call), weight.mT.contiguous(), None, 1, L.Linear, ())]
    if not (context.traced(left) and context.traced(right)):
        raise S2CError("a constant matrix multiplies from the left", where=place(call), fix="use a Linear layer")
    one, two = (context.rows(call, [context.value(ref, call)], 2) for ref in (left, right))
    signals = [context.signal(found.patterns[0], call, i) for i, found in enumerate((one, two))]
    per_step(call, signals)
    if not (torch.equal(one.t, two.t) and torch.equal(one.n, two.n)):
        raise S2CError(
            "a product of values that do not meet step by step",
            where=place(call),
            why="one factor is the same at every step, or of other steps or samples than the other",
            fix="multiply values of one step: put a neuron on both paths",
        )
    made = context.builder.add(L.MatMul(), signals, "", call.source, "matmul")
    return [context.out(made, one)]


def _addmm(context: Context, call: Call) -> list[Value]:
    a = arguments(call, "input", "mat1", "mat2", beta=1, alpha=1)
    bias, weight = (parameter(context, call, a[name], "a weight") for name in ("input", "mat2"))
    if a["beta"] != 1 or a["alpha"] != 1 or weight is None or bias is None or bias.ndim != 1:
        raise S2CError("addmm other than x W + b", where=place(call), fix="use a Linear layer")
    return [weighted(context, call, context.value(a["mat1"], call), weight.mT.contiguous(), bias, 1, L.Linear, ())]


_RULES: dict[str, Rule] = {
    "broadcast_tensors": _broadcast_tensors,
    "linear": _linear,
    "batch_norm": _batch_norm,
    "matmul": _matmul,
    "addmm": _addmm,
    "einsum": einsum,
    **windows.RULES,
    **elementwise.RULES,
    **reductions.RULES,
}
