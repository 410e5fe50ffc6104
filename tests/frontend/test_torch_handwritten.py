"""Hand-written networks: neurons identified by probing, several layouts, code with no neuron module at all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snn2chip.errors import S2CError
from snn2chip.frontend.torch import Cell, register_neuron, trace
from snn2chip.neurons.lif import LIF
from snn2chip.simulate import simulate
from torch_networks import (
    C,
    ConvNet,
    H,
    HandLIF,
    Looping,
    LoopLIF,
    Spike,
    StateLIF,
    StrictSpike,
    T,
    frames,
    images,
    lively,
    per_step,
    watched,
)


def loop_run(net: nn.Module, x: Tensor) -> Tensor:
    for m in net.modules():
        if isinstance(m, HandLIF):
            m.reset()
    return sum(net(frame) for frame in x)  # type: ignore[return-value]


def test_the_identified_numbers_are_the_modules_own() -> None:
    net = lively(
        ConvNet(HandLIF(decay=0.7, strict=True), HandLIF(form="tau", decay=2.5), HandLIF(reset="soft", threshold=0.9))
    )
    models = [n.layer.model for n in trace(net, frames(0), run=loop_run).neurons]
    assert models[0] == LIF(np.asarray(1.0), np.asarray(0.7), fire=">")
    assert models[1] == LIF(np.asarray(1.0), np.asarray(2.5), decay_form="tau")
    assert models[2] == LIF(np.asarray(0.9), np.asarray(0.5), reset="soft")


def test_a_time_loop_in_forward_with_direct_coding() -> None:
    net = Looping(lively(ConvNet(HandLIF(), HandLIF(reset="soft"), HandLIF(strict=True))))
    x = images(0)
    graph = trace(net, x)
    assert (graph.coding, graph.time_steps) == ("direct", T)
    assert graph["readout"].layer.how == "mean"
    assert {"net.conv1", "net.bn1"} <= graph.static()
    with watched(net, net.net.neurons, lambda m, out: m.v.clone()) as seen:
        out = net(x)
    result = simulate(graph, x, record=("spikes",))
    for name, calls in seen.items():
        np.testing.assert_array_equal(result[f"net.{name}"].spikes, per_step([s for s, _ in calls]))
    np.testing.assert_allclose(result.outputs, out.detach(), atol=1e-6)


class MultiStep(nn.Module):
    """[N, T, ...] with loops inside the neurons, one shared by two places, and layers folded over time."""

    def __init__(self, axis: int, shared: bool) -> None:
        super().__init__()
        self.axis = axis
        self.conv1, self.bn1 = nn.Conv2d(C, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.conv2, self.bn2 = nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.act = LoopLIF(axis=axis)
        self.act2 = self.act if shared else LoopLIF(decay=0.25, hard=False, axis=axis)
        self.pool, self.fc = nn.MaxPool2d(2), nn.Linear(8 * 9, 10)

    def folded(self, x: Tensor, *layers: nn.Module) -> Tensor:
        y = x.flatten(0, 1)
        for layer in layers:
            y = layer(y)
        return y.view(*x.shape[:2], *y.shape[1:])

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.folded(x, self.conv1, self.bn1))
        x = self.act2(self.folded(x, self.pool, self.conv2, self.bn2))
        return self.fc(x.flatten(2)).mean(self.axis)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("shared", [False, True])
def test_loops_inside_the_neurons(axis: int, shared: bool) -> None:
    net = lively(MultiStep(axis, shared))
    x = frames(0) if axis == 0 else frames(0).transpose(0, 1).contiguous()
    graph = trace(net, x)
    assert [n.name for n in graph.neurons] == ["act", "act.LoopLIF" if shared else "act2"]
    modules = {"act": net.act} if shared else {"act": net.act, "act2": net.act2}
    with watched(net, modules, lambda m, out: None) as seen:
        out = net(x)
    result = simulate(graph, frames(0).transpose(0, 1), record=("spikes",))
    spikes = [per_step([s], axis) for calls in seen.values() for s, _ in calls]
    for node, expected in zip(graph.neurons, spikes, strict=True):
        assert 0.02 < expected.mean() < 0.98
        np.testing.assert_array_equal(result[node.name].spikes, expected)
    np.testing.assert_allclose(result.outputs, out.detach(), atol=1e-5)


def test_membranes_passed_explicitly() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(12, 20), nn.Linear(20, 5)
            self.lif1, self.lif2 = StateLIF(), StateLIF(decay=0.6)

        def forward(self, x: Tensor) -> Tensor:
            v1, v2 = torch.zeros(x.shape[0], 20), torch.zeros(x.shape[0], 5)
            for t in range(x.shape[1]):
                s1, v1 = self.lif1(self.fc1(x[:, t]), v1)
                _, v2 = self.lif2(self.fc2(s1), v2)
            return v2

    net = lively(Net())
    x = torch.rand(4, 6, 12, generator=torch.Generator().manual_seed(0))
    graph = trace(net, x)
    assert graph.time_steps == 6
    assert graph["readout"].layer.how == "last"
    np.testing.assert_allclose(simulate(graph, x).outputs, net(x).detach(), atol=1e-5)


class MixedLIF(HandLIF):
    """Two paths while training, one of which only carries gradients."""

    def __init__(self, mode: str) -> None:
        super().__init__(reset="soft")
        self.mode = mode

    def forward(self, x: Tensor) -> Any:
        spike = super().forward(x)
        soft = torch.clamp(x, 0, 1)
        return {
            "branch": soft if self.training else spike,
            "pair": (spike, soft),
            "through": soft + (spike - soft).detach(),
        }[self.mode]


@pytest.mark.parametrize("mode", ["branch", "pair", "through"])
def test_training_only_paths_are_pruned(mode: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2, self.aux = nn.Linear(12, 20), nn.Linear(20, 5), nn.Linear(20, 5)
            self.lif1, self.lif2 = MixedLIF(mode), HandLIF()

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            for m in (self.lif1, self.lif2):
                m.reset()
            out, aux = [], []
            for _ in range(T):
                h = self.lif1(self.fc1(x))
                h, soft = h if mode == "pair" else (h, h)
                out.append(self.lif2(self.fc2(h)))
                aux.append(F.softmax(self.aux(soft), -1))
            return {"aux": torch.stack(aux).mean(0), "out": torch.stack(out).mean(0)}

    net = lively(Net())
    net.train()
    x = torch.rand(3, 12, generator=torch.Generator().manual_seed(0))
    graph = trace(net, x, output="out")
    assert net.training
    assert "aux" not in graph.nodes
    net.eval()
    np.testing.assert_allclose(simulate(graph, x).outputs, net(x)["out"].detach(), atol=1e-6)


# ------------------------------------------------------------------ no neuron module at all


def mem_update(layer: nn.Module, x: Tensor, mem: Tensor, spike: Tensor, decay: float = 0.3) -> tuple[Tensor, Tensor]:
    """STBP's update: leak, gate by the last spike, integrate, fire."""
    mem = mem * decay * (1.0 - spike) + layer(x)
    return mem, StrictSpike.apply(mem - 0.5)


