"""Neurons the way research code writes them: one class per style, each with its state in attributes, or looping.

Styles met in public code of the surrogate-gradient tutorials (Zenke, Neftci), SHD networks (Cramer), STBP, tdBN and
TET, DIET-SNN, RMP, PLIF, LTMD, LSNN and ALIF (Bellec; Yin), QIF, learnable polynomials, ternary spikes; written anew.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from torch_networks import Spike, StrictSpike

GLOBAL_DECAY, GLOBAL_THRESHOLD = 0.2, 0.5
fire = StrictSpike.apply


class Neuron(nn.Module):
    """Keeps what it is told to keep; ``reset`` forgets it."""

    def __init__(self) -> None:
        super().__init__()
        self.reset()

    def reset(self) -> None:
        self.mem: Any = None
        self.syn: Any = None
        self.spk: Any = None
        self.adp: Any = None

    def started(self, x: Tensor) -> None:
        if self.mem is None:
            self.mem, self.syn, self.spk, self.adp = (torch.zeros_like(x) for _ in range(4))


class CurrentThenMembrane(Neuron):
    """The current takes the input, decays of its own, and drives the membrane in the same step."""

    alpha, beta, threshold = 0.8, 0.7, 1.2

    def forward(self, x: Tensor) -> Tensor:
        self.started(x)
        self.syn = self.alpha * self.syn + x
        self.mem = self.beta * self.mem + self.syn
        spike = fire(self.mem - self.threshold)
        self.mem = self.mem * (1 - spike)
        return spike


class SoftWithCurrent(CurrentThenMembrane):
    """The same with a soft reset, time constants and equal gains."""

    def __init__(self) -> None:
        super().__init__()
        self.alpha, self.beta = math.exp(-1 / 5.0), math.exp(-1 / 10.0)

    def forward(self, x: Tensor) -> Tensor:
        self.started(x)
        self.syn = self.alpha * self.syn + (1 - self.alpha) * x
        self.mem = self.beta * self.mem + (1 - self.beta) * self.syn
        spike = fire(self.mem - 0.05)
        self.mem = self.mem - spike * 0.05
        return spike


class CurrentAfterMembrane(Neuron):
    """The tutorials' order: fire from the old membrane, move it by the old current, then take the input."""

    def forward(self, x: Tensor) -> Tensor:
        self.started(x)
        spike = fire(self.mem - 1.0)
        new_syn = 0.9 * self.syn + x
        new_mem = (0.85 * self.mem + self.syn) * (1.0 - spike)
        self.mem, self.syn = new_mem, new_syn
        return spike


class CurrentAfterMembraneSoft(Neuron):
    """The same, subtracting the spike."""

    def forward(self, x: Tensor) -> Tensor:
        self.started(x)
        spike = fire(self.mem - 1.0)
        new_syn = 0.6 * self.syn + x
        new_mem = 0.85 * self.mem + self.syn - spike
        self.mem, self.syn = new_mem, new_syn
        return spike


class ScaledCurrent(Neuron):
    """The membrane takes (1 − β) of the old current, as in the code for neuromorphic Braille reading."""

    def forward(self, x: Tensor) -> Tensor:
        self.started(x)
        spike = fire(self.mem - 0.3)
        new_syn = 0.5 * self.syn + x
        new_mem = (0.75 * self.mem + (1.0 - 0.75) * self.syn) * (1.0 - spike)
        self.mem, self.syn = new_mem, new_syn
        return spike


class DecayAfterInput(Neuron):
    """Input joins the current before both decay, and the membrane is decayed by its leak: as in Rockpool's LIF."""

    def __init__(self) -> None:
        super().__init__()
        self.tau_syn, self.tau_mem, self.dt = 8e-3, 12e-3, 4e-3

    def forward(self, x: Tensor) -> Tensor:
        self.started(x)
        self.syn = (self.syn + x) * math.exp(-self.dt / self.tau_syn)
        self.mem = self.mem * math.exp(-self.dt / self.tau_mem) + self.syn
        spike = Spike.apply(self.mem - 1.0)
        self.mem = self.mem - spike * 1.0
        return spike


