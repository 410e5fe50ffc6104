"""lava-dl's slayer networks as its tutorials write them: their own forward pass's spikes, their file's integers.

The tutorials' kinds of network (Oxford: dense, a spike train to draw; N-MNIST: dense with axonal delays, and
convolutional; PilotNet: convolutional with normalization, a membrane to read, event counts on the side), small, with
random weights.
"""

from __future__ import annotations

import json
import re
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

import snn2chip as s2c
from snn2chip import lava_compat
from snn2chip.cli import main
from snn2chip.emit.netx import write_net
from snn2chip.errors import S2CError, UsageError
from snn2chip.frontend.torch.state import reset
from snn2chip.ir.layers import Delay, Linear
from snn2chip.ir.program import Program

T = 14
NEURON = {"threshold": 0.5, "current_decay": 0.25, "voltage_decay": 0.03, "tau_grad": 0.03, "scale_grad": 3}


@pytest.fixture(scope="module")
def slayer() -> types.ModuleType:
    pytest.importorskip("lava")
    pytest.importorskip("lava.lib.dl")
    lava_compat.prepare_slayer()
    import lava.lib.dl.slayer as package

    return package


class Net(nn.Module):
    """Blocks one after another, as every tutorial has them."""

    def __init__(self, *blocks: nn.Module, log: bool = False, rate: bool = False) -> None:
        super().__init__()
        self.blocks, self.log, self.rate = nn.ModuleList(blocks), log, rate

    def forward(self, spike: Tensor) -> Any:
        count = []
        cost = 0.0
        for block in self.blocks:
            spike = block(spike)
            count.append(torch.mean(spike).item())
            cost += torch.mean(torch.abs(spike)).item()
        out = torch.mean(spike, dim=-1) if self.rate else spike
        return (out, cost, torch.FloatTensor(count).reshape((1, -1)).to(spike.device)) if self.log else out


def spikes(*shape: int, seed: int = 0) -> Tensor:
    """A batch [N, ..., T]."""
    return (torch.rand(*shape, T, generator=torch.Generator().manual_seed(seed)) < 0.5).float()


def trained(net: nn.Module, x: Tensor, bias: float = 0.0) -> nn.Module:
    """Everything that a first forward pass makes is there, and differs from channel to channel."""
    with torch.no_grad():
        net(x)
        for module in net.modules():
            if type(module).__name__ == "Delay":
                module.delay.copy_(torch.arange(module.delay.numel()) % 4 + 0.5)
            if type(module).__name__ == "MeanOnlyBatchNorm":
                module.running_mean = torch.linspace(-bias, bias, 7)[torch.arange(module.num_features or 1) % 7]
    return net.eval()


def oxford(slayer: Any) -> tuple[nn.Module, Tensor]:
    block = slayer.block.cuba
    neuron = {"threshold": 0.1, "current_decay": 1, "voltage_decay": 0.1, "requires_grad": True}
    return trained(Net(block.Dense(neuron, 12, 16), block.Dense(neuron, 16, 10)), x := spikes(3, 12)), x


def nmnist(slayer: Any) -> tuple[nn.Module, Tensor]:
    block, drop = slayer.block.cuba, {**NEURON, "dropout": slayer.neuron.Dropout(p=0.3)}
    net = Net(
        block.Dense(drop, 12, 16, weight_norm=True, weight_scale=2, delay=True),
        block.Dense(drop, 16, 12, weight_norm=True, weight_scale=2, delay=True),
        block.Dense(NEURON, 12, 5, weight_norm=True, weight_scale=2),
        rate=True,
    )
    x = spikes(3, 12)
    return trained(net, x), x


def nmnist_conv(slayer: Any) -> tuple[nn.Module, Tensor]:
    block = slayer.block.cuba
    net = Net(
        block.Pool({**NEURON, "threshold": 0.2}, 2),
        block.Conv(NEURON, 2, 4, 3, padding=1, weight_scale=3, weight_norm=True),
        block.Conv(NEURON, 4, 6, 3, stride=(1, 2), weight_scale=3, groups=2),
        block.Flatten(),
        block.Recurrent(dict(NEURON), 24, 10, weight_scale=2),
        block.Dense(NEURON, 10, 6, weight_scale=2),
        block.Average(3),
        log=True,
    )
    x = spikes(3, 2, 8, 12)
    return trained(net, x), x