class STBP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(C, 6, 3, padding=1), nn.Conv2d(6, 8, 3, padding=1)
        self.fc1, self.fc2 = nn.Linear(8 * 9, 16), nn.Linear(16, 10)

    def forward(self, x: Tensor, steps: int = T) -> Tensor:
        n = x.shape[0]
        c1m = c1s = torch.zeros(n, 6, H, H)
        c2m = c2s = torch.zeros(n, 8, H // 2, H // 2)
        h1m = h1s = torch.zeros(n, 16)
        h2m = h2s = total = torch.zeros(n, 10)
        for _ in range(steps):
            c1m, c1s = mem_update(self.conv1, x, c1m, c1s)
            c2m, c2s = mem_update(self.conv2, F.avg_pool2d(c1s, 2), c2m, c2s)
            h1m, h1s = mem_update(self.fc1, c2s.view(n, -1), h1m, h1s)
            h2m, h2s = mem_update(self.fc2, h1s, h2m, h2s)
            total = total + h2s
        return total / steps


class FromScratch(nn.Module):
    """As in snnTorch's tutorial: the reset acts on the next step, by plain comparison."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(12, 20), nn.Linear(20, 5)

    def lif(self, x: Tensor, mem: Tensor, beta: float = 0.9, theta: float = 1.0) -> tuple[Tensor, Tensor]:
        spike = (mem > theta).float()
        return spike, beta * mem + x - spike * theta

    def forward(self, x: Tensor) -> Tensor:
        m1, m2 = torch.zeros(x.shape[1], 20), torch.zeros(x.shape[1], 5)
        spikes = []
        for t in range(x.shape[0]):
            s1, m1 = self.lif(self.fc1(x[t]), m1)
            s2, m2 = self.lif(self.fc2(s1), m2)
            spikes.append(s2)
        return torch.stack(spikes).sum(0)


def test_stbp_code_without_a_neuron_module() -> None:
    net = lively(STBP())
    x = images(0)
    graph = trace(net, x)
    assert [n.name for n in graph.neurons] == ["conv1.neuron", "conv2.neuron", "fc1.neuron", "fc2.neuron"]
    expected = LIF(np.asarray(0.5), np.asarray(0.3), fire=">")
    assert all(n.layer.model == expected for n in graph.neurons)
    for seed in (1, 2):
        x = images(seed)
        np.testing.assert_allclose(simulate(graph, x).outputs, net(x).detach(), atol=1e-6)
    assert 0.02 < simulate(graph, x).outputs.mean() < 0.98


def test_code_whose_reset_acts_on_the_next_step() -> None:
    net = lively(FromScratch())
    x = torch.rand(7, 4, 12, generator=torch.Generator().manual_seed(0))
    graph = trace(net, x)
    assert [n.name for n in graph.neurons] == ["fc1.neuron", "fc2.neuron"]
    assert graph.neurons[0].layer.model == LIF(
        np.asarray(1.0), np.asarray(0.9), fire=">", reset="soft", reset_timing="next"
    )
    expected = net(x).detach()
    assert 0.2 < expected.mean() < 6
    np.testing.assert_array_equal(simulate(graph, x.transpose(0, 1)).outputs, expected)


# ------------------------------------------------------------------ registration and refusals


class Partial(nn.Module):
    """No neuron that is known: a spike takes away four fifths of the membrane."""

    def __init__(self) -> None:
        super().__init__()
        self.v: Tensor | None = None

    def reset(self) -> None:
        self.v = None

    def forward(self, x: Tensor) -> Tensor:
        v = torch.zeros_like(x) if self.v is None else self.v
        v = 0.4 * v + x
        spike = Spike.apply(v - 1.0)
        self.v = v * (1 - 0.8 * spike)
        return spike


def test_an_unknown_neuron_is_refused_with_what_was_found() -> None:
    net = lively(ConvNet(HandLIF(), Partial(), HandLIF()))
    with pytest.raises(Exception, match=r"(?s)lif2.*fires from input 1.*register_neuron") as caught:
        trace(net, images(0), time_steps=T)
    assert "lif2" in str(caught.value)


class Blocked(HandLIF):
    """Probing fails: it insists on the batch it was made for."""

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[0] == 3
        return super().forward(x)


def test_a_registered_neuron_is_taken_at_its_word_and_checked() -> None:
    class Mine(Blocked):
        pass

    net = lively(ConvNet(Mine(decay=0.6), Mine(decay=0.7), Mine(decay=0.8)))
    register_neuron(Mine, lambda m: LIF(np.asarray(m.threshold), np.asarray(m.decay)))
    graph = trace(net, images(0), time_steps=T)
    assert graph["lif2"].layer.model.decay == 0.7

    @register_neuron(lambda m: Cell(LIF(np.asarray(m.threshold), np.asarray(0.4)), attributes={"v": "v"}))
    class Wrong(Blocked):
        pass

    net = lively(ConvNet(Wrong(), Wrong(), Wrong()))
    with pytest.raises(Exception, match="does not do what ConvNet does") as caught:
        trace(net, images(0), time_steps=T)
    assert "layer lif1" in caught.value.where
    assert "registered" in caught.value.fix


def test_a_module_that_cannot_be_asked_is_found_in_its_code() -> None:
    graph = trace(lively(ConvNet(Blocked(decay=0.6), Blocked(decay=0.7), Blocked(decay=0.8))), images(0), time_steps=T)
    assert [float(node.layer.model.decay) for node in graph.neurons] == [0.6, 0.7, 0.8]


@pytest.mark.parametrize(
    ("to_lif", "why"),
    [(lambda m: None, "returns a NoneType"), (lambda m: LIF(m.theta, m.decay), "AttributeError: .*'theta'")],
)
def test_a_registration_that_gives_no_neuron_is_refused(to_lif: Any, why: str) -> None:
    class Mine(HandLIF):
        pass

    register_neuron(Mine, to_lif)
    with pytest.raises(S2CError, match=f"(?s)what is registered for Mine gives no neuron.*{why}") as caught:
        trace(lively(ConvNet(Mine(), Mine(), Mine())), images(0), time_steps=T)
    assert caught.value.where == "lif1"
    with pytest.raises(S2CError, match="a LIF is no function"):
        register_neuron(Mine, LIF(np.asarray(1.0), np.asarray(0.5)))  # type: ignore[arg-type]


@torch.jit.script
def scripted_charge(x: Tensor, v: Tensor, tau: float) -> Tensor:
    return v + (x - v) / tau


@torch.jit.script
def scripted_step(x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    v = scripted_charge(x, v, 1.6)
    spike = (v >= 0.5).to(x)
    return spike, (1.0 - spike) * v


class Scripted(nn.Module):
    """Functions compiled by TorchScript in a time loop, as code that saves memory has them."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(12, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        v1, v2, out = torch.zeros(len(x), 16), torch.zeros(len(x), 5), torch.zeros(len(x), 5)
        for _ in range(T):
            spike, v1 = scripted_step(self.fc1(x), v1)
            v2 = scripted_charge(self.fc2(spike), v2, 2.0)
            out = v2
        return out


def test_functions_compiled_by_torchscript_are_seen_through() -> None:
    net = lively(Scripted())
    x = torch.rand(4, 12, generator=torch.Generator().manual_seed(0))
    call = torch._C.ScriptFunction.__call__
    graph = trace(net, x)
    assert torch._C.ScriptFunction.__call__ is call, "put back"
    assert [n.layer.model.kind for n in graph.neurons] == ["LIF", "LI"]
    for seed in (1, 2):
        x = torch.rand(4, 12, generator=torch.Generator().manual_seed(seed))
        np.testing.assert_allclose(simulate(graph, x).outputs, net(x).detach(), rtol=1e-5, atol=1e-5)
