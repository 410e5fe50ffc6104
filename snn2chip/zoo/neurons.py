"""Spiking neurons of S000 to S003 to train with: one call is one time step, state is kept until :func:`reset`.

Equations, conventions and sources stand in ``snn2chip/neurons``; ``module.neuron()`` is the exact model there, which
the tracer takes. Layers are called step after step on [N, ...].
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from snn2chip.neurons import alif, lnm, qif, ternary, tpp
from snn2chip.neurons.base import Fire, FloatNeuron
from snn2chip.neurons.lif import LIF
from snn2chip.zoo.surrogate import Rectangle, Surrogate, Triangle, spike

_RECTANGLE = Rectangle()
# Bellec et al. 2018 dampen their pseudo-derivative to 0.3.
_TRIANGLE = Triangle(height=0.3)


class SpikingNeuron(nn.Module):
    """A layer of neurons; ``v`` is the membrane after the last step, None before the first."""

    v: Tensor | None

    def __init__(self, v_threshold: float, surrogate: Surrogate) -> None:
        super().__init__()
        self.v_threshold, self.surrogate = float(v_threshold), surrogate
        self.v = None

    def reset(self) -> None:
        """Forget the sample."""
        self.v = None

    def neuron(self) -> FloatNeuron:
        """The exact model of this layer."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        """The model's description."""
        return self.neuron().describe()

    def membrane(self, x: Tensor) -> Tensor:
        """What the last step left, or the start."""
        return torch.zeros_like(x) if self.v is None else self.v


def reset(model: nn.Module) -> None:
    """Let every neuron of a model forget the last sample."""
    for module in model.modules():
        if isinstance(module, SpikingNeuron):
            module.reset()


class PLIF(SpikingNeuron):
    """LIF that learns its time constant (Fang et al. 2021): h = v + (x − v)·sigmoid(w), one w for the layer.

    Args:
        tau: the time constant it starts from.
        v_threshold: θ.
        v_reset: where it resets to; None: θ is subtracted.
    """

    def __init__(
        self,
        tau: float = 2.0,
        v_threshold: float = 1.0,
        v_reset: float | None = 0.0,
        surrogate: Surrogate = _RECTANGLE,
    ) -> None:
        super().__init__(v_threshold, surrogate)
        self.w = nn.Parameter(torch.tensor(-math.log(tau - 1)))
        self.v_reset = v_reset

    def neuron(self) -> LIF:
        """A LIF with the decay learned."""
        return LIF(
            np.asarray(self.v_threshold),
            np.asarray(float(self.w.detach().sigmoid())),
            "rate",
            v_rest=np.asarray(self.v_reset or 0.0),
            reset="soft" if self.v_reset is None else "hard",
            v_reset=np.asarray(self.v_reset or 0.0),
        )

    def forward(self, x: Tensor) -> Tensor:
        """One step."""
        v = self.membrane(x)
        h = v + (x - (v - (self.v_reset or 0.0))) * self.w.sigmoid()
        out = spike(h - self.v_threshold, self.surrogate)
        self.v = h - self.v_threshold * out if self.v_reset is None else (1 - out) * h + self.v_reset * out
        return out


class SoftResetIF(SpikingNeuron):
    """S001's integrate-and-fire: no leak, θ is subtracted, and what converted networks need.

    Args:
        v_threshold: θ.
        fire: Alg. 1 fires strictly above θ, Eq. 1 leaves it open.
        v_start: membrane before the first step (θ/2 after QCFS).
        scaled: a spike is worth θ, for networks whose weights have not absorbed it.
    """

    def __init__(
        self,
        v_threshold: float = 1.0,
        fire: Fire = ">",
        v_start: float = 0.0,
        scaled: bool = False,
        surrogate: Surrogate = _RECTANGLE,
    ) -> None:
        super().__init__(v_threshold, surrogate)
        self.fire, self.v_start, self.scaled = fire, float(v_start), scaled

    def neuron(self) -> LIF:
        """An IF."""
        return LIF(
            np.asarray(self.v_threshold),
            np.asarray(1.0),
            fire=self.fire,
            reset="soft",
            v_start=np.asarray(self.v_start),
            spike_value=self.v_threshold if self.scaled else 1.0,
        )

    def membrane(self, x: Tensor) -> Tensor:
        """What the last step left, or the start."""
        return torch.full_like(x, self.v_start) if self.v is None else self.v

    def forward(self, x: Tensor) -> Tensor:
        """One step."""
        h = self.membrane(x) + x
        out = spike(h - self.v_threshold, self.surrogate, self.fire == ">")
        self.v = h - self.v_threshold * out
        return self.v_threshold * out if self.scaled else out


