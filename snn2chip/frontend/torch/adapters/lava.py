"""lava-dl's slayer: CUBA blocks, each synapse, neuron and delays in one, time last.

A block computes in the chip's integers while it trains (``lava/lib/dl/slayer/block/base.py``, ``neuron/cuba.py``), and
so does the neuron it becomes (``neurons/fixed_cuba.py``). Blocks are kept whole: ``delay_shift`` and delays that all
channels share are steps by which the spikes leave late, other delays are those of the block's synapses, as lava-dl
exports them. What lava-dl computes otherwise than the chip, or than its own export, is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np
import torch
from torch import nn

from snn2chip.errors import S2CError
from snn2chip.frontend.torch.adapters.reading import changed
from snn2chip.frontend.torch.cells import Cell, Synapse
from snn2chip.ir import layers as L
from snn2chip.ir.layers import Array, Layer, Shape
from snn2chip.neurons.fixed_cuba import DECAY_BITS, FixedCubaLIF

_SLAYER = "lava.lib.dl.slayer"
_TIME = -1
# Classes whose forward is made of operations the tracer knows.
_TRACED = ("block.cuba.Flatten", "block.cuba.Average", "neuron.dropout.Dropout", "synapse.layer.Dense",
           "synapse.layer.Conv")  # fmt: skip
# Neuron of another family → what it is.
_FAMILIES = {
    "alif": "adaptive threshold",
    "adrf": "adaptive resonate-and-fire",
    "adrf_iz": "adaptive resonate-and-fire",
    "rf": "resonate-and-fire",
    "rf_iz": "resonate-and-fire",
    "sigma_delta": "sigma-delta",
}
_BLOCKS_REFUSED = {
    "ConvT": ("it upsamples by transposed convolution", "use Conv blocks, or Dense"),
    "Unpool": ("it upsamples by transposed convolution", "use Conv blocks, or Dense"),
    "KWTA": ("its inhibition is drawn up anew from a parameter in every forward pass", "use a Recurrent block"),
    "TimeDecimation": ("behind it a step lasts several", "bin the data before the network instead"),
}


def cell(module: nn.Module) -> Cell | None:
    """See :class:`snn2chip.frontend.torch.cells.Adapter`."""
    name = _name(module)
    if name is None or changed(module, "lava"):
        return None
    package, _, kind = name.rpartition(".")
    family = package.rpartition(".")[2]
    if family in _FAMILIES:
        _refuse(
            name,
            f"has {_FAMILIES[family]} neurons, and the chip's fixed neuron is CUBA-LIF",
            "use the blocks of slayer.block.cuba",
        )
    if name == "neuron.cuba.Neuron":
        return _neuron_alone(name, module)
    if package != "block.cuba" and package not in ("axon.delay", "axon.delta", "dendrite.sigma"):
        return None
    if kind in _BLOCKS_REFUSED:
        _refuse(name, *_BLOCKS_REFUSED[kind])
    if package != "block.cuba":
        _refuse(name, "stands outside a block", "let the block delay its spikes: delay=True")
    return _BLOCKS[kind](name, module) if kind in _BLOCKS else None


def reset(module: nn.Module) -> bool:
    """Every sample starts at rest: forget the states and spikes that ``persistent_state`` keeps."""
    m: Any = module
    name = _name(module)
    if name is None:
        return False
    if name == "neuron.cuba.Neuron":
        m.current_state, m.voltage_state = (torch.zeros(1) for _ in range(2))
    elif getattr(m, "delay_buffer", None) is not None:
        m.delay_buffer = None
    return True


def _name(module: nn.Module) -> str | None:
    """The class of slayer a module is an instance of, as "block.cuba.Dense"; None for other modules."""
    for cls in type(module).__mro__:
        if cls.__module__.startswith(f"{_SLAYER}."):
            return f"{cls.__module__[len(_SLAYER) + 1 :]}.{cls.__name__}"
    return None


def _refuse(name: str, why: str, fix: str) -> NoReturn:
    raise S2CError(f"lava-dl's {name} is not traced", why=f"it {why}" if not why.startswith("it") else why, fix=fix)


# ---------------------------------------------------------------------- neurons


def _neuron_alone(name: str, module: Any) -> Cell:
    return Cell(
        _neuron(name, module, axes=len(module.shape or (1,)) - 1),
        time_axis=_TIME,
        returns=("out",),
        states=(),
        carries=bool(module.persistent_state),
    )


def _neuron(name: str, n: Any, axes: int, fires: bool = True, steps: bool = False) -> FixedCubaLIF:
    """A ``slayer.neuron.cuba.Neuron`` of a population with ``axes`` axes behind its channels.

    Args:
        fires: False for a block that reads the membrane.
        steps: whether the block calls it step by step.
    """
    if n.graded_spike:
        _refuse(name, "sends its membrane as a graded spike (graded_spike=True)", "train it with binary spikes")
    if n.norm is not None and n.persistent_state and steps:
        _refuse(
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
    if theta < 0 or not seen:
        _refuse(
            name,
            f"has the threshold {theta:.6g}, where its comparison in float32 takes v = θ for a spike and the chip "
            "does not" if theta > 0 else f"has the threshold {theta:.6g}, and slayer never resets at or below zero",
            "divide the threshold and the weights of the block by the same number" if theta > 0
            else "use a positive threshold, or an Affine block to read the membrane",
        )
    return theta


def _decay(name: str, n: Any, which: str, axes: int) -> Array:
    value = np.rint(getattr(n, which).detach().cpu().numpy().astype(np.float64)).astype(np.int64)
    if not n.shared_param and n.shape is None:
        _refuse(
            name,
            f"draws its {which}s at random in its first forward pass (shared_param=False)",
            "run the model once, load the trained weights after that, and then trace it",
        )
    if value.size == 1:
        return np.asarray(value.item())
    if axes:
        _refuse(
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
        _refuse(name, f"normalizes with {kind}", "use slayer.neuron.norm.MeanOnlyBatchNorm")
    if kind == "WgtScaleBatchNorm":
        std = float(norm.std(norm.running_var))
        if std != 1:
            _refuse(
                name,
                f"divides the current by {std:g} (WgtScaleBatchNorm), which neither the chip's neuron does nor NetX",
                "use MeanOnlyBatchNorm, or weight_norm=True",
            )
    mean = norm.pre_hook_fx(norm.running_mean).detach().cpu().double().numpy()
    bias: Array = -mean.reshape(-1, *(1,) * axes) if mean.size > 1 else -mean.reshape(())
    # No minus in front of a zero.
    return bias + 0.0


# ---------------------------------------------------------------------- blocks


def _weight(name: str, block: Any, synapse: Any) -> Array:
    """The weights the block computes with, (out, in, height, width)."""
    weight = synapse.weight
    hooks = [hook for hook in synapse._forward_pre_hooks.values() if hasattr(hook, "compute_weight")]
    mask = getattr(block, "mask", None)
    if hooks and mask is not None:
        _refuse(
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
        _refuse(
            name,
            "computes with weights that are no integers of the chip (pre_hook_fx)",
            "leave pre_hook_fx out: the block then quantizes to 8 bits itself",
        )
    array: Array = found[..., 0].astype(np.float32)
    return array


def _delays(name: str, block: Any, width: int, recurrent: bool, bias: bool) -> tuple[int, Array | None]:
    """Steps by which all spikes leave late; and, where it differs, the delay of each of ``width`` channels."""
    shift = int(bool(getattr(block, "delay_shift", False)))
    if block.delay is None:
        return shift, None
    if not block.delay.init:
        _refuse(
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
            _refuse(
                name,
                f"delays its channels by {steps.min()} to {steps.max()} steps and {why}",
                "train it without delay=True, or set the delays of all its channels to one value",
            )
    return shift, steps


def _dense(name: str, block: Any) -> Cell:
    """``Dense``, and ``Recurrent`` with its second synapse."""
    recurrent = hasattr(block, "recurrent_synapse")
    synapse = block.input_synapse if recurrent else block.synapse
    weight = _weight(name, block, synapse)
    image = weight.shape[2:] != (1, 1)
    neuron = _neuron(name, block.neuron, axes=2 * image, steps=recurrent)
    late, own = _delays(name, block, len(weight), recurrent, not neuron.rests)
    feed = _linear(name, weight, own)
    back = None
    if recurrent:
        matrix = L.Linear(_weight(name, block, block.recurrent_synapse)[:, :, 0, 0])
        back = Synapse("recurrent_synapse", lambda shape: matrix)
    return _cell(neuron, Synapse("input_synapse" if recurrent else "synapse", feed, axes=None), late, back)


def _linear(name: str, weight: Array, delays: Array | None) -> Callable[[Shape], Layer]:
    flat = weight.reshape(len(weight), -1)

    def layer(shape: Shape) -> Layer:
        if len(shape) == 1:
            every = None if delays is None else np.repeat(delays[:, None], flat.shape[1], axis=1)
            return L.Linear(flat, None, every)
        if delays is not None:
            _refuse(name, f"reads an image {shape} with delays that differ", "flatten before the block")
        return L.Conv2d(weight)

    return layer


def _conv(name: str, block: Any) -> Cell:
    s = block.synapse
    options = (s.stride[:2], s.padding[:2], s.dilation[:2], s.groups)
    layer = L.Conv2d(_weight(name, block, s), None, *options)
    neuron = _neuron(name, block.neuron, axes=2)
    late, _ = _delays(name, block, 0, False, not neuron.rests)
    return _cell(neuron, Synapse("synapse", lambda shape: layer, axes=None), late)


def _pool(name: str, block: Any) -> Cell:
    """Sum pooling with a weight: lava-dl ``synapse/layer.py`` Pool."""
    s = block.synapse
    weight = _weight(name, block, s)
    kernel = tuple(s.kernel_size[:2])
    if tuple(s.stride[:2]) != kernel or any(s.padding[:2]) or any(d != 1 for d in s.dilation[:2]):
        _refuse(
            name,
            "pools with windows that overlap or are padded, and lava-dl lets those reach across channels",
            "pool with stride=kernel_size, padding=0 and dilation=1",
        )
    neuron = _neuron(name, block.neuron, axes=2)
    late, _ = _delays(name, block, 0, False, not neuron.rests)

    def layer(shape: Shape) -> Layer:
        if len(shape) != 3 or any(size % k for size, k in zip(shape[1:], kernel, strict=True)):
            _refuse(
                name,
                f"pools {shape} by {kernel[0]} × {kernel[1]}, and lava-dl pads what is left over on one side",
                "choose a kernel that divides height and width",
            )
        return L.Conv2d(np.repeat(weight, shape[0], axis=0), stride=kernel, groups=shape[0])

    return _cell(neuron, Synapse("synapse", layer, axes=None), late)


def _affine(name: str, block: Any) -> Cell | None:
    """The membrane is the output; without dynamics it is a matrix and nothing else."""
    if not block.dynamics:
        return None
    weight = _weight(name, block, block.synapse)
    neuron = _neuron(name, block.neuron, axes=2 * (weight.shape[2:] != (1, 1)), fires=False)
    return _cell(neuron, Synapse("synapse", _linear(name, weight, None), axes=None), 0)


def _input(name: str, block: Any) -> Cell | None:
    if block.neuron is not None:
        _refuse(
            name,
            "rounds its input to 1/32 in front of a neuron, and NetX does not connect that neuron either",
            "give the rest of the network the spikes this block makes: trace a model without it",
        )
    if block.delay_shift:
        _refuse(name, "only delays its input by a step", "give it delay_shift=False: the answer comes a step earlier")
    return None


def _cell(neuron: FixedCubaLIF, feed: Synapse, late: int, back: Synapse | None = None) -> Cell:
    return Cell(
        neuron,
        time_axis=_TIME,
        returns=("out",),
        states=(),
        delay=late,
        feed=feed,
        feedback=back,
        # Every forward pass goes through all steps; what persistent_state keeps, reset() clears.
        carries=back is not None,
    )


_BLOCKS: dict[str, Callable[[str, Any], Cell | None]] = {
    "Input": _input,
    "Dense": _dense,
    "Recurrent": _dense,
    "Conv": _conv,
    "Pool": _pool,
    "Affine": _affine,
}
