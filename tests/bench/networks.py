"""The networks that are timed: float models with any library's neurons, their data, and the Programs made of them.

Weights are random, with batch-norm statistics under which every layer fires. All forms of a network share them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import snn2chip as s2c
from snn2chip.ir.program import Program
from snn2chip.zoo import MixedLIF, SpikingNetwork, network
from snn2chip.zoo.layers import every_step, fire
from torch_networks import lively

# Products of spikes, scaled by powers of two, never meet this threshold exactly: libraries fire at it or above it.
DECAY, V_THRESHOLD = 0.5, 1.9

MakeNeuron = Callable[[], nn.Module]


def own_neuron() -> nn.Module:
    """The zoo's LIF: v = v/2 + x, a spike at the threshold, back to zero."""
    return MixedLIF(DECAY, V_THRESHOLD)


@dataclass(frozen=True)
class Net:
    """A network of the benchmark.

    Args:
        title: what it is.
        build: the float model with these neurons.
        shape: of one image, the same at every step, or of one frame of events.
        events: whether samples are frames.
        samples: how many are run, for each T; fewer where one takes longer.
        rate: of the events.
        slayer: its layers as blocks of lava-dl's ``slayer.block.cuba`` with these neuron parameters.
        recurrent: whether a population reads its own spikes.
    """

    title: str
    build: Callable[[MakeNeuron], SpikingNetwork]
    shape: tuple[int, ...]
    samples: dict[int, int]
    events: bool = False
    rate: float = 0.0
    slayer: Callable[[Any, dict[str, float]], list[nn.Module]] | None = None
    recurrent: bool = False

    def data(self, samples: int, time_steps: int, seed: int = 0) -> Tensor:
        """[N, C, H, W], or [N, T, ...] events."""
        g = torch.Generator().manual_seed(seed)
        if not self.events:
            return torch.rand(samples, *self.shape, generator=g)
        return (torch.rand(samples, time_steps, *self.shape, generator=g) < self.rate).float()

    def model(self, neuron: MakeNeuron = own_neuron, time_steps: int = 4) -> SpikingNetwork:
        """With the weights that every form of it has."""
        net: Any = lively(self.build(own_neuron))
        if neuron is not own_neuron:
            other = self.build(neuron)
            missing = other.load_state_dict(net.state_dict(), strict=False).unexpected_keys
            assert not missing, f"weights without a place: {missing}"
            net = other.eval()
        net.time_steps = time_steps
        return net

    def program(self, time_steps: int, *, weight_steps: int = 2) -> Program:
        """Traced, and quantized on one sample of ``weight_steps`` steps; then run for ``time_steps``."""
        x = self.data(2, weight_steps, seed=1)
        graph = s2c.trace(self.model(time_steps=weight_steps), x)
        return self.for_steps(s2c.quantize(graph, calibration=x[:1], refine=False, host=("products",)), time_steps)

    def for_steps(self, program: Program, time_steps: int) -> Program:
        """The same integers over another number of steps."""
        return dataclasses.replace(program, time_steps=time_steps).verify()


class Recurrent(nn.Module):
    """A dense population that reads its own last spikes: [T, N, features] → [T, N, hidden]."""

    def __init__(self, features: int, hidden: int, neuron: nn.Module) -> None:
        super().__init__()
        self.fc, self.feedback, self.neuron = nn.Linear(features, hidden), nn.Linear(hidden, hidden, bias=False), neuron
        self.last: Tensor | None = None

    def reset(self) -> None:
        self.last = None

    def forward(self, x: Tensor) -> Tensor:
        current = every_step(self.fc, x)
        if getattr(self.neuron, "step_mode", "s") == "m":
            out: Tensor = self.neuron(current, self.feedback)
            return out
        spikes = []
        last = torch.zeros_like(current[0]) if self.last is None else self.last
        for now in current:
            last = fire(self.neuron, (now + self.feedback(last))[None])[0]
            spikes.append(last)
        self.last = last
        return torch.stack(spikes)


def dense_recurrent(neuron: MakeNeuron, features: int = 700, hidden: int = 256, classes: int = 20) -> SpikingNetwork:
    return SpikingNetwork(nn.Sequential(Recurrent(features, hidden, neuron())), nn.Linear(hidden, classes), 100)


def from_zoo(name: str, **options: Any) -> Callable[[MakeNeuron], SpikingNetwork]:
    return lambda neuron: network(name, neuron=neuron, **options)


def vgg_like(*stages: tuple[int, ...], size: int = 32) -> Callable[[MakeNeuron], SpikingNetwork]:
    """Convolutions of these channels, max pooling behind each stage, a linear head."""
    return from_zoo("vgg11", shape=(3, size, size), classes=10, layout={"stages": stages, "hidden": (), "pool": "max"})


def slayer_convolutions(shape: tuple[int, ...], stages: Any, hidden: tuple[int, ...]) -> Any:
    """Blocks of a network in a row; slayer sums where the others take the maximum, with neurons behind it."""

    def blocks(cuba: Any, neuron: dict[str, float]) -> list[nn.Module]:
        channels, height, width = shape
        found: list[nn.Module] = []
        for stage in stages:
            for wide in stage:
                found.append(cuba.Conv(neuron, channels, wide, 3, padding=1))
                channels = wide
            found.append(cuba.Pool(neuron, 2))
            height, width = height // 2, width // 2
        found.append(cuba.Flatten())
        features = channels * height * width
        for wide in hidden:
            found.append(cuba.Dense(neuron, features, wide))
            features = wide
        return found

    return blocks


def _slayer_recurrent(cuba: Any, neuron: dict[str, float]) -> list[nn.Module]:
    return [cuba.Recurrent(neuron, 700, 256), cuba.Dense(neuron, 256, 20)]


_VGG = ((64, 64), (128, 128), (256, 256))
_CIFAR: dict[str, Any] = {"shape": (3, 32, 32)}

NETS: dict[str, Net] = {
    "vgg": Net(
        "VGG-like, c64-c64-P-c128-c128-P-c256-c256-P-fc10, 3×32×32",
        vgg_like(*_VGG),
        samples={4: 32, 32: 16},
        slayer=slayer_convolutions((3, 32, 32), _VGG, (10,)),
        **_CIFAR,
    ),
    "resnet34": Net("ResNet-34, CIFAR stem, 3×32×32", from_zoo("resnet34-cifar"), samples={4: 16, 32: 4}, **_CIFAR),
    "spikformer": Net("Spikformer-4-384, 3×32×32", from_zoo("spikformer-4-384"), samples={4: 16, 32: 4}, **_CIFAR),
    "recurrent": Net(
        "Dense recurrent, 700-256-20, events as in SHD",
        dense_recurrent,
        (700,),
        {100: 64},
        events=True,
        rate=0.03,
        slayer=_slayer_recurrent,
        recurrent=True,
    ),
    "dvsgesture": Net(
        "DVSGestureNet, 2×128×128",
        from_zoo("dvsgesturenet"),
        (2, 128, 128),
        {4: 4, 32: 1},
        events=True,
        rate=0.05,
        slayer=slayer_convolutions((2, 128, 128), ((128,),) * 5, (512, 110)),
    ),
}


def named(name: str) -> Net:
    """A network of ``NETS``, or ``"chain-8"``: so many convolutions of 64 channels on 3×16×16, for sweeps."""
    kind, _, layers = name.partition("-")
    if kind != "chain":
        return NETS[name]
    build = vgg_like((64,) * int(layers), size=16)
    return Net(f"{layers} convolutions of 64 channels, 3×16×16", build, (3, 16, 16), {4: 8})
