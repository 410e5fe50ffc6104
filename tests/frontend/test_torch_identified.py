"""Neurons nobody registered: each style of research code is identified exactly, or refused with what was found."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from research_neurons import INTEGRATORS, RECOGNISED, REFUSED, Looped, Preallocated, StrictSpike
from snn2chip.errors import S2CError
from snn2chip.frontend.torch import trace
from snn2chip.ir.graph import Graph
from snn2chip.ir.layers import Delay
from snn2chip.neurons.lif import LIF
from snn2chip.simulate import simulate
from torch_networks import lively, per_step, watched

STEPS, SAMPLES = 12, 6


def net_of(*neurons: nn.Module) -> nn.Sequential:
    net = lively(nn.Sequential(nn.Linear(12, 20), neurons[0], nn.Linear(20, 8), *neurons[1:]))
    assert isinstance(net, nn.Sequential)
    return net


def inputs(seed: int) -> Tensor:
    """[T, N, 12] numbers of both signs, so that membranes fall as well."""
    return torch.randn(STEPS, SAMPLES, 12, generator=torch.Generator().manual_seed(seed)) * 0.5


def loop(net: nn.Module, x: Tensor) -> Tensor:
    for m in net.modules():
        if callable(getattr(m, "reset", None)):
            m.reset()
    return torch.stack([net(frame) for frame in x]).sum(0)


def traced(net: nn.Module, run: Any = loop) -> Graph:
    """The trace, in which every layer must have fired."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return trace(net, inputs(0), run=run)


def late(graph: Graph, population: str) -> int:
    """Steps by which a module gives a population's spikes late."""
    behind = [n.layer.steps for n in graph if isinstance(n.layer, Delay) and n.inputs[0].source == population]
    return behind[0] if behind else 0


