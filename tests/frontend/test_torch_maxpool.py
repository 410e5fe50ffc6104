"""Networks as tutorials write them, max pooling of membrane currents in front of the neuron: from torch to the report.

The reference is each library's own forward pass, its spikes seen by torch's hooks.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import snn2chip as s2c
from snn2chip.errors import S2CError
from snn2chip.ir.graph import Graph
from snn2chip.ir.layers import MaxPool
from torch_networks import lively, per_step, watched

snntorch = pytest.importorskip("snntorch")
spikingjelly = pytest.importorskip("spikingjelly.activation_based")

from snntorch import utils  # noqa: E402
from spikingjelly.activation_based import functional, layer, neuron  # noqa: E402

STEPS = 5


class PooledCurrents(nn.Module):
    """Two convolutions whose sums are pooled on the way into the neurons, and a classifier; membranes passed along."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 5, 5), nn.Conv2d(5, 7, 3)
        self.fc = nn.Linear(7 * 3 * 3, 10)
        self.lif1, self.lif2, self.lif3 = (snntorch.Leaky(beta=0.6) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        mem1, mem2, mem3 = (lif.reset_mem() for lif in (self.lif1, self.lif2, self.lif3))
        spikes = []
        for _ in range(STEPS):
            spike, mem1 = self.lif1(F.max_pool2d(self.conv1(x), 2), mem1)
            spike, mem2 = self.lif2(F.max_pool2d(self.conv2(spike), 2), mem2)
            spike, mem3 = self.lif3(self.fc(spike.flatten(1)), mem3)
            spikes.append(spike)
        return torch.stack(spikes).mean(0)


class PooledEvents(nn.Sequential):
    """The same written as a chain with hidden states, for frames of events of two polarities."""

    def __init__(self) -> None:
        leaky = lambda: snntorch.Leaky(beta=0.7, init_hidden=True)  # noqa: E731
        super().__init__(
            *(nn.Conv2d(2, 5, 3), nn.MaxPool2d(2), leaky()),
            *(nn.Conv2d(5, 7, 3), nn.MaxPool2d(2), leaky()),
            *(nn.Flatten(), nn.Linear(7 * 2 * 2, 11), leaky()),
        )

    @staticmethod
    def run(net: nn.Module, events: Tensor) -> Tensor:
        """Spike counts for events [N, T, 2, H, W]."""
        utils.reset(net)
        return torch.stack([net(frame) for frame in events.transpose(0, 1)]).sum(0)


class FullyConnected(nn.Module):
    """Two layers without any pooling, for the same road."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(144, 40), nn.Linear(40, 10)
        self.lif1, self.lif2 = snntorch.Leaky(beta=0.95), snntorch.Leaky(beta=0.95)

    def forward(self, x: Tensor) -> Tensor:
        mem1, mem2, spikes = self.lif1.init_leaky(), self.lif2.init_leaky(), []
        for _ in range(STEPS):
            spike, mem1 = self.lif1(self.fc1(x.flatten(1)), mem1)
            spike, mem2 = self.lif2(self.fc2(spike), mem2)
            spikes.append(spike)
        return torch.stack(spikes).mean(0)


class PatchStem(nn.Module):
    """A transformer's stem: convolution, batch norm, overlapping max pooling, neuron, twice; multi-step."""

    def __init__(self, late_norm: bool) -> None:
        super().__init__()
        order = (lambda norm, pool: (pool, norm)) if late_norm else (lambda norm, pool: (norm, pool))
        lif = lambda: neuron.LIFNode(tau=2.0)  # noqa: E731
        pool = lambda: layer.MaxPool2d(3, 2, 1)  # noqa: E731
        self.first = nn.Sequential(layer.Conv2d(3, 6, 3, padding=1, bias=False), layer.BatchNorm2d(6), lif())
        self.second = nn.Sequential(
            layer.Conv2d(6, 8, 3, padding=1, bias=False), *order(layer.BatchNorm2d(8), pool()), lif()
        )
        self.third = nn.Sequential(
            layer.Conv2d(8, 8, 3, padding=1, bias=False), *order(layer.BatchNorm2d(8), pool()), lif()
        )
        self.head = layer.Linear(8, 10)
        functional.set_step_mode(self, "m")

    def forward(self, x: Tensor) -> Tensor:
        functional.reset_net(self)
        x = self.third(self.second(self.first(x.expand(STEPS, *x.shape))))
        return self.head(x.flatten(3).mean(3)).mean(0)


def stem(late_norm: bool) -> nn.Module:
    """Half of its gains are negative."""
    net = lively(PatchStem(late_norm))
    for norm in (net.second, net.third):
        for part in norm:
            if isinstance(part, nn.BatchNorm2d):
                part.weight.data *= torch.tensor([1.0, -1.0]).repeat(len(part.weight) // 2)
                part.bias.data += 0.5
    return net


def uniform(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)) * 1.2


def binary(*shape: int) -> Tensor:
    return (torch.rand(shape, generator=torch.Generator().manual_seed(2)) < 0.3).float()


# model, samples, how a sample is run, its neurons, how many maxima of sums it takes
CASES: dict[str, tuple[Callable[[], nn.Module], Tensor, Any, tuple[str, ...], int]] = {
    "pooled currents": (lambda: lively(PooledCurrents()), uniform(24, 1, 20, 20), None, ("lif1", "lif2", "lif3"), 2),
    "pooled events": (
        lambda: lively(PooledEvents()), binary(24, STEPS, 2, 14, 14), PooledEvents.run, ("2", "5", "8"), 2,
    ),
    "fully connected": (lambda: lively(FullyConnected()), uniform(24, 1, 12, 12), None, ("lif1", "lif2"), 0),
    "stem": (lambda: stem(False), uniform(24, 3, 12, 12), None, ("first.2", "second.3", "third.3"), 2),
    "stem, norm behind": (lambda: stem(True), uniform(24, 3, 12, 12), None, ("first.2", "second.3", "third.3"), 2),
}  # fmt: skip


def traced(case: str) -> tuple[Graph, nn.Module, Tensor, Any, tuple[str, ...], int]:
    build, x, run, neurons, maxima = CASES[case]
    net = build()
    return s2c.trace(net, x[:4], time_steps=STEPS, run=run), net, x, run, neurons, maxima


def own_spikes(net: nn.Module, x: Tensor, run: Any, neurons: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Spikes [N, T, ...] of the library's own forward pass."""
    modules = dict(net.named_modules())
    with torch.no_grad(), watched(net, {name: modules[name] for name in neurons}, lambda m, out: None) as seen:
        net(x) if run is None else run(net, x)
    calls = {name: [spike for spike, _ in found] for name, found in seen.items()}
    return {name: per_step(found, None if len(found) > 1 else 0) for name, found in calls.items()}


@pytest.mark.parametrize("case", CASES)
def test_it_runs_on_the_chip_and_its_host_as_in_its_library(case: str) -> None:
    graph, net, x, run, neurons, maxima = traced(case)
    assert sum(isinstance(node.layer, MaxPool) for node in graph) == maxima
    expected = own_spikes(net, x, run, neurons)
    program = s2c.quantize(graph, calibration=x[:12], host=["pools"], refine=False)
    found = s2c.simulate(program, x, record="spikes", engine="reference")
    fast = s2c.simulate(program, x, record="spikes", engine="fast")
    for name, spikes in expected.items():
        assert 0.02 < spikes.mean() < 0.9, name
        np.testing.assert_array_equal(s2c.simulate(graph, x, record="spikes")[name].spikes, spikes)
        assert np.mean(found[name].spikes != spikes) < 0.05, name
        np.testing.assert_array_equal(found[name].spikes, fast[name].spikes)
    assert sum("fed by the host" in note for note in program.notes) == maxima
    on_host = [node.name for node in program if isinstance(node.layer, MaxPool) and node.placement == "host"]
    assert len(on_host) == maxima


@pytest.mark.parametrize("case", [case for case, (*_, maxima) in CASES.items() if maxima])
def test_without_the_option_its_first_maximum_is_refused(case: str) -> None:
    graph, _, x, *_ = traced(case)
    with pytest.raises(S2CError, match="a maximum of values that are not spikes") as caught:
        s2c.quantize(graph, calibration=x[:4])
    assert "--host pools" in caught.value.fix
    assert "(MaxPool)" in caught.value.where


def test_the_report_says_who_is_fed_by_the_host_and_what_that_costs(tmp_path: Path) -> None:
    _, net, x, run, _, _ = traced("pooled events")
    build = s2c.compile(
        net, x[:4], time_steps=STEPS, run=run, calibration=x, host=["pools"], against=("fast",), out=tmp_path / "out"
    )
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    said = json.dumps(report["remarks"]) if "remarks" in report else json.dumps(report)
    assert "2: fed by the host, which sums 0 and hands over the maxima of 1" in said
    placed = {row["name"]: row["placement"] for row in report["network"]}
    assert [name for name, where in placed.items() if where == "host"] == ["0", "1", "3", "4", "readout", "output"]
    macs = {row["name"]: row["macs"] for row in report["operations"]}
    assert macs["0"] == STEPS * 2 * 5 * 9 * 12 * 12
    assert macs["3"] == STEPS * 5 * 7 * 9 * 4 * 4
    assert not (tmp_path / "out" / "lava").exists()
    assert not (tmp_path / "out" / "model.net").exists()
    page = (tmp_path / "out" / "report.html").read_text()
    assert "hands over the maxima of 1" in page
    assert build.program == s2c.load(tmp_path / "out" / "model.nir")


def test_spikingjellys_spikformer_with_its_attention_and_its_pooled_stem() -> None:
    model = pytest.importorskip("spikingjelly.activation_based.model.spikformer", reason="not in this version")
    net = lively(
        model.Spikformer(
            T=3, img_size_h=32, img_size_w=32, num_classes=5, embed_dims=32, num_heads=2, mlp_ratio=2.0, depths=1
        )
    )
    x = uniform(6, 3, 32, 32)
    graph = s2c.trace(net, x[:2], time_steps=3)
    program = s2c.quantize(graph, calibration=x[:4], host=["products", "pools"], refine=False)
    real, found = (s2c.simulate(network, x, record="spikes") for network in (graph, program))
    for node in program.neurons:
        assert np.mean(found[node.name].spikes != real[node.name].spikes) < 0.1, node.name
    assert sum("fed by the host" in note for note in program.notes) > 0
    assert sum("multiplied on the host" in note for note in program.notes) == 1
