"""Traced graphs against the frameworks' own forward passes, layer by layer: spikes exactly, membranes to rounding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from snn2chip.frontend.torch import record_model, trace
from snn2chip.simulate import simulate
from torch_networks import ConvNet, HandLIF, T, frames, images, lively, per_step, watched

snntorch = pytest.importorskip("snntorch")
spikingjelly = pytest.importorskip("spikingjelly")

from snntorch import utils  # noqa: E402
from spikingjelly.activation_based import functional, layer, neuron, surrogate  # noqa: E402


def compare(
    graph: Any, samples: Tensor, expected: dict[str, tuple[np.ndarray, np.ndarray | None]], out: Tensor
) -> None:
    """Every population fires, its spikes are the framework's, its membranes too up to rounding; so is the output."""
    result = simulate(graph, samples, record=("spikes", "v"))
    assert {n.name for n in graph.neurons} == set(expected)
    for name, (spikes, membranes) in expected.items():
        assert 0.01 < (spikes != 0).mean() < 0.98, f"{name} hardly changes: nothing is tested"
        np.testing.assert_array_equal(result[name].spikes, spikes, err_msg=name)
        if membranes is not None:
            np.testing.assert_allclose(result[name].v, membranes, rtol=1e-5, atol=1e-5, err_msg=name)
    np.testing.assert_allclose(result.outputs, out.detach().numpy(), rtol=1e-5, atol=1e-5)


# ------------------------------------------------------------------ SpikingJelly

SJ = {
    "IF hard": lambda: neuron.IFNode(),
    "IF soft": lambda: neuron.IFNode(v_reset=None, v_threshold=1.3),
    "LIF hard": lambda: neuron.LIFNode(tau=1.6),
    "LIF hard, reset elsewhere": lambda: neuron.LIFNode(tau=1.7, v_reset=-0.3, v_threshold=0.7),
    "LIF soft": lambda: neuron.LIFNode(tau=1.5, v_reset=None),
    "LIF undriven hard": lambda: neuron.LIFNode(tau=2.3, decay_input=False, v_reset=0.1),
    "LIF undriven soft": lambda: neuron.LIFNode(tau=2.5, decay_input=False, v_reset=None),
    "PLIF": lambda: neuron.ParametricLIFNode(init_tau=1.8),
    "PLIF undriven soft": lambda: neuron.ParametricLIFNode(init_tau=2.7, decay_input=False, v_reset=None),
    "Simple LIF": lambda: neuron.SimpleLIFNode(tau=1.9, decay_input=True),
    "Half threshold": lambda: neuron.HalfThresholdIFNode(),
    "other surrogate": lambda: neuron.LIFNode(tau=1.6, surrogate_function=surrogate.PiecewiseQuadratic()),
}


