"""What the networks of the zoo are made of: layers on all steps at once, neurons step by step.

Between layers tensors are [T, N, ...]. A neuron is any module that is called once per step, keeps its state and has
``reset()``: those of :mod:`snn2chip.zoo.neurons`, SpikingJelly's in either step mode, or your own. A module without
state, such as ``torch.nn.ReLU``, makes the network an ANN: the source of a conversion.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from snn2chip.zoo.normalization import BatchNorm
from snn2chip.zoo.two_paths import MixedLIF

MakeNeuron = Callable[[], nn.Module]
MakeNorm = Callable[[int, int], nn.Module]


def every_step(layer: nn.Module, x: Tensor) -> Tensor:
    """A layer without state, on all steps in one batch: [T, N, ...] → [T, N, ...]."""
    out: Tensor = layer(x.flatten(0, 1))
    return out.reshape(*x.shape[:2], *out.shape[1:])


def fire(neuron: nn.Module, x: Tensor) -> Tensor:
    """A population, one step after the other: [T, N, ...] → [T, N, ...].

    SpikingJelly's neurons in multi-step mode (``step_mode="m"``) take all steps at once.
    """
    if getattr(neuron, "step_mode", "s") == "m":
        out: Tensor = neuron(x)
        return out
    return torch.stack([neuron(step) for step in x])


class Stateless(nn.Module):
    """Layers without state: [T, N, ...] → [T, N, ...]."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return every_step(self.layers, x)


class Spiking(nn.Module):
    """Layers without state, then a population: [T, N, ...] → [T, N, ...]."""

    def __init__(self, *synapses: nn.Module, neuron: nn.Module) -> None:
        super().__init__()
        self.synapses, self.neuron = nn.Sequential(*synapses), neuron

    def forward(self, x: Tensor) -> Tensor:
        return fire(self.neuron, every_step(self.synapses, x))


class Residual(nn.Module):
    """``branch(x) + shortcut(x)``: of spikes SEW-ResNet's ADD (Fang et al. 2021), of sums a membrane shortcut."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.branch, self.shortcut = branch, shortcut or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.branch(x) + self.shortcut(x)
        return out


class Firing(nn.Module):
    """A population behind a module that returns its input at every step: [T, N, ...] → [T, N, ...]."""

    def __init__(self, current: nn.Module, neuron: nn.Module) -> None:
        super().__init__()
        self.current, self.neuron = current, neuron

    def forward(self, x: Tensor) -> Tensor:
        return fire(self.neuron, self.current(x))


class SpikingNetwork(nn.Module):
    """A body of populations, a head without neurons, and the mean of the head's output over T (S002 Eq. 6).

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


def classifier(features: int, classes: int) -> nn.Module:
    """A linear head; without classes the features themselves, for a head of one's own."""
    return nn.Linear(features, classes) if classes else nn.Identity()


def lif(v_threshold: float = 1.0) -> MixedLIF:
    """The default: the spiking path is a LIF that halves its membrane each step and resets to zero."""
    return MixedLIF(0.5, v_threshold)


@dataclass(frozen=True)
class Parts:
    """What a network is built from, whatever its layout.

    Args:
        neuron: makes the neurons, one population per call.
        attention: makes the population behind an attention product; published codes halve its threshold. None: as
            ``neuron``.
        norm: makes the batch norms, from the number of features and of branches summed (``normalization.py``).
        norm_first: batch norm before each convolution or linear layer instead of after it.
        width: factor on every number of channels.
        dropout: probability, where a network has dropout; only training sees it.
    """

    neuron: MakeNeuron = lif
    attention: MakeNeuron | None = None
    norm: MakeNorm = BatchNorm
    norm_first: bool = False
    width: float = 1.0
    dropout: float = 0.0

    def scaled(self, channels: int, multiple_of: int = 1) -> int:
        """A number of channels times the width, rounded to a multiple, at least one."""
        return max(1, round(channels * self.width / multiple_of)) * multiple_of

    def conv(
        self,
        channels: tuple[int, int],
        kernel: int = 3,
        stride: int = 1,
        padding: int | None = None,
        groups: int = 1,
        branches: int = 1,
    ) -> list[nn.Module]:
        """Convolution from and to a number of channels, and batch norm; ``padding`` keeps the size by default."""
        pad = kernel // 2 if padding is None else padding
        layer = nn.Conv2d(*channels, kernel, stride, pad, groups=groups, bias=False)
        return self._normed(layer, channels, branches)

    def linear(self, features: tuple[int, int]) -> list[nn.Module]:
        """Linear layer and batch norm."""
        return self._normed(nn.Linear(*features, bias=False), features, 1)

    def _normed(self, layer: nn.Module, features: tuple[int, int], branches: int) -> list[nn.Module]:
        if self.norm_first:
            return [self.norm(features[0], 1), layer]
        return [layer, self.norm(features[1], branches)]

    def spiking(self, *synapses: nn.Module) -> Spiking:
        """Layers and a population behind them."""
        return Spiking(*synapses, neuron=self.neuron())

    def attention_neuron(self) -> nn.Module:
        """The population behind an attention product."""
        return (self.attention or self.neuron)()