class JumpThenDecay(Neuron):
    """The current jumps, moves the membrane by Euler's rule, and decays afterwards."""

    def forward(self, x: Tensor) -> Tensor:
        self.started(x)
        jumped = self.syn + x
        h = self.mem + 0.3 * ((0.0 - self.mem) + jumped)
        self.syn = jumped - 0.2 * jumped
        spike = fire(h - 0.4)
        self.mem = (1 - spike) * h + spike * 0.1
        return spike


class SameDecay(Neuron):
    """One decay for both states."""

    def forward(self, x: Tensor) -> Tensor:
        self.started(x)
        self.syn = self.syn * 0.75 + x
        self.mem = self.mem * 0.75 + self.syn
        spike = fire(self.mem - 1.5)
        self.mem = torch.where(spike > 0, torch.zeros_like(spike), self.mem)
        return spike


class LearnedCurrent(Neuron):
    """Decays of membrane and current learned per neuron, through a sigmoid; thresholds per neuron."""

    def __init__(self, n: int) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(n)
        self.a, self.b = (nn.Parameter(torch.randn(n, generator=g)) for _ in range(2))
        self.threshold = nn.Parameter(torch.rand(n, generator=g) + 0.8)

    def forward(self, x: Tensor) -> Tensor:
        self.started(x)
        self.syn = torch.sigmoid(self.a) * self.syn + x
        self.mem = torch.sigmoid(self.b) * self.mem + self.syn
        spike = fire(self.mem - self.threshold)
        self.mem = self.mem - self.threshold * spike
        return spike


class LearnedTau(Neuron):
    """Per-neuron time constants, exp(−1/τ), and the membrane as a moving average."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.tau = nn.Parameter(torch.rand(n, generator=torch.Generator().manual_seed(n)) * 6 + 1)

    def forward(self, x: Tensor) -> Tensor:
        self.started(x)
        beta = torch.exp(-1.0 / self.tau)
        self.mem = beta * self.mem + (1 - beta) * x
        spike = fire(self.mem - 0.3)
        self.mem = self.mem - 0.3 * spike
        return spike


class ClampedDecay(Neuron):
    """A decay that training may push out of [0, 1], clamped when used."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(n, generator=torch.Generator().manual_seed(n)) * 0.6 + 0.7)

    def forward(self, x: Tensor) -> Tensor:
        self.started(x)
        self.mem = self.w.clamp(0, 1) * self.mem * (1 - self.spk) + x
        self.spk = fire(self.mem - 1.0)
        return self.spk


class Plif(Neuron):
    """PLIF: 1/τ = sigmoid(w), the input scaled with the leak."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(-0.3))

    def forward(self, x: Tensor) -> Tensor:
        self.started(x)
        h = self.mem + (x - self.mem) * self.w.sigmoid()
        spike = Spike.apply(h - 0.6)
        self.mem = (1.0 - spike) * h
        return spike


class LearnedThreshold(Neuron):
    """LTMD: the threshold is tanh of what is learned."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(0.8))

    def forward(self, x: Tensor) -> Tensor:
        self.started(x)
        self.mem = 0.25 * self.mem + x
        spike = Spike.apply(self.mem - torch.tanh(self.w))
        self.mem = self.mem * (1 - spike)
        return spike


class Stbp(Neuron):
    """STBP: the leak is gated by the last spike; constants are globals."""

    def forward(self, x: Tensor) -> Tensor:
        self.started(x)
        self.mem = self.mem * GLOBAL_DECAY * (1.0 - self.spk) + x
        self.spk = (self.mem > GLOBAL_THRESHOLD).float()
        return self.spk


class Diet(Neuron):
    """DIET-SNN: normalised membrane, reset by subtraction in the next step."""

    def __init__(self) -> None:
        super().__init__()
        self.leak, self.threshold = nn.Parameter(torch.tensor(0.93)), nn.Parameter(torch.tensor(0.8))

    def forward(self, x: Tensor) -> Tensor:
        self.started(x)
        self.mem = self.leak * self.mem + x - self.threshold * (self.spk > 0).float()
        self.spk = fire(self.mem / self.threshold - 1.0)
        return self.spk