def pilotnet(slayer: Any) -> tuple[nn.Module, Tensor]:
    block, norm = slayer.block.cuba, {**NEURON, "norm": slayer.neuron.norm.MeanOnlyBatchNorm}
    net = Net(
        block.Input(delay_shift=False),
        block.Conv(norm, 3, 4, 3, stride=2, weight_scale=2, weight_norm=True),
        block.Conv(norm, 4, 6, (2, 3), weight_scale=2, weight_norm=True),
        block.Flatten(),
        block.Dense(norm, 30, 12, weight_scale=2, weight_norm=True),
        block.Affine(NEURON, 12, 1, weight_norm=True),
        log=True,
    )
    x = spikes(3, 3, 6, 16)
    return trained(net, x, bias=0.15), x


NETS = [oxford, nmnist, nmnist_conv, pilotnet]


def own(net: nn.Module, x: Tensor) -> np.ndarray:
    """The network's own output for each sample by itself, from rest."""
    found = []
    with torch.no_grad():
        for sample in x:
            reset(net)
            out = net(sample[None])
            found.append((out[0] if isinstance(out, tuple) else out)[0])
    return np.stack([out.movedim(-1, 0).numpy() if out.shape[-1] == T else out.numpy() for out in found])


def compiled(net: nn.Module, x: Tensor) -> tuple[s2c.Graph, Program, np.ndarray]:
    """Graph, program, and the data as they take it."""
    samples = x.movedim(-1, 1).numpy()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(never fired|the first is deployed).*")
        graph = s2c.trace(net, x)
    return graph, s2c.quantize(graph, "loihi2", samples), samples


@pytest.mark.parametrize("make", NETS)
def test_a_tutorial_network_keeps_every_spike(slayer: types.ModuleType, make: Callable[..., Any]) -> None:
    torch.manual_seed(3)
    net, x = make(slayer)
    graph, program, samples = compiled(net, x)
    wanted = own(net, x)
    assert len(x) > 2, "consecutive samples, each from rest"
    assert wanted.any()
    np.testing.assert_allclose(s2c.simulate(graph, samples).outputs, wanted, rtol=0, atol=1e-6)
    np.testing.assert_allclose(s2c.simulate(program, samples).outputs, wanted, rtol=0, atol=1e-6)
    assert all(q.threshold_error == q.decay_error == q.spikes_differing == 0 for q in program.quantization)
    assert s2c.verify(program, samples[:2], against="lava").equal


def hooked(net: nn.Module, x: Tensor) -> dict[str, np.ndarray]:
    """What each block with a neuron returned, [N, T, ...]."""
    seen: dict[str, np.ndarray] = {}
    handles = [
        block.register_forward_hook(
            lambda module, args, out, i=i: seen.update({f"blocks.{i}": out.movedim(-1, 1).numpy()})
        )
        for i, block in enumerate(net.blocks)
        if getattr(block, "neuron", None) is not None
    ]
    reset(net)
    with torch.no_grad():
        net(x)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("make", NETS)
def test_every_block_fires_as_its_own_forward_pass(slayer: types.ModuleType, make: Callable[..., Any]) -> None:
    torch.manual_seed(4)
    net, x = make(slayer)
    graph, _, samples = compiled(net, x)
    found = s2c.simulate(graph, samples, record=("spikes", "v", "out"))
    for name, wanted in hooked(net, x).items():
        late = f"{name}.delay"
        recorded = found.recordings[late].out if late in graph.nodes else found[name].v
        assert wanted.any()
        np.testing.assert_array_equal(recorded, wanted)


def exported(net: Any, path: Path) -> Path:
    """lava-dl's own file of the network."""
    import h5py

    with h5py.File(path, "w") as file:
        layer = file.create_group("layer")
        for i, block in enumerate(net.blocks):
            block.export_hdf5(layer.create_group(str(i)))
    return path


