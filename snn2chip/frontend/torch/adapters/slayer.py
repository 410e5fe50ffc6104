"""What a slayer neuron, synapse and delay hold, as the chip's integers; what is none is refused by name.

lava-dl ``neuron/cuba.py``, ``neuron/norm.py``, ``synapse/layer.py``, ``axon/delay.py``.
"""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np
import torch

from snn2chip.errors import S2CError
from snn2chip.ir.layers import Array
from snn2chip.neurons.fixed_cuba import FixedCubaLIF


def refuse(name: str, why: str, fix: str) -> NoReturn:
    """Raise that ``name`` is not traced; ``why`` goes on after "it"."""
    raise S2CError(f"lava-dl's {name} is not traced", why=f"it {why}" if not why.startswith("it") else why, fix=fix)


def neuron_of(name: str, n: Any, axes: int, fires: bool = True, steps: bool = False) -> FixedCubaLIF:
    """A ``slayer.neuron.cuba.Neuron`` of a population with ``axes`` axes behind its channels.

    Args:
        fires: False for a block that reads the membrane.
        steps: whether the block calls it step by step.
    """
    if n.graded_spike:
        refuse(name, "sends its membrane as a graded spike (graded_spike=True)", "train it with binary spikes")
    if n.norm is not None and n.persistent_state and steps:
        refuse(
            name,
            "keeps the normalized current for the next step, where the chip keeps the current itself",
            "train Recurrent blocks without norm",
        )
    decays = [_decay(name, n, which, axes) for which in ("current_decay", "voltage_decay")]
    return FixedCubaLIF(
        v_threshold=np.asarray(_threshold(name, n) if fires else np.inf),
        decay_u=decays[0],
        decay_v=decays[1],
        bias=_bias(name, n.norm, axes),
        scale=n.w_scale,
    )


def _threshold(name: str, n: Any) -> float:
    """θ, where slayer's float32 can tell v = θ from v > θ, as the chip does."""
    theta, exact = float(n.threshold), np.float32
    seen = exact(theta + n.threshold_eps) > exact(theta) and exact((theta + n.threshold_eps) * n.s_scale) > exact(
        theta * n.s_scale
    )
    if theta < 0:
        refuse(
            name,
            f"has the threshold {theta:.6g}, and slayer never resets below zero",
            "use a positive threshold, or an Affine block to read the membrane",
        )
    if not seen:
        refuse(
            name,
            f"has the threshold {theta:.6g}, where its comparison in float32 fires at v = θ and the chip does not",
            "divide the threshold and the weights of the block by the same number",
        )
    return theta


def _decay(name: str, n: Any, which: str, axes: int) -> Array:
    value = np.rint(getattr(n, which).detach().cpu().numpy().astype(np.float64)).astype(np.int64)
    if not n.shared_param and n.shape is None:
        refuse(
            name,
            f"draws its {which}s at random in its first forward pass (shared_param=False)",
            "run the model once, load the trained weights after that, and then trace it",
        )
    if value.size == 1:
        return np.asarray(value.item())
    if axes:
        refuse(
            name,
            f"has one {which} per channel, which lava-dl applies along the width of an image instead",
            "share the decays (shared_param=True), or flatten before the block",
        )
    return np.asarray(value)


def _bias(name: str, norm: Any, axes: int) -> Array:
    """What normalization takes off the current, as the bias of the membrane."""
    if norm is None:
        return np.zeros(())
    kind = type(norm).__name__
    if kind not in ("MeanOnlyBatchNorm", "WgtScaleBatchNorm"):
        refuse(name, f"normalizes with {kind}", "use slayer.neuron.norm.MeanOnlyBatchNorm")
    if kind == "WgtScaleBatchNorm":
        std = float(norm.std(norm.running_var))
        if std != 1:
            refuse(
                name,
                f"divides the current by {std:g} (WgtScaleBatchNorm), which neither the chip's neuron does nor NetX",
                "use MeanOnlyBatchNorm, or weight_norm=True",
            )
    mean = norm.pre_hook_fx(norm.running_mean).detach().cpu().double().numpy()
    bias: Array = -mean.reshape(-1, *(1,) * axes) if mean.size > 1 else -mean.reshape(())
    # No minus in front of a zero.
    return bias + 0.0


def weight_of(name: str, block: Any, synapse: Any) -> Array:
    """The weights the block computes with, (out, in, height, width)."""
    weight = synapse.weight
    hooks = [hook for hook in synapse._forward_pre_hooks.values() if hasattr(hook, "compute_weight")]
    mask = getattr(block, "mask", None)
    if hooks and mask is not None:
        refuse(
            name,
            "has a mask and weight_norm=True, which computes the weights anew without the mask",
            "remove the weight norm before training on: block.synapse.disable_weight_norm()",
        )
    for hook in hooks:
        weight = hook.compute_weight(synapse)
    if mask is not None:
        weight = weight * mask
    with torch.no_grad():
        hook_fx = synapse.pre_hook_fx
        found = (weight if hook_fx is None else hook_fx(weight)).detach().cpu().double().numpy()
    mantissas = found * block.neuron.w_scale
    if (mantissas != np.rint(mantissas)).any():
        refuse(
            name,
            "computes with weights that are no integers of the chip (pre_hook_fx)",
            "leave pre_hook_fx out: the block then quantizes to 8 bits itself",
        )
    array: Array = found[..., 0].astype(np.float32)
    return array


def delays_of(name: str, block: Any, width: int, recurrent: bool, bias: bool) -> tuple[int, Array | None]:
    """Steps by which all spikes leave late; and, where it differs, the delay of each of ``width`` channels."""
    shift = int(bool(getattr(block, "delay_shift", False)))
    if block.delay is None:
        return shift, None
    if not block.delay.init:
        refuse(
            name,
            "draws its delays at random in its first forward pass (delay=True)",
            "run the model once, load the trained weights after that, and then trace it",
        )
    d = block.delay
    steps = (d.delay.detach().clamp(0, d.max_delay) / d.sampling_time).cpu().numpy().astype(np.int64).ravel()
    if (steps == steps[0]).all():
        return shift + int(steps[0]), None
    for unable, why in (
        (width == 0, "is convolutional, and only dense synapses have delays of their own in Lava"),
        (recurrent, "is recurrent: its neurons hear their own spikes undelayed"),
        (bias, "has a norm, whose bias would start late with the spikes"),
    ):
        if unable:
            refuse(
                name,
                f"delays its channels by {steps.min()} to {steps.max()} steps and {why}",
                "train it without delay=True, or set the delays of all its channels to one value",
            )
    return shift, steps
