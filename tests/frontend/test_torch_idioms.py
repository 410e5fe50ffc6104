"""Idioms of research code, each in a small network: traced without edits, equal to the network's own forward pass."""

from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snn2chip.errors import S2CError
from snn2chip.frontend.torch import trace
from snn2chip.simulate import simulate
from torch_networks import HandLIF, StateLIF, spikes, traced

T, N = 6, 4


class Masked(torch.autograd.Function):
    """A step function written with a mask."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        out = torch.zeros_like(x)
        out[x > 0] = 1.0
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad / (10 * x.abs() + 1) ** 2


class MaskedLIF(nn.Module):
    """Resets through a mask: to a number, or by what another tensor holds there."""

    def __init__(self, chosen: bool) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.fc1, self.fc2, self.chosen = nn.Linear(12, 20), nn.Linear(20, 5), chosen
        self.rates: list[Tensor] = []

    def update(self, current: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        v = 0.8 * v + current
        spike = Masked.apply(v - 0.4)
        fired = v - 0.4 > 0
        if self.chosen:
            taken = torch.zeros_like(v)
            taken[fired] = torch.full_like(v, 0.4)[fired]
            return spike, v - taken
        after = v.clone()
        after[fired] = 0
        return spike, after

    def forward(self, x: Tensor) -> Tensor:
        v1, v2, out = torch.zeros(len(x), 20), torch.zeros(len(x), 5), []
        for t in range(T):
            s1, v1 = self.update(self.fc1(x[:, t]), v1)
            s2, v2 = self.update(self.fc2(s1), v2)
            self.rates.append(s1.mean())  # only looked at
            out.append(s2)
        return torch.stack(out, 1).sum(1)


def test_neurons_that_write_through_a_mask() -> None:
    hard = traced(MaskedLIF(False), spikes(N, T, 12))
    assert [n.layer.model.reset for n in hard.neurons] == ["hard", "hard"]
    soft = traced(MaskedLIF(True), spikes(N, T, 12))
    assert [n.layer.model.reset for n in soft.neurons] == ["soft", "soft"]


class EinsumNet(nn.Module):
    """Weights as plain parameters, every product an einsum."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.w1, self.w2 = nn.Parameter(torch.randn(12, 20)), nn.Parameter(torch.randn(20, 5))
        self.gain = nn.Parameter(torch.rand(20) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.einsum("abc,cd->abd", (x, self.w1))
        v, rec = torch.zeros(len(x), 20), []
        for t in range(T):
            v = 0.9 * v + torch.einsum("ij, j -> ij", h[:, t], self.gain)
            spike = Masked.apply(v - 1.0)
            v = v * (1 - spike)
            rec.append(torch.einsum("ab,bc", spike, self.w2))
        return torch.einsum("tnc->nc", torch.stack(rec))


class EinsumMaps(nn.Module):
    """An einsum over channels, one that sums over places, and one over two axes at once."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(6)
        self.mix = nn.Parameter(torch.randn(3, 2))
        self.out = nn.Parameter(torch.randn(5, 3, 4))
        self.lif = MaskedLIF(False)

    def forward(self, x: Tensor) -> Tensor:
        v, total = torch.zeros(len(x), 3, 4, 4), 0
        for t in range(T):
            s, v = self.lif.update(torch.einsum("nchw,oc->nohw", x[:, t], self.mix), v)
            total = total + torch.einsum("ncw,kcw->nk", torch.einsum("nchw->ncw", s), self.out)
        return total


def test_products_written_with_einsum() -> None:
    graph = traced(EinsumNet(), spikes(N, T, 12))
    np.testing.assert_array_equal(graph["einsum"].layer.weight, EinsumNet().w1.detach().T)
    traced(EinsumMaps(), spikes(N, T, 2, 4, 4))


@pytest.mark.parametrize(
    ("equation", "second", "what"),
    [
        ("nd,me->ne", None, "two computed values"),
        ("nd,nd->n", None, "two computed values"),
        ("...d,d->...d", torch.ones(20), "letter of its own"),
        ("nd,de->nde", torch.ones(20, 3), "another matrix for every d"),
    ],
)
def test_products_no_layer_computes(equation: str, second: Tensor | None, what: str) -> None:
    class Net(EinsumNet):
        def forward(self, x: Tensor) -> Tensor:
            v, rec = torch.zeros(len(x), 20), []
            for t in range(T):
                v = 0.9 * v + x[:, t] @ self.w1
                spike = Masked.apply(v - 1.0)
                v = v * (1 - spike)
                rec.append(torch.einsum(equation, spike, spike if second is None else second))
            return torch.stack(rec).sum(0)

    with pytest.raises(S2CError, match=f"(?s)einsum.*{what}"):
        trace(Net(), spikes(N, T, 12))


class LogSoftmax(MaskedLIF):
    """Returns log-probabilities of the best step; a rectifier where there are only spikes."""

    def __init__(self) -> None:
        super().__init__(False)
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(12, 20))
        self.head = nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        v, out = torch.zeros(len(x), 20), []
        for t in range(T):
            s, v = self.update(self.body(x[:, t]), v)
            pooled = F.max_pool1d(torch.relu(s).unsqueeze(1), 2).squeeze(1).abs()
            out.append(self.head(torch.cat((F.relu(pooled), F.leaky_relu(pooled + pooled)), 1)))
        return F.log_softmax(torch.stack(out).amax(0), dim=1)


def before_softmax(net: nn.Module, x: Tensor) -> Tensor:
    given: list[Tensor] = []
    hook = net.head.register_forward_hook(lambda module, args, out: given.append(out))
    net(x)
    hook.remove()
    return torch.stack(given, 1)


def test_the_output_of_a_module_is_deployed() -> None:
    net, x = LogSoftmax().eval(), spikes(N, T, 12)
    with pytest.raises(S2CError, match=r"(?s)log_softmax.*output='path.of.module'"):
        trace(net, x)
    graphs = {how: trace(net, x, output="head", readout=how) for how in ("max", "last", None)}
    assert not net.head._forward_hooks
    fresh = spikes(N, T, 12, seed=7)
    logits = before_softmax(net, fresh).detach()
    assert logits.std() > 0.1
    for how, expected in (("max", logits.amax(1)), ("last", logits[:, -1]), (None, logits)):
        np.testing.assert_allclose(simulate(graphs[how], fresh).outputs, expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(S2CError, match=r"(?s)no 'tail'.*no module of this name"):
        trace(net, x, output="tail")


def test_a_module_called_once_per_step_by_the_tracer() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 20), HandLIF(threshold=0.2), nn.Linear(20, 5), nn.Softmax(1)).eval()
    graph = trace(net, spikes(N, T, 12), time_steps=T, input_time_axis=1, output="3", readout="sum")
    fresh, expected = spikes(N, T, 12, seed=8), torch.zeros(N, 5)
    net[2].reset()
    for t in range(T):
        expected = expected + net[:4](fresh[:, t])
    np.testing.assert_allclose(simulate(graph, fresh).outputs, expected.detach(), rtol=1e-5, atol=1e-5)


class Logging(MaskedLIF):
    """Counts its spikes while it runs; ``use`` does something with the count."""

    def __init__(self, use: Any = None) -> None:
        super().__init__(False)
        self.use, self.total, self.history = use, 0.0, []

    def forward(self, x: Tensor) -> Tensor:
        v, out = torch.zeros(len(x), 20), []
        for t in range(T):
            s, v = self.update(self.fc1(x[:, t]), v)
            rate = s.mean().item()
            self.total += 100 * rate
            self.history.append(s.detach().cpu().numpy())
            f"step {t}: {rate:.3f}, {round(self.total, 2)} {self.history[-1].mean(0)}"
            y = self.fc2(s)
            out.append(y if self.use is None else self.use(y, rate, self.history[-1]))
        return torch.stack(out).sum(0)


def test_values_that_are_only_logged() -> None:
    net = Logging()
    traced(net, spikes(N, T, 12))
    net.history.clear()
    net(spikes(N, T, 12))
    assert isinstance(net.history[0], np.ndarray), "what the model logs later is real again"


@pytest.mark.parametrize(
    "use",
    [
        lambda y, rate, s: y if rate > 0.1 else 2 * y,
        lambda y, rate, s: y * rate,
        lambda y, rate, s: rate * y,
        lambda y, rate, s: y + torch.tensor(rate),
        lambda y, rate, s: y + torch.from_numpy(s).mean(),
        lambda y, rate, s: y * float(np.mean([rate, 1.0])),
        lambda y, rate, s: y[: int(rate) + 4],
        lambda y, rate, s: y * len(s),
        lambda y, rate, s: y + s[0].sum(),
    ],
)
def test_values_that_come_back_are_refused(use: Any) -> None:
    with pytest.raises(S2CError, match="reads a value it computed from the data into Python") as caught:
        trace(Logging(use).eval(), spikes(N, T, 12))
    assert "test_torch_idioms.py:" in caught.value.where


class TwoPlaces(nn.Module):
    """One neuron module between two pairs of layers; it is handed the state of either place."""

    def __init__(self, fresh: bool = False) -> None:
        super().__init__()
        torch.manual_seed(9)
        self.fc1, self.fc2, self.lif, self.fresh = nn.Linear(12, 20), nn.Linear(20, 5), StateLIF(threshold=0.4), fresh

    def forward(self, x: Tensor) -> Tensor:
        v1, v2, out = torch.zeros(len(x), 20), torch.zeros(len(x), 5), []
        for t in range(T):
            s1, v1 = self.lif(self.fc1(x[:, t]), v1)
            s2, v2 = self.lif(self.fc2(s1), torch.zeros_like(v2) if self.fresh else v2)
            out.append(s2)
        return torch.stack(out).sum(0)


def test_one_neuron_module_in_two_places() -> None:
    graph = traced(TwoPlaces(), spikes(N, T, 12))
    assert len(graph.neurons) == 2
    with pytest.raises(S2CError, match=r"(?s)starts anew at every call.*time_steps=1"):
        trace(TwoPlaces(fresh=True).eval(), spikes(N, T, 12))


class Encoding(MaskedLIF):
    """Draws its spikes inside, or starts its membranes anywhere."""

    def __init__(self, start: bool) -> None:
        super().__init__(False)
        self.start = start

    def forward(self, x: Tensor) -> Tensor:
        drawn = x if self.start else torch.bernoulli(x)
        v1 = torch.rand(len(x), 20) if self.start else torch.zeros(len(x), 20)
        v2, out = torch.zeros(len(x), 5), []
        for t in range(T):
            s1, v1 = self.update(self.fc1(drawn[:, t]), v1)
            s2, v2 = self.update(self.fc2(s1), v2)
            out.append(s2)
        return torch.stack(out, 1).sum(1)


@pytest.mark.parametrize(("start", "what"), [(False, "draws random numbers"), (True, "starts from random numbers")])
def test_random_numbers_are_named_and_can_be_taken_out(start: bool, what: str) -> None:
    net, x = Encoding(start).eval(), spikes(N, T, 12)
    with pytest.raises(S2CError, match=f"(?s){what}.*mock.patch") as caught:
        trace(net, x)
    assert "test_torch_idioms.py:" in caught.value.where

    def run(net: nn.Module, x: Tensor) -> Tensor:
        with mock.patch("torch.rand", torch.zeros), mock.patch("torch.bernoulli", return_value=x):
            return net(x)

    graph, fresh = trace(net, x, run=run), spikes(N, T, 12, seed=11)
    np.testing.assert_array_equal(simulate(graph, fresh).outputs, run(net, fresh).detach())


class Currents(nn.Module):
    """Layer by layer over time, the membrane moved by the current, or by that of the step before.

    The fire test comes first then, and the record of the output begins with its start value.
    """

    def __init__(self, late: bool, recurrent: bool = False) -> None:
        super().__init__()
        torch.manual_seed(12)
        self.w1, self.w2 = nn.Parameter(torch.randn(12, 20)), nn.Parameter(torch.randn(20, 5))
        self.back = nn.Parameter(0.3 * torch.randn(20, 20))
        self.late, self.recurrent = late, recurrent

    def hidden(self, x: Tensor) -> Tensor:
        h = torch.einsum("abc,cd->abd", (x, self.w1))
        current = mem = spike = torch.zeros(len(x), 20)
        rec = []
        for t in range(T):
            if self.late:
                drive = h[:, t] + torch.einsum("ab,bc->ac", (spike, self.back)) if self.recurrent else h[:, t]
                spike = Masked.apply(mem - 1.0)
                after = 0.8 * current + drive
                mem, current = (0.9 * mem + current) * (1 - spike), after
            else:
                current = current * 0.8 + h[:, t]
                mem = mem * 0.75 * (1.0 - spike) + current
                spike = mem.gt(1.0).float()
            rec.append(spike)
        return torch.stack(rec, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        spikes = self.hidden(x)
        h = torch.einsum("abc,cd->abd", (spikes, self.w2))
        current = out = torch.zeros(len(x), 5)
        rec = [out]
        for t in range(T):
            out, current = 0.9 * out + current, 0.8 * current + h[:, t]
            rec.append(out)
        return torch.stack(rec, 1), spikes


@pytest.mark.parametrize(("late", "recurrent"), [(False, False), (True, False), (True, True)])
def test_currents_written_layer_by_layer(late: bool, recurrent: bool) -> None:
    x, net = spikes(N, T, 12), Currents(late, recurrent)

    def read(out: tuple[Tensor, Tensor]) -> Tensor:
        return out[0][:, 1:]

    graph = traced(net, x, read, output=read)
    assert [n.layer.model.kind for n in graph.neurons] == ["CubaLIF", "CubaLI"]
    np.testing.assert_array_equal(simulate(trace(net, x, output=1), x).outputs, net(x)[1].detach())
    for output in (0, lambda out: out[0].amax(1)):
        with pytest.raises(S2CError, match=r"(?s)constants and computed values.*out\[:, 1:\]"):
            trace(net, x, output=output)


class Heads(MaskedLIF):
    """Two heads at different layers, read out over time and joined."""

    def __init__(self, one: Any, other: Any) -> None:
        super().__init__(False)
        self.early, self.read = nn.Linear(20, 3), (one, other)

    def forward(self, x: Tensor) -> Tensor:
        v1, v2, early, late = torch.zeros(len(x), 20), torch.zeros(len(x), 5), [], []
        for t in range(T):
            s1, v1 = self.update(self.fc1(x[:, t]), v1)
            s2, v2 = self.update(self.fc2(s1), v2)
            early.append(self.early(s1))
            late.append(s2)
        return torch.cat([read(torch.stack(out)) for read, out in zip(self.read, (early, late), strict=True)], 1)


def test_outputs_read_out_alike_are_joined() -> None:
    ways = {"mean": lambda y: y.mean(0), "sum": sum, "max": lambda y: y.amax(0), "last": lambda y: y[-1]}
    for how, way in ways.items():
        assert traced(Heads(way, way), spikes(N, T, 12))["readout"].layer.how == how
    with pytest.raises(S2CError, match="read out over time in different ways"):
        trace(Heads(ways["mean"], ways["sum"]).eval(), spikes(N, T, 12))
