"""SpikingJelly beyond the matrix: how it is driven, ``clock_driven``, and what is refused.

The same tests run against 0.0.0.0.14, whose classes differ, in a process of their own: both versions have one name.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from snn2chip.errors import S2CError
from snn2chip.frontend.torch import trace
from snn2chip.ir.layers import Gather, MatMul
from snn2chip.simulate import simulate
from torch_networks import T, compare, frames, images, lively, per_step, watched

spikingjelly = pytest.importorskip("spikingjelly")

from spikingjelly.activation_based import functional, layer, neuron, surrogate  # noqa: E402

OLD = "0.0.0.0.14"
FOLDER = Path(os.environ.get("SNN2CHIP_SPIKINGJELLY_OLD", Path(sys.prefix) / f"spikingjelly-{OLD}"))


def sj_net(neuron_of: Callable[[], nn.Module], step_mode: str) -> nn.Module:
    net = nn.Sequential(
        layer.Conv2d(2, 6, 3, padding=1, bias=False),
        layer.BatchNorm2d(6),
        neuron_of(),
        layer.AvgPool2d(2),
        layer.Conv2d(6, 8, 3, padding=1, bias=False),
        layer.BatchNorm2d(8),
        neuron_of(),
        layer.Flatten(),
        layer.Dropout(0.5),
        layer.Linear(72, 10),
        neuron_of(),
    )
    functional.set_step_mode(net, step_mode)
    return lively(net)


def sj_run(net: nn.Module, x: Tensor) -> Tensor:
    functional.reset_net(net)
    if net[0].step_mode == "m":
        return net(x).mean(0)
    out: Any = 0.0
    for frame in x:
        out += net(frame)
    return out / len(x)


@pytest.mark.parametrize("step_mode", ["s", "m"])
def test_spikingjelly_is_reset_and_driven_without_run(step_mode: str) -> None:
    net = sj_net(partial(neuron.LIFNode, tau=1.6), step_mode)
    x = images(0) if step_mode == "s" else frames(0)
    graph = trace(net, x, time_steps=T, readout="mean")
    assert graph.coding == ("direct" if step_mode == "s" else "steps")
    out = sj_run(net, x if step_mode == "m" else torch.stack([x] * T))
    samples = x if step_mode == "s" else x.transpose(0, 1)
    np.testing.assert_allclose(simulate(graph, samples).outputs, out.detach(), atol=1e-6)


class MultiStepNet(nn.Module):
    """As published code writes it: plain layers on [T·N, ...], ``clock_driven`` neurons on [T, N, ...]."""

    def __init__(self, *neurons: nn.Module) -> None:
        super().__init__()
        self.conv1, self.bn1, self.lif1 = nn.Conv2d(2, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), neurons[0]
        self.conv2, self.bn2, self.lif2 = nn.Conv2d(6, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), neurons[1]
        self.pool, self.head = nn.MaxPool2d(2), nn.Linear(72, 10)

    def forward(self, x: Tensor) -> Tensor:
        steps, batch = x.shape[:2]
        x = self.lif1(self.bn1(self.conv1(x.flatten(0, 1))).reshape(steps, batch, 6, 6, 6).contiguous())
        x = self.bn2(self.conv2(x.flatten(0, 1))).reshape(steps, batch, 8, 6, 6).contiguous()
        x = self.pool(self.lif2(x).flatten(0, 1)).flatten(1)
        return self.head(x).reshape(steps, batch, 10).mean(0)


def test_its_spikformer() -> None:
    """Queries, keys and values are parts of one population; their products are read by another."""
    model = pytest.importorskip("spikingjelly.activation_based.model.spikformer", reason="not in this version")
    net = lively(
        model.Spikformer(
            T=3, img_size_h=32, img_size_w=32, num_classes=5, embed_dims=32, num_heads=2, mlp_ratio=2.0, depths=1
        )
    )
    graph = trace(net, images(0, 2, 3, 32, 32), time_steps=3)
    assert sum(isinstance(node.layer, Gather) for node in graph) == 3
    assert sum(isinstance(node.layer, MatMul) for node in graph) == 2
    x = images(1, 4, 3, 32, 32)
    functional.reset_net(net)
    with torch.no_grad():
        expected = net(x).transpose(0, 1).numpy()
    result = simulate(graph, x, record="spikes")
    assert result["blocks.0.attn.attn_lif"].spikes.any()
    assert expected.std() > 0.1
    np.testing.assert_allclose(result.outputs, expected, atol=1e-4)


CLOCK_DRIVEN = {
    "IF": ("IFNode", {}),
    "LIF": ("LIFNode", {"tau": 2.0, "detach_reset": True}),
    "LIF soft, undriven": ("LIFNode", {"tau": 1.5, "v_reset": None, "decay_input": False}),
    "LIF reset elsewhere": ("LIFNode", {"tau": 1.7, "v_reset": -0.3, "v_threshold": 0.7}),
    "PLIF": ("ParametricLIFNode", {"init_tau": 1.8}),
}


@pytest.mark.parametrize("kind", CLOCK_DRIVEN)
def test_clock_driven(kind: str) -> None:
    clock_driven = pytest.importorskip("spikingjelly.clock_driven.neuron", reason="not in this version")
    name, options = CLOCK_DRIVEN[kind]
    net = MultiStepNet(*(getattr(clock_driven, f"MultiStep{name}")(**options) for _ in range(2)))
    lively(net)
    graph = trace(net, frames(0))
    assert [node.name for node in graph.neurons] == ["lif1", "lif2"]
    for seed in (1, 2):
        x = frames(seed)
        functional.reset_net(net)
        with watched(net, {"lif1": net.lif1, "lif2": net.lif2}, lambda m, out: m.v_seq.clone()) as seen:
            out = net(x)
        expected = {n: (per_step([s for s, _ in c], 0), per_step([v for _, v in c], 0)) for n, c in seen.items()}
        compare(graph, x.transpose(0, 1), expected, out)
    single = sj_net(neuron.IFNode, "s")
    single[2], single[6], single[10] = (getattr(clock_driven, name)(**options) for _ in range(3))
    graph = trace(single, images(0), time_steps=T)
    functional.reset_net(single)
    out = sum(single(images(1)) for _ in range(T)) / T
    np.testing.assert_allclose(simulate(graph, images(1)).outputs, out.detach(), atol=1e-6)


@pytest.mark.parametrize("kind", ["OTTTLIFNode", "SLTTLIFNode"])
def test_neurons_of_online_training_compute_like_a_lif(kind: str) -> None:
    if not hasattr(neuron, kind):
        pytest.skip("not in this version")
    net = lively(
        nn.Sequential(layer.Conv2d(2, 6, 3), getattr(neuron, kind)(tau=1.6), layer.Flatten(), layer.Linear(96, 4))
    )
    graph = trace(net, images(0), time_steps=T)
    for seed in (1, 2):
        functional.reset_net(net)
        out = sum(net(images(seed)) for _ in range(T)) / T
        np.testing.assert_allclose(simulate(graph, images(seed)).outputs, out.detach(), rtol=1e-5, atol=1e-5)


def test_a_membrane_read_out_of_a_changed_neuron() -> None:
    """The tutorials' non-spiking neuron: a subclass that returns its membrane, which is read off it after the loop."""

    class NonSpiking(neuron.LIFNode):
        def single_step_forward(self, x: Tensor) -> Tensor:
            self.v = self.v + (x - self.v) / self.tau
            return self.v

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Sequential(layer.Linear(8, 16), neuron.IFNode(), layer.Linear(16, 3), NonSpiking(tau=2.0))

        def forward(self, x: Tensor) -> Tensor:
            for _ in range(T):
                self.fc(x)
            return self.fc[-1].v

    net = lively(Net())
    graph = trace(net, torch.rand(5, 8))
    for seed in (1, 2):
        x = torch.rand(5, 8, generator=torch.Generator().manual_seed(seed))
        functional.reset_net(net)
        np.testing.assert_allclose(simulate(graph, x).outputs, net(x).detach(), rtol=1e-5, atol=1e-5)


