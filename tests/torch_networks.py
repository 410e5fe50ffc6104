"""Small spiking networks in torch, and a recorder of what they do that is independent of the tracer."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from snn2chip.frontend.torch import trace
from snn2chip.ir.graph import Graph
from snn2chip.simulate import simulate

T, N, C, H = 5, 3, 2, 6


def lively(net: nn.Module, seed: int = 0) -> nn.Module:
    """Weights and batch-norm statistics with which every layer fires; eval mode."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for m in net.modules():
            if isinstance(m, nn.modules.batchnorm._BatchNorm):
                m.running_mean.copy_(torch.randn(m.running_mean.shape, generator=g) * 0.1)
                m.running_var.copy_(torch.rand(m.running_var.shape, generator=g) + 0.3)
                if m.weight is not None:
                    m.weight.copy_(torch.rand(m.weight.shape, generator=g) + 1.0)
                if m.bias is not None:
                    m.bias.copy_(torch.rand(m.bias.shape, generator=g) * 0.9)
            elif isinstance(m, nn.Linear | nn.modules.conv._ConvNd):
                scale = (6.0 if isinstance(m, nn.Linear) else 2.0) / np.sqrt(m.weight[0].numel())
                m.weight.copy_(torch.randn(m.weight.shape, generator=g) * scale)
                if m.bias is not None:
                    m.bias.copy_(torch.rand(m.bias.shape, generator=g) * 0.4)
    return net.eval()


def images(seed: int = 0, *shape: int) -> Tensor:
    return torch.rand(shape or (N, C, H, H), generator=torch.Generator().manual_seed(seed)) * 1.5


def frames(seed: int = 0) -> Tensor:
    """[T, N, C, H, H] spikes."""
    return (torch.rand(T, N, C, H, H, generator=torch.Generator().manual_seed(seed)) < 0.5).float()


def spikes(*shape: int, seed: int = 0) -> Tensor:
    return (torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.4).float()


def traced(net: nn.Module, x: Tensor, read: Any = None, time_axis: int | None = None, **options: Any) -> Graph:
    """The graph, compared with the network on two more batches, one after another."""
    net.eval()
    graph = trace(net, x, **options)
    for seed in (1, 2):
        torch.manual_seed(seed)
        fresh = x[:, torch.randperm(x.shape[1])] if time_axis == 0 else x[torch.randperm(x.shape[0])]
        fresh = fresh * (torch.rand(x.shape) < 0.8)
        out = net(fresh)
        out = (out if read is None else read(out)).detach()
        assert out.std() > 0.01, "a constant output tests nothing"
        samples = fresh.transpose(0, 1) if time_axis == 0 else fresh
        np.testing.assert_allclose(simulate(graph, samples).outputs, out, rtol=1e-5, atol=1e-5)
    return graph


