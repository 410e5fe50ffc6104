"""Sinabs: traced graphs against its own forward passes, layer by layer; what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from snn2chip.errors import S2CError
from snn2chip.frontend.torch import trace
from snn2chip.ir.graph import Edge
from snn2chip.simulate import simulate
from torch_networks import N, T, compare, frames, lively, watched

pytest.importorskip("sinabs")

import sinabs.layers as sl
from sinabs.activation import MaxSpike, MembraneReset, MembraneSubtract, MultiSpike, SingleSpike

ONE: dict[str, Any] = {"spike_fn": SingleSpike}


def dense(n: int = 12, bias: bool = False) -> nn.Module:
    return nn.Linear(n, n, bias=bias)


LAYERS: dict[str, Any] = {
    "LIF": lambda: sl.LIF(tau_mem=3.0, **ONE, spike_threshold=torch.tensor(0.4)),
    "IAF recurrent": lambda: sl.IAFRecurrent(dense(), **ONE),
    "LIF recurrent": lambda: sl.LIFRecurrent(3.0, dense(), tau_syn=2.0, **ONE, norm_input=False),
    "ALIF recurrent": lambda: sl.ALIFRecurrent(3.0, 4.0, dense(), spike_threshold=torch.tensor(0.3)),
}


def samples(seed: int) -> Tensor:
    """Spikes [N, T, 72]."""
    return frames(seed).flatten(2).transpose(0, 1)


def cleared(net: nn.Module) -> nn.Module:
    # sinabs.reset_states passes over layers with layers inside, the recurrent ones.
    for m in net.modules():
        if isinstance(m, sl.StatefulLayer):
            m.reset_states()
    return net


def run(net: nn.Module, x: Tensor) -> Tensor:
    return cleared(net)(x)


def small(net: nn.Module) -> nn.Module:
    """Lively, with recurrence that does not drown the input."""
    lively(net)
    with torch.no_grad():
        for name, weight in net.named_parameters():
            if "rec_connect" in name:
                weight.mul_(0.2)
    return net


def test_every_membrane_that_sinabs_records() -> None:
    net = small(nn.Sequential(nn.Linear(72, 12), sl.LIF(3.0, 2.0, **ONE, record_states=True, norm_input=False)))
    graph = trace(net, samples(0), run=run)
    x = samples(1)
    run(net, x)
    result = simulate(graph, x, record=("v",))
    np.testing.assert_allclose(result["1"].v, net[1].recordings["v_mem"].detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["IAF recurrent", "LIF recurrent", "ALIF recurrent"])
def test_recurrent_layers_become_recurrent_synapses(kind: str) -> None:
    graph = trace(small(nn.Sequential(nn.Linear(72, 12), LAYERS[kind]())), samples(0), run=run)
    assert graph["1.rec_connect"].inputs == (Edge("1", 1, recurrent=True),)
    assert graph["1"].inputs == (Edge("0"), Edge("1.rec_connect"))


SQUEEZED: dict[str, Any] = {
    "IAF, by steps": (sl.IAFSqueeze, {"num_timesteps": T}, {}),
    "IAF, by samples": (sl.IAFSqueeze, {"batch_size": N}, {}),
    "LIF, by both": (sl.LIFSqueeze, {"batch_size": N, "num_timesteps": T}, {"tau_mem": 3.0, "norm_input": False}),
}


@pytest.mark.parametrize("kind", SQUEEZED)
def test_samples_and_steps_on_one_axis(kind: str) -> None:
    cls, sizes, options = SQUEEZED[kind]
    neurons = [cls(**sizes, **options, **ONE) for _ in range(3)]
    net = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), neurons[0], sl.SumPool2d(2))
    net = lively(nn.Sequential(*net, nn.Conv2d(6, 8, 3), neurons[1], nn.Flatten(), nn.Linear(8, 10), neurons[2]))

    def folded(net: nn.Module, x: Tensor) -> Tensor:
        return cleared(net)(x.flatten(0, 1)).unflatten(0, x.shape[:2]).mean(1)

    graph = trace(net, frames(0).transpose(0, 1), run=folded)
    names = {str(i): m for i, m in enumerate(net) if isinstance(m, cls)}
    for seed in (1, 2):
        x = frames(seed).transpose(0, 1)
        with watched(net, names, lambda m, out: None) as seen:
            out = folded(net, x)
        expected = {name: (c[0][0].unflatten(0, (N, T)).numpy(), None) for name, c in seen.items()}
        compare(graph, x, expected, out)


def test_a_leaky_integrator_reads_out() -> None:
    net = small(nn.Sequential(nn.Linear(72, 12), LAYERS["LIF"](), nn.Linear(12, 5), sl.ExpLeak(tau_mem=4.0)))
    graph = trace(net, samples(0), run=run, readout="last")
    x = samples(1)
    np.testing.assert_allclose(simulate(graph, x).outputs, run(net, x)[:, -1].detach(), rtol=1e-5, atol=1e-6)


def test_sinabs_is_reset_without_run() -> None:
    net = small(nn.Sequential(nn.Linear(72, 12), LAYERS["LIF recurrent"]()))
    assert trace(net, samples(0)) == trace(net, samples(0), run=run)


def test_a_network_converted_by_sinabs() -> None:
    """The usual way in: an ordinary network with ReLU, converted."""
    from sinabs.from_torch import from_model

    ann = lively(
        nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(24, 5), nn.ReLU())
    )
    net = from_model(ann, num_timesteps=T, spike_fn=SingleSpike, min_v_mem=None).spiking_model

    def folded(net: nn.Module, x: Tensor) -> Tensor:
        return cleared(net)(x.flatten(0, 1)).unflatten(0, x.shape[:2]).sum(1)

    graph = trace(net, frames(0).transpose(0, 1), run=folded)
    x = frames(1).transpose(0, 1)
    expected = folded(net, x).detach()
    assert expected.max() > 0
    np.testing.assert_array_equal(simulate(graph, x).outputs, expected)


REFUSED: dict[str, tuple[Any, str]] = {
    "several spikes": (lambda: sl.IAF(spike_fn=MultiSpike), r"spike_fn=MultiSpike \(several spikes in a step\)"),
    "up to three spikes": (lambda: sl.IAF(spike_fn=MaxSpike(3)), "spike_fn=MaxSpike"),
    "lower bound": (lambda: sl.IAF(**ONE, min_v_mem=-1.0), "min_v_mem cannot"),
    "reset elsewhere": (lambda: sl.IAF(**ONE, reset_fn=MembraneReset(0.1)), "MembraneReset to a value other than zero"),
    "subtracts something": (lambda: sl.IAF(**ONE, reset_fn=MembraneSubtract(0.5)), "other than the threshold"),
    "own reset": (lambda: sl.IAF(**ONE, reset_fn=lambda spikes, state, theta: dict(state)), "reset_fn=function"),
    "recurrent bias": (lambda: sl.IAFRecurrent(dense(bias=True), **ONE), "a bias of rec_connect"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_has_no_counterpart_is_refused_by_name(kind: str) -> None:
    make, message = REFUSED[kind]
    net = lively(nn.Sequential(nn.Linear(72, 12), make()))
    with pytest.raises(S2CError, match=message) as caught:
        trace(net, samples(0), run=run)
    assert caught.value.where == "1"
    assert caught.value.fix


def test_pooling_that_is_no_sum_is_refused() -> None:
    net = lively(
        nn.Sequential(nn.LPPool2d(2, 2), nn.Flatten(), nn.Linear(18, 5), sl.IAFSqueeze(num_timesteps=T, **ONE))
    )
    with pytest.raises(S2CError, match="power-average pooling other than a sum"):
        trace(net, frames(0).transpose(0, 1), run=lambda net, x: cleared(net)(x.flatten(0, 1)))


def test_a_recurrent_layer_that_is_no_synapse_is_refused() -> None:
    inner = nn.Sequential(dense(), nn.ReLU())
    with pytest.raises(S2CError, match="rec_connect of Sinabs IAFRecurrent is a Sequential"):
        trace(lively(nn.Sequential(nn.Linear(72, 12), sl.IAFRecurrent(inner, **ONE))), samples(0), run=run)


def test_a_reset_that_misses_recurrent_layers_is_noticed() -> None:
    import sinabs

    def forgetful(net: nn.Module, x: Tensor) -> Tensor:
        sinabs.reset_states(net)
        return net(x)

    net = small(nn.Sequential(nn.Linear(72, 12), LAYERS["LIF recurrent"]()))
    with pytest.raises(S2CError, match="does not do what") as caught:
        trace(net, samples(0), run=forgetful)
    assert "keeps its state between samples" in caught.value.fix
