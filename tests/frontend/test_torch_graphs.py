"""What traced graphs look like, and that nothing about the model or the batch leaks into them or out of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snn2chip.errors import S2CError
from snn2chip.frontend.torch import trace
from snn2chip.ir import layers as L
from snn2chip.passes import run_passes
from snn2chip.simulate import simulate
from torch_networks import C, ConvNet, H, HandLIF, Looping, LoopLIF, N, Spike, StrictSpike, T, frames, images, lively


def looped(net: nn.Module, x: Tensor, read: Any) -> Tensor:
    for m in net.modules():
        if isinstance(m, HandLIF):
            m.reset()
    return read(torch.stack([net(frame) for frame in x]))


def equal(graph: Any, samples: Tensor, expected: Tensor, atol: float = 1e-5) -> None:
    assert expected.std() > 0.01, "a constant output tests nothing"
    np.testing.assert_allclose(simulate(graph, samples).outputs, expected.detach(), atol=atol, rtol=1e-5)


def test_layers_carry_the_users_names_shapes_and_lines() -> None:
    net = lively(ConvNet(HandLIF(), HandLIF(), HandLIF()))
    graph = trace(net, images(0), time_steps=T)
    expected = "input conv1 bn1 lif1 pool conv2 bn2 lif2 flat fc lif3 readout output"
    assert " ".join(graph.nodes) == expected
    assert graph.shapes()["conv1"] == (6, H, H)
    assert graph.shapes()["flat"] == (72,)
    source = graph["conv1"].source
    assert source.module == "conv1"
    assert source.file.endswith("torch_networks.py")
    line = open(source.file).read().splitlines()[source.line - 1]  # noqa: PTH123, SIM115
    assert "self.conv1(x)" in line
    np.testing.assert_array_equal(graph["conv1"].layer.weight, net.conv1.weight.detach())
    assert graph["readout"].placement == "host"


@pytest.mark.parametrize("batch", [1, 2, T, 9])
def test_any_batch_gives_the_same_graph(batch: int) -> None:
    net = Looping(lively(ConvNet(HandLIF(), HandLIF(), HandLIF())))
    reference = trace(net, images(0))
    x = images(1, batch, C, H, H)
    graph = trace(net, x)
    assert graph == reference
    equal(graph, images(2), net(images(2)))


@pytest.mark.parametrize("layout", ["[T, N, ...]", "[N, T, ...]", "[N, ..., T]"])
def test_time_axis_is_found_even_when_batch_and_time_are_alike(layout: str) -> None:
    axis = {"[T, N, ...]": 0, "[N, T, ...]": 1, "[N, ..., T]": 4}[layout]
    net = lively(ConvNet(HandLIF(), HandLIF(), HandLIF()))

    def run(net: nn.Module, x: Tensor) -> Tensor:
        return looped(net, x.movedim(axis, 0), lambda y: y.mean(0))

    x = frames(0)[:, :N].repeat(1, 2, 1, 1, 1)[:, :T]  # T samples of T steps
    graph = trace(net, x.movedim(0, axis), run=run)
    assert graph.coding == "steps"
    y = frames(1)
    equal(graph, y.transpose(0, 1), run(net, y.movedim(0, axis)))


def test_the_model_is_left_as_it_was() -> None:
    net = lively(ConvNet(HandLIF(), HandLIF(), HandLIF()))
    net.train()
    net.bn1.eval()
    net(images(3))
    before = {k: v.clone() for k, v in net.state_dict().items()}
    membranes = [m.v.clone() for m in net.neurons.values()]
    attributes = {name: set(vars(m)) for name, m in net.named_modules()}
    handle = net.conv1.register_forward_hook(lambda *_: None)
    trace(net, images(0), time_steps=T)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert all(torch.equal(m.v, v) for m, v in zip(net.neurons.values(), membranes, strict=True))
    assert {name: set(vars(m)) for name, m in net.named_modules()} == attributes
    assert net.training
    assert not net.bn1.training
    assert len(net.conv1._forward_hooks) == 1
    handle.remove()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


READS = {
    "mean": (lambda y: y.mean(0), "mean"),
    "sum": (lambda y: y.sum(0), "sum"),
    "count over T": (lambda y: y.sum(0) / T, "mean"),
    "python sum": (lambda y: sum(y), "sum"),
    "scaled sum": (lambda y: y.sum(0) * 0.25, "sum"),
    "last": (lambda y: y[-1], "last"),
    "maximum": (lambda y: y.max(0).values, "max"),
    "mean of all but feature": (lambda y: y.permute(1, 2, 0).mean(-1), "mean"),
}


@pytest.mark.parametrize("kind", READS)
def test_readouts(kind: str) -> None:
    read, how = READS[kind]
    net = lively(ConvNet(HandLIF(), HandLIF(), HandLIF()))
    net.lif3 = nn.Identity()
    run = lambda net, x: looped(net, x, read)  # noqa: E731
    graph = trace(net, frames(0), run=run)
    assert graph["readout"].layer.how == how
    equal(graph, frames(1).transpose(0, 1), run(net, frames(1)))


def test_a_model_that_returns_every_step_does_so_too() -> None:
    net = lively(ConvNet(HandLIF(), HandLIF(), HandLIF()))
    run = lambda net, x: looped(net, x, lambda y: y)  # noqa: E731
    graph = trace(net, frames(0), run=run)
    assert "readout" not in graph.nodes
    equal(graph, frames(1).transpose(0, 1), run(net, frames(1)).transpose(0, 1))
    mean = trace(net, frames(0), run=run, readout="mean")
    equal(mean, frames(1).transpose(0, 1), run(net, frames(1)).mean(0))


@pytest.mark.parametrize("how", ["mean", "sum"])
def test_a_head_behind_the_readout_moves_in_front_of_it(how: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.lif, self.bn, self.fc2 = nn.Linear(12, 20), HandLIF(), nn.BatchNorm1d(20), nn.Linear(20, 5)

        def forward(self, x: Tensor) -> Tensor:
            self.lif.reset()
            spikes = torch.stack([self.lif(self.fc1(x)) for _ in range(T)])
            return self.fc2(self.bn(getattr(spikes, how)(0))) * 2.0

    net = lively(Net())
    x = torch.rand(4, 12, generator=torch.Generator().manual_seed(0))
    graph = trace(net, x)
    assert graph["readout"].layer.how == how
    assert {"bn", "fc2"} <= set(graph.nodes)
    equal(graph, x, net(x))


class Odds(nn.Module):
    """Constants, functional layers, weights computed on the way, pooling to one, concatenation, a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, C, 3, 3, generator=torch.Generator().manual_seed(1)))
        self.conv = nn.Conv2d(6, 6, 3, padding="same", groups=2)
        self.conv2 = nn.Conv2d(6, 6, 3, stride=2, padding=1, dilation=1)
        self.lif1, self.lif2, self.lif3 = HandLIF(), HandLIF(), HandLIF()
        self.gain = nn.Parameter(torch.rand(6, 1, 1, generator=torch.Generator().manual_seed(2)) + 0.5)
        self.fc = nn.Linear(12, 7)
        self.register_buffer("mean", torch.tensor([0.4, 0.5]).reshape(1, 2, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = (x - self.mean) / 0.5
        w = (self.weight - self.weight.mean((1, 2, 3), keepdim=True)) / self.weight.std((1, 2, 3), keepdim=True)
        a = self.lif1(F.conv2d(x, w, padding=1))
        b = self.lif2(self.conv(a) * self.gain + a)
        c = torch.cat((self.lif3(self.conv2(b)), F.avg_pool2d(b, 2)), 1)
        return self.fc(F.adaptive_avg_pool2d(c, 1).squeeze(-1).squeeze(-1))


def test_functional_layers_constants_and_joins() -> None:
    net = Looping(lively(Odds()))
    x = images(0)
    graph = trace(net, x)
    kinds = {type(n.layer) for n in graph}
    assert {L.Scale, L.Add, L.Concat, L.AvgPool, L.BatchNorm} <= kinds
    assert sum(isinstance(n.layer, L.Conv2d) for n in graph) == 3
    assert "net.mul" in graph.nodes
    for seed in (1, 2):
        equal(graph, images(seed), net(images(seed)))


def heads(h: Tensor) -> Tensor:
    """Channels in three parts, as attention splits queries, keys and values."""
    q, k, v = h.chunk(3, 1)
    return torch.cat((q + k, v[:, 1:], v.narrow(1, 0, 1)), 1)


PARTS = {
    "chunks": heads,
    "slices in space": lambda h: torch.cat((h[:, :, 1:], h[:, :, :1].flip(3)), 2),
    "one row everywhere": lambda h: h[:, :, 1].unsqueeze(2).expand(-1, -1, 4, -1),
    "picked channels": lambda h: h[:, [5, 0, 0, 3]],
    "every second": lambda h: h[..., ::2, 1:-1],
    "zeros on two sides": lambda h: F.pad(h, (1, 0, 2, 0)),
    "zeros all around": nn.ZeroPad2d(2),
    "cut and padded": lambda h: F.pad(h, (-1, 1)),
    "channels of zeros": lambda h: F.pad(h, (0, 0, 0, 0, 1, 3)),
}


@pytest.mark.parametrize("kind", PARTS)
def test_parts_of_tensors_and_padding(kind: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.lif, self.lif2 = nn.Conv2d(C, 6, 3, padding=1), HandLIF(), HandLIF()
            self.mix, self.fc = nn.LazyConv2d(4, 2), nn.LazyLinear(5)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.lif2(self.mix(PARTS[kind](self.lif(self.conv(x))))).flatten(1))

    made = Looping(Net())
    made(images(0))
    net = lively(made)
    graph = trace(net, images(0))
    assert sum(isinstance(n.layer, L.Gather) for n in graph) == (3 if kind == "chunks" else 1)
    for seed in (1, 2):
        equal(graph, images(seed), net(images(seed)))


def token_attention(h: Tensor) -> Tensor:
    """One spike a token, summed over the features of its query, masks its keys (QKFormer)."""
    q, k = h.flatten(2).chunk(2, 1)
    return (q.sum(1, keepdim=True) * k).unflatten(2, h.shape[2:])


ENLARGED = {
    "nearest": nn.Upsample(scale_factor=2),
    "nearest, any size": lambda h: F.interpolate(h, size=(9, 5), mode="nearest"),
    "exact nearest": lambda h: F.interpolate(h, size=(8, 7), mode="nearest-exact"),
    "pixels of channels": nn.PixelShuffle(1),
    "channels of pixels": nn.PixelUnshuffle(2),
    "a larger adaptive pooling": nn.AdaptiveAvgPool2d((12, 3)),
    "one value everywhere": lambda h: F.adaptive_avg_pool2d(F.adaptive_avg_pool2d(h, 1), 7),
    "a masked key": token_attention,
    "sums over space": lambda h: h.sum((2, 3), keepdim=True) + h,
}


@pytest.mark.parametrize("kind", ENLARGED)
def test_repetitions_and_broadcast(kind: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.lif, self.lif2 = nn.Conv2d(C, 6, 3, padding=1), HandLIF(), HandLIF()
            self.fc = nn.LazyLinear(5)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.lif2(ENLARGED[kind](self.lif(self.conv(x)))).flatten(1))

    made = Looping(Net())
    made(images(0))
    net = lively(made)
    graph = trace(net, images(0))
    for seed in (1, 2):
        equal(graph, images(seed), net(images(seed)))
    if "pooling" not in kind and "one value" not in kind:
        folded, _ = run_passes(graph, images(0).numpy())
        equal(folded, images(1), net(images(1)))


TRANSPOSED: dict[str, dict[str, Any]] = {
    "doubled": {"kernel_size": 2, "stride": 2},
    "with an odd size": {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1},
    "of one stride": {"kernel_size": 3, "padding": 1},
    "cut at the border": {"kernel_size": 2, "stride": 3, "padding": 2},
    "in groups, dilated": {"kernel_size": (3, 2), "stride": (1, 2), "groups": 2, "dilation": 2, "bias": False},
}


@pytest.mark.parametrize("kind", TRANSPOSED)
def test_transposed_convolutions(kind: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.lif, self.lif2 = nn.Conv2d(C, 6, 3, padding=1), HandLIF(), HandLIF()
            self.up, self.fc = nn.ConvTranspose2d(6, 4, **TRANSPOSED[kind]), nn.LazyLinear(5)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.lif2(self.up(self.lif(self.conv(x)))).flatten(1))

    made = Looping(Net())
    made(images(0))
    net = lively(made)
    graph = trace(net, images(0))
    assert isinstance(graph["net.up"].layer, L.Conv2d)
    for seed in (1, 2):
        equal(graph, images(seed), net(images(seed)))


def test_sequences_grow_and_vectors_are_pooled() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.lif, self.lif2 = nn.Linear(8, 12), HandLIF(), HandLIF()
            self.up = nn.ConvTranspose1d(2, 3, 3, stride=2, padding=1, output_padding=1)

        def forward(self, x: Tensor) -> Tensor:
            pooled = F.max_pool1d(self.lif(self.fc(x)), 2)
            return self.lif2(self.up(pooled.unflatten(1, (2, 3))))

    net = Looping(lively(Net()))
    x = images(0, 3, 8)
    equal(trace(net, x), x, net(x))


def test_sequences_and_one_dimension() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn, self.lif = nn.Conv1d(3, 6, 5, stride=2, padding=2), nn.BatchNorm1d(6), HandLIF()
            self.pool, self.fc, self.bn2, self.lif2 = nn.MaxPool1d(2), nn.Linear(24, 8), nn.BatchNorm1d(8), HandLIF()

        def forward(self, x: Tensor) -> Tensor:
            return self.lif2(self.bn2(self.fc(self.pool(self.lif(self.bn(self.conv(x)))).flatten(1))))

    net = Looping(lively(Net()))
    x = torch.rand(3, 3, 16, generator=torch.Generator().manual_seed(0))
    equal(trace(net, x), x, net(x))


class LastAxis(nn.Module):
    """[N, C, H, W, T], written into a preallocated tensor step by step, as in the code of STBP-tdBN."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(C, 6, 3, padding=1), nn.Linear(6 * H * H, 10)

    def fire(self, x: Tensor) -> Tensor:
        u, out = torch.zeros(x.shape[:-1]), torch.zeros(x.shape)
        for t in range(x.shape[-1]):
            u = 0.3 * u * (1 - out[..., max(t - 1, 0)]) + x[..., t]
            out[..., t] = StrictSpike.apply(u - 0.5)
        return out


class LastAxisFire(LastAxis):
    forward = LastAxis.fire


class LastAxisNet(LastAxis):
    def __init__(self) -> None:
        super().__init__()
        self.lif1, self.lif2 = LastAxisFire(), LastAxisFire()
        for lif in (self.lif1, self.lif2):
            del lif.conv, lif.fc

    def each(self, layer: nn.Module, x: Tensor) -> Tensor:
        out = torch.zeros((*layer(x[..., 0]).shape, x.shape[-1]))
        for t in range(x.shape[-1]):
            out[..., t] = layer(x[..., t])
        return out

    def forward(self, x: Tensor) -> Tensor:
        x = self.lif1(self.each(self.conv, x))
        x = self.lif2(self.each(self.fc, x.view(x.shape[0], -1, x.shape[-1])))
        return x.sum(2) / x.shape[-1]


def test_time_on_the_last_axis_written_in_place() -> None:
    net = lively(LastAxisNet())
    x = frames(0).permute(1, 2, 3, 4, 0).contiguous()
    graph = trace(net, x)
    assert [n.name for n in graph.neurons] == ["lif1", "lif2"]
    y = frames(1)
    equal(graph, y.transpose(0, 1), net(y.permute(1, 2, 3, 4, 0).contiguous()))


class Broadcast(LastAxisNet):
    """An image is repeated by broadcasting it against T zeros."""

    def forward(self, x: Tensor) -> Tensor:
        x, _ = torch.broadcast_tensors(x.unsqueeze(-1), torch.zeros(T))
        return super().forward(x)


def test_an_image_is_broadcast_over_time() -> None:
    net = lively(Broadcast())
    graph = trace(net, images(0))
    assert graph.coding == "direct"
    equal(graph, images(1), net(images(1)))


class ConvLIF(nn.Module):
    """Layer and neuron in one module, state kept in it; the tracer drives it."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(c_in, c_out, 3, padding=1), nn.BatchNorm2d(c_out)
        self.mem: Tensor | None = None

    def reset(self) -> None:
        self.mem = None

    def forward(self, x: Tensor) -> Tensor:
        current = self.bn(self.conv(x))
        self.mem = torch.zeros_like(current) if self.mem is None else self.mem
        self.mem = self.mem * 0.5 + current
        spike = Spike.apply(self.mem - 1.0)
        self.mem = self.mem - spike
        return spike


def test_layer_and_neuron_in_one_module() -> None:
    net = lively(nn.Sequential(ConvLIF(C, 6), ConvLIF(6, 8), nn.Flatten(), nn.Linear(8 * H * H, 10)))
    graph = trace(net, images(0), time_steps=T)
    assert "0.neuron" in graph.nodes
    assert graph.time_steps == T

    def run(x: Tensor) -> Tensor:
        for m in (net[0], net[1]):
            m.reset()
        return torch.stack([net(x) for _ in range(T)]).mean(0)

    equal(graph, images(1), run(images(1)))
    frames_graph = trace(net, frames(0), time_steps=T, readout="last")
    assert frames_graph.coding == "steps"


def test_a_leaky_integrator_at_the_end() -> None:
    class Integrator(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tau, self.v = 0.8, None

        def reset(self) -> None:
            self.v = None

        def forward(self, x: Tensor) -> Tensor:
            self.v = x if self.v is None else self.v * self.tau + x
            return self.v

    net = lively(nn.Sequential(nn.Linear(12, 20), HandLIF(), nn.Linear(20, 5), Integrator()))
    x = torch.rand(4, 12, generator=torch.Generator().manual_seed(0))
    graph = trace(net, x, time_steps=T, readout="last")
    assert [n.layer.kind for n in graph.neurons] == ["LIF", "LI"]
    net[1].reset()
    net[3].reset()
    equal(graph, x, [net(x) for _ in range(T)][-1])


def test_plain_matrix_products_are_linear_layers() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            g = torch.Generator().manual_seed(0)
            self.w1, self.w2 = (nn.Parameter(torch.randn(s, generator=g) * 0.8) for s in ((12, 20), (20, 5)))
            self.b2 = nn.Parameter(torch.rand(5, generator=g))
            self.lif1, self.lif2 = HandLIF(), HandLIF()

        def forward(self, x: Tensor) -> Tensor:
            return self.lif2(torch.addmm(self.b2, self.lif1(x @ self.w1), self.w2))

    net = Looping(lively(Net()))
    x = torch.rand(4, 12, generator=torch.Generator().manual_seed(0))
    graph = trace(net, x)
    linear = [n.layer for n in graph if isinstance(n.layer, L.Linear)]
    assert [layer.weight.shape for layer in linear] == [(20, 12), (5, 20)]
    equal(graph, x, net(x))


def test_gates_between_signals() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2, self.fc3 = nn.Linear(12, 20), nn.Linear(12, 20), nn.Linear(20, 5)
            self.lif1, self.lif2, self.lif3 = HandLIF(), HandLIF(decay=0.8), HandLIF()

        def forward(self, x: Tensor) -> Tensor:
            a, b = self.lif1(self.fc1(x)), self.lif2(self.fc2(x))
            return self.lif3(self.fc3(a * b - 0.5 * a + b / 4))

    net = Looping(lively(Net()))
    x = torch.rand(4, 12, generator=torch.Generator().manual_seed(0)) * 2
    graph = trace(net, x)
    assert sum(isinstance(n.layer, L.Mul) for n in graph) == 1
    equal(graph, x, net(x))


class Volumes(nn.Module):
    """Layers over three axes, one of which is time; a pool to which the batch looks like channels."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

        def size(k: int) -> tuple[int, ...]:
            around = [k, k]
            around.insert(axis, 1)
            return tuple(around)

        self.conv = nn.Conv3d(C, 6, size(3), padding=tuple(k // 2 for k in size(3)), bias=False)
        self.bn, self.lif = nn.BatchNorm3d(6), LoopLIF(axis=2 + axis)
        self.pool, self.most = nn.AvgPool3d(size(2)), nn.MaxPool3d((1, 2, 2), (1, 1, 1), (0, 1, 1))
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = x.movedim(2, 2 + self.axis)
        x = self.pool(self.lif(self.bn(self.conv(x)))).movedim(2 + self.axis, 0)
        x = F.adaptive_avg_pool3d(self.most(x), (None, 1, 1))
        return self.head(x.flatten(2)).mean(0)


class Pointwise(nn.Module):
    """Convolutions over time with kernels of one element: [N, C, T], and [N, C, length, T]."""

    def __init__(self, flat: bool, groups: int = 1, kernel: int = 1) -> None:
        super().__init__()
        self.flat, features = flat, C * H * H if flat else C
        self.conv: nn.Module = (
            nn.Conv1d(features, 8, kernel, padding=kernel // 2, groups=groups)
            if flat
            else nn.Conv2d(features, 8, (3, kernel), padding=(1, kernel // 2), groups=groups)
        )
        self.bn, self.lif = (nn.BatchNorm1d if flat else nn.BatchNorm2d)(8), LoopLIF(axis=-1)
        self.head = nn.Linear(8 if flat else 8 * H * H, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = (x.flatten(2) if self.flat else x.flatten(3)).movedim(0, -1)
        return self.head(self.lif(self.bn(self.conv(x))).movedim(-1, 0).flatten(2)).mean(0)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("flat", [True, False])
def test_convolutions_with_one_element_along_time(flat: bool, groups: int) -> None:
    net = lively(Pointwise(flat, groups))
    graph = trace(net, frames(0))
    assert isinstance(graph["conv"].layer, L.Linear if flat else L.Conv1d)
    for seed in (1, 2):
        equal(graph, frames(seed).transpose(0, 1), net(frames(seed)))


@pytest.mark.parametrize("flat", [True, False])
def test_convolutions_over_time_are_refused(flat: bool) -> None:
    with pytest.raises(S2CError, match=r"(?s)runs over time.*3 elements there.*input_time_axis"):
        trace(lively(Pointwise(flat, kernel=3)), frames(0))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_three_axes_of_which_one_is_time(axis: int) -> None:
    net = lively(Volumes(axis))
    with torch.no_grad():
        net.conv.weight.mul_(6)
        net.bn.running_mean.uniform_(-0.3, 0.3)
        net.bn.weight.uniform_(0.8, 1.5)
    x = frames(0).permute(1, 2, 0, 3, 4)
    graph = trace(net, x, input_time_axis=2)
    assert [type(node.layer) for node in graph][1:7] == [
        L.Conv2d,
        L.BatchNorm,
        L.Neuron,
        L.AvgPool,
        L.MaxPool,
        L.AvgPool,
    ]
    for seed in (1, 2):
        x = frames(seed).permute(1, 2, 0, 3, 4)
        equal(graph, x.movedim(2, 1), net(x))


class InPlace(nn.Module):
    """Changes the data it is given, casts what needs no cast."""

    def __init__(self) -> None:
        super().__init__()
        self.net = ConvNet(HandLIF(), HandLIF(), HandLIF())

    def forward(self, x: Tensor) -> Tensor:
        x.mul_(1.5).unsqueeze_(0)
        out = torch.zeros(x.shape[1], 10)
        for frame in x.repeat(T, 1, 1, 1, 1):
            frame = frame.float().contiguous()
            out += self.net(frame.to(torch.float32))
        return out / T


def test_a_model_may_change_its_input_in_place() -> None:
    net = lively(InPlace())
    x = images(0)
    graph = trace(net, x)
    np.testing.assert_array_equal(x, images(0))
    for m in net.modules():
        if isinstance(m, HandLIF):
            m.reset()
    equal(graph, images(1), net(images(1)))
