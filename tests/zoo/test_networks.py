"""The networks of the zoo: their size against published figures, traced and folded against their own forward pass."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import neuron as spikingjelly
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from snn2chip import quantize, simulate, trace
from snn2chip.energy import dense_operations
from snn2chip.errors import S2CError, UsageError
from snn2chip.ir import layers as L
from snn2chip.ir.graph import Edge, Graph, Node
from snn2chip.neurons.lif import LIF
from snn2chip.neurons.per_step import PerStepLIF
from snn2chip.passes import run_passes
from snn2chip.zoo import (
    NETWORKS,
    PLIF,
    QIF,
    TEBN,
    MixedLIF,
    PerStepBatchNorm,
    SpikingNetwork,
    SpikingNeuron,
    TDBatchNorm,
    network,
    reestimate_batchnorm,
)
from torch_networks import lively

T, N = 3, 2

# (MACs per step, those of the first layer, neurons) of the layer lists published with the papers' base code.
REFERENCE = {
    "resnet19": (2_285_373_952, 3_538_944, 1_442_048),
    "resnet19 48": (5_139_270_144, 5_308_416, 3_244_288),
    "resnet34": (3_663_761_408, 118_013_952, 3_562_496),
    "resnet34-cifar": (1_159_402_496, 1_769_472, 966_656),
    "vggsnn": (1_361_654_784, 2_654_208, 921_600),
    "dvsgesturenet": (841_014_272, 37_748_736, 2_794_094),
}
# Parameters as the model zoos of torchvision and pycls list them.
PARAMETERS = {"resnet18": 11_689_512, "resnet34": 21_797_672, "resnet50": 25_557_032, "regnetx-4gf": 22_118_248}

# What differs from width 1/16 on 16×16 (32×32 behind an ImageNet stem). The deepest repeat their blocks less often.
SMALL: dict[str, dict[str, Any]] = {
    "vgg16": {"shape": (3, 32, 32)},
    "vgg11": {"shape": (2, 32, 32)},
    "lenet5": {"shape": (1, 16, 16), "width": 0.5},
    "dvsgesturenet": {"shape": (2, 32, 32)},
    "resnet20": {"width": 0.25},
    "regnetx-4gf": {"layout": {"depths": (1, 1, 2, 1)}},
    "resnet50-cifar": {"layout": {"depths": (1, 1, 2, 1)}},
    "sew-resnet34": {"layout": {"depths": (1, 1, 2, 1)}},
    "sew-resnet50": {"layout": {"depths": (1, 1, 2, 1)}},
    "sew-resnet50-cifar": {"layout": {"depths": (1, 1, 2, 1)}},
    "spikformer-8-512": {"layout": {"blocks": 1}},
    "spikformer-16-512": {"layout": {"blocks": 1}},
    "metaspikeformer": {"shape": (3, 32, 32)},
}
TRANSFORMERS = ("spikformer-4-384", "spikformer-8-512", "spikformer-16-512", "metaspikeformer")


def small(name: str, **options: Any) -> SpikingNetwork:
    entry = NETWORKS[name]
    size = 32 if entry.shape[1] == 224 else 16
    shape = (entry.shape[0], size, size)
    given: dict[str, Any] = {"shape": shape, "width": 1 / 16, "classes": 5, "time_steps": T}
    # Few tokens and channels give small products.
    given |= {"attention": partial(MixedLIF, 0.5, 0.25), **SMALL.get(name, {}), **options}
    torch.manual_seed(0)
    net = lively(network(name, **given))
    net.shape = given["shape"]
    # Statistics of data keep deep networks from dying out or firing always.
    reestimate_batchnorm(net, [data(net, 3, 8)])
    return net


def data(net: Any, seed: int, samples: int = N) -> Tensor:
    """Frames of events for two channels, else images."""
    generator = torch.Generator().manual_seed(seed)
    if net.shape[0] == 2:
        return (torch.rand(samples, T, *net.shape, generator=generator) < 0.4).float()
    return torch.rand(samples, *net.shape, generator=generator) * 1.5


def populations(net: nn.Module) -> dict[str, nn.Module]:
    return {path: m for path, m in net.named_modules() if isinstance(m, SpikingNeuron)}


def run(net: nn.Module, x: Tensor) -> tuple[np.ndarray, dict[str, np.ndarray], int]:
    """The network's own forward pass: outputs, spikes [N, T, ...] of every population, MACs as torch counts them."""
    seen: dict[str, list[Tensor]] = {}
    handles = [
        m.register_forward_hook(lambda m, args, out, path=path: seen.setdefault(path, []).append(out))
        for path, m in populations(net).items()
    ]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        out = net(x)
    for handle in handles:
        handle.remove()
    spikes = {path: torch.stack(steps, 1).numpy() for path, steps in seen.items()}
    return out.numpy(), spikes, counter.get_total_flops() // 2


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_traced_and_folded_and_does_what_its_own_forward_does(name: str) -> None:
    net = small(name)
    graph = trace(net, data(net, 0))
    assert {node.name for node in graph.neurons} == set(populations(net))
    batches = [data(net, 1), data(net, 2)]
    folded, records = run_passes(graph, batches[0])
    assert not any(isinstance(node.layer, L.BatchNorm) for node in folded)
    assert all(record.differing <= record.explained for record in records)
    for x in batches:
        outputs, spikes, macs = run(net, x)
        assert np.ptp(outputs, axis=0).any(), "outputs that never differ test nothing"
        result = simulate(graph, x, record=("spikes",))
        for path, expected in spikes.items():
            assert 0 < expected.mean() < 1, f"{path} is silent or never is"
            np.testing.assert_array_equal(result[path].spikes, expected, err_msg=path)
        np.testing.assert_allclose(result.outputs, outputs, atol=1e-5 * np.abs(outputs).max())
        np.testing.assert_allclose(simulate(folded, x).outputs, outputs, atol=1e-4 * np.abs(outputs).max())
        assert dense_operations(graph).macs * T * N == macs
    assert dense_operations(graph).neurons == sum(s[0, 0].size for s in spikes.values())


