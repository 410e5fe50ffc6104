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

pytest.importorskip("snntorch")
pytest.importorskip("spikingjelly")
pytest.importorskip("norse")
pytest.importorskip("sinabs")

import norse.torch as norse
import sinabs.layers as sl
import snntorch
from sinabs.activation import SingleSpike
from snntorch import utils
from spikingjelly.activation_based import functional, neuron


def stepwise(reset: Any) -> Any:
    def run(net: nn.Module, x: Tensor) -> Tensor:
        reset(net)
        return torch.stack([net(frame) for frame in x])

    return run


def looping(net: nn.Module, x: Tensor) -> Tensor:
    """Sinabs: all steps in one call, samples first."""
    net[1].reset_states()
    return net(x.transpose(0, 1)).transpose(0, 1)


def threaded(net: nn.Module, x: Tensor) -> Tensor:
    """Norse: the state is handed on."""
    spikes, state = [], None
    for frame in x:
        spike, state = net[1](net[0](frame), state)
        spikes.append(spike)
    return torch.stack(spikes)


def own(net: nn.Module) -> None:
    net[1].reset()


HALF = norse.LIFBoxParameters(tau_mem_inv=torch.tensor(0.5))
SUBTRACT, ZERO = ({"beta": 0.5, "init_hidden": True, "reset_mechanism": how} for how in ("subtract", "zero"))


@pytest.mark.parametrize(
    ("make", "run", "fire"),
    [
        (lambda: neuron.IFNode(v_reset=None), stepwise(functional.reset_net), ">="),
        (lambda: neuron.LIFNode(tau=2.0, decay_input=False), stepwise(functional.reset_net), ">="),
        (lambda: snntorch.Leaky(**SUBTRACT), stepwise(utils.reset), ">"),
        (lambda: snntorch.Leaky(**ZERO), stepwise(utils.reset), ">"),
        (lambda: snntorch.Leaky(**ZERO, reset_delay=False), stepwise(utils.reset), ">"),
        (lambda: HandLIF(decay=0.5), stepwise(own), ">="),
        (lambda: HandLIF(decay=0.5, strict=True, reset="soft"), stepwise(own), ">"),
        (lambda: norse.IAFCell(), threaded, ">"),
        (lambda: norse.LIFBoxCell(HALF, dt=1.0), threaded, ">"),
        (lambda: sl.IAF(spike_fn=SingleSpike), looping, ">="),
    ],
)
def test_membranes_exactly_on_the_threshold(make: Any, run: Any, fire: str) -> None:
    net = nn.Sequential(nn.Linear(6, 12, bias=False), make()).eval()
    with torch.no_grad():
        net[0].weight.copy_(torch.randint(-2, 4, (12, 6), generator=torch.Generator().manual_seed(0)) / 4)

    x = (torch.rand(8, 40, 6, generator=torch.Generator().manual_seed(1)) < 0.5).float()
    graph = trace(net, x, run=run)
    assert graph["1"].layer.model.fire == fire
    result = simulate(graph, x.transpose(0, 1), record=("spikes", "h"))
    assert (result["1"].h == 1.0).sum() > 50, "no ties: nothing is tested"
    np.testing.assert_array_equal(result["1"].spikes, run(net, x).detach().transpose(0, 1))
