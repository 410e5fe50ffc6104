"""What a spiking module is asked, and what the answers say whatever the neuron turns out to be.

All in units of the input, per neuron: "what is left" of something is by how much less input then fires. A membrane that
an input moves through a synaptic current obeys m[t] = s·m[t−1] − p·m[t−2] + x[t] with s = α + β and p = α·β; without a
current p is zero and s the decay. That much is measured below the threshold. What a spike does is the difference
between what fires after it and what would if nothing had happened. Where nothing decays, a membrane that starts above 0
fires from less input than a spike takes away.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from snn2chip.errors import S2CError
from snn2chip.frontend.torch.identify.probe import LARGEST, Probe, Shown, boundary, fires

RANDOM_STEPS = 24
SLACK = 2e-5
# Strengths of the inputs that make it spike, in thresholds.
SPIKES = (1.25, 1.75)
_LONGEST_SILENCE = 6


@dataclass
class Trial:
    """A run on random input."""

    xs: list[Tensor]
    outputs: list[Tensor]
    shown: list[Shown]


@dataclass
class AfterSpike:
    """What a spike does.

    Args:
        silence: steps after it in which no input fires.
        effects: at the step after the silence, for a spike by 1.25 and by 1.75 thresholds: by how much more input it
            takes than without the spike. Where there is a silence: by how much more than at rest, currents aside.
        later: the same one, two, … steps later, for 1.25; asked for as needed.
    """

    silence: int
    effects: tuple[Tensor, Tensor]
    later: list[Tensor] = field(default_factory=list)


@dataclass
class Answers:
    """What the questions showed, per neuron [1, ...].

    Args:
        low, first: largest input that does not fire at the first step, smallest that does.
        theta: smallest that would if the membrane started at 0.
        spike_value: what a spike is worth.
        signed: whether it fires for strong negative input, −1.
        moves: whether its membrane moves without input.
        curved: whether half as much and minus half as much input do not leave opposite traces.
        s, p: see the module's text.
        start: the membrane before the first step; told where nothing decays and the reset is soft, 0 elsewhere.
        spike: what a spike does; None where the membrane is no linear one.
        trials: runs on random input.
    """

    probe: Probe
    low: Tensor
    first: Tensor
    theta: Tensor
    spike_value: float
    signed: bool
    moves: bool
    curved: bool
    s: Tensor
    p: Tensor
    start: Tensor
    spike: AfterSpike | None
    trials: list[Trial]

    @property
    def edges(self) -> list[Trial]:
        """Two runs of one step: the largest input that does not fire, and the smallest that does."""
        silent, spike = torch.zeros_like(self.low), torch.full_like(self.first, self.spike_value)
        return [Trial([self.low], [silent], []), Trial([self.first], [spike], [])]

    def later(self, step: int) -> Tensor:
        """The effect of a spike ``step`` steps after the first that could be asked for."""
        assert self.spike is not None
        while len(self.spike.later) < step:
            self.spike.later.append(_effect(self, SPIKES[0], len(self.spike.later) + 2))
        return self.spike.later[step - 1]

    def effect_of(self, x: Tensor) -> Tensor:
        """What is left, one step later, of an input that does not fire."""
        return self.theta - boundary(self.probe, [x], self.spike_value)[1] - self.s**2 * self.start

    def reaching(self, strength: float) -> Tensor:
        """The first input that brings the membrane to so many thresholds."""
        return strength * self.theta - self.s * self.start


def ask(probe: Probe) -> Answers:
    """Put all questions.

    Raises:
        S2CError: it answers unlike any neuron; the message says what it did.
    """
    pulse, (zero,) = torch.full(probe.shape, LARGEST), probe.zeros(1)
    spike_value = float(probe([pulse])[0][0].max())
    if not spike_value > 0:
        raise S2CError("it does not fire for strong input", why=f"input {LARGEST:.3g} gave no spike")
    if bool((probe([zero])[0][0] > 0).any()):
        raise S2CError("it fires without input")
    signed = bool((probe([-pulse])[0][0] < -0.5 * spike_value).any())
    low, first = boundary(probe, [], spike_value)
    a = Answers(probe, low, first, first, spike_value, signed, False, False, zero, zero, zero, None, [])
    up, down = a.effect_of(0.5 * first), a.effect_of(-0.5 * first)
    a.s = (up - down) / first
    quarter = 0.25 * first
    if bool(((up + down).abs() > SLACK * first).any()):
        a.moves = bool((a.effect_of(zero).abs() > SLACK * first).any())
        a.curved = not a.moves
    a.p = a.s**2 - (first - boundary(probe, [quarter, zero], spike_value)[1]) / quarter
    a.p = torch.where(a.p.abs() <= SLACK, torch.zeros(()), a.p)
    if not a.moves and not a.curved:
        a.spike = _after_spike(a)
        _start_of_soft_reset(a)
    a.trials = trials(probe, a.theta, a.s, a.p)
    _check_values(a)
    return a


def _start_of_soft_reset(a: Answers) -> None:
    """A soft reset takes one threshold, whatever the strength of the spike; the first may take less to reach."""
    assert a.spike is not None
    taken, also = a.spike.effects
    if a.spike.silence or bool(a.p.any()) or bool(((a.s - 1).abs() > SLACK).any()) or a.probe.longest < 3:
        return
    if bool(((taken - a.first).abs() <= 1e-3 * a.first).all()) or bool((taken < SLACK * a.first).any()):
        return
    if all(bool(((effect - taken).abs() <= 1e-3 * a.first).all()) for effect in (also, a.later(1))):
        a.start, a.theta = taken - a.first, taken


def _after_spike(a: Answers) -> AfterSpike:
    probe, pulse = a.probe, torch.full(a.probe.shape, LARGEST)
    strong = a.reaching(SPIKES[1])
    longest = min(_LONGEST_SILENCE, probe.longest - 2)
    for silence in range(longest + 1):
        if bool(fires(probe, [strong, *probe.zeros(silence), pulse], a.spike_value).any()):
            break
    else:
        raise S2CError(f"after a spike it does not fire again for {longest + 1} steps, whatever the input")
    if silence:
        weak, strong = (_left_after_silence(a, strength, silence) for strength in SPIKES)
    else:
        weak, strong = (_effect(a, strength, 1) for strength in SPIKES)
    return AfterSpike(silence, (weak, strong))


def _effect(a: Answers, strength: float, steps: int) -> Tensor:
    """Effect of a spike so many steps later; where there are steps between, inhibition keeps it from firing there."""
    x = a.reaching(strength)
    between = [-(1 + a.s) * strength * a.theta, *a.probe.zeros(steps - 2)] if steps > 1 else []
    before = [x, *between]
    return boundary(a.probe, before, a.spike_value)[1] - a.theta + undisturbed(a, before)


def undisturbed(a: Answers, before: list[Tensor]) -> Tensor:
    """The membrane at the step behind these inputs, were there no threshold and no input at that step."""
    older, newer = torch.zeros_like(a.theta, dtype=torch.float64), a.start.double()
    for x in [*before, torch.zeros_like(a.theta)]:
        older, newer = newer, a.s.double() * newer - a.p.double() * older + x
    return newer.to(a.theta.dtype)


def _left_after_silence(a: Answers, strength: float, silence: int) -> Tensor:
    before = [a.reaching(strength), *a.probe.zeros(silence)]
    return a.theta - boundary(a.probe, before, a.spike_value)[1]


def trials(probe: Probe, unit: Tensor, s: Tensor, p: Tensor) -> list[Trial]:
    """Runs on random input, weak, middling and strong for a membrane that sums as this one does."""
    generator = torch.Generator().manual_seed(0)
    total, squares = _gains(s, p)
    mean, spread = 0.4 / (0.5 * total).clamp(min=1), 1 / (0.5 * squares).sqrt().clamp(min=1)
    found = []
    steps = min(RANDOM_STEPS, probe.longest)
    for scale in (1.0, 0.6, 2.0) * -(-RANDOM_STEPS // steps):
        noise = [torch.randn(probe.shape, generator=generator) for _ in range(steps)]
        xs = [unit * scale * (mean + spread * n) for n in noise]
        found.append(Trial(xs, *probe(xs)))
    return found


def _gains(s: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    """Sum and sum of squares of a membrane's response over as many steps as a trial has."""
    older, newer = torch.zeros_like(s), torch.ones_like(s)
    total, squares = newer.clone(), newer.clone()
    for _ in range(RANDOM_STEPS):
        older, newer = newer, s * newer - p * older
        total, squares = total + newer.abs(), squares + newer**2
    return total, squares


def _check_values(a: Answers) -> None:
    for trial in a.trials:
        for out in trial.outputs:
            level = out / a.spike_value
            whole = level.round()
            odd = ((level - whole).abs() > 1e-5) | (whole < (-1 if a.signed else 0)) | (whole > 1)
            if bool(odd.any()):
                raise S2CError(
                    "its output is no spike",
                    why=f"for strong input it gives {a.spike_value:.4g}, but also {float(out[odd].flatten()[0]):.4g}",
                )
