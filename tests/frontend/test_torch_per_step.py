"""The libraries' own norms that differ from step to step: refused by name, and taken into the neurons on request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from snn2chip.errors import S2CError
from snn2chip.frontend.torch import trace
from snn2chip.neurons.per_step import PerStepLIF
from torch_networks import C, HandLIF, T, compare, frames, lively, per_step, watched

CHANNELS = 4


class Net(nn.Module):
    """conv–norm–neuron over a Python loop; the norm is asked for its step."""

    def __init__(self, norm: Callable[[int, Tensor], Tensor], neuron: nn.Module, *parts: nn.Module) -> None:
        super().__init__()
        self.conv, self.norm, self.neuron = nn.Conv2d(C, CHANNELS, 3, padding=1), norm, neuron
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.neuron(self.norm(t, self.conv(frame))) for t, frame in enumerate(x)]).sum(0)


def snntorch_bntt() -> tuple[nn.Module, Callable[[nn.Module], Any], Callable[[nn.Module], Tensor]]:
    snn = pytest.importorskip("snntorch")
    norms = snn.BatchNormTT2d(CHANNELS, T)
    net = Net(lambda t, x: norms[t](x), snn.Leaky(0.9, init_hidden=True), norms)
    return net, lambda net: net.neuron.reset_mem(), lambda neuron: neuron.mem.clone()


def spikingjelly(kind: str) -> tuple[nn.Module, Callable[[nn.Module], Any], Callable[[nn.Module], Tensor]]:
    pytest.importorskip("spikingjelly")
    from spikingjelly.activation_based import functional, layer, neuron

    class MultiStep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = layer.Conv2d(C, CHANNELS, 3, padding=1, step_mode="m")
            self.norm = getattr(layer, kind)(T, CHANNELS)
            self.norm.step_mode = "m"
            self.neuron = neuron.LIFNode(tau=1.6, v_reset=None, step_mode="m", store_v_seq=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.neuron(self.norm(self.conv(x))).sum(0)

    net = MultiStep()
    with torch.no_grad():
        for name, values in net.norm.named_parameters():
            if name == "scale":
                values.copy_(torch.linspace(0.7, 1.4, T))
    return net, functional.reset_net, lambda neuron: neuron.v_seq


def handwritten() -> tuple[nn.Module, Callable[[nn.Module], Any], Callable[[nn.Module], Tensor]]:
    p, bias = torch.linspace(1.3, 0.6, T), 0.1 * torch.randn(T, CHANNELS, 1, 1)
    net = Net(lambda t, x: x * p[t] + bias[t], HandLIF(0.8))
    return net, lambda net: net.neuron.reset(), lambda neuron: neuron.v.clone()


NETS: dict[str, Callable[[], Any]] = {
    "snnTorch BNTT": snntorch_bntt,
    "SpikingJelly TEBN": lambda: spikingjelly("TemporalEffectiveBatchNorm2d"),
    "SpikingJelly BNTT": lambda: spikingjelly("BatchNormThroughTime2d"),
    "factors and offsets": handwritten,
}


@pytest.mark.parametrize("kind", NETS)
def test_norms_per_step(kind: str) -> None:
    torch.manual_seed(0)
    net, reset, membrane = NETS[kind]()
    for m in lively(net).modules():
        if isinstance(m, nn.modules.batchnorm._BatchNorm):
            with torch.no_grad():
                # Statistics of another step's own.
                m.running_var.copy_(0.1 + 0.2 * torch.rand(CHANNELS))
    with pytest.raises(S2CError, match=r"from step to step|not the same at every step") as refusal:
        trace(net, frames(0))
    assert "per_step=True" in refusal.value.fix
    graph = trace(net, frames(0), per_step=True)
    assert isinstance(graph["neuron"].layer.model, PerStepLIF)
    for seed in (1, 2):
        x = frames(seed)
        reset(net)
        with watched(net, {"neuron": net.neuron}, lambda m, out: membrane(m)) as seen:
            out = net(x)
        spikes, membranes = zip(*seen["neuron"], strict=True)
        axis = 0 if len(spikes) == 1 else None
        compare(graph, x.transpose(0, 1), {"neuron": tuple(per_step(list(c), axis) for c in (spikes, membranes))}, out)
