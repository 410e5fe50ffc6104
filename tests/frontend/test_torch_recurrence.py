"""Recurrence written around neurons: loops, feedback between layers, delays, containers; and what is refused."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from snn2chip.errors import S2CError
from snn2chip.frontend.torch import trace
from snn2chip.ir.graph import Edge, Graph
from torch_networks import HandLIF, Spike, StateLIF, compare, first, lively, per_step, watched

STEPS, BATCH, IN, HIDDEN, OUT = 6, 3, 12, 10, 4


def data(seed: int = 0) -> Tensor:
    """[T, N, features] spikes."""
    return (torch.rand(STEPS, BATCH, IN, generator=torch.Generator().manual_seed(seed)) < 0.4).float()


class Net(nn.Module):
    """fc and recurrent layer into one population, and a head; ``current(net, x, past, t)`` is what enters it.

    ``past`` holds the spikes of all steps so far, behind as many starting values as ``lag``.
    """

    def __init__(self, current: Any, start: Any = torch.zeros, lag: int = 1, bias: bool = True) -> None:
        super().__init__()
        self.fc, self.rec = nn.Linear(IN, HIDDEN), nn.Linear(HIDDEN, HIDDEN, bias=bias)
        self.both = nn.Linear(IN + HIDDEN, HIDDEN, bias=bias)
        self.gain = nn.Parameter(torch.linspace(-1, 1, HIDDEN))
        self.bn = nn.BatchNorm1d(HIDDEN)
        self.lif, self.head = StateLIF(), nn.Linear(HIDDEN, OUT)
        self.current, self.start, self.lag = current, start, lag

    def forward(self, x: Tensor) -> Tensor:
        past = [self.start(x.shape[1], HIDDEN)] * self.lag
        mem, total = torch.zeros(x.shape[1], HIDDEN), 0
        for t in range(STEPS):
            spk, mem = self.lif(self.current(self, x[t], past[-self.lag], t), mem)
            past.append(spk)
            total = total + self.head(spk)
        return total


def proved(net: nn.Module, neurons: dict[str, nn.Module], x: Tensor, membrane: Any = None, **options: Any) -> Graph:
    """Trace, then compare with torch's own hooks on two batches the tracer did not see."""
    graph = trace(lively(net), x, **options)
    run = options.get("run", lambda model, batch: model(batch))
    for seed in (7, 8):
        other = data(seed)
        with watched(net, neurons, membrane or (lambda m, out: out[1].clone())) as seen, torch.no_grad():
            out = run(net, other)
        found = {n: (per_step([s for s, _ in v]), per_step([m for _, m in v])) for n, v in seen.items()}
        compare(graph, other.movedim(1, 0), found, first(out))
    return graph


def added(net: Net, x: Tensor, spk: Tensor | None, t: int) -> Tensor:
    return net.fc(x) + net.rec(spk)


def added_if_any(net: Net, x: Tensor, spk: Tensor | None, t: int) -> Tensor:
    current = net.fc(x)
    return current if spk is None else current + net.rec(spk)


def in_place(net: Net, x: Tensor, spk: Tensor | None, t: int) -> Tensor:
    current = net.fc(x)
    if t:
        current += net.rec(spk)
    return current


def normalized(net: Net, x: Tensor, spk: Tensor | None, t: int) -> Tensor:
    return net.bn(added_if_any(net, x, spk, t))


def one_to_one(net: Net, x: Tensor, spk: Any, t: int) -> Tensor:
    return net.fc(x) + net.gain * spk


def joined(net: Net, x: Tensor, spk: Tensor, t: int) -> Tensor:
    return net.both(torch.cat([x, spk], 1))


def none(*shape: int) -> None:
    return None


def number(*shape: int) -> float:
    return 0.0


def scalar(*shape: int) -> Tensor:
    return torch.zeros(1)


# How it is written → code, start, and what comes back late.
FORMS: dict[str, tuple[Any, Any, str]] = {
    "zeros": (added, torch.zeros, "lif"),
    "None": (added_if_any, none, "rec"),
    "skipped in place": (in_place, torch.zeros, "rec"),
    "before batch norm": (normalized, none, "rec"),
    "one weight per neuron": (one_to_one, torch.zeros, "lif"),
    "from a number": (one_to_one, number, "lif"),
    "from a scalar": (one_to_one, scalar, "lif"),
    "joined with the input": (joined, torch.zeros, "lif"),
}


