"""What the networks of the zoo are made of: layers on all steps at once, neurons step by step.

Between layers tensors are [T, N, ...]. A neuron is any module that is called once per step, keeps its state and has
``reset()``: those of :mod:`snn2chip.zoo.neurons`, SpikingJelly's, or your own. A module without state, such as
``torch.nn.ReLU``, makes the network an ANN: the source of a conversion.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from snn2chip.errors import UsageError
from snn2chip.zoo.neurons import LIF
from snn2chip.zoo.normalization import BatchNorm

MakeNeuron = Callable[[], nn.Module]
MakeNorm = Callable[[int, int], nn.Module]


def every_step(layer: nn.Module, x: Tensor) -> Tensor:
    """A layer without state, on all steps in one batch: [T, N, ...] → [T, N, ...]."""
    out: Tensor = layer(x.flatten(0, 1))
    return out.unflatten(0, x.shape[:2])


def fire(neuron: nn.Module, x: Tensor) -> Tensor:
    """One step after the other through a population: [T, N, ...] → [T, N, ...]."""
    return torch.stack([neuron(step) for step in x])


class Spiking(nn.Module):
    """Layers without state, then a population: [T, N, ...] → [T, N, ...]."""

    def __init__(self, *synapses: nn.Module, neuron: nn.Module) -> None:
        super().__init__()
        self.synapses, self.neuron = nn.Sequential(*synapses), neuron

    def forward(self, x: Tensor) -> Tensor:
        return fire(self.neuron, every_step(self.synapses, x))


class Stateless(nn.Sequential):
    """Layers without state between populations: [T, N, ...] → [T, N, ...]."""

    def forward(self, x: Tensor) -> Tensor:
        return every_step(_Once(self), x) if len(self) else x


class SpikingNetwork(nn.Module):
    """A body of populations, a head without neurons, and the mean of the head's output over T.

    Args:
        body: [T, N, C, H, W] → [T, N, ...].
        head: layers without state, [N, ...] → [N, classes].
        time_steps: T for images; frames bring their own.
    """

    def __init__(self, body: nn.Module, head: nn.Module, time_steps: int) -> None:
        super().__init__()
        self.body, self.head, self.time_steps = body, head, time_steps

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W], the same at every step, or frames [N, T, C, H, W] → [N, classes]; starts from reset states."""
        for module in self.modules():
            reset = getattr(module, "reset", None)
            if callable(reset):
                reset()
        steps = x.expand(self.time_steps, *x.shape) if x.ndim == 4 else x.transpose(0, 1)
        return every_step(self.head, self.body(steps)).mean(0)
