"""The float forms of a network: as users write it, as libraries run it, and as fast as eager torch gets.

Each is a function of samples that returns [N, classes]; all are the same network with the same weights.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import fuse_conv_bn_eval

from bench.networks import DECAY, V_THRESHOLD, Net, Recurrent
from snn2chip import lava_compat
from snn2chip.errors import S2CError
from snn2chip.zoo import SpikingNetwork
from snn2chip.zoo.layers import Spiking, every_step

Form = Callable[[Tensor], Tensor]

# Images that eager torch takes at once where that is faster than all of them: they stay in the cache.
_AT_ONCE = 32
# Whole networks are compiled up to this T: longer ones are unrolled into more code than can be compiled in minutes.
_UNROLLED = 8


class UnavailableError(Exception):
    """A form that cannot be run here, or for this network; the message is the reason that is printed."""


def time_loop(net: SpikingNetwork, reset: Callable[[nn.Module], Any]) -> Form:
    """A Python loop over single steps."""

    def run(x: Tensor) -> Tensor:
        reset(net)
        total: Any = 0.0
        for t in range(net.time_steps):
            step = x if x.ndim == 4 else x[:, t]
            total = total + net.head(net.body(step[None])[0])
        out: Tensor = total / net.time_steps
        return out

    return run


def as_written(net: Net, steps: int) -> Form:
    """The zoo's neurons, with their surrogate gradient, in a time loop."""

    def reset(model: nn.Module) -> None:
        for module in model.modules():
            if callable(own := getattr(module, "reset", None)):
                own()

    return time_loop(net.model(time_steps=steps), reset)


def spikingjelly(net: Net, steps: int) -> Form:
    """SpikingJelly's LIFNode in multi-step mode: time in the batch for every layer without state."""
    try:
        from spikingjelly.activation_based import functional, neuron
    except ImportError as error:
        raise UnavailableError(f"SpikingJelly cannot be imported: {error}") from None
    tau = 1 / (1 - DECAY)
    model = net.model(
        lambda: neuron.LIFNode(tau=tau, decay_input=False, v_threshold=V_THRESHOLD, v_reset=0.0, step_mode="m"), steps
    )
    for module in model.modules():
        if isinstance(module, Recurrent):
            module.neuron.step_mode = "s"

    def run(x: Tensor) -> Tensor:
        functional.reset_net(model)
        out: Tensor = model(x)
        return out

    return run


def snntorch(net: Net, steps: int) -> Form:
    """SnnTorch's Leaky in a time loop, as in its tutorials."""
    try:
        import snntorch as snn
    except ImportError as error:
        raise UnavailableError(f"snnTorch cannot be imported: {error}") from None
    options: dict[str, Any] = {"reset_mechanism": "zero", "reset_delay": False, "init_hidden": True}
    model = net.model(lambda: snn.Leaky(beta=DECAY, threshold=V_THRESHOLD, **options), steps)

    def reset(net: nn.Module) -> None:
        # snntorch.utils.reset looks at a model's own children only.
        for module in net.modules():
            if isinstance(module, snn.Leaky):
                module.reset_mem()
            elif isinstance(module, Recurrent):
                module.reset()

    return time_loop(model, reset)


def lif_step(v: Tensor, current: Tensor) -> tuple[Tensor, Tensor]:
    """The membrane and the spikes after one step of the benchmark's LIF, in three passes over memory; forward only."""
    h = torch.add(current, v, alpha=DECAY)
    fired = h >= V_THRESHOLD
    return h.masked_fill(fired, 0.0), fired.to(h.dtype)


class LeanLIF(nn.Module):
    """:func:`lif_step` on all steps."""

    step_mode = "m"
    step: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = staticmethod(lif_step)

    def forward(self, x: Tensor, feedback: nn.Module | None = None) -> Tensor:
        """[T, N, ...] → [T, N, ...]; ``feedback`` is applied to the last step's spikes and added."""
        v = torch.zeros_like(x[0])
        spikes: list[Tensor] = []
        for t in range(len(x)):
            current = x[t] + feedback(spikes[-1]) if feedback is not None and spikes else x[t]
            v, fired = self.step(v, current)
            spikes.append(fired)
        # Concatenation keeps the order of channels in memory, which stacking does not.
        return torch.cat(spikes).unflatten(0, (len(spikes), -1))