class Rmp(Neuron):
    """RMP: integrate and fire, the residual kept, a spike worth the threshold."""

    def forward(self, x: Tensor) -> Tensor:
        self.started(x)
        self.mem = self.mem + x
        spike = (self.mem >= 0.75).float() * 0.75
        self.mem = self.mem - spike
        return spike


class HalfFull(Neuron):
    """Starts at half a threshold, resets by subtraction, and gives its threshold as spike (QCFS)."""

    def __init__(self) -> None:
        super().__init__()
        self.thresh = nn.Parameter(torch.tensor([0.8]))

    def forward(self, x: Tensor) -> Tensor:
        mem = (0.5 * self.thresh.data if self.mem is None else self.mem) + x
        spike = fire(mem - self.thresh.data) * self.thresh.data
        self.mem = mem - spike
        return spike


class Calibrated(Neuron):
    """Starts at a number found by calibration, and is set to 0 by a spike."""

    def forward(self, x: Tensor) -> Tensor:
        mem = (0.3 if self.mem is None else self.mem) + x
        spike = (mem >= 1.3).float()
        self.mem = mem * (1 - spike)
        return spike


class LateReset(Neuron):
    """snnTorch's from-scratch style: the reset is computed from the old membrane before the update."""

    def forward(self, x: Tensor) -> Tensor:
        self.started(x)
        reset = (self.mem > 1.0).float()
        self.mem = 0.9 * self.mem + x - reset * 1.0
        return (self.mem > 1.0).float()


class LateHardReset(Neuron):
    """The same, to zero, the next input included."""

    def forward(self, x: Tensor) -> Tensor:
        self.started(x)
        self.mem = (0.9 * self.mem + x) * (1 - self.spk)
        self.spk = fire(self.mem - 1.0)
        return self.spk


class LateSpikes(Neuron):
    """Fires from the membrane before the update."""

    def forward(self, x: Tensor) -> Tensor:
        self.started(x)
        spike = fire(self.mem - 1.0)
        self.mem = 0.8 * (self.mem - spike) + x
        return spike


class Addcmul(Neuron):
    """Written with fused operations and lerp."""

    def forward(self, x: Tensor) -> Tensor:
        self.started(x)
        h = torch.lerp(self.mem, x, 0.35)
        spike = torch.heaviside(h - 0.4, torch.ones(()))
        self.mem = torch.addcmul(h, spike, h, value=-1)
        return spike


class Lsnn(Neuron):
    """LSNN 2020: soft reset by the resting threshold, adaptation beside it."""

    def forward(self, x: Tensor) -> Tensor:
        self.started(x)
        self.mem = 0.9 * self.mem + x
        threshold = 1.0 + 0.3 * self.adp
        spike = fire(self.mem - threshold)
        self.mem = self.mem - spike * 1.0
        self.adp = 0.85 * self.adp + spike
        return spike


class Lsnn2018(Neuron):
    """LSNN 2018: what is subtracted is the adapted threshold; adaptation as a moving average; time constants."""

    def __init__(self) -> None:
        super().__init__()
        self.alpha, self.rho, self.beta = math.exp(-1 / 8), math.exp(-1 / 15), 1.8

    def forward(self, x: Tensor) -> Tensor:
        self.started(x)
        self.mem = self.alpha * self.mem + x
        threshold = 0.6 + self.beta * self.adp
        spike = fire(self.mem - threshold)
        self.mem = self.mem - spike * threshold
        self.adp = self.rho * self.adp + (1 - self.rho) * spike
        return spike


