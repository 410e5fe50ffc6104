"""The zoo's modules: traced exactly, quantized, trainable; S000's two paths and its batch-norm statistics."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import snn2chip as s2c
from snn2chip import zoo
from snn2chip.errors import S2CError
from torch_networks import lively, per_step, watched

T, N = 6, 8
Make = Callable[[int], zoo.SpikingNeuron]


class Net(nn.Module):
    """Two layers of one kind of neuron, called at every step."""

    def __init__(self, make: Make) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.first = make(0)
        self.fc = nn.Linear(4 * 25, 12)
        self.second = make(1)
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.bn(self.conv(x)))
        return self.head(self.second(self.fc(x.flatten(1))))


def trained(lnm: zoo.LNM) -> zoo.LNM:
    """Coefficients as training leaves them, all of them at work."""
    with torch.no_grad():
        lnm.theta += torch.linspace(0.15, -0.1, len(lnm.theta))
    return lnm


NEURONS: dict[str, Make] = {
    "mixed": lambda i: zoo.MixedLIF(0.5),
    "plif": lambda i: zoo.PLIF(1.7),
    "plif soft": lambda i: zoo.PLIF(1.7, v_reset=None),
    "if": lambda i: zoo.SoftResetIF(v_start=0.5),
    "if scaled": lambda i: zoo.SoftResetIF(0.8, fire=">=", scaled=True),
    "alif": lambda i: zoo.ALIF(0.9, 0.9, 0.3),
    "alif soft": lambda i: zoo.ALIF(0.9, 0.9, 0.3, adaptation_step=0.5, reset_to="soft"),
    "alif adaptive": lambda i: zoo.ALIF(0.9, 0.9, 0.3, reset_to="adaptive"),
    "lnm added": lambda i: trained(zoo.LNM(3)),
    "lnm absorbed": lambda i: trained(zoo.LNM(5, "absorbed", 5.0, gated=True)),
    "lnm subtracted": lambda i: trained(zoo.LNM(2, "subtracted", None, squash=True)),
    "qif": lambda i: zoo.QIF(),
    "qif carries": lambda i: zoo.QIF(0.6, 0.3, -0.1, 0.4, carries=True),
    "ternary": lambda i: zoo.TernaryLIF(0.5, amplitude=0.5),
    "ternary soft": lambda i: zoo.TernaryLIF(0.5, soft=True),
    "tpp": lambda i: zoo.TPP(1.0, T // 3, seed=i, first=i * T // 3),
}


def data(seed: int) -> Tensor:
    """[T, N, C, H, W] spikes."""
    return (torch.rand(T, N, 2, 5, 5, generator=torch.Generator().manual_seed(seed)) < 0.5).float()


@pytest.fixture(params=sorted(NEURONS))
def net(request: pytest.FixtureRequest) -> Net:
    made = lively(Net(NEURONS[request.param]))
    assert isinstance(made, Net)
    return made


def test_the_graph_is_the_module_over_two_samples_and_survives_the_chip(net: Net) -> None:
    graph = s2c.trace(net, data(0), time_steps=T, input_time_axis=0)
    models = [node.layer.model for node in graph.neurons]  # type: ignore[attr-defined]
    assert models == [net.first.neuron(), net.second.neuron()]
    layers = {"first": net.first, "second": net.second}
    for seed in (1, 2):
        x = data(seed)
        with watched(net, layers, lambda m, out: m.v.clone()) as seen, torch.no_grad():
            zoo.reset(net)
            outputs = torch.stack([net(frame) for frame in x]).mean(0)
        result = s2c.simulate(graph, x.movedim(0, 1), record=("spikes", "v"))
        for name in layers:
            spikes, membranes = (per_step(list(part)) for part in zip(*seen[name], strict=True))
            assert 0.03 < np.abs(np.sign(spikes)).mean() < 0.95
            assert (result[name].spikes == spikes).all()
            np.testing.assert_allclose(result[name].v, membranes, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(result.outputs, outputs, rtol=1e-4, atol=1e-5)

    program = s2c.quantize(graph, calibration=data(0).movedim(0, 1))
    fixed = s2c.simulate(program, data(3).movedim(0, 1), record="spikes")
    real = s2c.simulate(graph, data(3).movedim(0, 1), record="spikes")
    for name in layers:
        a, b = np.sign(real[name].spikes), np.sign(fixed[name].spikes)
        assert (a != b).mean() < 0.05
    worth = net.second.neuron().spike_value
    with torch.no_grad():
        headed = net.head(torch.from_numpy(worth * fixed["second"].spikes.mean(axis=1)).float())
    np.testing.assert_allclose(fixed.outputs, headed, atol=2e-3)


def test_a_chip_with_a_fixed_neuron_refuses_the_others() -> None:
    graph = s2c.trace(lively(Net(lambda i: zoo.QIF())), data(0), time_steps=T, input_time_axis=0)
    with pytest.raises(S2CError, match="this chip's fixed neuron is a LIF, not a QIF") as caught:
        s2c.quantize(graph, target="loihi1", calibration=data(0).movedim(0, 1))
    assert "first" in str(caught.value.where)
    assert "loihi2" in str(caught.value.fix)


@pytest.mark.parametrize(("make", "binary"), [(lambda: zoo.QIF(), True), (lambda: zoo.TernaryLIF(0.5), False)])
def test_max_pooling_of_their_spikes_is_an_or_where_they_are_binary(
    make: Callable[[], zoo.SpikingNeuron], binary: bool
) -> None:
    net = lively(nn.Sequential(nn.Conv2d(2, 4, 2), make(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 3)))
    graph = s2c.trace(net, data(0), time_steps=T, input_time_axis=0)
    x = data(1).movedim(0, 1)
    if not binary:
        with pytest.raises(S2CError, match="values that are not spikes"):
            s2c.quantize(graph, calibration=x)
        return
    fixed, real = (s2c.simulate(g, x, record="spikes") for g in (s2c.quantize(graph, calibration=x), graph))
    assert (fixed["1"].spikes != real["1"].spikes).mean() < 0.02
    pooled = fixed["1"].spikes.reshape(N, T, 4, 2, 2, 2, 2).max(axis=(4, 6))
    assert (fixed["2"].spikes == pooled).all()


def test_a_changed_neuron_is_not_taken_for_the_one_it_was() -> None:
    class Louder(zoo.QIF):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(2 * x)

    # Twice the input into a quadratic neuron is another quadratic neuron.
    net, plain = lively(Net(lambda i: Louder())), lively(Net(lambda i: zoo.QIF()))
    outputs = []
    for model in (net, plain):
        graph = s2c.trace(model, data(0), time_steps=T, input_time_axis=0)
        outputs.append(s2c.simulate(graph, data(1).movedim(0, 1)).outputs)
        zoo.reset(model)
        own = torch.stack([model(frame) for frame in data(1)]).mean(0)
        np.testing.assert_allclose(outputs[-1], own.detach(), atol=1e-5)
    assert np.abs(outputs[0] - outputs[1]).max() > 0.05


def test_every_kind_learns(net: Net) -> None:
    """Gradients reach every parameter through every step, but for the neuron that is not trained."""
    net.train()
    out = torch.stack([net(frame) for frame in data(4)]).mean(0)
    out.square().sum().backward()
    learns = not isinstance(net.first, zoo.TPP)
    for name, parameter in net.named_parameters():
        reached = parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
        assert reached == (learns or name.startswith("head")), name
    zoo.reset(net)


def gradient(neuron: zoo.SpikingNeuron, xs: Tensor) -> list[float]:
    x = xs.clone().requires_grad_()
    neuron.reset()
    neuron(x).sum().backward()
    assert x.grad is not None
    return x.grad.tolist()


def test_the_windows_are_the_published_ones() -> None:
    xs = torch.tensor([0.2, 0.55, 0.99, 1.2, 1.6])
    # S000 Eq. 2, centred on V_th: 1/α within α/2.
    assert gradient(zoo.MixedLIF(0.5, 1.0, alpha=1.0), xs) == [0, 1, 1, 1, 0]
    assert gradient(zoo.MixedLIF(0.5, 1.0, alpha=0.5), xs) == [0, 0, 2, 2, 0]
    # S003 Eq. 16 at the defaults: 1 on [−0.449, 0.574].
    window = gradient(zoo.QIF(), torch.tensor([-0.46, -0.44, 0.0, 0.57, 0.58]))
    assert window == [0, 1, 1, 1, 0]
    # Bellec et al.: 0.3·max(0, 1 − |v − θ|).
    np.testing.assert_allclose(gradient(zoo.ALIF(0.9, 0.9, 0.1), torch.tensor([0.5, 1.0, 1.25])), [0.15, 0.3, 0.225])


# ---------------------------------------------------------------------- S000's two paths


def test_the_surrogate_path_is_the_clipped_relu_with_its_own_membrane() -> None:
    neuron = zoo.MixedLIF(0.5, 1.0, alpha=0.8, v_reset=0.1)
    v_a = v_b = 0.0
    for x in torch.randn(40, generator=torch.Generator().manual_seed(0)).add(0.4).tolist():
        h_a, h_b = 0.5 * v_a + x, 0.5 * v_b + x
        o_a, o_b = float(h_a >= 1.0), min(max((h_b - 1.0) / 0.8 + 0.5, 0.0), 1.0)
        v_a = (1 - o_a) * h_a + 0.1 * o_a
        v_b = 0.1 if o_b >= 0.5 else h_b
        frame = torch.tensor([x])
        assert neuron.forward_spiking(frame).item() == o_a
        assert neuron.forward_surrogate(frame).item() == pytest.approx(o_b, abs=1e-6)
        assert neuron.v is not None
        assert neuron.v_surrogate is not None
        assert neuron.v.item() == pytest.approx(v_a, abs=1e-6)
        assert neuron.v_surrogate.item() == pytest.approx(v_b, abs=1e-6)


class TwoPaths(nn.Module):
    """S000 Alg. 2's two entry points over shared weights."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Net(lambda i: zoo.MixedLIF(0.5))

    def _run(self, x: Tensor, path: zoo.two_paths.Path) -> Tensor:
        with zoo.on_path(self, path):
            zoo.reset(self)
            return torch.stack([self.body(frame) for frame in x]).mean(0)

    def forward_spiking(self, x: Tensor) -> Tensor:
        return self._run(x, "spiking")

    def forward_surrogate(self, x: Tensor) -> Tensor:
        return self._run(x, "surrogate")

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.forward_spiking(x), self.forward_surrogate(x)


