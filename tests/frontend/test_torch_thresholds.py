"""Membranes exactly on the threshold, in every library: the fire test, to the last bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from snn2chip.frontend.torch import trace
from snn2chip.simulate import simulate
from torch_networks import HandLIF

snntorch = pytest.importorskip("snntorch")
pytest.importorskip("spikingjelly")

from snntorch import utils  # noqa: E402
from spikingjelly.activation_based import functional, neuron  # noqa: E402


@pytest.mark.parametrize(
    ("make", "reset", "fire"),
    [
        (lambda: neuron.IFNode(v_reset=None), functional.reset_net, ">="),
        (lambda: neuron.LIFNode(tau=2.0, decay_input=False), functional.reset_net, ">="),
        (lambda: snntorch.Leaky(beta=0.5, init_hidden=True), utils.reset, ">"),
        (lambda: snntorch.Leaky(beta=0.5, init_hidden=True, reset_mechanism="zero"), utils.reset, ">"),
        (lambda: HandLIF(decay=0.5), lambda net: net[1].reset(), ">="),
        (lambda: HandLIF(decay=0.5, strict=True, reset="soft"), lambda net: net[1].reset(), ">"),
    ],
)
def test_membranes_exactly_on_the_threshold(make: Any, reset: Any, fire: str) -> None:
    net = nn.Sequential(nn.Linear(6, 12, bias=False), make()).eval()
    with torch.no_grad():
        net[0].weight.copy_(torch.randint(-2, 4, (12, 6), generator=torch.Generator().manual_seed(0)) / 4)

    def run(net: nn.Module, x: Tensor) -> Tensor:
        reset(net)
        return torch.stack([net(frame) for frame in x])

    x = (torch.rand(8, 40, 6, generator=torch.Generator().manual_seed(1)) < 0.5).float()
    graph = trace(net, x, run=run)
    assert graph["1"].layer.model.fire == fire
    result = simulate(graph, x.transpose(0, 1), record=("spikes", "h"))
    assert (result["1"].h == 1.0).sum() > 50, "no ties: nothing is tested"
    np.testing.assert_array_equal(result["1"].spikes, run(net, x).detach().transpose(0, 1))