@pytest.mark.parametrize("name", REFERENCE)
def test_full_size_costs_what_the_published_layer_lists_cost(name: str) -> None:
    key, _, size = name.partition(" ")
    shape = (2, int(size), int(size)) if size else NETWORKS[key].shape
    assert on_meta(key, shape) == REFERENCE[name]


def on_meta(name: str, shape: Any = None, **options: Any) -> tuple[int, int, int]:
    """MACs, those of the first layer, and neurons, of a network of full size that holds no numbers."""
    with torch.device("meta"):
        net = network(name, shape=shape, time_steps=1, **options)
        x = torch.empty(1, *(shape or NETWORKS[name].shape))
    neurons = 0

    def count(module: nn.Module, args: Any, out: Tensor) -> None:
        nonlocal neurons
        neurons += out.numel()

    for module in populations(net).values():
        module.register_forward_hook(count)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(x)
    first = counter.get_flop_counts()["SpikingNetwork.body.0"]
    return counter.get_total_flops() // 2, sum(first.values()) // 2, neurons


def test_spikformer_traced_at_full_size_costs_what_it_should() -> None:
    """Without its classifier; 4 blocks, attention included."""
    macs = 934_035_456
    assert on_meta("spikformer-4-384", classes=0)[0] == macs
    torch.manual_seed(0)
    net = lively(network("spikformer-4-384", classes=0, time_steps=2))
    x = torch.rand(2, 3, 32, 32)
    counted = dense_operations(trace(net, x))
    assert counted.macs == macs
    assert counted.first_layer == 27 * 48 * 32**2
    assert counted.neurons == on_meta("spikformer-4-384")[2]


@pytest.mark.parametrize("name", PARAMETERS)
def test_imagenet_networks_have_the_parameters_of_the_published_ones(name: str) -> None:
    with torch.device("meta"):
        net = network(name)
    assert sum(p.numel() for p in net.parameters()) == PARAMETERS[name]


def test_dense_operations_of_grouped_strided_and_token_layers() -> None:
    nodes = [
        Node("input", L.Input((4, 6, 6))),
        Node("conv", L.Conv2d(np.ones((8, 2, 3, 3)), stride=(2, 2), groups=2), (Edge("input"),)),
        Node("lif", L.Neuron(LIF(np.asarray(1.0), np.asarray(0.5))), (Edge("conv"),)),
        Node("tokens", L.Flatten(1), (Edge("lif"),)),
        Node("linear", L.Linear(np.ones((5, 4))), (Edge("tokens"),)),
        Node("turned", L.Permute((1, 0)), (Edge("linear"),)),
        Node("product", L.MatMul(), (Edge("linear"), Edge("turned"))),
        Node("output", L.Output(), (Edge("product"),)),
    ]
    found = dense_operations(Graph({n.name: n for n in nodes}, 1, "direct").verify())
    conv, linear, product = 8 * 2 * 2 * (2 * 9), 8 * 5 * 4, 8 * 8 * 5
    assert (found.macs, found.first_layer, found.neurons) == (conv + linear + product, conv, 32)


