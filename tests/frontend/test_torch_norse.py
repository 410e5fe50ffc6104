"""Norse: traced graphs against its own forward passes, layer by layer; what is refused."""

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
from torch_networks import T, compare, frames, lively, per_step, watched

pytest.importorskip("norse")

import norse.torch as norse
from norse.torch.functional.reset import reset_subtract
from norse.torch.module.lsnn import LSNNCell, LSNNRecurrentCell


def number(x: float | list[float]) -> Tensor:
    return torch.tensor(x)


LIF = norse.LIFParameters(v_th=number(0.3), tau_mem_inv=number(200.0))
SHIFTED = norse.LIFParameters(
    tau_mem_inv=number(220.0), v_leak=number(-0.2), v_th=number(0.2), v_reset=number(-0.4), method="tanh"
)
VECTOR = norse.LIFParameters(v_th=torch.linspace(0.2, 0.4, 12), tau_syn_inv=torch.linspace(100.0, 400.0, 12))
BOX = norse.LIFBoxParameters(v_th=number(0.2), tau_mem_inv=number(300.0), v_leak=number(0.1))
BOX_SOFT = norse.LIFBoxParameters(v_th=number(0.15), reset_method=reset_subtract)
IAF = norse.IAFParameters(v_th=number(1.3), v_reset=number(0.2))
ADAPTIVE = norse.LSNNParameters(
    v_th=number(0.2), tau_mem_inv=number(300.0), tau_adapt_inv=number(150.0), beta=number(0.15)
)
LI = norse.LIParameters(tau_mem_inv=number(250.0), v_leak=number(0.1))

# A neuron on twelve inputs, for one step and looping over time; the others are in the matrix.
CELLS: dict[str, Any] = {
    "LIF": lambda: norse.LIFCell(LIF),
    "LIF in long steps": lambda: norse.LIFCell(SHIFTED, dt=0.002),
    "LIF recurrent": lambda: norse.LIFRecurrentCell(12, 12, LIF),
    "LIF recurrent with autapses": lambda: norse.LIFRecurrentCell(12, 12, SHIFTED, autapses=True),
    "LSNN recurrent": lambda: LSNNRecurrentCell(12, 12, ADAPTIVE),
}
LOOPS: dict[str, Any] = {
    "LIF": lambda: norse.LIF(LIF),
    "LIF with all states": lambda: norse.LIF(LIF, record_states=True),
}


def frames_of(seed: int) -> Tensor:
    return frames(seed).flatten(2)


def sequential(make: Any) -> nn.Module:
    net = norse.SequentialState(
        nn.Linear(72, 12), make(), nn.Linear(12, 12), make(), nn.Linear(12, 7), norse.LICell(LI)
    )
    return lively(net)


def threaded(net: nn.Module, x: Tensor) -> Tensor:
    state, total = None, torch.zeros(())
    for frame in x:
        out, state = net(frame, state)
        total = total + out
    return total


def membrane(out: Any) -> Tensor:
    state = out[1]
    return (state.lif if hasattr(state, "lif") else state).v.clone()


@pytest.mark.parametrize("kind", ["LIF in long steps", "LIF recurrent with autapses"])
def test_cells_in_a_sequential_state(kind: str) -> None:
    net = sequential(CELLS[kind])
    graph = trace(net, frames_of(0), run=threaded)
    neurons = {name: net[int(name)] for name in ("1", "3", "5")}
    for seed in (1, 2):
        x = frames_of(seed)
        with watched(net, neurons, lambda m, out: membrane(out)) as seen:
            out = threaded(net, x)
        expected = {
            name: (per_step([s for s, _ in calls], None), per_step([v for _, v in calls], None))
            for name, calls in seen.items()
        }
        compare(graph, x.transpose(0, 1), expected, out)


class Over(nn.Module):
    """Modules that loop over time themselves; the last one's membranes are the output."""

    def __init__(self, make: Any) -> None:
        super().__init__()
        self.fc1, self.one, self.fc2, self.two = nn.Linear(72, 12), make(), nn.Linear(12, 12), make()
        self.fc3, self.li = nn.Linear(12, 7), norse.LI(LI)

    def forward(self, x: Tensor) -> Tensor:
        x, _ = self.one(self.fc1(x))
        x, _ = self.two(self.fc2(x))
        return self.li(self.fc3(x))[0]


@pytest.mark.parametrize("kind", LOOPS)
def test_modules_that_loop_over_time(kind: str) -> None:
    net = lively(Over(LOOPS[kind]))
    graph = trace(net, frames_of(0))
    for seed in (1, 2):
        x = frames_of(seed)
        with watched(net, {"one": net.one, "two": net.two, "li": net.li}, lambda m, out: None) as seen:
            out = net(x)
        expected = {name: (per_step([s for s, _ in calls], 0), None) for name, calls in seen.items()}
        compare(graph, x.transpose(0, 1), expected, out.transpose(0, 1))


