"""snnTorch: traced graphs against its own forward passes, layer by layer; what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from snn2chip.errors import S2CError
from snn2chip.frontend.torch import record_model, trace
from snn2chip.ir.graph import Edge
from snn2chip.simulate import simulate
from torch_networks import ConvNet, T, compare, frames, lively, per_step, watched

snntorch = pytest.importorskip("snntorch")

from snntorch import utils  # noqa: E402


def leaky(reset: str, **options: Any) -> nn.Module:
    return snntorch.Leaky(0.9, reset_mechanism=reset, **options)


def hidden_run(net: nn.Module, x: Tensor) -> Tensor:
    utils.reset(net)
    return torch.stack([net(frame) for frame in x]).sum(0)


class Explicit(ConvNet):
    """Membranes passed explicitly, as in snnTorch's tutorials; returns spikes and membranes of every step."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        m1, m2, m3 = (n.reset_mem() for n in self.neurons.values())
        spikes, membranes = [], []
        for step in range(x.size(0)):
            s1, m1 = self.lif1(self.bn1(self.conv1(x[step])), m1)
            s2, m2 = self.lif2(self.bn2(self.conv2(self.pool(s1))), m2)
            s3, m3 = self.lif3(self.fc(s2.flatten(1)), m3)
            spikes.append(s3)
            membranes.append(m3)
        return torch.stack(spikes), torch.stack(membranes)


def snn_expected(seen: dict[str, Any]) -> dict[str, Any]:
    return {n: (per_step([s for s, _ in c], None), per_step([v for _, v in c], None)) for n, c in seen.items()}


RESETS = ("subtract", "zero", "none")


class Recurrent(nn.Module):
    """conv–neuron–fc–neuron, both recurrent; states hidden in the neurons or passed explicitly."""

    def __init__(self, kind: str, reset: str, explicit: bool, one_to_one: bool) -> None:
        super().__init__()
        cls, rates = {"RLeaky": (snntorch.RLeaky, (0.7,)), "RSynaptic": (snntorch.RSynaptic, (0.4, 0.7))}[kind]
        g = torch.Generator().manual_seed(3)
        options = {"reset_mechanism": reset, "init_hidden": not explicit, "threshold": 0.9}
        shapes = {"conv": {"conv2d_channels": 6, "kernel_size": 3}, "fc": {"linear_features": 12}}
        if one_to_one:
            weights = {"conv": 0.4 * torch.rand(6, 1, 1, generator=g), "fc": torch.rand(12, generator=g) - 0.5}
            shapes = {layer: {"all_to_all": False, "V": weight} for layer, weight in weights.items()}
        self.conv, self.lif1 = nn.Conv2d(2, 6, 3, padding=1), cls(*rates, **shapes["conv"], **options)
        self.fc, self.lif2 = nn.Linear(216, 12), cls(*rates, **shapes["fc"], **options)
        self.explicit = explicit

    def forward(self, x: Tensor) -> Tensor:
        one, two = self.lif1.reset_mem(), self.lif2.reset_mem()
        spikes = []
        for frame in x:
            if self.explicit:
                spike, *one = self.lif1(self.conv(frame), *one)
                # The spikes come first among the states, too.
                one = (spike, *one)
                spike, *two = self.lif2(self.fc(spike.flatten(1)), *two)
                two = (spike, *two)
            else:
                spike = self.lif2(self.fc(self.lif1(self.conv(frame)).flatten(1)))
            spikes.append(spike)
        return torch.stack(spikes).sum(0)


@pytest.mark.parametrize("one_to_one", [False, True], ids=["all to all", "one to one"])
@pytest.mark.parametrize("explicit", [False, True], ids=["hidden", "explicit"])
@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("kind", ["RLeaky", "RSynaptic"])
def test_recurrent_neurons_become_recurrent_synapses(kind: str, reset: str, explicit: bool, one_to_one: bool) -> None:
    net = lively(Recurrent(kind, reset, explicit, one_to_one))
    graph = trace(net, frames(0))
    for name in ("lif1", "lif2"):
        assert graph[f"{name}.recurrent"].inputs == (Edge(name, 1, recurrent=True),)
        assert Edge(f"{name}.recurrent") in graph[name].inputs
    for seed in (1, 2):
        x = frames(seed)
        with watched(net, {"lif1": net.lif1, "lif2": net.lif2}, lambda m, out: m.mem.clone()) as seen:
            out = net(x)
        compare(graph, x.transpose(0, 1), snn_expected(seen), out)


def test_a_recurrent_state_that_was_changed_is_refused() -> None:
    class Changed(Recurrent):
        def forward(self, x: Tensor) -> Tensor:
            spike, mem = self.lif2.reset_mem()
            spikes = []
            for frame in x:
                spike, mem = self.lif2(self.fc(self.conv(frame).flatten(1)), 0.5 * spike, mem)
                spikes.append(spike)
            return torch.stack(spikes).sum(0)

    with pytest.raises(S2CError, match="state is changed between two steps"):
        trace(lively(Changed("RLeaky", "subtract", True, False)), frames(0))


