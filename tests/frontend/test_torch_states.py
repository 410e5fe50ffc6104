"""Where research code keeps its states and what it runs in, none of which is part of the network's meaning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from snn2chip.errors import S2CError
from snn2chip.frontend.torch import trace
from torch_networks import HandLIF, spikes, traced

T, N, HIDDEN, OUT = 6, 4, 20, 5
X = spikes(N, T, 12)

Update = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def plain(current: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    v = 0.8 * v + current
    spike = (v > 0.5).float()
    return spike, v * (1 - spike)


class TwoLayers(nn.Module):
    """fc–LIF–fc–LIF, the update as it is given; spikes are counted."""

    def __init__(self, update: Update = plain) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc1, self.fc2, self.update = nn.Linear(12, HIDDEN), nn.Linear(HIDDEN, OUT), update

    def forward(self, x: Tensor) -> Any:
        v1, v2, total = torch.zeros(len(x), HIDDEN), torch.zeros(len(x), OUT), torch.zeros(len(x), OUT)
        for t in range(T):
            s1, v1 = self.update(self.fc1(x[:, t]), v1)
            s2, v2 = self.update(self.fc2(s1), v2)
            total += s2
        return total


# ------------------------------------------------------------------ updates


def in_place(current: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    v.mul_(0.8)
    v += current
    spike = v.gt(0.5).float()
    v[spike.bool()] = 0.0
    return spike, v


def filled(current: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    v = torch.addcmul(current, v, torch.tensor(0.8))
    fired = v > 0.5
    v.masked_fill_(fired, 0.0)
    return fired * 1.0, v


def kept(current: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    v = torch.lerp(current, current + v, 0.8)
    fired = torch.logical_not(v <= 0.5)
    return fired.int().float(), v * ~fired


def subtracted(current: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    v = v * 0.8 + current
    spike = torch.relu(torch.sign(v - 0.5))
    return spike, v - 0.5 * spike


def compared_twice(current: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    v = v * 0.8 + current
    return (v > 0.5).float(), v * (v <= 0.5)


@pytest.mark.parametrize(
    ("update", "reset"),
    [(compared_twice, "hard"), (in_place, "hard"), (filled, "hard"), (kept, "hard"), (subtracted, "soft")],
)
def test_updates_written_in_other_operations(update: Update, reset: str) -> None:
    graph = traced(TwoLayers(update), X)
    assert [n.layer.model.reset for n in graph.neurons] == [reset, reset]


class Offset(TwoLayers):
    """The bias stands in the membrane's line, and not in the layer."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form, self.bias = form, nn.Parameter(torch.linspace(0.05, 0.2, HIDDEN))
        self.rec = nn.Linear(HIDDEN, HIDDEN, bias=False)

    def forward(self, x: Tensor) -> Any:
        v = spike = torch.zeros(len(x), HIDDEN)
        total = torch.zeros(len(x), OUT)
        for t in range(T):
            current = self.fc1(x[:, t])
            if self.form == "behind":
                v = 0.8 * v * (1 - spike) + current + self.bias
            elif self.form == "in front":
                v = self.bias + (v * (1 - spike) + current)
            else:
                v = 0.8 * v * (1 - spike) + current + self.rec(spike) + torch.sigmoid(self.bias)
            spike = (v > 0.5).float()
            total += self.fc2(spike)
        return total


@pytest.mark.parametrize("form", ["behind", "in front", "of a recurrence"])
def test_a_bias_in_the_membranes_line(form: str) -> None:
    (population,) = traced(Offset(form), X).neurons
    assert float(population.layer.model.v_threshold) == 0.5


class SumOfConstantCurrents(TwoLayers):
    """Two layers run once, in front of the loop, and the membrane's line adds them up."""

    def forward(self, x: Tensor) -> Any:
        first, second = self.fc1(x), self.fc1(x.flip(-1))
        v, total = torch.zeros(len(x), HIDDEN), torch.zeros(len(x), OUT)
        for _ in range(T):
            v = 0.8 * v + first + second
            spike = (v > 0.5).float()
            v = v * (1 - spike)
            total += self.fc2(spike)
        return total


def test_constant_currents_that_the_membranes_line_adds_up() -> None:
    graph = traced(SumOfConstantCurrents(), X[:, 0])
    assert graph.coding == "direct"
    assert float(graph.neurons[0].layer.model.decay) == pytest.approx(0.8)


# ------------------------------------------------------------------ containers


@dataclass
class State:
    v: Tensor
    spike: Tensor


class Records(TwoLayers):
    """A state is an object of the model's own, and so is what it returns."""

    def step(self, current: Tensor, state: State) -> State:
        v = 0.8 * state.v * (1 - state.spike) + current
        return State(v, (v > 0.5).float())

    def forward(self, x: Tensor) -> Any:
        a, b = (State(torch.zeros(len(x), size), torch.zeros(len(x), size)) for size in (HIDDEN, OUT))
        found = []
        for t in range(T):
            a = self.step(self.fc1(x[:, t]), a)
            b = self.step(self.fc2(a.spike), b)
            found.append(b.spike)
        return State(b.v, torch.stack(found).mean(0))