class Yin(Neuron):
    """Adaptive neurons of the SHD and speech networks: learned time constants, a late reset by the raised threshold."""

    def __init__(self, n: int) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(n)
        self.tau_m = nn.Parameter(torch.rand(n, generator=g) * 10 + 5)
        self.tau_adp = nn.Parameter(torch.rand(n, generator=g) * 20 + 10)

    def forward(self, x: Tensor) -> Tensor:
        self.started(x)
        alpha, ro = torch.exp(-1.0 / self.tau_m), torch.exp(-1.0 / self.tau_adp)
        self.adp = ro * self.adp + (1 - ro) * self.spk
        level = 0.1 + 1.8 * self.adp
        self.mem = self.mem * alpha + (1 - alpha) * x - level * self.spk
        self.spk = fire(self.mem - level)
        return self.spk


class AdaptiveHard(Neuron):
    """Threshold adaptation with a hard reset and Euler's rule."""

    def forward(self, x: Tensor) -> Tensor:
        self.started(x)
        self.adp = 0.8 * self.adp + 0.2 * self.spk
        level = 0.3 + 1.1 * self.adp
        h = self.mem + (x - self.mem) * 0.4
        self.spk = fire(h - level)
        self.mem = (1 - self.spk) * h
        return self.spk


class AdaptiveWithCurrent(Neuron):
    """Current, membrane and adaptation."""

    def forward(self, x: Tensor) -> Tensor:
        self.started(x)
        self.syn = 0.5 * self.syn + x
        self.mem = 0.8 * self.mem + self.syn
        spike = Spike.apply(self.mem - 1.0 - 0.4 * self.adp)
        self.mem = self.mem - spike
        self.adp = 0.9 * self.adp + spike
        return spike


class Quadratic(Neuron):
    """QIF: a(v − v_rest)(v − v_c) without the membrane itself."""

    def forward(self, x: Tensor) -> Tensor:
        self.started(x)
        h = 0.25 * (self.mem - 0.0) * (self.mem - 0.5) + x
        spike = Spike.apply(h - 0.8)
        self.mem = (1 - spike) * h
        return spike


class QuadraticEuler(Neuron):
    """QIF by Euler's rule, with a time constant."""

    tau, a, v_c, threshold = 2.0, 0.9, 0.8, 1.0

    def forward(self, x: Tensor) -> Tensor:
        self.started(x)
        h = self.mem + (x + self.a * self.mem * (self.mem - self.v_c)) / self.tau
        spike = Spike.apply(h - self.threshold)
        self.mem = h - spike * h
        return spike


class Polynomial(Neuron):
    """A learned cubic of the clipped membrane, added to it."""

    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.tensor([0.0, -0.62, 0.21, -0.13]))

    def forward(self, x: Tensor) -> Tensor:
        self.started(x)
        c = self.mem.clamp(-1, 1)
        h = self.mem + self.theta[0] + c * (self.theta[1] + c * (self.theta[2] + c * self.theta[3])) + x
        spike = Spike.apply(h - 0.5)
        self.mem = h * (1 - spike)
        return spike


class SquashedPolynomial(Neuron):
    """The same of tanh(v), in powers, with the identity in it."""

    def forward(self, x: Tensor) -> Tensor:
        self.started(x)
        c = torch.tanh(self.mem)
        h = 0.55 * c + 0.3 * c**2 - 0.2 * c**3 + x
        spike = Spike.apply(h - 0.5)
        self.mem = h * (1 - spike)
        return spike


class Ternary(Neuron):
    """Spikes of both signs, hard reset."""

    def forward(self, x: Tensor) -> Tensor:
        self.started(x)
        h = 0.6 * self.mem + x
        spike = (h >= 0.9).float() - (h <= -0.9).float()
        self.mem = h * (1 - spike.abs())
        return spike


class TernarySoft(Neuron):
    """Spikes of both signs by sign and magnitude, soft reset, a learned amplitude."""

    def __init__(self) -> None:
        super().__init__()
        self.amplitude = nn.Parameter(torch.tensor(0.7))

    def forward(self, x: Tensor) -> Tensor:
        self.started(x)
        h = 0.8 * self.mem + x
        spike = torch.sign(h) * (h.abs() > 1.0).float()
        self.mem = h - spike * 1.0
        return spike * self.amplitude


