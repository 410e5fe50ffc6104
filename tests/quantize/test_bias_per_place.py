"""A constant in front of zero padding, a batch norm's offset above all, from torch to the chip: one bias a neuron."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import networks
from networks import batch_norm, weights
from snn2chip.emit.netx import write_net
from snn2chip.emit.nir import write_program
from snn2chip.errors import S2CError
from snn2chip.frontend.load import load
from snn2chip.frontend.netx import read_net
from snn2chip.frontend.torch import trace
from snn2chip.ir.graph import Edge, Graph
from snn2chip.ir.layers import Conv, Conv2d, Neuron, Readout
from snn2chip.ir.program import Program
from snn2chip.mapping import check, estimate
from snn2chip.neurons.alif import ALIF
from snn2chip.neurons.lif import LIF
from snn2chip.neurons.lnm import LNM
from snn2chip.neurons.per_step import PerStepLIF
from snn2chip.neurons.qif import QIF
from snn2chip.neurons.ternary import TernaryLIF
from snn2chip.passes import run_passes
from snn2chip.quantize import quantize
from snn2chip.simulate import simulate
from snn2chip.verify import verify
from snn2chip.verify.lava import shim
from snn2chip.zoo.layers import Firing, Residual, Spiking, SpikingNetwork, Stateless
from tests.netx import assert_netx_agrees, needs_netx
from torch_networks import HandLIF, images, lively, spikes

C, D, H, T, CLASSES = 3, 4, 6, 5, 4
needs_lava = pytest.mark.skipif(not shim.installed(), reason="lava-nc is not installed")


class Plus(nn.Module):
    """Adds a constant to every channel, as the normalization of an input does."""

    def __init__(self, axes: int = 2) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.linspace(-0.6, 0.9, D).reshape(-1, *[1] * axes))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.offset


class Positions(nn.Module):
    """Adds a map of its own to every image, as an embedding of positions does."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Parameter(0.7 * torch.randn(D, H, H, generator=torch.Generator().manual_seed(3)))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.embedding