@pytest.mark.parametrize("name", [n for n in NETWORKS if n not in TRANSFORMERS and "resnet34" not in n])
def test_integers_follow_the_float_network(name: str) -> None:
    """One block per stage, so that 34 is 18. Untrained, a flipped spike flips others; rates and outputs still hold."""
    depths = getattr(NETWORKS[name].layout, "depths", None)
    net = small(name, **({"layout": {"depths": (1,) * len(depths)}} if depths else {}))
    calibration, x = data(net, 3, 8), data(net, 4, 4)
    program = quantize(trace(net, calibration), calibration=calibration)
    outputs, spikes, _ = run(net, x)
    result = simulate(program, x, record=("spikes",))
    assert result.outputs_int.dtype == np.int64
    first = next(iter(spikes))
    assert np.mean(result[first].spikes == spikes[first]) > 0.99
    for path, expected in spikes.items():
        assert result[path].spikes.mean() == pytest.approx(expected.mean(), abs=0.04), path
    assert np.corrcoef(result.outputs.ravel(), outputs.ravel())[0, 1] > 0.6


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_attention_has_no_integer_form_on_the_chip(name: str) -> None:
    net = small(name, layout={"blocks": (0, 1) if name == "metaspikeformer" else 1})
    x = data(net, 0)
    with pytest.raises(S2CError, match="a MatMul layer has no integer form on the chip") as refusal:
        quantize(trace(net, x), calibration=x)
    assert "attention" in str(refusal.value)
    assert "--host products" in refusal.value.fix
    assert ".branch" in refusal.value.where


@pytest.mark.parametrize(
    ("name", "product", "options"),
    [
        ("spikformer-4-384", "body.7.branch.matmul_2", {"layout": {"blocks": 1}}),
        ("metaspikeformer", "body.5.branch.1.matmul_2", {"shape": (3, 16, 16)}),
    ],
)
def test_attention_is_exact_with_its_products_on_the_host(name: str, product: str, options: dict[str, Any]) -> None:
    net = small(name, **options)
    calibration, x = data(net, 3, 8), data(net, 4, 4)
    # A membrane shortcut brings the sums of a direct-coded first layer where the host cannot.
    encoder: Any = "chip" if name == "metaspikeformer" else "host"
    program = quantize(trace(net, calibration), calibration=calibration, host=["products"], encoder=encoder)
    found = simulate(program, x, record=("spikes", "out"), engine="reference")
    fast = simulate(program, x, record=("spikes", "out"), engine="fast")
    np.testing.assert_array_equal(fast.outputs_int, found.outputs_int)
    for name, recorded in found.recordings.items():
        for what in ("spikes", "out"):
            np.testing.assert_array_equal(getattr(fast[name], what), getattr(recorded, what), err_msg=name)
    # By head, [N, T, heads, tokens, C / heads]; both orders of the products give the same whole numbers.
    block, attended = product.rpartition(".")[0], found[product].out
    q, k, v = (
        found[f"{block}.{part}.neuron"]
        .spikes.reshape(4, T, len(attended[0, 0]), 2, -1)
        .swapaxes(-1, -2)
        .astype(np.int64)
        for part in ("query", "key", "value")
    )
    np.testing.assert_array_equal(attended, q @ k.swapaxes(-1, -2) @ v)
    outputs, spikes, _ = run(net, x)
    for path, expected in spikes.items():
        assert found[path].spikes.mean() == pytest.approx(expected.mean(), abs=0.04), path
    assert np.corrcoef(found.outputs.ravel(), outputs.ravel())[0, 1] > 0.9