class Preallocated(TwoLayers):
    """Membranes and spikes of all steps are slices of tensors that are made before the loop."""

    def forward(self, x: Tensor) -> Any:
        v1, s1 = torch.zeros(T + 1, len(x), HIDDEN), torch.zeros(len(x), HIDDEN, T + 1)
        v2, s2 = torch.zeros(T + 1, len(x), OUT), torch.zeros(T + 1, len(x), OUT)
        for t in range(T):
            v1[t + 1] = 0.8 * v1[t] * (1 - s1[..., t]) + self.fc1(x[:, t])
            s1[..., t + 1] = (v1[t + 1] > 0.5).float()
            v2[t + 1] = 0.8 * v2[t] * (1 - s2[t]) + self.fc2(s1[..., t + 1])
            s2[t + 1] = (v2[t + 1] > 0.5).float()
        return s2[1:].mean(0)


class Stacked(TwoLayers):
    """Membrane and spike travel as one tensor."""

    def forward(self, x: Tensor) -> Any:
        one, two, total = torch.zeros(2, len(x), HIDDEN), torch.zeros(len(x), 2 * OUT), 0
        for t in range(T):
            v, spike = one.unbind(0)
            v = 0.8 * v * (1 - spike) + self.fc1(x[:, t])
            one = torch.stack([v, (v > 0.5).float()])
            v, spike = two.chunk(2, dim=1)
            v = 0.8 * v * (1 - spike) + self.fc2(one[1])
            two = torch.cat([v, (v > 0.5).float()], 1)
            total = total + two[:, OUT:]
        return total


@pytest.mark.parametrize("style", [Preallocated, Stacked])
def test_states_kept_in_a_larger_tensor(style: type[TwoLayers]) -> None:
    graph = traced(style(), X)
    assert len(graph.neurons) == 2
    reference = trace(TwoLayers(), X)
    assert [n.layer.model.decay for n in graph.neurons] == [n.layer.model.decay for n in reference.neurons]


def test_a_part_of_a_state_is_not_taken_for_the_whole() -> None:
    class Half(TwoLayers):
        def forward(self, x: Tensor) -> Any:
            v, total = torch.zeros(T + 1, len(x), HIDDEN), 0
            for t in range(T):
                v[t + 1] = 0.8 * v[t].flip(1) + self.fc1(x[:, t])
                spike = (v[t + 1] > 0.5).float()
                v[t + 1] = v[t + 1] * (1 - spike)
                total = total + self.fc2(spike)
            return total

    with pytest.raises(S2CError, match=r"(?s)summed over all steps.*the loop holds no neuron"):
        trace(Half(), X)


def test_objects_are_states_and_outputs() -> None:
    def spike(out: State) -> Tensor:
        return out.spike

    graph = traced(Records(), X, spike, output="spike")
    assert graph == traced(Records(), X, spike, output=spike)
    with pytest.warns(UserWarning, match="returns 2 tensors"):
        trace(Records(), X)
    with pytest.raises(S2CError, match="no 'rate'"):
        trace(Records(), X, output="rate")


# ------------------------------------------------------------------ first steps, and loops over layers


class Begins(TwoLayers):
    """There is no state yet at the first step."""

    def forward(self, x: Tensor) -> Any:
        v1: Any = None
        out: Any = None
        read_out = []
        for t in range(T):
            current = self.fc1(x[:, t])
            v1 = current if v1 is None else 0.8 * v1 + current
            spike = (v1 > 0.5).float()
            v1 = v1 - 0.5 * spike
            current = self.fc2(spike)
            out = current if out is None else 0.9 * out + current
            read_out.append(out)
        return torch.stack(read_out).mean(0)


class TakenApart(TwoLayers):
    """The layer runs over all steps, and the loop takes its result apart."""

    def forward(self, x: Tensor) -> Any:
        def layer(currents: Any, size: int) -> Tensor:
            v, spikes = torch.zeros(len(x), size), []
            for current in currents:
                spike, v = self.update(current, v)
                spikes.append(spike)
            return torch.stack(spikes)

        hidden = layer(self.fc1(x).unbind(1), HIDDEN)
        return layer((part.squeeze(0) for part in self.fc2(hidden).chunk(T)), OUT).sum(0)


def test_steps_taken_apart_before_the_loop() -> None:
    assert len(traced(TakenApart(), X).neurons) == 2


def test_states_that_begin_with_the_first_input() -> None:
    graph = traced(Begins(), X)
    kinds = {n.name: (n.layer.model.kind, float(n.layer.model.decay)) for n in graph.neurons}
    assert kinds == {"fc1.neuron": ("LIF", pytest.approx(0.8)), "fc2.neuron": ("LI", pytest.approx(0.9))}