@pytest.mark.parametrize("style", RECOGNISED)
def test_research_code_is_identified_and_does_the_same(style: str) -> None:
    make, kind, words = RECOGNISED[style]
    net = net_of(make(20), make(8))
    graph = traced(net)
    models = [node.layer.model for node in graph.neurons]
    assert [m.kind for m in models] == [kind, kind]
    assert [word for word in words if word not in models[0].describe()] == [], models[0].describe()
    neurons = {"1": net[1], "3": net[3]}
    # Two samples, one after the other: the second must start from rest again.
    for seed in (1, 2):
        x = inputs(seed)
        with watched(net, neurons, lambda m, out: m.mem.clone()) as seen:
            out = loop(net, x)
        result = simulate(graph, x.transpose(0, 1), record=("spikes", "v"))
        for name, calls in seen.items():
            spikes, membranes = per_step([s for s, _ in calls]), per_step([v for _, v in calls])
            assert 0.02 < (spikes != 0).mean() < 0.98, f"{name} hardly changes: nothing is tested"
            behind = late(graph, name)
            given = spikes[:, behind:]
            np.testing.assert_array_equal(result[name].spikes[:, : given.shape[1]], given, err_msg=name)
            assert not spikes[:, :behind].any()
            np.testing.assert_allclose(result[name].v, membranes, rtol=1e-5, atol=2e-5, err_msg=name)
        np.testing.assert_allclose(result.outputs, out.detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("style", INTEGRATORS)
def test_read_outs_with_a_current_are_identified(style: str) -> None:
    make, input_delay = INTEGRATORS[style]
    net = net_of(RECOGNISED["current then membrane"][0](20), make())

    def run(net: nn.Module, x: Tensor) -> Tensor:
        loop(net[:0], x)  # type: ignore[index]
        for m in net.modules():
            if callable(getattr(m, "reset", None)):
                m.reset()
        return torch.stack([net(frame) for frame in x]).amax(0)

    graph = traced(net, run)
    assert [n.layer.model.kind for n in graph.neurons] == ["CubaLIF", "CubaLI"]
    assert graph["3"].inputs[0].delay == input_delay
    for seed in (1, 2):
        x = inputs(seed)
        expected = run(net, x).detach()
        assert expected.std() > 0.1
        np.testing.assert_allclose(simulate(graph, x.transpose(0, 1)).outputs, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [Looped, Preallocated])
def test_a_loop_over_one_number_of_steps_is_asked_within_it(kind: type[Looped]) -> None:
    net = net_of(kind(STEPS), kind(STEPS))
    graph = traced(net, lambda net, x: net(x).mean(0))
    expected = LIF(np.asarray(1.0), np.asarray(0.6), current_decay=np.asarray(0.4), fire=">")
    assert [n.layer.model for n in graph.neurons] == [expected, expected]
    x = inputs(1)
    found = simulate(graph, x.transpose(0, 1))
    np.testing.assert_allclose(found.outputs, net(x).mean(0).detach(), atol=1e-6)
    assert 0.02 < found.outputs.mean() < 0.98


@pytest.mark.parametrize("style", REFUSED)
def test_what_is_no_neuron_of_a_graph_is_refused_with_what_was_found(style: str) -> None:
    make, words = REFUSED[style]
    net = net_of(make(STEPS))
    run = (lambda net, x: net(x).mean(0)) if style == "parallel" else loop
    with pytest.raises(S2CError) as caught:
        trace(net, inputs(0), run=run)
    assert words in str(caught.value)
    assert "register_neuron" in str(caught.value)


def test_membranes_and_currents_handed_on_by_the_model() -> None:
    class Step(nn.Module):
        def forward(self, x: Tensor, syn: Tensor, mem: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            syn = 0.7 * syn + x
            mem = 0.8 * mem + 0.5 * syn
            spike = StrictSpike.apply(mem - 1.0)
            return spike, syn, mem - spike

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2, self.lif1, self.lif2 = nn.Linear(12, 20), nn.Linear(20, 8), Step(), Step()

        def forward(self, x: Tensor) -> Tensor:
            syn1 = mem1 = torch.zeros(x.shape[1], 20)
            syn2 = mem2 = torch.zeros(x.shape[1], 8)
            count: Any = 0
            for frame in x:
                s1, syn1, mem1 = self.lif1(self.fc1(frame), syn1, mem1)
                s2, syn2, mem2 = self.lif2(self.fc2(s1), syn2, mem2)
                count = count + s2
            return count

    net = lively(Net())
    graph = traced(net, lambda net, x: net(x))
    assert graph["lif1"].layer.model.describe() == "current decay 0.7, decay 0.8, gain 0.5, v > 1, soft reset"
    x = inputs(1)
    np.testing.assert_array_equal(simulate(graph, x.transpose(0, 1)).outputs, net(x).detach())


# ------------------------------------------------------------------ no neuron module at all


class Tutorial(nn.Module):
    """The tutorials' two loops, [N, T, ...]: all steps of a layer, then all steps of the read-out."""

    def __init__(self) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(0)
        self.w1 = nn.Parameter(torch.randn(12, 20, generator=g) * 0.8)
        self.w2 = nn.Parameter(torch.randn(20, 5, generator=g) * 0.4)

    def forward(self, x: Tensor) -> Tensor:
        n, steps = x.shape[:2]
        h1 = torch.einsum("abc,cd->abd", (x, self.w1))
        syn = mem = torch.zeros(n, 20)
        spikes = []
        for t in range(steps):
            out = StrictSpike.apply(mem - 1.0)
            reset = out.detach()
            new_syn = 0.8 * syn + h1[:, t]
            new_mem = (0.9 * mem + syn) * (1.0 - reset)
            spikes.append(out)
            mem, syn = new_mem, new_syn
        h2 = torch.einsum("abc,cd->abd", (torch.stack(spikes, dim=1), self.w2))
        flt = out = torch.zeros(n, 5)
        record = []
        for t in range(steps):
            new_flt = 0.8 * flt + h2[:, t]
            new_out = 0.9 * out + flt
            flt, out = new_flt, new_out
            record.append(out)
        return torch.stack(record, dim=1).amax(1)


class Adaptive(nn.Module):
    """Adaptive neurons with a current and a read-out with one, all in the model's own loop."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(12, 20), nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        syn = mem = b = spk = torch.zeros(len(x), 20)
        current = out = torch.zeros(len(x), 5)
        for t in range(x.shape[1]):
            syn = 0.7 * syn + self.fc1(x[:, t])
            b = 0.9 * b + (1 - 0.9) * spk
            level = 0.6 + 1.5 * b
            mem = 0.8 * mem + syn - level * spk
            spk = StrictSpike.apply(mem - level)
            current = 0.7 * current + self.fc2(spk)
            out = 0.9 * out + 0.1 * current
        return out


@pytest.mark.parametrize(
    ("make", "kinds"), [(Tutorial, ["CubaLIF", "CubaLI"]), (Adaptive, ["ALIF", "CubaLI"])], ids=["tutorial", "adaptive"]
)
def test_currents_in_plain_code_belong_to_their_neuron(make: type[nn.Module], kinds: list[str]) -> None:
    net = lively(make())
    graph = trace(net, inputs(0).transpose(0, 1))
    assert [n.layer.model.kind for n in graph.neurons] == kinds
    assert all(n.layer.model.current_decay is not None for n in graph.neurons)
    for seed in (1, 2):
        x = inputs(seed).transpose(0, 1)
        result = simulate(graph, x, record=("spikes",))
        assert 0.02 < result[graph.neurons[0].name].spikes.mean() < 0.98
        np.testing.assert_allclose(result.outputs, net(x).detach(), rtol=1e-5, atol=1e-5)


class OnMaps(nn.Module):
    """A neuron per pixel; counts the values it has been given, in all its copies."""

    values = 0

    def __init__(self) -> None:
        super().__init__()
        self.mem: Tensor | None = None

    def reset(self) -> None:
        self.mem = None

    def leak(self, mem: Tensor) -> Tensor:
        return 0.5 * mem

    def fire(self, mem: Tensor) -> Tensor:
        return (mem > 1.0).float()

    def forward(self, x: Tensor) -> Tensor:
        OnMaps.values += x.numel()
        mem = x if self.mem is None else self.leak(self.mem) + x
        spike = self.fire(mem)
        self.mem = mem * (1 - spike)
        return spike


class OwnThresholds(OnMaps):
    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.linspace(0.5, 1.5, 16 * 16).reshape(16, 16))

    def fire(self, mem: Tensor) -> Tensor:
        return (mem > self.theta).float()


class FastEdge(OnMaps):
    """Far from the first corner it leaks faster."""

    def leak(self, mem: Tensor) -> Tensor:
        slow = torch.ones(mem.shape[-1])
        slow[8:] = 0.25
        return 0.5 * mem * slow


class Inhibited(OnMaps):
    """The pixels far from the first corner hold all others back."""

    def leak(self, mem: Tensor) -> Tensor:
        return 0.5 * mem - 0.002 * mem[..., 8:].sum((-1, -2), keepdim=True)


@pytest.mark.parametrize("kind", [OnMaps, OwnThresholds, FastEdge, Inhibited])
def test_what_a_corner_of_a_map_shows_must_hold_for_all_of_it(kind: type[OnMaps]) -> None:
    OnMaps.values = 0
    net = lively(nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), kind(), nn.Flatten(), nn.Linear(768, 4)))

    def x(seed: int) -> Tensor:
        return torch.randn(4, 3, 2, 16, 16, generator=torch.Generator().manual_seed(seed))

    if kind is Inhibited:
        with pytest.raises(S2CError, match="is no neuron that is known"):
            trace(net, x(0), run=loop)
        return
    graph = trace(net, x(0), run=loop)
    np.testing.assert_allclose(simulate(graph, x(1).transpose(0, 1)).outputs, loop(net, x(1)).detach(), atol=1e-4)
    # Some hundred questions about the whole map would be more.
    assert (OnMaps.values < 250 * 3 * 16 * 16) == (kind is OnMaps)