@pytest.mark.parametrize(
    "neuron", [partial(QIF, 0.5), partial(PLIF, 2.0), spikingjelly.LIFNode], ids=["QIF", "PLIF", "SpikingJelly"]
)
def test_any_neuron_can_be_put_in(neuron: Callable[[], nn.Module]) -> None:
    net = small("resnet20", neuron=neuron, layout={"depths": (1, 1, 1)})
    x = data(net, 1)
    graph = trace(net, x)
    assert len(graph.neurons) == 7
    with torch.no_grad():
        expected = net(x).numpy()
    assert np.ptp(expected, axis=0).any()
    np.testing.assert_allclose(simulate(graph, x).outputs, expected, atol=1e-5)


@pytest.mark.parametrize("name", ["vgg16", "regnetx-4gf"])
def test_with_relu_it_is_an_ann(name: str) -> None:
    net = small(name, neuron=nn.ReLU, time_steps=1)
    x = data(net, 1)
    with torch.no_grad():
        once, twice = net(x), net(2 * x)
    assert not torch.allclose(once, twice)
    assert not [m for m in net.modules() if isinstance(m, SpikingNeuron)]
    with pytest.raises(S2CError, match="no spiking neuron"):
        trace(net, x, time_steps=1)


@pytest.mark.parametrize("name", ["vgg11", "resnet19", "sew-resnet18", "spikformer-4-384", "metaspikeformer"])
def test_gradients_reach_every_parameter(name: str) -> None:
    net = small(name).train()
    net(data(net, 0, 4)).square().sum().backward()
    for path, parameter in net.named_parameters():
        assert parameter.grad is not None, path
        assert bool(torch.isfinite(parameter.grad).all()), path
        assert bool(parameter.grad.any()), path


def test_frames_bring_their_own_time_steps_and_each_call_starts_anew() -> None:
    net = small("vggsnn")
    x = data(net, 0)
    with torch.no_grad():
        assert torch.equal(net(x), net(x))
        direct = net(x[:, 0])
        same = net(x[:, :1].expand(-1, T, -1, -1, -1))
    assert torch.equal(direct, same)


# ------------------------------------------------------------------ batch norm


def test_tdbn_normalizes_over_space_batch_and_time_to_the_threshold() -> None:
    norm = TDBatchNorm(3, branches=2, v_threshold=0.5)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 2.0, 3.0]))
        norm.bias.copy_(torch.tensor([0.0, 0.1, 0.2]))
    x = torch.randn(4 * 2, 3, 5, 5, generator=torch.Generator().manual_seed(0)) * 3 + 1
    mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True, unbiased=False)
    gain, shift = (p.detach().reshape(1, 3, 1, 1) for p in (norm.weight, norm.bias))
    expected = gain * (0.5 / 2**0.5) * (x - mean) / (var + norm.eps).sqrt() + shift
    torch.testing.assert_close(norm.train()(x), expected)
    usual = nn.BatchNorm2d(3).train()
    usual(x)
    torch.testing.assert_close(norm.running_var, usual.running_var)
    torch.testing.assert_close(norm.running_mean, usual.running_mean)


def test_tdbn_halves_the_variance_of_what_meets_in_a_sum() -> None:
    net = network("resnet20", norm=partial(TDBatchNorm, v_threshold=0.5), width=0.25)
    etas = {path: m.eta for path, m in net.named_modules() if isinstance(m, TDBatchNorm)}
    summed = {path for path, eta in etas.items() if eta == pytest.approx(0.5**0.5)}
    assert summed == {path for path in etas if "branch.1" in path or "shortcut" in path}
    assert {etas[path] for path in etas.keys() - summed} == {1.0}


@pytest.mark.parametrize("norm_first", [False, True], ids=["norm last", "norm first"])
@pytest.mark.parametrize("name", ["lenet5", "resnet20", "vgg11"])
def test_tdbn_folds_before_and_behind_its_layer(name: str, norm_first: bool) -> None:
    net = small(
        name, norm=partial(TDBatchNorm, v_threshold=0.5), norm_first=norm_first, neuron=partial(MixedLIF, 0.5, 0.5)
    )
    x = data(net, 1)
    graph = trace(net, x)
    folded, _ = run_passes(graph, x)
    assert any(isinstance(node.layer, L.BatchNorm) for node in graph)
    assert not any(isinstance(node.layer, L.BatchNorm) for node in folded)
    outputs, spikes, _ = run(net, x)
    result = simulate(folded, x, record=("spikes",))
    for path, expected in spikes.items():
        assert 0 < expected.mean() < 1, path
        np.testing.assert_array_equal(result[path].spikes, expected, err_msg=path)
    np.testing.assert_allclose(result.outputs, outputs, atol=1e-4 * np.abs(outputs).max())