def sj_net(make: Any, step_mode: str) -> nn.Module:
    net = nn.Sequential(
        layer.Conv2d(2, 6, 3, padding=1, bias=False),
        layer.BatchNorm2d(6),
        make(),
        layer.AvgPool2d(2),
        layer.Conv2d(6, 8, 3, padding=1, bias=False),
        layer.BatchNorm2d(8),
        make(),
        layer.Flatten(),
        layer.Dropout(0.5),
        layer.Linear(72, 10),
        make(),
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
@pytest.mark.parametrize("kind", SJ)
def test_spikingjelly(kind: str, step_mode: str) -> None:
    net = sj_net(SJ[kind], step_mode)
    graph = trace(net, frames(0), run=sj_run)
    assert graph.coding == "steps"
    assert graph.time_steps == T
    assert list(graph.nodes)[:4] == ["input", "0", "1", "2"]
    neurons = {i: net[int(i)] for i in ("2", "6", "10")}
    for m in neurons.values():
        m.store_v_seq = step_mode == "m" and kind != "Simple LIF"
    membrane = (lambda m, out: getattr(m, "v_seq", None)) if step_mode == "m" else (lambda m, out: m.v.clone())
    for seed in (1, 2):  # consecutive batches: the second shows that the reset is right
        x = frames(seed)
        with watched(net, neurons, membrane) as seen:
            out = sj_run(net, x)
        axis = 0 if step_mode == "m" else None
        expected = {
            name: (
                per_step([s for s, _ in calls], axis),
                None if calls[0][1] is None else per_step([v for _, v in calls], axis),
            )
            for name, calls in seen.items()
        }
        compare(graph, x.transpose(0, 1), expected, out)


@pytest.mark.parametrize("step_mode", ["s", "m"])
def test_spikingjelly_is_reset_and_driven_without_run(step_mode: str) -> None:
    net = sj_net(SJ["LIF hard"], step_mode)
    x = images(0) if step_mode == "s" else frames(0)
    graph = trace(net, x, time_steps=T, readout="mean")
    assert graph.coding == ("direct" if step_mode == "s" else "steps")
    out = sj_run(net, x if step_mode == "m" else torch.stack([x] * T))
    samples = x if step_mode == "s" else x.transpose(0, 1)
    np.testing.assert_allclose(simulate(graph, samples).outputs, out.detach(), atol=1e-6)


# ------------------------------------------------------------------ snnTorch

LEAKY = {
    "subtract": {"beta": 0.9},
    "zero": {"beta": 0.85, "reset_mechanism": "zero"},
    "none": {"beta": 0.5, "reset_mechanism": "none"},
    "learned": {"beta": 0.8, "learn_beta": True, "threshold": 0.8, "learn_threshold": True},
    "beta above one is clamped": {"beta": 1.2, "threshold": 1.4},
    "graded": {"beta": 0.8, "graded_spikes_factor": 0.7},
}


def leaky(kind: str, **options: Any) -> nn.Module:
    return snntorch.Leaky(**LEAKY[kind], **options)


def per_channel(**options: Any) -> list[nn.Module]:
    g = torch.Generator().manual_seed(5)
    shapes = [(6, 1, 1), (8, 1, 1), (10,)]
    betas = [torch.rand(s, generator=g) * 0.5 + 0.4 for s in shapes]
    thetas = [torch.rand(s, generator=g) * 0.5 + 0.6 for s in shapes]
    return [snntorch.Leaky(beta=b, threshold=t, learn_beta=True, **options) for b, t in zip(betas, thetas, strict=True)]


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


@pytest.mark.parametrize("kind", [*LEAKY, "per channel"])
@pytest.mark.parametrize("style", ["hidden", "explicit"])
def test_snntorch(kind: str, style: str) -> None:
    options = {"init_hidden": True} if style == "hidden" else {}
    neurons = per_channel(**options) if kind == "per channel" else [leaky(kind, **options) for _ in range(3)]
    net = lively((ConvNet if style == "hidden" else Explicit)(*neurons))
    run = hidden_run if style == "hidden" else lambda net, x: net(x)[0].sum(0)
    graph = trace(net, frames(0), run=run)
    for seed in (1, 2):
        x = frames(seed)
        with watched(net, net.neurons, lambda m, out: m.mem.clone()) as seen:
            out = run(net, x)
        compare(graph, x.transpose(0, 1), snn_expected(seen), out)


@pytest.mark.parametrize(
    "make",
    [
        lambda: snntorch.Lapicque(beta=0.8, init_hidden=True),
        lambda: snntorch.Lapicque(R=1, C=1.44, time_step=1, reset_mechanism="zero", init_hidden=True),
        lambda: snntorch.Lapicque(R=2.0, C=0.9, time_step=0.5, init_hidden=True),
        lambda: snntorch.Synaptic(alpha=0.6, beta=0.7, init_hidden=True),
        lambda: snntorch.Synaptic(alpha=0.6, beta=0.7, reset_mechanism="zero", init_hidden=True),
    ],
)
def test_snntorch_other_neurons(make: Any) -> None:
    net = lively(ConvNet(make(), make(), make()))
    graph = trace(net, frames(0), run=hidden_run)
    for seed in (1, 2):
        x = frames(seed)
        with watched(net, net.neurons, lambda m, out: m.mem.clone()) as seen:
            out = hidden_run(net, x)
        compare(graph, x.transpose(0, 1), snn_expected(seen), out)


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
        ({"reset_delay": False}, "reset_delay=False"),
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


def test_spikingjelly_neurons_without_counterpart_are_refused_by_name() -> None:
    net = sj_net(lambda: neuron.QIFNode(), "s")
    with pytest.raises(Exception, match="QIFNode") as caught:
        trace(net, images(0), time_steps=T)
    assert caught.value.where == "2"


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