@pytest.mark.parametrize("make", [oxford, nmnist, pilotnet])
def test_the_program_is_that_of_the_exported_file(
    slayer: types.ModuleType, make: Callable[..., Any], tmp_path: Path
) -> None:
    torch.manual_seed(5)
    net, x = make(slayer)
    _, program, _ = compiled(net, x)
    file = s2c.load(exported(net, tmp_path / "network.net"))
    ours, theirs = program.neurons, file.neurons
    assert len(ours) == len(theirs) >= 2
    for one, two in zip(ours, theirs, strict=True):
        a, b = one.layer.model, two.layer.model
        for name in ("v_threshold", "decay_u", "decay_v", "membrane_bias"):
            left, right = getattr(a, name), getattr(b, name)
            assert (left is None) == (right is None)
            if left is not None:
                np.testing.assert_array_equal(*np.broadcast_arrays(left, right), err_msg=f"{one.name} {name}")
        for x_edge, y_edge in zip(one.inputs, two.inputs, strict=True):
            u, v = program[x_edge.source].layer, file[y_edge.source].layer
            np.testing.assert_array_equal(u.weight, v.weight)
            if isinstance(u, Linear):
                assert (u.delay is None) == (v.delay is None)
                np.testing.assert_array_equal(u.delay if u.delay is not None else 0, 0 if v.delay is None else v.delay)


def test_only_the_readout_waits_where_no_neuron_has_a_bias(slayer: types.ModuleType, tmp_path: Path) -> None:
    """delay_shift stands for the step that every synapse of the chip takes anyway; so it costs no relay."""
    net, x = oxford(slayer)
    graph, program, _ = compiled(net, x)
    assert [n.layer.steps for n in graph if isinstance(n.layer, Delay)] == [1, 1]
    (waits,) = [n for n in program if isinstance(n.layer, Delay)]
    assert (waits.layer.steps, waits.inputs[0].source) == (2, program.neurons[-1].name)
    write_net(program, tmp_path / "again.net")
    again = s2c.load(tmp_path / "again.net")
    for one, two in zip(program.neurons, again.neurons, strict=True):
        np.testing.assert_array_equal(
            program[one.inputs[0].source].layer.weight, again[two.inputs[0].source].layer.weight
        )


def test_a_delay_in_front_of_a_bias_stays(slayer: types.ModuleType) -> None:
    """A neuron with a bias charges up while it waits, so that it may not start earlier; the last one here has none."""
    _, program, _ = compiled(*pilotnet(slayer))
    delays = {n.inputs[0].source: n.layer.steps for n in program if isinstance(n.layer, Delay)}
    assert delays == {"blocks.1": 1, "blocks.2": 1, "blocks.5": 1}


def test_synapses_and_neurons_by_themselves(slayer: types.ModuleType) -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1 = slayer.synapse.Conv(2, 4, 3, padding=1, weight_scale=3)
            self.sn1 = slayer.neuron.cuba.Neuron(0.4, 0.3, 0.1)
            self.fc1.pre_hook_fx = self.sn1.quantize_8bit
            self.fc2 = slayer.synapse.Dense(4 * 20, 5, weight_scale=2, weight_norm=True)
            self.sn2 = slayer.neuron.cuba.Neuron(0.4, 1, 0.1)
            self.fc2.pre_hook_fx = self.sn2.quantize_8bit

        def forward(self, x: Tensor) -> Tensor:
            return self.sn2(self.fc2(self.sn1(self.fc1(x)).flatten(1, 3)))

    torch.manual_seed(0)
    x = spikes(3, 2, 4, 5)
    net = trained(Own(), x)
    graph, program, samples = compiled(net, x)
    assert [node.name for node in graph.neurons] == ["sn1", "sn2"]
    wanted = own(net, x)
    assert wanted.any()
    np.testing.assert_array_equal(s2c.simulate(program, samples).outputs, wanted)


def test_a_mask_and_decays_per_channel(slayer: types.ModuleType) -> None:
    block, neuron = slayer.block.cuba, {**NEURON, "shared_param": False, "current_decay": [0.1, 0.9]}
    torch.manual_seed(0)
    mask = torch.rand(6, 8) < 0.7
    x = spikes(3, 8)
    net = trained(Net(block.Dense(neuron, 8, 6, weight_scale=3, mask=mask), block.Dense(NEURON, 6, 4)), x)
    _, program, samples = compiled(net, x)
    model = program.neurons[0].layer.model
    assert len(set(model.decay_u.tolist())) > 1
    assert not program["blocks.0.synapse"].layer.weight[~mask.numpy()].any()
    np.testing.assert_array_equal(s2c.simulate(program, samples).outputs, own(net, x))