@contextlib.contextmanager
def watched(net: nn.Module, neurons: dict[str, nn.Module], membrane: Callable[[nn.Module, Any], Any]) -> Iterator[dict]:
    """Collect what neuron modules return, and their membranes, call by call, with torch's own hooks."""
    seen: dict[str, list[Any]] = {name: [] for name in neurons}
    handles = [
        m.register_forward_hook(lambda m, args, out, name=name: seen[name].append((first(out), membrane(m, out))))
        for name, m in neurons.items()
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def first(out: Any) -> Tensor:
    return (out if isinstance(out, Tensor) else out[0]).detach().clone()


def per_step(calls: list[Tensor], time_axis: int | None = None) -> np.ndarray:
    """[N, T, ...] of one call per step, or of one call for all."""
    if time_axis is None:
        return torch.stack(calls, 1).detach().numpy()
    (only,) = calls
    return only.detach().movedim(time_axis, 1).numpy()


def compare(
    graph: Any, samples: Tensor, expected: dict[str, tuple[np.ndarray, np.ndarray | None]], out: Tensor
) -> None:
    """Every population fires, its spikes are the framework's, its membranes too up to rounding; so is the output."""
    result = simulate(graph, samples, record=("spikes", "v"))
    assert {n.name for n in graph.neurons} == set(expected)
    for name, (spikes, membranes) in expected.items():
        if graph[name].layer.model.integrates_only:
            assert spikes.std() > 0.01, f"{name} hardly changes: nothing is tested"
            np.testing.assert_allclose(result[name].v, spikes, rtol=1e-5, atol=1e-5, err_msg=name)
            continue
        assert 0.01 < (spikes != 0).mean() < 0.98, f"{name} hardly changes: nothing is tested"
        np.testing.assert_array_equal(result[name].spikes, spikes, err_msg=name)
        if membranes is not None:
            v = result[name].v
            # Some libraries show the last membrane only.
            v = v if v.ndim == membranes.ndim else v[:, -1]
            np.testing.assert_allclose(v, membranes, rtol=1e-5, atol=1e-5, err_msg=name)
    np.testing.assert_allclose(result.outputs, out.detach().numpy(), rtol=1e-5, atol=1e-5)


class Spike(torch.autograd.Function):
    """Heaviside step, at or above zero, with a surrogate gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (x >= 0).float()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad * (x.abs() < 0.5).float()


class StrictSpike(Spike):
    """The same, strictly above zero."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (x > 0).float()


class HandLIF(nn.Module):
    """Keeps ``self.v``; every variant a paper might use."""

    def __init__(
        self,
        decay: float | Tensor = 0.5,
        threshold: float | Tensor = 1.0,
        reset: str = "hard",
        strict: bool = False,
        v_reset: float = 0.0,
        form: str = "factor",
    ) -> None:
        super().__init__()
        self.decay, self.threshold, self.kind, self.v_reset, self.form = decay, threshold, reset, v_reset, form
        self.spike = StrictSpike.apply if strict else Spike.apply
        self.v: Tensor | None = None
        self.fired: Tensor | None = None

    def reset(self) -> None:
        self.v = self.fired = None

    def forward(self, x: Tensor) -> Tensor:
        v = torch.zeros_like(x) if self.v is None else self.v
        fired = torch.zeros_like(x) if self.fired is None else self.fired
        self.fired, self.v = self.update(x, v, fired)
        return self.fired

    def update(self, x: Tensor, v: Tensor, fired: Tensor) -> tuple[Tensor, Tensor]:
        """Spikes and membrane, of the input and what they were in the step before."""
        if self.kind == "gate":
            v = v * (1 - fired)
        v = {
            "factor": lambda: v * self.decay + x,
            "tau": lambda: v + (x - v) / self.decay,
            "driven": lambda: self.decay * v + (1 - self.decay) * x,
        }[self.form]()
        if self.kind == "next":
            v = v - fired * self.threshold
        spike = self.spike(v - self.threshold)
        if self.kind == "hard":
            v = v * (1 - spike) + self.v_reset * spike
        elif self.kind == "soft":
            v = v - spike * self.threshold
        return spike, v


class LoopLIF(nn.Module):
    """[N, T, ...] (or [T, N, ...]) in one call, as in the code of TET and tdBN."""

    def __init__(self, decay: float = 0.5, threshold: float = 1.0, hard: bool = True, axis: int = 1) -> None:
        super().__init__()
        self.decay, self.threshold, self.hard, self.axis = decay, threshold, hard, axis

    def forward(self, x: Tensor) -> Tensor:
        v: Any = 0.0
        spikes = []
        for t in range(x.shape[self.axis]):
            v = v * self.decay + x.select(self.axis, t)
            s = Spike.apply(v - self.threshold)
            v = (1 - s) * v if self.hard else v - s * self.threshold
            spikes.append(s)
        return torch.stack(spikes, self.axis)


class StateLIF(nn.Module):
    """Takes and returns its membrane."""

    def __init__(self, decay: float = 0.8, threshold: float = 1.0) -> None:
        super().__init__()
        self.decay, self.threshold = decay, threshold

    def forward(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        v = self.decay * v + x
        s = Spike.apply(v - self.threshold)
        return s, v - s * self.threshold


class ConvNet(nn.Module):
    """conv–BN–neuron–pool–conv–BN–neuron–flatten–linear–neuron, one step per call."""

    def __init__(self, *neurons: nn.Module, bn: bool = True) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(C, 6, 3, padding=1, bias=not bn)
        self.bn1 = nn.BatchNorm2d(6) if bn else nn.Identity()
        self.lif1 = neurons[0]
        self.pool = nn.AvgPool2d(2)
        self.conv2 = nn.Conv2d(6, 8, 3, stride=1, padding=1)
        self.bn2 = nn.BatchNorm2d(8) if bn else nn.Identity()
        self.lif2 = neurons[1]
        self.flat = nn.Flatten()
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(8 * 9, 10)
        self.lif3 = neurons[2]

    @property
    def neurons(self) -> dict[str, nn.Module]:
        return {"lif1": self.lif1, "lif2": self.lif2, "lif3": self.lif3}

    def forward(self, x: Tensor) -> Tensor:
        x = self.lif1(self.bn1(self.conv1(x)))
        x = self.lif2(self.bn2(self.conv2(self.pool(x))))
        return self.lif3(self.fc(self.drop(self.flat(x))))


class Looping(nn.Module):
    """A time loop in ``forward`` over a net that computes one step: direct coding, spike counts over T."""

    def __init__(self, net: nn.Module, steps: int = T) -> None:
        super().__init__()
        self.net, self.steps = net, steps

    def forward(self, x: Tensor) -> Tensor:
        for m in self.net.modules():
            if callable(getattr(m, "reset", None)):
                m.reset()
        out: Any = 0
        for _ in range(self.steps):
            out = out + self.net(x)
        return out / self.steps
