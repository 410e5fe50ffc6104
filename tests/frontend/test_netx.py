"""NetX files against NetX's own reader on Lava's own models, and what NetX would get wrong, refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from snn2chip.errors import S2CError, UsageError
from snn2chip.frontend.load import load
from snn2chip.frontend.netx import read_net
from snn2chip.ir.program import Program
from snn2chip.simulate import simulate
from tests.netx import assert_netx_agrees, needs_netx

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(3)


def write(path: Path, *layers: dict[str, Any], **simulation: int) -> Path:
    """A .net file as lava-dl lays it out."""
    with h5py.File(path, "w") as file:
        for i, layer in enumerate(layers):
            group = file.create_group(f"layer/{i}")
            group.create_dataset("type", (1,), "S10", [layer["type"].encode()])
            for name, value in layer.items():
                if name == "neuron":
                    for key, item in value.items():
                        group[f"neuron/{key}"] = item
                elif name != "type":
                    group[name] = value
        for key, item in simulation.items():
            file[f"simulation/{key}"] = item
    return path


def neuron(**changes: Any) -> dict[str, Any]:
    return {"type": "CUBA", "iDecay": 4096, "vDecay": 300, "vThMant": 90, "refDelay": 1, "gradedSpike": False} | changes


def even(*shape: int, low: int = -40, high: int = 90) -> Array:
    return 2 * RNG.integers(low // 2, high // 2, shape).astype(np.float32)


def source(*shape: int) -> dict[str, Any]:
    return {"type": "input", "shape": np.array(shape)}


def dense(out: int, width: int, **changes: Any) -> dict[str, Any]:
    return {"type": "dense", "shape": np.array([out, 1, 1]), "weight": even(out, width), "neuron": neuron()} | changes


def conv(shape: tuple[int, ...], weight: Array, **changes: Any) -> dict[str, Any]:
    sizes = {"stride": np.array([1, 1]), "padding": np.array([0, 0]), "dilation": np.array([1, 1]), "groups": 1}
    return {"type": "conv", "shape": np.array(shape), "weight": weight, "neuron": neuron(), **sizes} | changes


NETWORKS: dict[str, tuple[dict[str, Any], ...]] = {
    "dense": (source(6), dense(9, 6, neuron=neuron(iDecay=1500)), dense(5, 9, bias=np.arange(-2, 3))),
    "no input layer": (dense(4, 6), dense(3, 4)),
    "flat weight": (source(6), dense(1, 6, weight=even(6, low=0))),
    "odd weights": (source(6), dense(9, 6, weight=RNG.integers(-90, 120, (9, 6)))),
    "one sign": (source(6), dense(9, 6, weight=RNG.integers(0, 256, (9, 6)))),
    "loihi": (source(6), dense(9, 6, neuron=neuron(type="LOIHI", vDecay=0))),
    "parameters per neuron": (
        source(6),
        dense(4, 6, neuron=neuron(iDecay=np.arange(1, 5) * 900, vDecay=np.arange(4) * 1000, vThMant=np.arange(4) * 40)),
    ),
    "no neuron": (source(6), dense(9, 6), {k: v for k, v in dense(3, 9).items() if k != "neuron"}),
    "recurrent": (source(6), dense(5, 6, type="dense_rec", weight_rec=even(5, 5)), dense(3, 5)),
    "delay": (source(6), dense(5, 6, delay=np.asarray(3))),
    "delay per synapse": (source(6), dense(5, 6, delay=RNG.integers(0, 8, (5, 6)))),
    "delay per output": (source(6), dense(5, 6, delay=RNG.integers(0, 8, 5))),
    "delay per input": (source(6), dense(5, 6, delay=RNG.integers(0, 8, 6))),
    "delay of a square weight": (source(6), dense(6, 6, delay=np.arange(6))),
    "conv": (
        source(2, 5, 7),
        conv(
            (3, 3, 7), even(3, 2, 3, 3), stride=np.array([2, 1]), padding=np.array([1, 1]), bias=np.array([3, -8, 20])
        ),
        conv((4, 1, 5), even(4, 3, 3, 3)),
        {"type": "flatten", "shape": np.array([20, 1, 1])},
        dense(3, 20),
    ),
    "conv with groups, dilation and a fifth axis": (
        source(2, 6, 8),
        conv((4, 4, 4), even(4, 1, 2, 3, 1), dilation=np.array([2, 2]), groups=2),
    ),
    "conv, a kernel that is not square, parameters per channel": (
        source(2, 6, 5),
        conv(
            (3, 5, 2), even(3, 2, 2, 4), neuron=neuron(vThMant=np.array([50, 90, 130]), iDecay=np.array([4096, 9, 700]))
        ),
    ),
    "conv, bias per neuron": (
        source(2, 4, 5),
        conv((3, 3, 4), even(3, 2, 2, 2), bias=RNG.integers(-20, 20, (4, 3, 3))),
    ),
    "image flattened first": (source(2, 3, 4), {"type": "flatten", "shape": np.array([24])}, dense(5, 24)),
    "flat input of three axes": (source(6, 1, 1), dense(5, 6)),
}


def spikes(program: Program, steps: int) -> Array:
    return np.random.default_rng(1).integers(0, 2, (steps, *program.shapes()["input"]))


@needs_netx
@pytest.mark.parametrize("name", NETWORKS)
def test_every_state_equals_netx(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / "n.net", *NETWORKS[name])
    program = read_net(path)
    x = spikes(program, 24)
    flat = x.reshape(len(x), -1) if name == "image flattened first" else None
    if flat is None:
        fired = assert_netx_agrees(path, program, x)
        assert all(n > 0 for n in fired[: -1 if name == "no neuron" else None])
        return
    # NetX takes such an input flat.
    lava_program = read_net(write(tmp_path / "flat.net", source(24), NETWORKS[name][2]))
    assert_netx_agrees(tmp_path / "flat.net", lava_program, flat)
    np.testing.assert_array_equal(simulate(program, x[None]).outputs, simulate(lava_program, flat[None]).outputs)


@needs_netx
@pytest.mark.parametrize("name", ["dense", "conv", "recurrent"])
def test_resets_equal_netx_and_isolated_samples(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / "n.net", *NETWORKS[name])
    program = read_net(path)
    depth = len(program.neurons)
    interval = 8
    x = np.concatenate([spikes(program, interval)] * 3)
    assert_netx_agrees(path, program, x, interval)
    machine = simulate(program, x[None], record="v", clock="machine", reset_interval=interval)
    alone = simulate(program, x[None, :interval], record="v")
    last = program.neurons[-1].name
    np.testing.assert_array_equal(machine[last].v[:, depth : depth + interval], alone[last].v)  # type: ignore[index]


def test_names_notes_and_read_out(tmp_path: Path) -> None:
    program = read_net(write(tmp_path / "n.net", *NETWORKS["conv"], tSample=9))
    assert list(program.nodes) == [
        "input",
        "layer.1.synapse",
        "layer.1",
        "layer.2.synapse",
        "layer.2",
        "layer.3",
        "layer.4.synapse",
        "layer.4",
        "readout",
        "output",
    ]
    assert program.time_steps == 9
    assert read_net(tmp_path / "n.net", time_steps=4).time_steps == 4
    assert program.notes == ()
    assert load(tmp_path / "n.net") == program
    x = spikes(program, 9)[None]
    counted = simulate(program, x, record="spikes")
    np.testing.assert_array_equal(counted.outputs, counted["layer.4"].spikes.sum(1))  # type: ignore[union-attr]
    read = simulate(read_net(tmp_path / "n.net", readout="v"), x, record="v")
    np.testing.assert_array_equal(read.outputs_int, read["layer.4"].v[:, -1])  # type: ignore[index]


def test_a_layer_without_neuron_is_read_by_its_membrane(tmp_path: Path) -> None:
    path = write(tmp_path / "n.net", *NETWORKS["no neuron"])
    program = read_net(path)
    assert program["layer.2"].layer.kind == "LI"
    assert "membrane" in program.notes[0]
    assert program.time_steps is None
    with pytest.raises(UsageError, match="never fires"):
        read_net(path, readout="spikes")


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({"neuron": neuron(refDelay=3)}, "refDelay is 3"),
        ({"neuron": neuron(wgtExp=2)}, "wgtExp is 2"),
        ({"weight": np.array([[3, -5]] * 3)}, "odd"),
        ({"bias": np.array([5000, 0, 0])}, "beyond ±4095"),
    ],
)
def test_what_the_chip_would_do_otherwise_is_noted(change: dict[str, Any], note: str, tmp_path: Path) -> None:
    program = read_net(write(tmp_path / "n.net", source(2), dense(3, 2, **change)))
    assert any(note in text for text in program.notes)


def test_an_input_neuron_is_noted_and_not_run(tmp_path: Path) -> None:
    block = source(6) | {"weight": 40.0, "bias": 36.0, "neuron": neuron()}
    with_neuron = read_net(write(tmp_path / "a.net", block, dense(5, 6, weight=np.full((5, 6), 2))))
    without = read_net(write(tmp_path / "b.net", source(6), dense(5, 6, weight=np.full((5, 6), 2))))
    assert any("input" in note for note in with_neuron.notes)
    assert {n.name: n for n in with_neuron} == {n.name: n for n in without}


IMAGE = source(2, 5, 5)
REFUSED: list[tuple[tuple[dict[str, Any], ...], str]] = [
    *[
        ((IMAGE, {"type": kind, "shape": np.array([1])}), kind)
        for kind in ("pool", "convT", "average", "concat", "soma")
    ],
    ((source(2), dense(3, 2, neuron=neuron(type="SDNN"))), "sigma-delta"),
    ((source(2), dense(3, 2, neuron=neuron(type="ADRF_IZ"))), "adaptive resonate-and-fire"),
    ((source(2), dense(3, 2, neuron=neuron(type="RF_PHASE"))), "resonate-and-fire"),
    ((source(2), dense(3, 2, neuron=neuron(type="ALIF"))), "adaptive neurons"),
    ((source(2), dense(3, 2, neuron=neuron(messageBits=8))), "messageBits"),
    ((source(2), dense(3, 2, neuron=neuron(iDecay=5000))), "iDecay spans 5000"),
    ((source(2), dense(3, 2, neuron={"type": "CUBA", "vDecay": 1, "vThMant": 3})), "no iDecay"),
    ((source(2), dense(3, 2, delay=np.asarray(63))), "63"),
    ((source(2), dense(3, 2, delay=np.asarray(-1))), "-1"),
    ((source(2), dense(3, 2, delay=np.zeros(5))), "delay has shape (5,)"),
    (
        (source(2), dense(3, 2, type="dense_rec", weight_rec=even(3, 3), delay=np.asarray(2))),
        "recurrent layer with delays",
    ),
    ((source(2), dense(3, 2, type="dense_rec")), "no weight_rec"),
    ((source(2), dense(3, 2, weight=np.full((3, 2), 0.5))), "holds 0.5"),
    ((source(2), dense(3, 2, weight=np.full((3, 2), np.nan))), "NaN"),
    ((source(2), dense(3, 2, weight=np.array([[-300, 2]] * 3))), "weights span -300"),
    ((source(2), dense(3, 2, weight=np.array([[300, 2]] * 3))), "weights span 2…300"),
    ((source(2), dense(3, 2, weight=np.array([[-256, -2]] * 3))), "weights span -256"),
    ((source(2), dense(3, 2, bias=np.array([70000, 0, 0]))), "bias spans"),
    ((source(2), dense(3, 2, bias=np.zeros(4) + 1)), "bias has shape (4,)"),
    ((source(4), dense(3, 2)), "2 inputs follows"),
    ((IMAGE, conv((2, 4, 4), even(2, 2, 2, 2)), dense(3, 32)), "flatten"),
    ((IMAGE, conv((2, 3, 4), even(2, 2, 2, 2))), "its weights give (2, 4, 4)"),
    ((IMAGE, conv((2, 4, 4), even(2, 3, 2, 2))), "input channels"),
    ((IMAGE, conv((2, 4, 4), even(2, 2, 2, 2), delay=np.asarray(2))), "conv layer with delays"),
    ((IMAGE, conv((2, 4, 4), even(2, 2, 2, 2), stride=np.array([0, 1]))), "stride spans 0"),
    ((conv((2, 4, 4), even(2, 2, 2, 2)),), "no input layer"),
    ((source(2),), "no layer with synapses"),
    ((source(2), source(2), dense(3, 2)), "follows another layer"),
]


@pytest.mark.parametrize(("layers", "says"), REFUSED)
def test_refused_with_place_and_reason(layers: tuple[dict[str, Any], ...], says: str, tmp_path: Path) -> None:
    with pytest.raises(S2CError) as caught:
        read_net(write(tmp_path / "bad.net", *layers))
    assert says in str(caught.value)
    assert "bad.net" in caught.value.where


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("layer", "neither"),
        ("layer/0", "not numbered"),
        ("layer/1/type", "type ''"),
        ("layer/1/weight", "no weight"),
        ("layer/1/shape", "no shape"),
    ],
)
def test_damaged_files(name: str, says: str, tmp_path: Path) -> None:
    path = write(tmp_path / "bad.net", source(2), dense(3, 2))
    with h5py.File(path, "r+") as file:
        del file[name]
    with pytest.raises(S2CError) as caught:
        read_net(path)
    assert says in str(caught.value)


def test_wrong_options(tmp_path: Path) -> None:
    path = write(tmp_path / "n.net", source(2), dense(3, 2))
    wrong: list[dict[str, Any]] = [{"readout": "mean"}, {"time_steps": 0}, {"target": "loihi9"}]
    for options in wrong:
        with pytest.raises(UsageError):
            read_net(path, **options)
    with pytest.raises(UsageError, match="the file has an input layer"):
        load(path, input_shape=(6,))
    with pytest.raises(UsageError, match=r"dt is no option for \.net files") as caught:
        load(path, dt=1e-3)
    assert "input_shape" in caught.value.fix
    assert load(path, time_steps=3).time_steps == 3


def test_files_cut_short(tmp_path: Path) -> None:
    whole = write(tmp_path / "n.net", *NETWORKS["conv"]).read_bytes()
    for length in range(0, len(whole), len(whole) // 30):
        (tmp_path / "cut.net").write_bytes(whole[:length])
        with pytest.raises(S2CError):
            load(tmp_path / "cut.net")
