"""Libraries × styles of writing time × neurons × places of batch norm, every pair of them in a network.

Each network is traced as it is and compared with its own forward pass on two samples after each other: spikes equal,
membranes to float rounding. Then the passes must leave no batch norm.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from snn2chip.frontend.torch import trace
from snn2chip.ir.layers import BatchNorm
from snn2chip.passes import run_passes
from snn2chip.zoo.normalization import TDBatchNorm
from torch_libraries import FEATURES, LIBRARIES, Library, Net, Stage
from torch_networks import C, H, N, T, compare, frames, lively, per_step, watched

CHANNELS = 4

# ------------------------------------------------------------------ where batch norm stands


class Shortcut(nn.Module):
    """x + body(x), both projected where the shapes differ."""

    def __init__(self, body: nn.Module, project: nn.Module | None = None) -> None:
        super().__init__()
        self.body, self.project = body, nn.Identity() if project is None else project

    def forward(self, x: Tensor) -> Tensor:
        return self.project(x) + self.body(x)


def conv(n: int, padding: int = 1) -> nn.Module:
    return nn.Conv2d(n, CHANNELS, 3, padding=padding, bias=False)


def linear(n: int) -> nn.Module:
    return nn.Linear(n, FEATURES, bias=False)


# What stands before a neuron, for n channels or features in.
CONV: dict[str, Callable[[int], list[nn.Module]]] = {
    "no norm": lambda n: [nn.Conv2d(n, CHANNELS, 3, padding=1)],
    "norm after": lambda n: [conv(n), nn.BatchNorm2d(CHANNELS)],
    "norm before": lambda n: [nn.BatchNorm2d(n), conv(n, padding=0)],
    "norm before padding": lambda n: [nn.BatchNorm2d(n), conv(n)],
    "norm into a sum": lambda n: [
        Shortcut(
            nn.Sequential(conv(n), nn.BatchNorm2d(CHANNELS)),
            None if n == CHANNELS else nn.Sequential(nn.Conv2d(n, CHANNELS, 1), nn.BatchNorm2d(CHANNELS)),
        )
    ],
    "tdBN": lambda n: [conv(n), TDBatchNorm(CHANNELS, branches=2, v_threshold=1.6)],
    "norm without affine": lambda n: [nn.Conv2d(n, CHANNELS, 3, padding=1), nn.BatchNorm2d(CHANNELS, affine=False)],
}
LINEAR: dict[str, Callable[[int], list[nn.Module]]] = {
    "no norm": lambda n: [nn.Linear(n, FEATURES)],
    "norm after": lambda n: [linear(n), nn.BatchNorm1d(FEATURES)],
    "norm before": lambda n: [nn.BatchNorm1d(n), linear(n)],
    "norm into a sum": lambda n: [
        Shortcut(nn.Sequential(linear(n), nn.BatchNorm1d(FEATURES)), None if n == FEATURES else nn.Linear(n, FEATURES))
    ],
    "tdBN": lambda n: [linear(n), TDBatchNorm(FEATURES, branches=2, v_threshold=1.6)],
    "norm without affine": lambda n: [linear(n), nn.BatchNorm1d(FEATURES, affine=False)],
}
LAYERS = (CONV, CONV, LINEAR, LINEAR)


@dataclass(frozen=True)
class Case:
    """One network: four neurons with the place of the norm before each."""

    library: str
    style: str
    stages: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        return f"{self.library}, {self.style}: {', '.join(' & '.join(stage) for stage in self.stages)}"

    def network(self, library: Library) -> Net:
        shapes = ((CHANNELS, 1, 1), (CHANNELS, 1, 1), (FEATURES,), (FEATURES,))
        unpadded = sum(norm == "norm before" for _, norm in self.stages[:2])
        inputs = (C, CHANNELS, CHANNELS * (H - 2 * unpadded) ** 2, FEATURES)
        stages = []
        for i, (neuron, norm) in enumerate(self.stages):
            synapse = [*([nn.Flatten()] if i == 2 else []), *LAYERS[i][norm](inputs[i])]
            made = library.neurons[neuron](shapes[i], **library.options.get(self.style, {}))
            stages.append(Stage(synapse, made))
        return library.styles[self.style](stages)


def pairs(style: str, layer: int, neuron: str, norm: str) -> set[frozenset[str]]:
    """What meets in one layer of a network."""
    kind = "conv" if LAYERS[layer] is CONV else "linear"
    return {frozenset(pair) for pair in itertools.combinations((style, kind, neuron, norm), 2)}


def cases(name: str, library: Library) -> Iterator[Case]:
    """A few networks in which all pairs meet; each layer is given what is missing most."""
    options = {
        (style, i): [
            (neuron, norm)
            for neuron, norm in itertools.product(library.neurons, layers)
            if style in library.only_in.get(neuron, library.styles)
            and not (layers is CONV and neuron in library.flat_only)
        ]
        for style in library.styles
        for i, layers in enumerate(LAYERS)
    }
    missing = {pair for (style, i), found in options.items() for stage in found for pair in pairs(style, i, *stage)}
    while missing:
        made: list[tuple[set[frozenset[str]], Case]] = []
        for style in library.styles:
            met: set[frozenset[str]] = set()
            stages = []
            for i in range(len(LAYERS)):
                gains = [(missing - met) & pairs(style, i, *stage) for stage in options[style, i]]
                # Of equals another one each time, so that what is left to fill is varied too.
                best = max(range(len(gains)), key=lambda j: (len(gains[j]), (j - len(missing)) % len(gains)))
                met |= gains[best]
                stages.append(options[style, i][best])
            made.append((met, Case(name, style, tuple(stages))))
        met, case = max(made, key=lambda found: len(found[0]))
        missing -= met
        yield case


def every_step(calls: list[Tensor | None]) -> np.ndarray | None:
    """[N, T, ...] of one call per step or one for all; [N, ...] where only the last step is shown; None: nothing."""
    if calls[0] is None:
        return None
    if len(calls) == T:
        return per_step(calls)
    (only,) = calls
    if len(only) == N * T:
        return only.unflatten(0, (N, T)).numpy()
    return (only.transpose(0, 1) if only.shape[:2] == (T, N) else only).detach().numpy()


def matrix() -> list[Any]:
    found = []
    for name, make in LIBRARIES.items():
        try:
            library = make()
        except ImportError as error:
            found.append(pytest.param(None, None, marks=pytest.mark.skip(str(error)), id=name))
            continue
        found += [pytest.param(case, library, id=str(case)) for case in cases(name, library)]
    return found


@pytest.mark.parametrize(("case", "library"), matrix())
def test_it_is_traced_and_its_norms_folded(case: Case, library: Library) -> None:
    torch.manual_seed(0)
    net = lively(case.network(library))

    def example(seed: int) -> Tensor:
        return frames(seed).movedim(0, net.axis).contiguous()

    def run(x: Tensor) -> Tensor:
        library.reset(net)
        return net(x)

    graph = trace(net, example(0))
    for seed in (1, 2):
        x = example(seed)
        with watched(net, net.neurons, library.membrane) as seen:
            out = run(x)
        expected = {
            name: (every_step([s for s, _ in calls]), every_step([v for _, v in calls])) for name, calls in seen.items()
        }
        compare(graph, frames(seed).transpose(0, 1), expected, out)
    folded, _ = run_passes(graph, frames(3).transpose(0, 1))
    assert not any(isinstance(node.layer, BatchNorm) for node in folded)