class ManyLayers(nn.Module):
    """A loop over layers in the loop over steps: every line runs for every layer.

    Args:
        begins: states are zeros at first, or nothing.
        recurrent: spikes of the step before come back to their layer.
        skip: spikes are also added to the current of the layer behind.
    """

    def __init__(self, begins: str = "zeros", recurrent: bool = False, skip: bool = False) -> None:
        super().__init__()
        torch.manual_seed(1)
        sizes = (12, 16, 16, 16)
        self.fc = nn.ModuleList([nn.Linear(a, b) for a, b in pairwise(sizes)])
        self.rec = nn.ModuleList([nn.Linear(b, b, bias=False) for b in sizes[1:]]) if recurrent else None
        self.decay = nn.Parameter(torch.tensor([0.6, 0.7, 0.8]))
        self.begins, self.skip = begins, skip

    def forward(self, x: Tensor) -> Any:
        zeros = [torch.zeros(len(x), fc.out_features) for fc in self.fc]
        v: list[Any] = list(zeros) if self.begins == "zeros" else [None] * len(self.fc)
        spikes, total = list(zeros), 0
        for t in range(T):
            h = x[:, t]
            for i, fc in enumerate(self.fc):
                current = fc(h)
                if self.rec is not None:
                    current = current + self.rec[i](spikes[i])
                if self.skip and i:
                    current = current + h
                v[i] = current if v[i] is None else self.decay[i] * v[i] + current
                h = spikes[i] = (v[i] >= 0.5).float()
                v[i] = v[i] * (1 - h)
            total = total + h
        return total


@pytest.mark.parametrize("begins", ["zeros", "nothing"])
@pytest.mark.parametrize("way", ["plain", "recurrent", "skip"])
def test_a_loop_over_layers(begins: str, way: str) -> None:
    graph = traced(ManyLayers(begins, way == "recurrent", way == "skip"), X)
    assert way != "plain" or [n.name for n in graph.neurons] == ["fc.0.neuron", "fc.1.neuron", "fc.2.neuron"]
    assert [float(n.layer.model.decay) for n in graph.neurons] == pytest.approx([0.6, 0.7, 0.8])


class Currents(nn.Module):
    """Weights in a list, synaptic currents, the membrane moved by that of the step before: zeros reach far."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        sizes = (12, 18, OUT)
        self.weights = nn.ParameterList([nn.Parameter(0.8 * torch.randn(pair)) for pair in pairwise(sizes)])

    def forward(self, x: Tensor) -> Any:
        v = [torch.zeros(len(x), w.shape[1]) for w in self.weights]
        currents, total = [torch.zeros_like(one) for one in v], 0
        for t in range(T):
            h = x[:, t]
            for i, weight in enumerate(self.weights):
                arriving = torch.einsum("ab,bc->ac", (h, weight))
                h = (v[i] > 0.5).float()
                v[i], currents[i] = (0.9 * v[i] + currents[i]) * (1 - h), 0.7 * currents[i] + arriving
            total = total + h
        return total


def test_a_loop_over_layers_that_rest_for_some_steps() -> None:
    graph = traced(Currents(), X)
    assert [n.layer.model.kind for n in graph.neurons] == ["CubaLIF", "CubaLIF"]


# ------------------------------------------------------------------ what it runs in


class Inference(TwoLayers):
    @torch.inference_mode()
    def forward(self, x: Tensor) -> Any:
        return super().forward(x)


def test_inference_mode() -> None:
    graph = traced(Inference(), X)
    with torch.inference_mode():
        assert trace(TwoLayers().eval(), X.clone()) == graph
    with torch.inference_mode():
        assert torch.ones(1).is_inference(), "what the tracer switched off is on again"


def test_a_compiled_network_is_traced_as_what_it_was_made_of() -> None:
    compiled = torch.compile(TwoLayers(), backend="eager")
    assert trace(compiled, X) == trace(TwoLayers(), X)

    @torch.compile(backend="eager")
    def update(current: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return plain(current, v)

    assert len(traced(TwoLayers(update), X).neurons) == 2


class Scriptable(nn.Module):
    def forward(self, current: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        v = 0.8 * v + current
        spike = (v > 0.5).to(current.dtype)
        return spike, v * (1.0 - spike)


def test_neurons_of_torchscript() -> None:
    with pytest.warns(DeprecationWarning, match="script"):
        graph = traced(TwoLayers(torch.jit.script(Scriptable())), X)
    assert float(graph.neurons[0].layer.model.decay) == pytest.approx(0.8)


def test_what_shows_nothing_is_refused() -> None:
    tracing = pytest.warns(torch.jit.TracerWarning, match="len")
    with pytest.warns(DeprecationWarning, match="trace"), tracing:
        whole = torch.jit.trace(TwoLayers().eval(), X)
    with pytest.raises(S2CError, match=r"(?s)no spiking neuron.*TorchScript.*load_state_dict"):
        trace(whole, X)
    lazy = nn.Sequential(nn.LazyLinear(HIDDEN), HandLIF())
    with pytest.raises(S2CError, match=r"(?s)without a shape.*0\.weight.*run the model once"):
        trace(lazy, X, time_steps=T)
    with pytest.raises(S2CError, match=r"(?s)does not run.*float64.*model\.float\(\)"):
        trace(TwoLayers().double(), X)