class Looped(nn.Module):
    """[T, N, ...] in one call, with a current, for one T only: the loop runs over what the constructor was told."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps

    def forward(self, x: Tensor) -> Tensor:
        mem = syn = torch.zeros_like(x[0])
        out = []
        for t in range(self.steps):
            syn = 0.4 * syn + x[t]
            mem = 0.6 * mem + syn
            out.append(fire(mem - 1.0))
            mem = mem * (1 - out[-1])
        return torch.stack(out)


class Preallocated(Looped):
    """The same, written into a tensor of the input's shape: of a longer input it would not look at the rest."""

    def forward(self, x: Tensor) -> Tensor:
        mem = syn = torch.zeros_like(x[0])
        out = torch.zeros_like(x)
        for t in range(self.steps):
            syn = 0.4 * syn + x[t]
            mem = 0.6 * mem + syn if t else syn
            out[t] = fire(mem - 1.0)
            mem = mem.clone() * (1 - out[t].detach())
        return out


class ReadOut(Neuron):
    """A leaky integrator behind a current."""

    def forward(self, x: Tensor) -> Tensor:
        self.started(x)
        self.syn = 0.7 * self.syn + x
        self.mem = 0.9 * self.mem + (1 - 0.9) * self.syn
        return self.mem


class LateReadOut(Neuron):
    """The tutorials' read-out: the membrane takes the old current."""

    def forward(self, x: Tensor) -> Tensor:
        self.started(x)
        new_syn = 0.9 * self.syn + x
        self.mem = 0.85 * self.mem + self.syn
        self.syn = new_syn
        return self.mem


def _plain(cls: Callable[[], nn.Module]) -> Callable[[int], nn.Module]:
    return lambda n: cls()


# class → (for n neurons, kind, what the description must say)
RECOGNISED: dict[str, tuple[Callable[[int], nn.Module], str, tuple[str, ...]]] = {
    "current then membrane": (_plain(CurrentThenMembrane), "CubaLIF", ("current decay 0.8, decay 0.7", "v > 1.2")),
    "soft reset, moving averages": (_plain(SoftWithCurrent), "CubaLIF", ("current decay 0.818731, decay 0.904837",)),
    "current after membrane": (_plain(CurrentAfterMembrane), "CubaLIF", ("current decay 0.9, decay 0.85", "(next)")),
    "current after membrane, soft": (_plain(CurrentAfterMembraneSoft), "CubaLIF", ("soft reset (next)",)),
    "scaled current": (_plain(ScaledCurrent), "CubaLIF", ("gain 0.25", "v > 0.3")),
    "decay after input": (_plain(DecayAfterInput), "CubaLIF", ("gain 0.606531", "v >= 1", "soft")),
    "jump then decay": (_plain(JumpThenDecay), "CubaLIF", ("current decay 0.8", "(rate)", "hard reset to 0.1")),
    "one decay for both": (_plain(SameDecay), "CubaLIF", ("current decay 0.75, decay 0.75",)),
    "learned per neuron, sigmoid": (LearnedCurrent, "CubaLIF", ("soft",)),
    "learned per neuron, exp": (LearnedTau, "LIF", ("v > 0.3", "soft")),
    "learned per neuron, clamp": (ClampedDecay, "LIF", ("v > 1", "(gate)")),
    "PLIF": (_plain(Plif), "LIF", ("(rate)", "v >= 0.6")),
    "learned threshold": (_plain(LearnedThreshold), "LIF", ("v >= 0.664037",)),
    "STBP": (_plain(Stbp), "LIF", ("decay 0.2, v > 0.5", "(gate)")),
    "DIET-SNN": (_plain(Diet), "LIF", ("decay 0.93", "soft reset (next)")),
    "RMP": (_plain(Rmp), "IF", ("decay 1, v >= 0.75, soft reset",)),
    "half full": (_plain(HalfFull), "IF", ("v > 0.8, soft reset, starts at 0.4",)),
    "calibrated": (_plain(Calibrated), "IF", ("v >= 1.3, hard reset, starts at 0.3",)),
    "late reset": (_plain(LateReset), "LIF", ("soft reset (next)",)),
    "late hard reset": (_plain(LateHardReset), "LIF", ("hard reset (next)",)),
    "late spikes": (_plain(LateSpikes), "LIF", ("soft reset (gate)",)),
    "fused operations": (_plain(Addcmul), "LIF", ("v >= 0.4",)),
    "LSNN 2020": (_plain(Lsnn), "ALIF", ("v > 1 + 0.3 a spike, decaying by 0.85, soft reset",)),
    "LSNN 2018": (_plain(Lsnn2018), "ALIF", ("v > 0.6 + 0.116087", "adaptive reset")),
    "Yin": (Yin, "ALIF", ("v > 0.1", "adaptive reset (next)")),
    "adaptive, hard": (_plain(AdaptiveHard), "ALIF", ("v > 0.3 + 0.22 a spike, decaying by 0.8, hard reset",)),
    "adaptive with current": (_plain(AdaptiveWithCurrent), "ALIF", ("current decay 0.5", "0.4 a spike")),
    "QIF": (_plain(Quadratic), "QIF", ("0.25·(v − 0)(v − 0.5), v >= 0.8",)),
    "QIF by Euler": (_plain(QuadraticEuler), "QIF", ("0.45·(v − 0)(v − 0.8) + v", "gain 0.5")),
    "polynomial": (_plain(Polynomial), "LNM", ("clip(v, ±1)", "-0.62·c^1 + 0.21·c^2 + -0.13·c^3")),
    "squashed polynomial": (_plain(SquashedPolynomial), "LNM", ("tanh(v)", "0.55·c^1")),
    "ternary": (_plain(Ternary), "TernaryLIF", ("decay 0.6, |v| >= 0.9, hard",)),
    "ternary, soft": (_plain(TernarySoft), "TernaryLIF", ("decay 0.8, |v| > 1, soft",)),
}
INTEGRATORS = {"read-out with current": (ReadOut, 0), "late read-out": (LateReadOut, 1)}


