"""Everything the tracer refuses: what is said, and where."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snn2chip.errors import S2CError
from snn2chip.frontend.torch import trace
from torch_networks import ConvNet, HandLIF, Looping, LoopLIF, Spike, T, frames, images, lively


class Net(nn.Module):
    """fc–LIF–fc–LIF over T steps; ``middle``, ``end`` and ``step`` put something into it."""

    def __init__(self, middle: Any = None, end: Any = None, step: Any = None) -> None:
        super().__init__()
        self.fc1, self.fc2, self.lif1, self.lif2 = nn.Linear(12, 20), nn.Linear(20, 5), HandLIF(), HandLIF()
        self.other = nn.Linear(20, 5)
        self.scales = nn.Parameter(torch.linspace(0.8, 1.2, T))
        self.middle, self.end, self.step = middle, end, step

    def forward(self, x: Tensor) -> Any:
        self.lif1.reset()
        self.lif2.reset()
        out = []
        for t in range(T):
            h = self.lif1(self.fc1(x))
            h = h if self.middle is None else self.middle(h)
            h = self.fc2(h) if self.step is None else self.step(self, h, t)
            out.append(self.lif2(h))
        y = torch.stack(out)
        return y.mean(0) if self.end is None else self.end(y)


X = torch.rand(4, 12, generator=torch.Generator().manual_seed(0))


def refused(net: nn.Module, what: str, x: Any = X, **options: Any) -> S2CError:
    with pytest.raises(S2CError, match=f"(?s){what}") as caught:
        trace(lively(net), x, **options)
    assert caught.value.fix, "a refusal says what to do"
    return caught.value


def branch_on_value(h: Tensor) -> Tensor:
    if h.sum() > 3:
        return h
    return h * 2


def read_item(h: Tensor) -> Tensor:
    return h * float(h.max().item() > 0)


def to_numpy(h: Tensor) -> Tensor:
    return torch.from_numpy(h.numpy() * 1.0)


@pytest.mark.parametrize("code", [branch_on_value, read_item, to_numpy])
def test_control_flow_on_data_names_the_line(code: Any) -> None:
    error = refused(Net(middle=code), "reads a value it computed from the data")
    lines, start = inspect.getsourcelines(code)
    file, line = error.where.rsplit(":", 1)
    assert file.endswith("test_torch_refusals.py")
    assert start < int(line) < start + len(lines)


OPERATIONS = {
    "rectifier": (lambda h: F.relu(h - 0.5), "'relu'", "spiking neuron"),
    "normalization": (lambda h: F.layer_norm(h, (20,)), "'layer_norm'", "batch norm"),
    "noise": (lambda h: h + torch.rand_like(h), "random numbers", "encode the input"),
    "dropout left on": (lambda h: F.dropout(h, 0.5), "dropout is active", "training=self.training"),
    "half precision": (lambda h: h.half().float(), "rounds values", "float32"),
    "computed indices": (lambda h: h.gather(1, h.argsort(1)), "'argsort'", "deployed path"),
    "integer cast": (lambda h: (1.5 * h).to(torch.int64).float(), "rounds values to torch.int64", "float32"),
    "padding": (lambda h: F.pad(h, (1, -1), value=0.5), "other than zeros", "zero padding"),
    "attention's softmax": (lambda h: F.softmax(h, -1), "'softmax'", "train attention without it"),
    "attention in one call": (
        lambda h: F.scaled_dot_product_attention(*[h.reshape(-1, 5, 4)] * 3).flatten(1),
        "'scaled_dot_product_attention'",
        "train attention without it",
    ),
    "activation": (lambda h: torch.sigmoid(h), "'sigmoid'", "spiking neuron in its place"),
    "division": (lambda h: h / (1 + h.sum(1, keepdim=True)), "division by a computed value", "divide by a constant"),
    "larger of two": (lambda h: torch.max(h, 0.5 * h), "maximum of two computed values", "one tensor"),
    "comparison": (lambda h: (h > h.mean(1, keepdim=True)).float(), "reads 2 computed values", "module of its own"),
    "overwritten view": (lambda h: overwritten(h), "overwritten through another view", "clone"),
    "product over the batch": (lambda h: h - h.mean(0), "over the samples of the batch", "batch axis"),
    "three axes": (lambda h: h + F.avg_pool3d(h.reshape(-1, 5, 2, 2), 2).flatten(1)[:, :1], "all of its three", "time"),
}


def overwritten(h: Tensor) -> Tensor:
    h = h * 1.5
    view = h.view(-1)
    view.mul_(0.5)
    return h


@pytest.mark.parametrize("kind", OPERATIONS)
def test_operations_without_counterpart(kind: str) -> None:
    code, what, fix = OPERATIONS[kind]
    error = refused(Net(middle=code), what)
    assert fix in error.fix
    assert error.where


ENDS = {
    "softmax": (lambda y: F.softmax(y.mean(0), -1), "'softmax'"),
    "argmax": (lambda y: y.mean(0).argmax(-1), "'argmax'"),
    "a step in the middle": (lambda y: y[2], "taken at step 2 of 5"),
    "weights per step": (lambda y: (y * torch.linspace(0, 1, T).reshape(T, 1, 1)).sum(0), "step to step"),
    "unequal sum": (lambda y: y[0] + y[-1], "weighs steps differently"),
    "a number": (lambda y: 3.0, "float, not a tensor"),
    "a constant": (lambda y: torch.zeros(4, 5), "does not depend on the input"),
    "one sample": (lambda y: y.mean(0)[:1], "does not hold every sample"),
}


@pytest.mark.parametrize("kind", ENDS)
def test_outputs_that_cannot_be_deployed(kind: str) -> None:
    end, what = ENDS[kind]
    refused(Net(end=end), what)


STEPS = {
    "a branch on the step": (lambda net, h, t: net.fc2(h) if t < 3 else net.other(h), "not the same at every step"),
    "a scale per step": (lambda net, h, t: net.fc2(h) * net.scales[t], "not the same at every step"),
    "a neuron at two places": (lambda net, h, t: net.fc2(net.lif1(h * 2)), "called 10 times in 5 steps"),
}


@pytest.mark.parametrize("kind", STEPS)
def test_steps_that_differ(kind: str) -> None:
    step, what = STEPS[kind]
    refused(Net(step=step), what)


def test_state_left_from_the_last_sample() -> None:
    class Leftover(Net):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([self.lif2(self.fc2(self.lif1(self.fc1(x)))) for _ in range(T)]).mean(0)

    def run(net: nn.Module, x: Tensor) -> Tensor:
        return net(x)

    error = refused(Leftover(), "does not do what Leftover does", run=run)
    assert "lif1" in error.where
    assert "reset" in error.fix


def test_a_state_without_a_reset() -> None:
    class Forever(HandLIF):
        reset = None  # type: ignore[assignment]

    net = nn.Sequential(nn.Linear(12, 20), Forever(), nn.Linear(20, 5))
    error = refused(net, "does not do what Sequential does", torch.rand(T, 4, 12), time_steps=T, input_time_axis=0)
    assert error.where.startswith("layer 1,")
    assert "keeps its state between samples, reset it: run=my_run" in error.fix


def test_no_neuron() -> None:
    error = refused(nn.Sequential(nn.Linear(12, 5), nn.ReLU()), "no spiking neuron", time_steps=4)
    assert "register_neuron" in error.fix


def test_time_steps() -> None:
    net = ConvNet(HandLIF(), HandLIF(), HandLIF())
    assert "time_steps=T" in refused(net, "number of time steps is not known", images(0)).fix
    refused(Looping(net), "time_steps is 7", images(0), time_steps=7)
    refused(net, "time_steps is 0", images(0), time_steps=0)
    refused(net, "no read-out", images(0), time_steps=3, readout="median")


def test_weights_and_examples() -> None:
    net = lively(Net())
    with torch.no_grad():
        net.fc2.weight[1, 1] = float("nan")
    with pytest.raises(S2CError, match="NaN weights") as caught:
        trace(net, X)
    assert caught.value.where == "fc2.weight"
    refused(Net(), "NaN or infinite", torch.full((4, 12), torch.nan))
    refused(Net(), "example is a dict", {"x": X})
    refused(Net(), "example has shape", torch.zeros(12))
    refused(Net(), r"(?s)does not run on an example of shape \(4, 11\).*test_torch_refusals", torch.zeros(4, 11))
    with pytest.raises(S2CError, match="no torch model"):
        trace("model", X)  # type: ignore[arg-type]


def test_batch_norm_that_uses_the_batch() -> None:
    class Batch(Net):
        def __init__(self) -> None:
            super().__init__()
            self.middle = nn.BatchNorm1d(20, track_running_stats=False, affine=False)

    net = Batch()
    with pytest.raises(S2CError, match="statistics of the batch"):
        trace(net, X)


def test_one_step_of_grey_images_is_no_doubt() -> None:
    net = lively(nn.Sequential(nn.Conv2d(1, 4, 3), HandLIF(), nn.Flatten(), nn.Linear(64, 4)))
    graph = trace(net, torch.rand(3, 1, 6, 6, generator=torch.Generator().manual_seed(0)), time_steps=1)
    assert (graph.coding, graph.time_steps, graph.shapes()["input"]) == ("direct", 1, (1, 6, 6))


def test_a_list_of_outputs_says_how_all_are_deployed() -> None:
    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.lif = nn.Linear(6, 8), HandLIF()

        def forward(self, x: Tensor) -> list[Tensor]:
            self.lif.reset()
            return [self.lif(self.fc(frame)) for frame in x]

    x = torch.rand(T, 3, 6, generator=torch.Generator().manual_seed(0))
    net = lively(Listed())
    assert "torch.stack(out)" in refused(net, "taken at step 0", x).fix
    graph = trace(net, x, output=torch.stack)
    assert graph.shapes()["output"] == (8,)


def test_the_refusal_is_that_of_the_axis_the_neurons_loop_over() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.lif, self.gate, self.lif2 = nn.Linear(6, 6), LoopLIF(axis=0), nn.Linear(6, 6), LoopLIF(axis=0)

        def forward(self, x: Tensor) -> Tensor:
            spikes = self.lif(self.fc(x))
            gates, trace, kept = self.gate(spikes), torch.zeros(()), []
            for t in range(len(x)):
                trace = trace * gates[t] + spikes[t]
                kept.append(trace)
            return self.lif2(torch.stack(kept))

    # As many rows as columns: either axis could be time.
    x = torch.rand(6, 3, 6, generator=torch.Generator().manual_seed(0))
    refused(lively(Gated()), "a recurrence reads 2 computed values", x)


def test_an_axis_that_cannot_be_told() -> None:
    net = nn.Sequential(nn.Linear(6, 8), HandLIF(), nn.Linear(8, 4), HandLIF())
    x = torch.rand(3, T, 6, generator=torch.Generator().manual_seed(0))
    assert "input_time_axis" in refused(net, "cannot be told", x, time_steps=T).fix
    graph = trace(lively(net), x, time_steps=T, input_time_axis=1)
    assert graph.coding == "steps"
    assert graph.shapes()["input"] == (6,)


def test_the_first_of_several_outputs_is_named() -> None:
    net = lively(Net(end=lambda y: (y.mean(0), y.sum(0))))
    with pytest.warns(UserWarning, match="returns 2 tensors: the first is deployed"):
        assert trace(net, X)["readout"].layer.how == "mean"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert trace(net, X, output=1)["readout"].layer.how == "sum"
        assert trace(net, X, output=lambda out: out[1])["readout"].layer.how == "sum"
    refused(net, "no 'logits'", output="logits")
    refused(net, "no 2", output=2)


def test_a_silent_layer_is_reported() -> None:
    net = lively(Net())
    net.lif2.threshold = 1e6
    with pytest.warns(UserWarning, match="lif2 never fired"):
        trace(net, X)


def test_a_hidden_computation_is_caught_by_the_comparison() -> None:
    class Hidden(nn.Module):
        """Its random weights change from call to call, out of sight."""

        def forward(self, h: Tensor) -> Tensor:
            return h * float(np.random.default_rng().uniform(0.5, 1.5))

    refused(Net(middle=Hidden()), "not the same at every step")


def test_a_surrogate_that_is_no_step() -> None:
    class Soft(HandLIF):
        def forward(self, x: Tensor) -> Tensor:
            super().forward(x)
            return torch.sigmoid(self.v)

    net = Net()
    net.lif2 = Soft()
    error = refused(net, "'sigmoid' has no counterpart")
    assert error.where.startswith("sigmoid in lif2 at ")
    assert "of lif2 was found: its output is no spike" in error.why


def test_spikes_of_many_values() -> None:
    class Ternary(HandLIF):
        def forward(self, x: Tensor) -> Tensor:
            spike = super().forward(x)
            return spike - Spike.apply(-x - 1.0)

    net = Net()
    net.lif1 = Ternary()
    refused(net, "(?s)lif1.*no neuron that is known")


def test_frames_of_the_wrong_length() -> None:
    net = ConvNet(HandLIF(), HandLIF(), HandLIF())
    refused(net, "does not run on an example", frames(0), time_steps=T + 1)