class Once(nn.Module):
    """A first layer that is fed the same at every step: its synapses are computed once."""

    def __init__(self, layer: Spiking) -> None:
        super().__init__()
        self.synapses, self.neuron = layer.synapses, layer.neuron

    def forward(self, x: Tensor) -> Tensor:
        current = self.synapses(x[0])
        out: Tensor = self.neuron(current.expand(len(x), *current.shape))
        return out


class Folded(nn.Module):
    """Time in the batch, batch norm in the convolutions, a constant first layer once, channels last in memory."""

    def __init__(self, net: SpikingNetwork) -> None:
        super().__init__()
        self.body, self.head, self.time_steps = net.body, net.head, net.time_steps
        _fuse_batch_norms(self)
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 4:
            steps, body = x.expand(self.time_steps, *x.shape), nn.Sequential(Once(self.body[0]), *self.body[1:])
        else:
            steps, body = x.transpose(0, 1), self.body
        return every_step(self.head, body(steps)).mean(0)


def _fuse_batch_norms(model: nn.Module) -> None:
    for module in model.modules():
        if not isinstance(module, nn.Sequential):
            continue
        for i in range(len(module) - 1, 0, -1):
            if isinstance(module[i], _BatchNorm) and isinstance(module[i - 1], nn.Conv2d):
                module[i - 1] = fuse_conv_bn_eval(module[i - 1], module[i])
                del module[i]


def in_parts(form: Form, samples: int) -> Form:
    """So many samples at a time."""
    return lambda x: torch.cat([form(part) for part in x.split(samples)])


def at_once(samples: int, steps: int) -> tuple[int, ...]:
    """How many samples eager torch may be fed at a time: all, or what stays in the cache."""
    return tuple(dict.fromkeys((samples, min(samples, max(1, _AT_ONCE // steps)))))


def folded(net: Net, steps: int) -> Form:
    """The fastest plain eager form."""
    return Folded(net.model(LeanLIF, steps))


def compiled(net: Net, steps: int) -> Form:
    """The same under ``torch.compile``."""
    if not any(map(shutil.which, filter(None, [os.environ.get("CXX"), "g++", "clang++"]))):
        raise UnavailableError("torch.compile needs a C++ compiler (g++ or clang++), and there is none")
    # It warns of a missing Triton, which it does not need here.
    logging.getLogger("torch._library.triton").setLevel(logging.ERROR)
    model = Folded(net.model(LeanLIF, steps))
    if steps <= _UNROLLED:
        whole: Form = torch.compile(model)
        return whole
    # One for all shapes: a compilation for each would soon be more than torch allows one function.
    step = torch.compile(lif_step, dynamic=True)
    for module in model.modules():
        if isinstance(module, LeanLIF):
            module.step = step
    return model


# slayer's blocks with time constants like those of the other forms; its states are rounded, so its spikes are its own.
_SLAYER = {"threshold": V_THRESHOLD, "current_decay": 1.0, "voltage_decay": 1 - DECAY}


def slayer(net: Net, steps: int) -> Form:
    """lava-dl's slayer blocks of the same sizes; [N, C, H, W, T], which its blocks take."""
    if net.slayer is None:
        raise UnavailableError("slayer's blocks are timed on networks in a row: its residual ones are users' own code")
    try:
        lava_compat.prepare_slayer()
        from lava.lib.dl.slayer import block
    except (ImportError, S2CError) as error:
        raise UnavailableError(f"lava-dl cannot be imported: {error}") from None
    model = nn.Sequential(*net.slayer(block.cuba, _SLAYER)).eval()

    def run(x: Tensor) -> Tensor:
        timed = x[..., None].expand(*x.shape, steps) if x.ndim == 4 else x.movedim(1, -1)
        out: Tensor = model(timed.contiguous()).mean(-1)
        return out

    return run


FORMS: dict[str, Callable[[Net, int], Form]] = {
    "float, time loop as written": as_written,
    "float, T folded, channels last": folded,
    "float, torch.compile": compiled,
    "SpikingJelly, multi-step": spikingjelly,
    "snnTorch, time loop": snntorch,
    "lava-dl slayer": slayer,
}
WRITTEN, FOLDED, COMPILED = list(FORMS)[:3]
# What computes another network: only its time compares.
OF_ITS_OWN = frozenset({"lava-dl slayer"})
# The soonest of these is what every ratio is to.
EAGER = tuple(name for name in FORMS if name != COMPILED and name not in OF_ITS_OWN)