class OneAxis(nn.Module):
    """The rows of an image as one long row."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(-2)


def hard() -> nn.Module:
    return HandLIF(0.5, strict=True)


def conv(n: int = D, m: int = D, **options: Any) -> nn.Module:
    return nn.Conv2d(n, m, 3, padding=1, **options)


def head(features: int = D * H * H) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(features, CLASSES))


def stem() -> nn.Module:
    return Spiking(conv(C), neuron=hard())


def two_populations(*synapses: nn.Module, neuron: nn.Module | None = None, features: int = D * H * H) -> nn.Module:
    body = nn.Sequential(stem(), Spiking(*synapses, neuron=neuron or hard()))
    return SpikingNetwork(body, head(features), T)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "norm": lambda: two_populations(nn.BatchNorm2d(D), conv()),
    "stride, groups, dilation": lambda: two_populations(
        nn.BatchNorm2d(D), nn.Conv2d(D, 6, 3, 2, (2, 1), (2, 1), groups=2), features=6 * 9
    ),
    "constant": lambda: two_populations(Plus(), conv(bias=False)),
    "positions in front": lambda: two_populations(Positions(), conv()),
    "positions in front, no padding": lambda: two_populations(Positions(), nn.Conv2d(D, D, 3), features=D * 16),
    "positions behind": lambda: two_populations(conv(), Positions(), nn.BatchNorm2d(D)),
    "zeros written out": lambda: two_populations(nn.BatchNorm2d(D), nn.ZeroPad2d(1), nn.Conv2d(D, D, 3)),
    "norms on both sides": lambda: two_populations(nn.BatchNorm2d(D), conv(), nn.BatchNorm2d(D)),
    "mean in between": lambda: two_populations(nn.BatchNorm2d(D), nn.AvgPool2d(2), conv(), features=D * 9),
    "pointwise in between": lambda: two_populations(nn.Conv2d(D, 5, 1), conv(5)),
    "three in a row": lambda: two_populations(nn.BatchNorm2d(D), conv(), nn.BatchNorm2d(D), nn.Conv2d(D, D, 1)),
    "one axis": lambda: two_populations(OneAxis(), nn.BatchNorm1d(D), nn.Conv1d(D, D, 3, padding=1)),
    "soft reset": lambda: two_populations(nn.BatchNorm2d(D), conv(), neuron=HandLIF(0.5, reset="soft")),
    "shortcut": lambda: SpikingNetwork(
        nn.Sequential(
            stem(), Firing(Residual(Stateless(nn.BatchNorm2d(D), conv()), Stateless(nn.Conv2d(D, D, 1))), hard())
        ),
        head(),
        T,
    ),
}


@functools.cache
def network(name: str) -> tuple[nn.Module, Tensor, Graph, Program]:
    net, x = lively(NETWORKS[name]()), spikes(12, T, C, H, H)
    graph = trace(net, x)
    return net, x, graph, quantize(graph, "loihi2", x, refine=False)


def last(program: Program) -> Any:
    return program.neurons[-1].layer.model  # type: ignore[attr-defined]


def fires(program: Program, x: Any) -> Any:
    result = simulate(program, x, record=("u", "v", "spikes"), engine="reference")
    for node in program.neurons:
        assert 0.02 < result[node.name].spikes.mean() < 0.98
    return result


@pytest.mark.parametrize("name", NETWORKS)
def test_the_folded_graph_is_torchs_network(name: str) -> None:
    net, x = lively(NETWORKS[name]()), spikes(12, T, C, H, H)
    graph = trace(net, x)
    folded, records = run_passes(graph, x.numpy())
    with torch.no_grad():
        expected = net(x).numpy()
    assert expected.std() > 0.05
    synapses = [n for n in folded if isinstance(n.layer, Conv)]
    assert len(synapses) == (3 if name == "shortcut" else 2)
    assert any(n.layer.per_place for n in synapses if isinstance(n.layer, Conv))
    np.testing.assert_allclose(simulate(folded, x).outputs, expected, rtol=1e-5, atol=1e-5)
    (record,) = [r for r in records if r.name == "fuse_linear"]
    assert record.changed
    if name == "positions behind":
        assert [n.name for n in synapses] == [
            n.name for n in graph if isinstance(n.layer, Conv) and not n.layer.per_place
        ]
    assert record.differing <= record.explained


@pytest.mark.parametrize(
    "name",
    ["norm", "positions behind", "stride, groups, dilation", "mean in between", "one axis", "soft reset", "shortcut"],
)
def test_the_program_keeps_the_spikes_on_either_engine(name: str, tmp_path: Path) -> None:
    _, x, graph, program = network(name)
    shape = program.shapes()[program.neurons[-1].name]
    assert last(program).bias.shape == shape
    assert all(n.layer.bias is None for n in program if isinstance(n.layer, Conv))
    reference = fires(program, x)
    fast = simulate(program, x, record=("u", "v", "spikes"), engine="fast")
    trained = simulate(graph, x, record="spikes")
    for node in program.neurons:
        for state in ("u", "v", "spikes"):
            np.testing.assert_array_equal(getattr(fast[node.name], state), getattr(reference[node.name], state))
        assert (trained[node.name].spikes != reference[node.name].spikes).mean() < 0.06
    np.testing.assert_array_equal(fast.outputs_int, reference.outputs_int)
    (quantized,) = [q for q in program.quantization if q.name == program.neurons[-1].name]
    assert "one for every neuron" in " ".join(quantized.remarks)
    write_program(program, tmp_path / "model.nir")
    assert load(tmp_path / "model.nir") == program


def test_each_bias_is_what_torch_gives_for_no_spikes_at_all() -> None:
    net, _, _, program = network("norm")
    synapses, neuron = net.body[1].synapses, last(program)  # type: ignore[index, union-attr]
    with torch.no_grad():
        silence = synapses(torch.zeros(1, D, H, H))[0].numpy()
    assert np.ptp(silence[:, 0, 0] - silence[:, 2, 2]) > 0.5, "the border must be another one than the middle"
    unit = program.formats[f"{program.neurons[-1].name}.v"].scale
    # Half a step of the mantissa, and what the search took back of each channel's mean rounding error.
    corrected = (neuron.input_bias * unit - silence).reshape(D, -1)
    assert np.abs(corrected - corrected.mean(1, keepdims=True)).max() < 1.01 * unit * 2.0**neuron.bias_exp
    assert np.abs(corrected).max() < 0.05


@needs_lava
@pytest.mark.parametrize("name", ["norm", "one axis", "soft reset", "shortcut"])
def test_lavas_models_give_the_same_integers(name: str) -> None:
    _, x, _, program = network(name)
    fires(program, x[:3])
    report = verify(program, x[:3], against="lava")
    assert report.equal
    assert {"u", "v", "spikes"} <= set(report.layers[1].values)


MODELS = {
    "synaptic current": LIF(0.8, 0.6, current_decay=0.4, fire=">"),
    "adaptive": ALIF(0.8, 0.7, 0.8, 0.3),
    "polynomial": LNM(0.8, (0.1, -0.7, 0.2, -0.1), "added", None, squash=True),
    "quadratic": QIF(0.9),
    "ternary": TernaryLIF(0.8, 0.6),
    "per step": PerStepLIF(LIF(0.8, 0.6), *(tuple(np.linspace(a, b, T)) for a, b in ((0.7, 1.4), (-0.1, 0.1)))),
    "gathers": LIF(np.inf, 0.9),
}


@needs_lava
@pytest.mark.parametrize("name", MODELS)
def test_every_neuron_takes_it(name: str) -> None:
    rng = np.random.default_rng(4)
    before = networks.graph(
        (2, 5, 5),
        networks.node("norm", batch_norm(rng, 2), "x"),
        networks.node("conv", Conv2d(weights(rng, 3, 2, 3, 3, gain=1.5), padding=(1, 1)), "norm"),
        networks.node("neuron", Neuron(MODELS[name]), "conv"),
    )
    x = spikes(8, T, 2, 5, 5).numpy()
    program = quantize(before, "loihi2", x, refine=False)
    model = last(program)
    held = model.bias_u if name == "synaptic current" else model.bias
    assert held.shape == (3, 5, 5)
    assert len(np.unique(held[0])) > 1
    trained, found = (simulate(network, x, record="spikes") for network in (before, program))
    if name == "gathers":
        assert np.corrcoef(trained.outputs.ravel(), found.outputs.ravel())[0, 1] > 0.999
    else:
        assert 0.02 < np.abs(trained["neuron"].spikes).mean() < 0.98
        assert (found["neuron"].spikes != trained["neuron"].spikes).mean() < 0.1
    for oracle in ("fast", "lava"):
        assert verify(program, x[:3], against=oracle).equal


@needs_netx
def test_netx_takes_a_bias_for_every_neuron(tmp_path: Path) -> None:
    _, x, _, program = network("norm")
    with pytest.raises(S2CError, match="has a bias that is no multiple of 64"):
        write_net(program, tmp_path / "model.net")
    nodes = []
    for n in program:
        if isinstance(n.layer, Neuron):
            model = n.layer.model
            rounded = dataclasses.replace(model, bias=model.membrane_bias + 32 >> 6, bias_exp=6)
            nodes.append(dataclasses.replace(n, layer=Neuron(rounded)))
        elif n.layer.kind not in ("Flatten", "Linear"):
            source = program.neurons[-1].name if isinstance(n.layer, Readout) else None
            nodes.append(dataclasses.replace(n, inputs=(Edge(source),)) if source else n)
    coarse = program.with_nodes(nodes).verify()
    assert len(np.unique(last(coarse).bias[0])) > 3
    write_net(coarse, tmp_path / "model.net")
    again = read_net(tmp_path / "model.net")
    np.testing.assert_array_equal(last(again).bias, last(coarse).bias)
    assert min(assert_netx_agrees(tmp_path / "model.net", again, x[0].numpy().astype(int))) > 0


@pytest.mark.parametrize("encoder", ["host", "chip"])
def test_a_normalized_image_in_front_of_the_first_layer(encoder: Any) -> None:
    normalized = Spiking(nn.BatchNorm2d(C), conv(C), neuron=hard())
    net, x = lively(SpikingNetwork(nn.Sequential(normalized), head(), T)), images(0, 8, C, H, H)
    graph = trace(net, x)
    program = quantize(graph, "loihi2", x, encoder=encoder)
    assert last(program).bias.shape == (D, H, H)
    reference = fires(program, x)
    fast = simulate(program, x, record="spikes", engine="fast")
    (name,) = (n.name for n in program.neurons)
    np.testing.assert_array_equal(fast[name].spikes, reference[name].spikes)
    assert (simulate(graph, x, record="spikes")[name].spikes != reference[name].spikes).mean() < 0.05
    with torch.no_grad():
        expected = net(x).numpy()
    assert np.corrcoef(expected.ravel(), reference.outputs.ravel())[0, 1] > 0.98


def test_a_head_on_the_host_has_a_bias_for_every_place(tmp_path: Path) -> None:
    pixels = nn.Sequential(nn.BatchNorm2d(D), conv(D, 2))
    net, x = lively(SpikingNetwork(nn.Sequential(stem()), pixels, T)), spikes(12, T, C, H, H)
    program = quantize(trace(net, x), "loihi2", x)
    (synapse,) = [n for n in program if isinstance(n.layer, Conv) and n.placement == "host"]
    assert synapse.layer.bias.shape == (2, H, H)  # type: ignore[attr-defined]
    reference = fires(program, x)
    with torch.no_grad():
        expected = net(x).numpy()
    assert np.abs(reference.outputs - expected).max() < 0.05 * np.ptp(expected)
    np.testing.assert_array_equal(simulate(program, x, engine="fast").outputs_int, reference.outputs_int)
    notes = write_program(program, tmp_path / "model.nir")
    assert any("differs from place to place" in note for note in notes)
    assert load(tmp_path / "model.nir") == program


def test_what_it_costs_on_the_chip() -> None:
    """Loihi 2 keeps it in the memory that synapses use, 13 bits a neuron; Loihi 1 beside it, with its compartments."""
    _, _, _, program = network("norm")
    first, second = estimate(program).layers
    assert (first.bias_bits, second.bias_bits) == (13 * D, 13 * D * H * H)
    assert second.memory_bits == 8 * D * D * 9 + (24 + 24 + 13) * D * H * H
    _, x, graph, _ = network("norm")
    loihi1 = quantize(graph, "loihi1", x, refine=False)
    assert last(loihi1).bias.shape == (D, H, H)
    assert [layer.bias_bits for layer in estimate(loihi1).layers] == [0, 0]
    assert not check(program)
    assert not check(loihi1)


def test_maxima_of_sums_whose_bias_differs_within_a_window_are_refused() -> None:
    pooled = two_populations(nn.BatchNorm2d(D), conv(), nn.MaxPool2d(2), features=D * 9)
    net, x = lively(pooled), spikes(12, T, C, H, H)
    with pytest.raises(S2CError, match=r"(?s)differs within the windows.*behind the convolution"):
        quantize(trace(net, x), "loihi2", x, host=["pools"])