class ALIF(SpikingNeuron):
    """LIF whose threshold rises with every spike, see ``snn2chip/neurons/alif.py``.

    Args:
        decay: of the membrane.
        adaptation_decay, adaptation_strength: ρ and k.
        v_threshold: θ at rest.
        adaptation_step: r; 1, or 1 − ρ.
        reset_to: "hard" (to zero), "soft" (minus θ), "adaptive" (minus the threshold as it stood).
    """

    b: Tensor | None

    def __init__(
        self,
        decay: float,
        adaptation_decay: float,
        adaptation_strength: float,
        v_threshold: float = 1.0,
        adaptation_step: float = 1.0,
        reset_to: alif.AdaptiveReset = "hard",
        surrogate: Surrogate = _TRIANGLE,
    ) -> None:
        super().__init__(v_threshold, surrogate)
        self.decay, self.adaptation_decay = float(decay), float(adaptation_decay)
        self.adaptation_strength, self.adaptation_step = float(adaptation_strength), float(adaptation_step)
        self.reset_to = reset_to
        self.b = None

    def reset(self) -> None:
        """Forget the sample, its adaptation included."""
        self.v = self.b = None

    def neuron(self) -> alif.ALIF:
        """The exact model."""
        return alif.ALIF(
            np.asarray(self.v_threshold),
            np.asarray(self.decay),
            np.asarray(self.adaptation_decay),
            np.asarray(self.adaptation_strength),
            np.asarray(self.adaptation_step),
            reset=self.reset_to,
        )

    def forward(self, x: Tensor) -> Tensor:
        """One step."""
        b = torch.zeros_like(x) if self.b is None else self.b
        theta = self.v_threshold + self.adaptation_strength * b
        h = self.decay * self.membrane(x) + x
        out = spike(h - theta, self.surrogate)
        taken: Any = {"hard": h, "soft": self.v_threshold, "adaptive": theta, "none": 0.0}[self.reset_to]
        self.v = h - taken * out
        self.b = self.adaptation_decay * b + self.adaptation_step * out
        return out


class LNM(SpikingNeuron):
    """S002's neuron with a learned polynomial, see ``snn2chip/neurons/lnm.py``.

    Args:
        degree: of the polynomial; 3 in the paper.
        form: which published form.
        bound: clip of its argument; None: none, or tanh with ``squash``.
        gated: the reset is a gate in the next step (Eq. 4).
        decay: it starts as the LIF v ← decay·v.
        v_threshold: θ.
    """

    def __init__(
        self,
        degree: int = 3,
        form: lnm.Form = "added",
        bound: float | None = 1.0,
        squash: bool = False,
        gated: bool = False,
        decay: float = 0.25,
        v_threshold: float = 0.5,
        surrogate: Surrogate = _RECTANGLE,
    ) -> None:
        super().__init__(v_threshold, surrogate)
        self.form, self.bound, self.squash, self.gated = form, bound, squash, gated
        linear = {"added": decay - 1, "subtracted": 1 - decay, "absorbed": decay}[form]
        # θ_0 = 0 is no parameter: f(0) = 0 (S002 §4.1).
        self.theta = nn.Parameter(torch.tensor([linear] + [0.0] * (degree - 1)))

    def neuron(self) -> lnm.LNM:
        """The exact model."""
        return lnm.LNM(
            np.asarray(self.v_threshold),
            (0.0, *self.theta.detach().double().tolist()),
            self.form,
            self.bound,
            self.squash,
            gated=self.gated,
        )

    def forward(self, x: Tensor) -> Tensor:
        """One step; the polynomial by Horner's rule."""
        v = self.membrane(x)
        c = torch.tanh(v) if self.squash else v if self.bound is None else v.clamp(-self.bound, self.bound)
        f = torch.zeros_like(x)
        for theta in reversed(self.theta.unbind()):
            f = (theta + f) * c
        driven = {"added": v + f, "subtracted": v - f, "absorbed": f}[self.form]
        if self.gated:
            driven = driven * (v < self.v_threshold)
        h = driven + x
        out = spike(h - self.v_threshold, self.surrogate)
        self.v = h if self.gated else h * (1 - out)
        return out