class PartialReset(Neuron):
    """A spike takes away 70 % of the membrane."""

    def forward(self, x: Tensor) -> Tensor:
        self.started(x)
        h = 0.8 * self.mem + x
        spike = fire(h - 1.0)
        self.mem = h * (1 - 0.7 * spike)
        return spike


class OtherAmount(Neuron):
    """A spike takes away 1, the threshold is 0.5."""

    def forward(self, x: Tensor) -> Tensor:
        self.started(x)
        h = 0.8 * self.mem + x
        spike = fire(h - 0.5)
        self.mem = h - spike
        return spike


class Refractory(Neuron):
    """Silent for three steps after a spike."""

    def forward(self, x: Tensor) -> Tensor:
        self.started(x)
        h = 0.8 * self.mem + x
        spike = fire(h - 1.0) * (self.adp <= 0).float()
        self.mem = h * (1 - spike)
        self.adp = torch.where(spike > 0, torch.full_like(x, 3.0), (self.adp - 1).clamp(min=0))
        return spike


class TwoCurrents(Neuron):
    """Two synapses with a time constant each."""

    def forward(self, x: Tensor) -> Tensor:
        self.started(x)
        self.syn, self.adp = 0.8 * self.syn + x, 0.3 * self.adp + x
        self.mem = 0.6 * self.mem + self.syn - 0.5 * self.adp
        spike = fire(self.mem - 1.0)
        self.mem = self.mem * (1 - spike)
        return spike


class CurrentReset(Neuron):
    """A spike clears the current too."""

    def forward(self, x: Tensor) -> Tensor:
        self.started(x)
        self.syn = 0.8 * self.syn + x
        self.mem = 0.6 * self.mem + self.syn
        spike = fire(self.mem - 1.0)
        self.mem, self.syn = self.mem * (1 - spike), self.syn * (1 - spike)
        return spike


class Drifting(Neuron):
    """A constant current of its own."""

    def forward(self, x: Tensor) -> Tensor:
        self.started(x)
        h = 0.8 * self.mem + x + 0.05
        spike = fire(h - 1.0)
        self.mem = h * (1 - spike)
        return spike