def test_a_weight_per_neuron_of_an_image_is_refused() -> None:
    net = Recurrent("RLeaky", "subtract", False, True)
    net.lif1.recurrent.V = nn.Parameter(torch.rand(6, 6, 6, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(S2CError, match="recurrent differs within a channel"):
        trace(lively(net), frames(0))


@pytest.mark.parametrize("how", ["last", "max", "mean", "sum"])
def test_membranes_can_be_read_out(how: str) -> None:
    net = lively(Explicit(*(leaky("subtract") for _ in range(3))))
    reads = {
        "last": lambda v: v[-1],
        "max": lambda v: v.max(0).values,
        "mean": lambda v: v.mean(0),
        "sum": lambda v: v.sum(0),
    }
    graph = trace(net, frames(0), run=lambda net, x: reads[how](net(x)[1]))
    assert graph["readout"].layer.how == how
    assert graph["readout"].inputs[0].port == "v"
    x = frames(3)
    np.testing.assert_allclose(simulate(graph, x.transpose(0, 1)).outputs, reads[how](net(x)[1]).detach(), atol=1e-5)


def test_recording_the_model_gives_its_layers() -> None:
    net = lively(Explicit(*(leaky("zero") for _ in range(3))))
    x = frames(4)
    found = record_model(net, lambda net, x: net(x)[0].sum(0), x)
    with watched(net, net.neurons, lambda m, out: m.mem.clone()) as seen:
        net(x)
    for name, (spikes, membranes) in snn_expected(seen).items():
        np.testing.assert_array_equal(found[name]["spikes"], spikes)
        np.testing.assert_array_equal(found[name]["v"], membranes)


@pytest.mark.parametrize(
    ("options", "feature"),
    [
        ({"reset_delay": False}, "reset_delay=False with reset_mechanism='subtract'"),
        ({"reset_delay": False, "reset_mechanism": "zero", "threshold": 0.0}, "threshold that is not positive"),
        ({"inhibition": True}, "inhibition"),
        ({"state_quant": lambda v: v.round()}, "state_quant"),
        ({"graded_spikes_factor": torch.ones(10) * 0.5}, "graded_spikes_factor"),
        ({"spike_grad": lambda x: torch.sigmoid(x)}, "no step"),
    ],
)
def test_snntorch_features_without_counterpart_are_refused_by_name(options: dict[str, Any], feature: str) -> None:
    net = lively(ConvNet(leaky("subtract", init_hidden=True), leaky("zero", init_hidden=True),
                         snntorch.Leaky(beta=0.9, init_hidden=True, **options)))  # fmt: skip
    with pytest.raises(Exception, match=feature) as caught:
        trace(net, frames(0), run=hidden_run)
    assert caught.value.where == "lif3"
    assert caught.value.fix


@pytest.mark.parametrize(
    ("make", "feature"),
    [
        (lambda: snntorch.Alpha(alpha=0.8, beta=0.5, init_hidden=True), "snnTorch's Alpha"),
        (
            lambda: snntorch.RSynaptic(0.5, 0.5, linear_features=10, reset_delay=False, init_hidden=True),
            "reset_delay=False in RSynaptic",
        ),
        (lambda: snntorch.LeakyParallel(10, 10, beta=0.8), "(?s)snnTorch's LeakyParallel.*all steps at once"),
        (
            lambda: snntorch.Leaky(beta=0.8, reset_delay=False, init_hidden=True),
            "(?s)reset_mechanism='subtract'.*stays above the threshold",
        ),
    ],
)
def test_snntorch_neurons_without_counterpart_are_refused_by_name(make: Any, feature: str) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(72, 10), make())
    with pytest.raises(S2CError, match=feature) as caught:
        trace(net, frames(0)[0], time_steps=T)
    assert caught.value.where == "2"
    assert caught.value.fix


def test_a_recurrence_around_a_neuron() -> None:
    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.rec = nn.Linear(72, 12), nn.Linear(12, 12)
            self.lif = snntorch.Leaky(beta=0.8, init_hidden=True)

        def forward(self, x: Tensor) -> Tensor:
            self.lif.reset_mem()
            spike, spikes = torch.zeros(x.shape[1], 12), []
            for frame in x:
                spike = self.lif(self.fc(frame.flatten(1)) + self.rec(spike))
                spikes.append(spike)
            return torch.stack(spikes).sum(0)

    net = Around()
    graph = trace(lively(net), frames(0))
    assert graph["rec"].inputs == (Edge("lif", 1, recurrent=True),)
    for seed in (3, 4):
        with watched(net, {"lif": net.lif}, lambda m, out: m.mem.clone()) as seen:
            out = net(frames(seed))
        spikes = per_step([s for s, _ in seen["lif"]])
        compare(graph, frames(seed).transpose(0, 1), {"lif": (spikes, None)}, out)
