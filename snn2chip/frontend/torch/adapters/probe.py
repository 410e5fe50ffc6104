"""Questions put to a surrogate function: it is the library's own code that says how a neuron fires."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from snn2chip.errors import S2CError
from snn2chip.neurons.base import Fire

_AROUND_ZERO = torch.tensor([-1.0, -torch.finfo(torch.float32).tiny, 0.0, torch.finfo(torch.float32).tiny, 1.0])
_FIRES: dict[tuple[float, ...], Fire] = {(0.0, 0.0, 0.0, 1.0, 1.0): ">", (0.0, 0.0, 1.0, 1.0, 1.0): ">="}


def fire_test(surrogate: Callable[[Any], Any], neuron: str) -> Fire:
    """Whether a surrogate function fires at exactly zero.

    Raises:
        S2CError: it is no step function (graded, ternary, stochastic, or ``spiking=False``).
    """
    with torch.no_grad():
        answers = {tuple(surrogate(_AROUND_ZERO.clone()).tolist()) for _ in range(4)}
    fire = _FIRES.get(answers.pop()) if len(answers) == 1 else None
    if fire is None:
        name = getattr(surrogate, "__name__", type(surrogate).__name__)
        raise S2CError(
            f"the spike function {name} of {neuron} is no step from 0 to 1 at the threshold",
            fix="use a surrogate whose forward pass is a Heaviside step",
        )
    return fire