def test_recurrent_weights_are_recurrent_synapses() -> None:
    graph = trace(sequential(CELLS["LIF recurrent"]), frames_of(0), run=threaded)
    assert graph["1.recurrent_weights"].inputs == (Edge("1", 1, recurrent=True),)
    assert graph["1"].inputs == (Edge("1.input_weights"), Edge("1.recurrent_weights"))
    # The membrane of an LSNN moves by the current of the step before.
    graph = trace(sequential(CELLS["LSNN recurrent"]), frames_of(0), run=threaded)
    assert graph["1.recurrent_weights"].inputs == (Edge("1", 2, recurrent=True),)
    assert graph["1"].inputs == (Edge("1.input_weights", 1), Edge("1.recurrent_weights"))


def test_a_step_is_driven_with_its_state_handed_on() -> None:
    net = sequential(CELLS["LIF"])
    graph = trace(net, frames_of(0), time_steps=T, readout="sum", input_time_axis=0)
    assert graph == trace(net, frames_of(0), run=threaded)


def test_an_input_layer_of_another_size() -> None:
    net = lively(norse.SequentialState(norse.LIFRecurrentCell(72, 12, LIF), norse.LILinearCell(12, 5, LI)))
    graph = trace(net, frames_of(0), time_steps=T, readout="sum")
    x = frames_of(1)
    np.testing.assert_allclose(
        simulate(graph, x.transpose(0, 1)).outputs, threaded(net, x).detach(), rtol=1e-5, atol=1e-5
    )


def test_a_state_given_at_the_start_is_kept() -> None:
    net = lively(nn.ModuleDict({"fc": nn.Linear(72, 12), "lif": norse.LIFCell(LIF)}))

    def run(net: nn.Module, x: Tensor) -> Tensor:
        n = x.shape[1]
        state: Any = norse.LIFFeedForwardState(v=torch.full((n, 12), 0.2), i=torch.zeros(n, 12))
        spikes = []
        for frame in x:
            spike, state = net["lif"](net["fc"](frame), state=state)
            spikes.append(spike)
        return torch.stack(spikes)

    graph = trace(net, frames_of(0), run=run)
    np.testing.assert_allclose(graph["lif"].layer.model.v_start, 0.2)
    x = frames_of(1)
    np.testing.assert_array_equal(simulate(graph, x.transpose(0, 1)).outputs, run(net, x).detach().transpose(0, 1))


REFUSED: dict[str, tuple[Any, str]] = {
    "refractory": (lambda: norse.LIFRefracCell(), "refractory period of 5 steps"),
    "exponential": (lambda: norse.LIFExCell(), "LIFExCell cannot be represented exactly"),
    "adaptive exponential": (lambda: norse.LIFAdExCell(), "LIFAdExCell cannot"),
    "Izhikevich": (lambda: norse.IzhikevichCell(norse.tonic_spiking), "IzhikevichCell cannot"),
    "own reset": (
        lambda: norse.LIFBoxCell(BOX._replace(reset_method=lambda z, v, reset, th: v - 0.5 * z)),
        "reset_method=<lambda> cannot",
    ),
    "adjoint": (lambda: norse.LIFCell(LIF._replace(method="adjoint")), "method='adjoint' is not known"),
    "LSNN with a leak": (lambda: LSNNCell(ADAPTIVE._replace(v_leak=number(0.1))), "v_leak other than zero"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_has_no_counterpart_is_refused_by_name(kind: str) -> None:
    make, message = REFUSED[kind]
    net = norse.SequentialState(nn.Linear(72, 12), make())
    with pytest.raises(S2CError, match=message) as caught:
        trace(net, frames_of(0), run=threaded)
    assert caught.value.where == "1"
    assert caught.value.fix


def test_a_state_that_is_not_handed_on_is_refused() -> None:
    net = nn.ModuleDict({"fc": nn.Linear(72, 12), "lif": norse.LIFCell(LIF)})
    with pytest.raises(S2CError, match="called without the state of the step before") as caught:
        trace(lively(net), frames_of(0), run=lambda net, x: sum(net["lif"](net["fc"](frame))[0] for frame in x))
    assert "out, state = neuron(x, state)" in caught.value.fix


def test_a_current_that_is_read_is_refused() -> None:
    net = lively(nn.ModuleDict({"fc": nn.Linear(72, 12), "lif": norse.LIFCell(LIF), "out": nn.Linear(12, 5)}))

    def run(net: nn.Module, x: Tensor) -> Tensor:
        state: Any = None
        for frame in x:
            _, state = net["lif"](net["fc"](frame), state)
        return net["out"](state.i)

    with pytest.raises(S2CError, match="reads the state 'i' of lif"):
        trace(net, frames_of(0), run=run)


def test_a_constant_current_is_encoded_by_neurons() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enc = norse.ConstantCurrentLIFEncoder(T, p=LIF)
            self.fc, self.lif = nn.Linear(12, 8), norse.LIFCell(LIF)

        def forward(self, x: Tensor) -> Tensor:
            state, out = None, []
            for spikes in self.enc(x):
                found, state = self.lif(self.fc(spikes), state)
                out.append(found)
            return torch.stack(out)

    def x(seed: int) -> Tensor:
        return torch.rand(3, 12, generator=torch.Generator().manual_seed(seed)) * 3

    net = lively(Net())
    graph = trace(net, x(0))
    assert [n.layer.model.kind for n in graph.neurons] == ["LIF", "CubaLIF"]
    expected = net(x(1)).detach()
    assert expected.std() > 0.1
    np.testing.assert_array_equal(simulate(graph, x(1)).outputs, expected.transpose(0, 1))