REFUSED = {
    "EIF": (lambda: neuron.EIFNode(), "EIFNode cannot be represented exactly"),
    "Izhikevich": (lambda: neuron.IzhikevichNode(), "IzhikevichNode cannot"),
    "KLIF": (lambda: neuron.KLIFNode(), "KLIFNode cannot"),
    "PSN": (lambda: neuron.PSN(T), "PSN cannot"),
    "sliding PSN": (lambda: neuron.SlidingPSN(k=2), "SlidingPSN cannot"),
    "gated LIF": (lambda: neuron.GatedLIFNode(T), "GatedLIFNode cannot"),
    "DSR": (lambda: neuron.DSRIFNode(T=T), "DSRIFNode cannot"),
    "synapse filter": (lambda: layer.SynapseFilter(tau=3.0), "(?s)SynapseFilter.*does not decay where a spike"),
    "graded surrogate": (lambda: neuron.LIFNode(surrogate_function=surrogate.ATan(spiking=False)), "ATan.* is no step"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_neurons_without_counterpart_are_refused_by_name(kind: str) -> None:
    make, message = REFUSED[kind]
    name = message.split()[0]
    if not hasattr(neuron, name) and message.endswith("cannot"):
        pytest.skip(f"SpikingJelly {metadata.version('spikingjelly')} has no {name}")
    net = nn.Sequential(layer.Flatten(), layer.Linear(72, 10), make())
    with pytest.raises(S2CError, match=message) as caught:
        trace(net, images(0), time_steps=T)
    assert caught.value.where == "2"
    assert caught.value.fix


def test_another_version() -> None:
    """All of the above with 0.0.0.0.14, where ``make test`` put it, and its networks of the matrix."""
    if metadata.version("spikingjelly") == OLD:
        pytest.skip("this is that run")
    if not (FOLDER / "spikingjelly").is_dir():
        pytest.skip(f"no SpikingJelly {OLD} in {FOLDER}: pip install --no-deps --target that folder")
    path = os.pathsep.join([str(FOLDER), *filter(None, [os.environ.get("PYTHONPATH")])])
    matrix = str(Path(__file__).with_name("test_torch_matrix.py"))
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", __file__, matrix, "-k", "spikingjelly"],
        env={**os.environ, "PYTHONPATH": path},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.returncode == 0, run.stdout[-3000:]
    assert "this is that run" in run.stdout
    passed = int(re.search(r"(\d+) passed", run.stdout)[1])
    assert passed > 20, "most neurons exist in both versions"