def test_tebn_is_refused_by_name_unless_all_steps_are_alike() -> None:
    net = small("vggsnn", norm=partial(TEBN, time_steps=T))
    x = data(net, 0)
    alike = trace(net, x)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, TEBN):
                module.p.mul_(torch.tensor([1.0, 1.1, 0.9]))
        np.testing.assert_raises(AssertionError, np.testing.assert_allclose, simulate(alike, x).outputs, net(x))
    with pytest.raises(S2CError, match="differs from step to step") as refusal:
        trace(net, x)
    assert "TEBN" in str(refusal.value)
    assert "body.0.synapses.1" in refusal.value.where


def test_a_batch_norm_per_step_is_refused_by_name() -> None:
    net = small("vggsnn", norm=partial(PerStepBatchNorm, time_steps=T))
    with pytest.raises(S2CError, match="not the same at every step") as refusal:
        trace(net, data(net, 0))
    assert "body.0.synapses.1.norms.1" in str(refusal.value)
    assert "per_step=True" in refusal.value.fix


def with_factors_per_step(norm: Any, name: str, **options: Any) -> SpikingNetwork:
    net = small(name, norm=partial(norm, time_steps=T), **options)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, TEBN):
                module.p.copy_(torch.tensor([1.0, 1.2, 0.7]))
    return net


@pytest.mark.parametrize("name", ["vggsnn", "vgg16"], ids=["frames", "direct"])
@pytest.mark.parametrize("norm", [TEBN, PerStepBatchNorm])
def test_norms_per_step_go_into_the_neurons_on_request(norm: Any, name: str) -> None:
    net = with_factors_per_step(norm, name)
    calibration = data(net, 3, 8)
    graph = trace(net, calibration, per_step=True)
    folded, _ = run_passes(graph, calibration)
    scaled = [node for node in folded.neurons if isinstance(node.layer.model, PerStepLIF)]
    assert len(scaled) == sum(isinstance(m, norm) for m in net.modules())
    assert not any(isinstance(node.layer, L.BatchNorm | L.Scale) for node in folded)
    for node in scaled:
        np.testing.assert_allclose(np.mean(np.abs(node.layer.model.factor), axis=0), 1, atol=1e-6)
    program = quantize(graph, calibration=calibration, refine=False)
    for seed in (1, 2):
        x = data(net, seed)
        outputs, spikes, _ = run(net, x)
        found, integers = (simulate(g, x, record=("spikes",)) for g in (graph, program))
        for path, expected in spikes.items():
            assert 0 < expected.mean() < 1, path
            np.testing.assert_array_equal(found[path].spikes, expected, err_msg=path)
        np.testing.assert_allclose(found.outputs, outputs, atol=1e-5 * np.abs(outputs).max())
        first = next(iter(spikes))
        assert np.mean(integers[first].spikes == spikes[first]) > 0.99
    assert any("input scaled per step" in note for note in program.notes)
    with pytest.raises(S2CError, match="fixed neuron is a LIF, not a PerStepLIF"):
        quantize(graph, target="loihi1", calibration=calibration, refine=False)


def test_norms_per_step_in_front_of_a_sum_are_refused_by_name() -> None:
    net = with_factors_per_step(TEBN, "resnet20", layout={"depths": (1, 1, 1)})
    with pytest.raises(S2CError, match="norms that differ from step to step feed something other") as refusal:
        trace(net, data(net, 0), per_step=True)
    assert "add in body.1.0.current" in refusal.value.where


def test_batch_norm_says_what_does_not_fit() -> None:
    with pytest.raises(S2CError, match=r"batch norm over 3 channels is fed a tensor of shape \(2, 4\)"):
        TDBatchNorm(3)(torch.zeros(2, 4))


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet43", {}, "no network 'resnet43'"),
        ("vgg16", {"widht": 2}, "no option 'widht'"),
        ("vgg16", {"layout": {"blocks": 2}}, "no option 'blocks'"),
        ("vgg16", {"shape": (3, 16, 16)}, "16×16 is too small"),
        ("spikformer-4-384", {"shape": (3, 30, 32)}, "does not split into patches of 4"),
    ],
)
def test_what_the_zoo_does_not_have(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as refusal:
        network(name, **options)
    assert refusal.value.fix or "patches" in message
