"""Whether a neuron does what a module does: run on the same input, step by step.

One that agrees on every spike is right. One that orders its operations in another way is right up to rounding: then a
spike may differ where the membrane is within rounding of the threshold, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from snn2chip.frontend.torch.identify.questions import Trial
from snn2chip.neurons.base import FloatNeuron
from snn2chip.simulate.torch_ops import TorchOps

# How far from the threshold, relative to it, two ways of rounding may disagree about a spike.
ROUNDING = 1e-5


def run(model: FloatNeuron, xs: Iterable[Tensor]) -> Iterator[dict[str, Tensor]]:
    """The state after every step, with the output as "out"."""
    ops, state = TorchOps(), None
    for x in xs:
        state, out = model.step(model.start(x, ops) if state is None else state, x, ops)
        yield {**state, "out": out}


def agrees(model: FloatNeuron, trial: Trial, slack: float | None) -> bool:
    """Whether a neuron gives the outputs of a trial.

    Args:
        slack: how far from the threshold, relative to it, a spike may differ; None for nowhere. Of an integrator, by
            how much of its largest value the membrane may.
    """
    if model.integrates_only:
        largest = 0.0 if slack is None else slack * float(torch.stack(trial.outputs).abs().max())
        steps = zip(run(model, trial.xs), trial.outputs, strict=True)
        return all(bool(((state["out"] - wanted).abs() <= largest).all()) for state, wanted in steps)
    excused = torch.zeros(trial.xs[0].shape, dtype=torch.bool)
    for x, state, wanted in zip(trial.xs, run(model, trial.xs), trial.outputs, strict=True):
        wrong = ((state["out"] - wanted).abs() > 1e-5 * model.spike_value) & ~excused
        if not bool(wrong.any()):
            continue
        theta = TorchOps().const(model.v_threshold, x)
        reach = torch.maximum(torch.maximum(theta.abs(), x.abs()), state["h"].abs())
        if slack is None or bool((wrong & ((state["h"] - theta).abs() > slack * reach)).any()):
            return False
        # Once a spike differs, so do all membranes after it.
        excused |= wrong
    return True