def test_the_command_line_takes_it(slayer: types.ModuleType, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        """
import torch
from snn2chip import lava_compat
lava_compat.prepare_slayer()
import lava.lib.dl.slayer as slayer

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        neuron = {"threshold": 0.25, "current_decay": 0.25, "voltage_decay": 0.03}
        self.blocks = torch.nn.ModuleList([
            slayer.block.cuba.Dense(neuron, 6, 8, weight_norm=True),
            slayer.block.cuba.Dense(neuron, 8, 3, weight_norm=True),
        ])
    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x.mean(-1)

def build():
    torch.manual_seed(0)
    return {"model": Net(), "example": (torch.rand(4, 6, 10) < 0.5).float()}
"""
    )
    np.savez(tmp_path / "data.npz", x=spikes(6, 6, seed=2).movedim(-1, 1)[:, :10].numpy())
    out = tmp_path / "out"
    done = CliRunner().invoke(
        main,
        ["compile", f"{tmp_path}/mine.py:build", "--calibration", str(tmp_path / "data.npz"), "--out", str(out)],
    )
    assert done.exit_code == 0, done.output
    report = json.loads((out / "report.json").read_text())
    assert all(entry["equal"] for entry in report["verification"])
    assert {entry["against"] for entry in report["verification"] if entry["ran"]} >= {"Lava's model classes"}
    assert (out / "model.net").is_file()


# ---------------------------------------------------------------------- what is refused

Make = Callable[[Any, Any], tuple[nn.Module, Tensor]]


def dense(**options: Any) -> Make:
    neuron = options.pop("neuron", {})
    return lambda slayer, block: (block.Dense({**NEURON, **neuron}, 6, 4, **options), spikes(2, 6))