class QIF(SpikingNeuron):
    """S003's quadratic neuron, see ``snn2chip/neurons/qif.py``; its surrogate window is Eq. 16's.

    Args:
        v_threshold, a, v_rest, v_critical: u_th, a, u_rest, u_c.
        carries: the extra + u of Eq. 22.
    """

    def __init__(
        self,
        v_threshold: float = 0.5,
        a: float = 0.25,
        v_rest: float = 0.0,
        v_critical: float = 0.5,
        carries: bool = False,
    ) -> None:
        mean = a * (v_threshold**2 + v_rest * v_critical)
        spread = v_threshold * math.sqrt(1 + a**2 * (2 * v_threshold**2 + (v_critical - v_rest) ** 2))
        super().__init__(v_threshold, Rectangle(2 * spread, mean - v_threshold, 1.0))
        self.a, self.v_rest, self.v_critical, self.carries = float(a), float(v_rest), float(v_critical), carries

    def neuron(self) -> qif.QIF:
        """The exact model."""
        zeros = (np.asarray(self.v_rest), np.asarray(self.v_critical))
        return qif.QIF(np.asarray(self.v_threshold), np.asarray(self.a), *zeros, carries=self.carries)

    def forward(self, x: Tensor) -> Tensor:
        """One step, Eq. 12 to 15."""
        v = self.membrane(x)
        square = self.a * (v - self.v_rest) * (v - self.v_critical)
        h = v + square + x if self.carries else square + x
        out = spike(h - self.v_threshold, self.surrogate)
        self.v = h * (1 - out) + self.v_rest * out
        return out


class TernaryLIF(SpikingNeuron):
    """LIF with spikes of both signs, see ``snn2chip/neurons/ternary.py``.

    Args:
        decay: β.
        v_threshold: θ.
        soft: θ is subtracted, with the spike's sign; else a hard reset to zero.
        amplitude: what a spike of 1 is worth.
    """

    def __init__(
        self,
        decay: float,
        v_threshold: float = 1.0,
        soft: bool = False,
        amplitude: float = 1.0,
        surrogate: Surrogate = _RECTANGLE,
    ) -> None:
        super().__init__(v_threshold, surrogate)
        self.decay, self.soft, self.amplitude = float(decay), soft, float(amplitude)

    def neuron(self) -> ternary.TernaryLIF:
        """The exact model."""
        return ternary.TernaryLIF(
            np.asarray(self.v_threshold),
            np.asarray(self.decay),
            reset="soft" if self.soft else "hard",
            spike_value=self.amplitude,
        )

    def forward(self, x: Tensor) -> Tensor:
        """One step."""
        h = self.decay * self.membrane(x) + x
        sign = spike(h - self.v_threshold, self.surrogate) - spike(-h - self.v_threshold, self.surrogate)
        self.v = h - self.v_threshold * sign if self.soft else h * (1 - sign.abs())
        return self.amplitude * sign


class TPP(SpikingNeuron):
    """S001's two-phase probabilistic neuron, see ``snn2chip/neurons/tpp.py``. It is not trained: no gradient passes.

    Args:
        v_threshold: θ; inf: it gathers, its output is the membrane.
        phase_steps: T.
        seed: every layer needs its own.
        first: step at which phase 1 begins: (l − 1)·T for the l-th layer.
        scaled: a spike is worth θ.
    """

    generator: Tensor | None

    def __init__(self, v_threshold: float, phase_steps: int, seed: int, first: int = 0, scaled: bool = False) -> None:
        super().__init__(v_threshold, Rectangle())
        self.phase_steps, self.seed, self.first, self.scaled = phase_steps, seed, first, scaled
        self.t, self.generator = 0, None

    def reset(self) -> None:
        """Forget the sample, and start its generators anew."""
        self.v, self.t, self.generator = None, 0, None

    def neuron(self) -> tpp.TPP:
        """The exact model."""
        worth = self.v_threshold if self.scaled else 1.0
        return tpp.TPP(np.asarray(self.v_threshold), self.phase_steps, self.seed, self.first, worth)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """One step."""
        if self.generator is None:
            self.generator = torch.from_numpy(tpp.generator_starts(self.seed, tuple(x.shape[1:]))).to(x.device)
        self.generator = (self.generator * tpp.MULTIPLIER + tpp.INCREMENT) & tpp.MASK
        t, v = self.t, self.membrane(x)
        self.t += 1
        second = self.first + self.phase_steps
        if self.first <= t < second:
            v = v + x
        self.v = v
        if math.isinf(self.v_threshold):
            return v.clone()
        left = second + self.phase_steps - t
        if t < second or left <= 0:
            return torch.zeros_like(x)
        draw = (self.generator >> tpp.DROPPED).to(x.dtype)
        out = (draw * self.v_threshold * left < v * 2.0**tpp.DRAW_BITS).to(x.dtype)
        self.v = v - self.v_threshold * out
        return self.v_threshold * out if self.scaled else out