def test_only_the_spiking_path_is_deployed() -> None:
    net = lively(TwoPaths())
    assert isinstance(net, TwoPaths)
    x = data(0)
    graph = s2c.trace(net, x, run=lambda model, batch: model.forward_spiking(batch))
    with torch.no_grad():
        spiking, surrogate = net(x)
    found = s2c.simulate(graph, x.movedim(0, 1)).outputs
    np.testing.assert_allclose(found, spiking, rtol=1e-4, atol=1e-5)
    assert not np.allclose(found, surrogate, atol=1e-2)
    assert [n.name for n in graph.neurons] == ["body.first", "body.second"]
    # The paths share weights and nothing else: both learn.
    net.train()
    spiking, surrogate = net(x)
    ((spiking - surrogate.detach()) ** 2).sum().backward()
    one = net.body.conv.weight.grad.clone()  # type: ignore[union-attr]
    net.zero_grad()
    spiking, surrogate = net(x)
    ((spiking.detach() - surrogate) ** 2).sum().backward()
    assert one.abs().sum() > 0
    assert not torch.allclose(one, net.body.conv.weight.grad)  # type: ignore[arg-type]


def test_statistics_are_those_of_the_spiking_path() -> None:
    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.n1 = nn.Linear(7, 9), zoo.MixedLIF(0.5)
            self.fc2, self.bn, self.n2 = nn.Linear(9, 5), nn.BatchNorm1d(5, momentum=0.3), zoo.MixedLIF(0.5)

        def forward(self, x: Tensor) -> Tensor:
            return self.n2(self.bn(self.fc2(self.n1(self.fc1(x)))))

    net = lively(Deep())
    assert isinstance(net, Deep)
    batches = [torch.rand(20, 7, generator=torch.Generator().manual_seed(i)) for i in range(4)]
    net.train()
    with zoo.on_path(net, "surrogate"), torch.no_grad():
        net(batches[0])
    before = net.bn.running_mean.clone()  # type: ignore[union-attr]
    estimated = zoo.reestimate_batchnorm(net, [(x, None) for x in batches], run=lambda m, x: [m(x) for _ in range(3)])
    assert estimated == 1
    # Independent: collect what reaches the batch norm, average the statistics of every call.
    means, variances = [], []
    with torch.no_grad():
        for x in batches:
            v = torch.zeros(20, 9)
            for _ in range(3):
                h = 0.5 * v + net.fc1(x)
                s = (h >= 1).float()
                v = (1 - s) * h
                y = net.fc2(s)
                means.append(y.mean(0))
                variances.append(y.var(0))
    torch.testing.assert_close(net.bn.running_mean, torch.stack(means).mean(0))
    torch.testing.assert_close(net.bn.running_var, torch.stack(variances).mean(0))
    assert not torch.allclose(net.bn.running_mean, before)  # type: ignore[arg-type]
    assert (net.training, net.bn.training, net.bn.momentum) == (True, True, 0.3)
    assert net.n1.path == "spiking"
    assert net.n1.v is None