REFUSED: dict[str, tuple[Make, str]] = {
    "alif": (
        lambda s, b: (
            s.block.alif.Dense(
                {"threshold": 1, "threshold_step": 1, "current_decay": 0.1, "voltage_decay": 0.1,
                 "threshold_decay": 0.1, "refractory_decay": 0.1}, 6, 4
            ),
            spikes(2, 6),
        ),
        "block.alif.Dense is not traced.*adaptive threshold neurons",
    ),
    "rf": (
        lambda s, b: (s.block.rf.Dense({"threshold": 1, "period": 4, "decay": 0.1}, 6, 4), spikes(2, 6)),
        "block.rf.Dense is not traced.*resonate-and-fire",
    ),
    "rf_iz": (
        lambda s, b: (s.block.rf_iz.Dense({"threshold": 1, "period": 4, "decay": 0.1}, 6, 4), spikes(2, 6)),
        "block.rf_iz.Dense is not traced.*resonate-and-fire",
    ),
    "sigma_delta": (
        lambda s, b: (
            s.block.sigma_delta.Dense({"threshold": 0.1, "activation": torch.relu}, 6, 4),
            spikes(2, 6),
        ),
        "block.sigma_delta.Dense is not traced.*sigma-delta",
    ),
    "ConvT": (lambda s, b: (b.ConvT(NEURON, 2, 3, 3), spikes(2, 2, 4, 4)), "ConvT is not traced.*transposed"),
    "Unpool": (lambda s, b: (b.Unpool(dict(NEURON), 2), spikes(2, 2, 4, 4)), "Unpool is not traced.*transposed"),
    "KWTA": (lambda s, b: (b.KWTA(dict(NEURON), 6, 4, 2), spikes(2, 6)), "KWTA is not traced"),
    "TimeDecimation": (lambda s, b: (b.TimeDecimation(2), spikes(2, 6)), "TimeDecimation is not traced.*several"),
    "Delay outside": (lambda s, b: (s.axon.Delay(), spikes(2, 6)), "stands outside a block.*delay=True"),
    "Input with neuron": (lambda s, b: (b.Input(NEURON, weight=1), spikes(2, 6)), "Input.*rounds its input to 1/32"),
    "Input that delays": (lambda s, b: (b.Input(), spikes(2, 6)), "only delays its input.*delay_shift=False"),
    "graded": (dense(neuron={"graded_spike": True}), "graded_spike=True.*binary spikes"),
    "large threshold": (dense(neuron={"threshold": 80.0}), "threshold 80, where its comparison in float32"),
    "negative threshold": (dense(neuron={"threshold": -0.5}), "never resets below zero"),
    "fresh decays": (
        dense(neuron={"shared_param": False}),
        "draws its current_decays at random.*run the model once",
    ),
    "fresh delays": (dense(delay=True), "draws its delays at random.*run the model once"),
    "own quantization": (dense(pre_hook_fx=lambda w: w), "no integers of the chip.*leave pre_hook_fx out"),
    "overlapping pool": (lambda s, b: (b.Pool(NEURON, 2, stride=1), spikes(2, 2, 4, 4)), "windows that overlap"),
    "mask under weight norm": (
        dense(weight_norm=True, mask=torch.ones(4, 6)),
        "a mask and weight_norm=True",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused_by_name(slayer: types.ModuleType, case: str) -> None:
    make, message = REFUSED[case]
    block, x = make(slayer, slayer.block.cuba)
    after = slayer.block.cuba.Dense(NEURON, 4, 3)
    with pytest.raises(S2CError) as caught:
        s2c.trace(nn.Sequential(block, after) if "Dense" in type(block).__name__ else nn.Sequential(block), x)
    assert caught.value.where == "0"
    assert caught.value.fix
    text = " ".join(str(caught.value).split())
    assert re.search(message, text), text


def test_refused_once_it_is_trained(slayer: types.ModuleType) -> None:
    block = slayer.block.cuba
    norm, scaled = slayer.neuron.norm.MeanOnlyBatchNorm, slayer.neuron.norm.WgtScaleBatchNorm
    cases = [
        (
            block.Conv(NEURON, 2, 4, 3, delay=True),
            spikes(2, 2, 5, 5),
            "delays its channels by 0 to 3 steps and is conv",
        ),
        (block.Recurrent(dict(NEURON), 6, 4, delay=True), spikes(2, 6), "hear their own spikes undelayed"),
        (block.Dense({**NEURON, "norm": norm}, 6, 4, delay=True), spikes(2, 6), "whose bias would start late"),
        (block.Recurrent({**NEURON, "norm": norm}, 6, 4), spikes(2, 6), "keeps the normalized current"),
        (block.Dense({**NEURON, "norm": scaled}, 6, 4), spikes(2, 6), "divides the current by 0."),
        (block.Conv({**NEURON, "shared_param": False}, 2, 4, 3), spikes(2, 2, 5, 6), "along the width of an image"),
        (block.Pool(NEURON, 2), spikes(2, 2, 5, 4), "lava-dl pads what is left over"),
    ]
    for made, x, message in cases:
        net = trained(nn.Sequential(made), x, bias=0.2)
        with pytest.raises(S2CError) as caught:
            s2c.trace(net, x)
        assert message in " ".join(str(caught.value).split()), str(caught.value)


def test_other_arithmetic_or_narrower_weights_are_refused(slayer: types.ModuleType) -> None:
    net, x = oxford(slayer)
    graph, _, samples = compiled(net, x)
    with pytest.raises(S2CError, match="weights the chip cannot hold as they were trained"):
        s2c.quantize(graph, "loihi2", samples, weight_bits=4)
    with pytest.raises(S2CError, match="reads what the training did not hold as integers"):
        s2c.quantize(graph, "loihi2", samples * 0.3)
    zero = trained(slayer.block.cuba.Dense({**NEURON, "threshold": 0.0}, 12, 4), x)
    graph = s2c.trace(nn.Sequential(zero), x)
    with pytest.raises(S2CError, match="does not fit the chip's registers with the integers it was trained with"):
        s2c.quantize(graph, "loihi2", samples)


def test_a_logged_count_may_not_come_back(slayer: types.ModuleType) -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = slayer.block.cuba.Dense(NEURON, 6, 4, weight_scale=3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.block(x)
            return x * torch.FloatTensor([x.mean().item()])

    with pytest.raises(S2CError, match="computes another network for other data"):
        s2c.trace(Gated(), spikes(2, 6))


@pytest.mark.parametrize("seed", range(8))
def test_a_network_of_random_blocks(slayer: types.ModuleType, seed: int) -> None:
    torch.manual_seed(seed)
    rng, block = np.random.default_rng(seed), slayer.block.cuba

    def neuron(normalized: bool) -> dict[str, Any]:
        decays = {name: float(rng.choice([0, 1, rng.random()])) for name in ("current_decay", "voltage_decay")}
        norm = {"norm": slayer.neuron.norm.MeanOnlyBatchNorm} if normalized and rng.random() < 0.4 else {}
        return {"threshold": float(rng.uniform(0.1, 1.5)), "scale": int(rng.choice([32, 64, 128])), **decays, **norm}

    def options() -> dict[str, Any]:
        scale, flags = float(rng.uniform(1, 4)), rng.random(2)
        return {"weight_scale": scale, "weight_norm": bool(flags[0] < 0.5), "delay_shift": bool(flags[1] < 0.8)}

    blocks = [block.Conv(neuron(True), 2, 3, 3, padding=1, **options()), block.Flatten()]
    width = 3 * 4 * 6
    for _ in range(int(rng.integers(1, 4))):
        out = int(rng.integers(3, 9))
        if rng.random() < 0.25:
            blocks.append(block.Recurrent(neuron(False), width, out, **options()))
        else:
            chosen = neuron(True)
            late = bool(rng.random() < 0.5) and "norm" not in chosen
            blocks.append(block.Dense(chosen, width, out, delay=late, **options()))
        width = out
    x = spikes(3, 2, 4, 6, seed=seed)
    net = trained(Net(*blocks), x, bias=0.3)
    graph, program, samples = compiled(net, x)
    wanted = own(net, x)
    np.testing.assert_array_equal(s2c.simulate(graph, samples).outputs, wanted)
    for engine in ("reference", "fast"):
        np.testing.assert_array_equal(s2c.simulate(program, samples, engine=engine).outputs, wanted)


FILES: dict[str, tuple[Callable[[Any], list[Any]], tuple[int, ...], dict[str, Any]]] = {
    "delays and weight norm": (
        lambda block: [
            block.Dense(dict(NEURON), 20, 30, weight_scale=3, weight_norm=True, delay=True, delay_shift=False),
            block.Dense(dict(NEURON), 30, 8, weight_scale=3, delay_shift=False),
        ],
        (20,),
        {},
    ),
    "recurrent": (
        lambda block: [
            block.Recurrent(dict(NEURON), 20, 12, weight_scale=3, delay_shift=False),
            block.Dense(dict(NEURON), 12, 8, weight_scale=3, delay_shift=False),
        ],
        (20,),
        {},
    ),
    "convolutions without an input block": (
        lambda block: [
            block.Conv(dict(NEURON), 2, 4, (3, 2), padding=(1, 0), groups=2, weight_scale=4, delay_shift=False),
            block.Conv(dict(NEURON), 4, 4, 3, stride=2, weight_scale=4, weight_norm=True, delay_shift=False),
            block.Flatten(),
            block.Dense(dict(NEURON), 36, 8, weight_scale=4, delay_shift=False),
        ],
        (2, 8, 8),
        {"input_shape": (2, 8, 8)},
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_blocks_computes_what_the_blocks_do(slayer: types.ModuleType, name: str, tmp_path: Path) -> None:
    make, shape, options = FILES[name]
    torch.manual_seed(0)
    blocks = make(slayer.block.cuba)
    if blocks[0].delay is not None:
        blocks[0].delay.delay.data = torch.arange(30.0) % 7
    x = (torch.rand(3, *shape, 30) < 0.4).float()
    expected = x
    with torch.no_grad():
        for block in blocks:
            expected = block(expected)
    path = exported(types.SimpleNamespace(blocks=blocks), tmp_path / "network.net")
    if options:
        with pytest.raises(S2CError, match="a conv layer without an input") as caught:
            s2c.load(path)
        assert "input_shape=(C, H, W)" in caught.value.fix
        with pytest.raises(UsageError, match="input_shape is"):
            s2c.load(path, input_shape=(0,))
    program = s2c.load(path, **options)
    result = s2c.simulate(program, np.moveaxis(x.numpy(), -1, 1), record="spikes")
    spikes = result[program.neurons[-1].name].spikes
    assert 0.05 < spikes.mean() < 0.95
    np.testing.assert_array_equal(spikes, np.moveaxis(expected.numpy(), -1, 1).reshape(spikes.shape))