class Saturating(Neuron):
    """The membrane goes through a sine on its way to the next step."""

    def forward(self, x: Tensor) -> Tensor:
        self.started(x)
        h = 0.8 * torch.sin(2 * self.mem) + x
        spike = fire(h - 1.0)
        self.mem = h * (1 - spike)
        return spike


class Floored(Neuron):
    """The membrane never falls below −3."""

    def forward(self, x: Tensor) -> Tensor:
        self.started(x)
        h = (0.8 * self.mem + x).clamp(min=-3.0)
        spike = fire(h - 1.0)
        self.mem = h * (1 - spike)
        return spike


class Held(Neuron):
    """The step after a spike is silent, but takes its input in."""

    def forward(self, x: Tensor) -> Tensor:
        self.started(x)
        h = 0.8 * self.mem + x
        self.spk = fire(h - 1.0) * (1 - self.spk)
        self.mem = h * (1 - self.spk)
        return self.spk


class Lopsided(Neuron):
    """Ternary, with another threshold for negative spikes."""

    def forward(self, x: Tensor) -> Tensor:
        self.started(x)
        h = 0.6 * self.mem + x
        spike = (h >= 0.9).float() - (h <= -0.7).float()
        self.mem = h * (1 - spike.abs())
        return spike


class AdaptationCurrent(Neuron):
    """Spikes add to a current that inhibits the membrane."""

    def forward(self, x: Tensor) -> Tensor:
        self.started(x)
        h = 0.8 * self.mem + x - 0.2 * self.adp
        spike = fire(h - 1.0)
        self.mem = h * (1 - spike)
        self.adp = 0.9 * self.adp + spike
        return spike


class Tired(Neuron):
    """Fires ten times and no more."""

    def forward(self, x: Tensor) -> Tensor:
        self.started(x)
        h = 0.8 * self.mem + x
        spike = fire(h - 1.0) * (self.adp < 10).float()
        self.mem, self.adp = h * (1 - spike), self.adp + spike
        return spike


class Graded(Neuron):
    """What is above the threshold is the output."""

    def forward(self, x: Tensor) -> Tensor:
        self.started(x)
        h = 0.8 * self.mem + x
        spike = fire(h - 1.0)
        self.mem = h * (1 - spike)
        return torch.floor(h.clamp(0, 4))


class Parallel(nn.Module):
    """PSN: every step sees all steps."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.rand(steps, steps, generator=torch.Generator().manual_seed(0)))

    def forward(self, x: Tensor) -> Tensor:
        return fire((self.w @ x.flatten(1)).view_as(x) - 1.0)


# class → (for T steps, what the refusal says of it)
REFUSED: dict[str, tuple[Callable[[int], nn.Module], str]] = {
    "partial reset": (_plain(PartialReset), "takes 0.7 and 0.98 thresholds from the next step"),
    "another amount": (_plain(OtherAmount), "takes 1.6 and 1.6 thresholds from the next step"),
    "refractory": (_plain(Refractory), "does not fire for 3 steps after a spike"),
    "two currents": (_plain(TwoCurrents), "it has a third state"),
    "current reset too": (_plain(CurrentReset), "a spike changes something else too"),
    "constant current": (_plain(Drifting), "its membrane moves without input"),
    "sine": (_plain(Saturating), "it has a third state, or they are not linear"),
    "floored": (_plain(Floored), "like a LIF (decay 0.8, v >= 1, hard reset), but not in step"),
    "held": (_plain(Held), "like a LIF (decay 0.8, v >= 1, hard reset (next)), but not in step"),
    "lopsided": (_plain(Lopsided), "like a TernaryLIF (decay 0.6, |v| >= 0.9, hard reset), but not in step"),
    "adaptation current": (_plain(AdaptationCurrent), "a spike changes something else too"),
    "tired": (_plain(Tired), "after 10 spikes"),
    "graded": (_plain(Graded), "its output is no spike"),
    "parallel": (Parallel, "its output depends on later inputs"),
}