# ---------------------------------------------------------------------- S001


def test_a_two_phase_network_reads_out_the_sum_with_its_bias() -> None:
    """Phases one after another, the head gathering in the last: the mean over seeds nears the thresholded ANN."""
    steps = 16
    generator = torch.Generator().manual_seed(0)
    w1, w2 = torch.randn(40, 6, generator=generator) * 0.4, torch.randn(3, 40, generator=generator) * 0.3
    b1, b2 = torch.rand(40, generator=generator) * 0.3, torch.randn(3, generator=generator)
    x = torch.rand(5, 6, generator=generator)

    class Converted(nn.Module):
        def __init__(self, seed: int) -> None:
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(6, 40), nn.Linear(40, 3)
            self.neuron = zoo.TPP(1.0, steps, seed)
            self.gather = zoo.TPP(math.inf, steps, 0, first=steps)
            with torch.no_grad():
                for layer, w, b in ((self.fc1, w1, b1), (self.fc2, w2, b2)):
                    layer.weight.copy_(w)
                    layer.bias.copy_(b)

        def forward(self, x: Tensor) -> Tensor:
            return self.gather(self.fc2(self.neuron(self.fc1(x))))

    outputs = []
    for seed in range(8):
        net = Converted(seed).eval()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graph = s2c.trace(net, x, time_steps=2 * steps, readout="last", input_time_axis=None)
        outputs.append(s2c.simulate(graph, x).outputs / steps)
    ann = (w1 @ x.T + b1[:, None]).clamp(0, 1).T @ w2.T + b2
    np.testing.assert_allclose(np.mean(outputs, axis=0), ann, atol=0.15)
    assert np.std(outputs, axis=0).max() > 0