@pytest.mark.parametrize("lag", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_a_population_that_feeds_itself(form: str, bias: bool, lag: int) -> None:
    current, start, late = FORMS[form]
    net = Net(current, start, lag, bias)
    if form == "skipped in place" and lag == 2 and bias:
        # At step 1 the layer gives its bias, but at step 0 nothing: no delay does that.
        with pytest.raises(S2CError, match="starts from values other than zero"):
            trace(lively(net), data())
        return
    graph = proved(net, {"lif": net.lif}, data())
    assert any(Edge(late, lag, recurrent=True) in node.inputs for node in graph)
    assert [node.name for node in graph.neurons] == ["lif"]


class TwoLayers(nn.Module):
    """Layer 2 feeds back to layer 1, both feed themselves, and layer 2 also reads layer 1 two steps late."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.fb = nn.Conv1d(2, 4, 3, padding=1), nn.Conv1d(3, 4, 3, padding=1, bias=False)
        self.conv2, self.skip, self.rec = nn.Conv1d(4, 3, 3, padding=1), nn.Conv1d(4, 3, 1), nn.Conv1d(3, 3, 1)
        self.lif1, self.lif2 = StateLIF(), StateLIF(0.6)
        self.head = nn.Linear(18, OUT)

    def forward(self, x: Tensor) -> Tensor:
        x = x.unflatten(-1, (2, 6))
        mem1, mem2 = torch.zeros(x.shape[1], 4, 6), torch.zeros(x.shape[1], 3, 6)
        spk1, spk2, before = torch.zeros_like(mem1), torch.zeros_like(mem2), torch.zeros_like(mem1)
        out = []
        for frame in x:
            late, before = before, spk1
            spk1, mem1 = self.lif1(self.conv1(frame) + self.fb(spk2), mem1)
            spk2, mem2 = self.lif2(self.conv2(spk1) + self.rec(spk2) + self.skip(late), mem2)
            out.append(self.head(spk2.flatten(1)))
        return torch.stack(out).mean(0)


def test_two_layers_in_a_loop() -> None:
    net = TwoLayers()
    graph = proved(net, {"lif1": net.lif1, "lif2": net.lif2}, data())
    assert graph["fb"].inputs == graph["rec"].inputs == (Edge("lif2", 1, recurrent=True),)
    assert graph["skip"].inputs == (Edge("lif1", 2),), "late, but no loop"


def test_one_neuron_module_at_two_places_of_a_loop() -> None:
    class Shared(TwoLayers):
        def __init__(self) -> None:
            super().__init__()
            self.lif2 = self.lif1

    net = Shared()
    graph = trace(lively(net), data())
    assert [node.name for node in graph.neurons] == ["lif1", "lif1.StateLIF"]
    assert graph["fb"].inputs == (Edge("lif1.StateLIF", 1, recurrent=True),)
    for seed in (7, 8):
        with watched(net, {"lif1": net.lif1}, lambda m, out: out[1].clone()) as seen, torch.no_grad():
            out = net(data(seed))
        calls = [s for s, _ in seen["lif1"]]
        found = {"lif1": (per_step(calls[::2]), None), "lif1.StateLIF": (per_step(calls[1::2]), None)}
        compare(graph, data(seed).movedim(1, 0), found, out)


class WholeMembrane(nn.Module):
    """No neuron module: ``mem`` and ``spk`` are updated in the loop, with the recurrent layer in the same line."""

    def __init__(self, update: Any) -> None:
        super().__init__()
        self.fc, self.rec, self.head = nn.Linear(IN, HIDDEN), nn.Linear(HIDDEN, HIDDEN), nn.Linear(HIDDEN, OUT)
        self.update = update
        self.spikes: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        spk = mem = torch.zeros(x.shape[1], HIDDEN)
        self.spikes, total = [], torch.zeros(x.shape[1], OUT)
        for t in range(STEPS):
            mem = self.update(self, mem, spk, x[t])
            spk = Spike.apply(mem - 1.0)
            self.spikes.append(spk)
            total = total + self.head(spk)
        return total


UPDATES = {
    "sum in front": lambda net, mem, spk, x: net.fc(x) + net.rec(spk) + mem * 0.7 * (1 - spk),
    "sum behind": lambda net, mem, spk, x: mem * 0.7 * (1 - spk) + net.fc(x) + net.rec(spk),
    "current of its own": lambda net, mem, spk, x: mem * 0.7 * (1 - spk) + (net.fc(x) + net.rec(spk)),
    "soft reset": lambda net, mem, spk, x: 0.9 * mem + net.rec(spk) + net.fc(x) - spk * 1.0,
}


@pytest.mark.parametrize("update", UPDATES)
def test_a_membrane_written_out_with_its_recurrent_layer(update: str) -> None:
    net = WholeMembrane(UPDATES[update])
    graph = trace(lively(net), data())
    (population,) = graph.neurons
    assert graph["rec"].inputs == (Edge(population.name, 1, recurrent=True),)
    for seed in (7, 8):
        out = net(data(seed))
        compare(graph, data(seed).movedim(1, 0), {population.name: (per_step(net.spikes), None)}, out)


def test_recurrence_of_a_net_that_computes_one_step() -> None:
    class OneStep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.rec, self.lif = nn.Linear(IN, HIDDEN), nn.Linear(HIDDEN, HIDDEN), HandLIF()
            self.spk: Tensor | None = None

        def reset(self) -> None:
            self.spk = None

        def forward(self, x: Tensor) -> Tensor:
            if self.spk is None:
                self.spk = torch.zeros(len(x), HIDDEN)
            self.spk = self.lif(self.fc(x) + self.rec(self.spk))
            return self.spk

    net = OneStep()
    graph = trace(lively(net), data(), time_steps=STEPS, readout="sum")
    assert graph["rec"].inputs == (Edge("lif", 1, recurrent=True),)
    for seed in (7, 8):
        net.reset()
        net.lif.reset()
        spikes = [net(frame).detach() for frame in data(seed)]
        compare(graph, data(seed).movedim(1, 0), {"lif": (per_step(spikes), None)}, torch.stack(spikes).sum(0))


# ---------------------------------------------------------------------- containers of the libraries


def test_spikingjelly_containers() -> None:
    activation_based = pytest.importorskip("spikingjelly.activation_based")
    from spikingjelly.activation_based import layer, neuron

    def run(net: nn.Module, x: Tensor) -> Tensor:
        activation_based.functional.reset_net(net)
        return sum(net(frame) for frame in x)  # type: ignore[return-value]

    net = nn.Sequential(
        layer.LinearRecurrentContainer(
            nn.Sequential(nn.Linear(IN, HIDDEN), neuron.LIFNode(v_threshold=0.7)), IN, HIDDEN
        ),
        nn.Linear(HIDDEN, 5),
        layer.ElementWiseRecurrentContainer(neuron.IFNode(v_reset=None), element_wise_function=lambda x, y: x + y),
        nn.Linear(5, OUT),
    )
    neurons = {"0.sub_module.1": net[0].sub_module[1], "2.sub_module": net[2].sub_module}
    graph = proved(net, neurons, data(), lambda m, out: m.v.clone(), run=run)
    assert graph["0.rc.recurrent"].inputs == (Edge("0.sub_module.1", 1, recurrent=True),)


def test_norse_recurrent_sequential() -> None:
    norse = pytest.importorskip("norse.torch")
    from norse.torch.module.sequential import RecurrentSequential

    fast = norse.LIFParameters(tau_mem_inv=torch.tensor(400.0), v_th=torch.tensor(0.3))
    net = RecurrentSequential(nn.Linear(IN, IN), norse.LIFCell(fast))

    def run(net: nn.Module, x: Tensor) -> Tensor:
        state, total = None, 0
        for frame in x:
            out, state = net(frame, state)
            total = total + out
        return total

    path = next(path for path, m in net.named_modules() if isinstance(m, norse.LIFCell))
    graph = proved(net, {path: dict(net.named_modules())[path]}, data(), lambda m, out: out[1].v.clone(), run=run)
    assert any(Edge(path, 1, recurrent=True) in node.inputs for node in graph)


@pytest.mark.parametrize("cell", ["LIFRecurrentCell", "LSNNRecurrentCell"])
def test_norse_recurrent_cells_behind_a_linear_layer(cell: str) -> None:
    norse = pytest.importorskip("norse.torch")
    net = norse.SequentialState(nn.Linear(IN, 8), getattr(norse, cell)(8, HIDDEN), nn.Linear(HIDDEN, OUT))
    with torch.no_grad():
        net[1].input_weights.mul_(4)
    graph = trace(lively(net), data(), time_steps=STEPS, input_time_axis=0, readout="sum")
    assert Edge("0") in graph["1.input_weights"].inputs


# ---------------------------------------------------------------------- refused


def refused(net: nn.Module, what: str, line_of: Any, **options: Any) -> None:
    """The message says what, and names a line of this code."""
    with pytest.raises(S2CError, match=f"(?s){what}") as caught:
        trace(lively(net), data(), **options)
    lines, start = inspect.getsourcelines(line_of)
    file, line = caught.value.where.rsplit(":", 1)
    assert file.endswith("test_torch_recurrence.py")
    assert start <= int(line) < start + len(lines)
    assert caught.value.fix


def starting_elsewhere(net: Net, x: Tensor, spk: Tensor | None, t: int) -> Tensor:
    return net.fc(x) + net.rec(torch.ones(len(x), HIDDEN) if spk is None else spk)


def starting_from_data(net: Net, x: Tensor, spk: Tensor | None, t: int) -> Tensor:
    return net.fc(x) + net.rec(x[:, :HIDDEN] if spk is None else spk)


def rectified(net: Net, x: Tensor, spk: Tensor | None, t: int) -> Tensor:
    return net.fc(x) + torch.relu(net.rec(torch.zeros(len(x), HIDDEN) if spk is None else spk))


def only_for_some_steps(net: Net, x: Tensor, spk: Tensor | None, t: int) -> Tensor:
    return net.fc(x) + net.rec(torch.zeros(len(x), HIDDEN) if spk is None or t == 3 else spk)


WRITTEN = {
    "ones": (starting_elsewhere, "starts from values other than zero"),
    "data": (starting_from_data, "starts from a value computed from the data"),
    "a rectifier in the loop": (rectified, "'relu' has no counterpart"),
    "now and then": (only_for_some_steps, "does not reach back by the same number of steps.*at step 3"),
}


@pytest.mark.parametrize("kind", WRITTEN)
def test_loops_that_are_no_delay(kind: str) -> None:
    current, what = WRITTEN[kind]
    refused(Net(current, none), what, current)


class RunningSum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.rec, self.lif = nn.Linear(IN, HIDDEN), nn.Linear(HIDDEN, HIDDEN), HandLIF()

    def forward(self, x: Tensor) -> Tensor:
        self.lif.reset()
        total = torch.zeros(x.shape[1], HIDDEN)
        for frame in x:
            total = total + self.lif(self.fc(frame) + self.rec(total))
        return total


def test_a_running_sum_that_feeds_a_neuron() -> None:
    refused(RunningSum(), "summed over all steps so far", RunningSum.forward)


def test_a_first_step_that_leaves_part_of_a_membrane_out() -> None:
    def update(net: Any, mem: Tensor, spk: Tensor, x: Tensor) -> Tensor:
        mem = mem * 0.7 * (1 - spk) + net.fc(x)
        return mem + net.rec(spk) if net.spikes else mem

    net = WholeMembrane(update)
    graph = trace(lively(net), data())
    (population,) = graph.neurons
    assert Edge("rec", 1, recurrent=True) in graph["add"].inputs, "its bias, too, is missing at first"
    for seed in (7, 8):
        out = net(data(seed))
        compare(graph, data(seed).movedim(1, 0), {population.name: (per_step(net.spikes), None)}, out)


def test_a_first_step_that_begins_with_another_value() -> None:
    def update(net: Any, mem: Tensor, spk: Tensor, x: Tensor) -> Tensor:
        current = net.fc(x)
        return mem * 0.7 * (1 - spk) + current if net.spikes else 2 * current

    with pytest.raises(S2CError, match=r"(?s)no neuron that is known.*first step begins with another value"):
        trace(lively(WholeMembrane(update)), data())
