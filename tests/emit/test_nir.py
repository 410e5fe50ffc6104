"""Programs as ``.nir`` files: lossless, readable by NIR's own reader, and honest about what NIR cannot say."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import h5py
import nir
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import examples
from snn2chip.emit.nir import write_program
from snn2chip.errors import S2CError
from snn2chip.frontend.load import load, load_graph
from snn2chip.frontend.nir import read_program
from snn2chip.ir import layers as L
from snn2chip.ir.graph import Edge, Node, in_order
from snn2chip.ir.program import Format, Program
from snn2chip.ir.target import load_target
from snn2chip.neurons.alif import ALIF
from snn2chip.neurons.base import FloatNeuron
from snn2chip.neurons.lif import IntegerLIF
from snn2chip.neurons.lnm import LNM
from snn2chip.neurons.qif import QIF
from snn2chip.neurons.ternary import TernaryLIF
from snn2chip.neurons.tpp import TPP
from snn2chip.simulate import simulate
from tests.emit.lava_networks import NETWORKS

Build = Callable[..., Program]


def _program(neuron: IntegerLIF, *, weight_scale: float = 0.25, v_scale: float = 0.25 / 64) -> Program:
    """Conv – neuron – flatten – dense – integrator on spikes of 2×5×6."""
    rng = np.random.default_rng(5)
    nodes = [
        Node("input", L.Input((2, 5, 6))),
        Node("conv", L.Conv2d(2 * rng.integers(-60, 100, (3, 2, 3, 3)), None, (2, 1), (1, 0)), (Edge("input"),)),
        Node("lif", L.Neuron(neuron), (Edge("conv"),)),
        Node("flat", L.Flatten(), (Edge("lif"),)),
        Node("fc", L.Linear(2 * rng.integers(-60, 100, (4, 36))), (Edge("flat"),)),
        Node("li", L.Neuron(IntegerLIF(None, np.asarray(0), np.asarray(4096), np.asarray(0))), (Edge("fc"),)),
        Node("readout", L.Readout("last"), (Edge("li", port="v"),)),
        Node("out", L.Output(), (Edge("readout"),)),
    ]
    formats = {"input": Format(1, False, 1.0, overflow="error")}
    for synapse, population in (("conv", "lif"), ("fc", "li")):
        formats[f"{synapse}.weight"] = Format(9, True, weight_scale)
        formats[f"{population}.v"] = Format(24, True, v_scale)
    return Program(in_order(nodes), 7, "steps", load_target("loihi2"), formats, np.asarray(v_scale)).verify()


PLAIN = IntegerLIF(np.asarray(150), np.asarray(0), np.asarray(4096), np.array([3, -7, 20]).reshape(3, 1, 1))


@settings(max_examples=examples(60))
@given(seed=st.integers(0, 10**6))
def test_a_program_comes_back_as_it_was(random_program: Build, seed: int) -> None:
    program = random_program(seed)
    with TemporaryDirectory() as folder:
        path = Path(folder, "model.nir")
        write_program(program, path)
        assert read_program(path) == program
        assert load(path) == program
        # NIR's own reader and writer keep the program too.
        graph = nir.read(path, type_check=False)
        assert set(graph.nodes) == {n.name for n in program if not isinstance(n.layer, L.Readout)}
        nir.write(Path(folder, "again.nir"), graph)
        assert read_program(Path(folder, "again.nir")) == program


def test_simulating_what_was_read_gives_the_same_integers(random_program: Build, tmp_path: Path) -> None:
    program = random_program(11)
    write_program(program, tmp_path / "m.nir")
    again = read_program(tmp_path / "m.nir")
    shape = tuple(5 if n < 0 else n for n in program.sample_shape)
    x = np.random.default_rng(0).integers(0, 2, (3, *shape))
    np.testing.assert_array_equal(simulate(program, x).outputs_int, simulate(again, x).outputs_int)


def test_the_same_program_gives_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    program = _program(PLAIN)
    write_program(program, tmp_path / "a.nir")
    code = (
        "import sys; from snn2chip.frontend.nir import read_program; from snn2chip.emit.nir import write_program;"
        "write_program(read_program(sys.argv[1]), sys.argv[2])"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "a.nir", tmp_path / "b.nir"], check=True, timeout=120)
    assert (tmp_path / "a.nir").read_bytes() == (tmp_path / "b.nir").read_bytes()


def test_nir_checks_the_types_of_the_graph(tmp_path: Path) -> None:
    write_program(_program(PLAIN), tmp_path / "m.nir")
    graph = nir.read(tmp_path / "m.nir", type_check=True)
    assert graph.check_types()
    np.testing.assert_array_equal(graph.nodes["lif"].v_threshold, np.full((3, 3, 4), 150 * 0.25))
    np.testing.assert_array_equal(graph.nodes["conv"].bias, np.array([3, -7, 20]) * 0.25)


def _foreign(path: Path) -> Path:
    """The NIR graph of a written program, without what snn2chip keeps for itself."""
    with h5py.File(path, "r+") as file:
        del file["node/metadata"]
    return path


@pytest.mark.parametrize(
    "neuron",
    [
        PLAIN,
        IntegerLIF(np.asarray(150), np.asarray(1024), np.asarray(4096), np.asarray(5)),
        IntegerLIF(np.asarray(150), np.asarray(1024), np.asarray(2048), np.asarray(-3)),
        IntegerLIF(np.asarray(150), np.asarray(0), np.asarray(2048), np.arange(36).reshape(3, 3, 4)),
        IntegerLIF(np.asarray(90), np.asarray(0), np.asarray(2048), np.asarray(0), bias_u=np.asarray(64)),
    ],
    ids=["if", "lif", "cuba", "bias per neuron", "bias of the current"],
)
@pytest.mark.parametrize("v_scale", [0.25 / 64, 0.5 / 64], ids=["gain 1", "gain 2"])
def test_the_float_graph_does_what_the_program_does(neuron: IntegerLIF, v_scale: float, tmp_path: Path) -> None:
    """The NIR view, read as a foreign file, against the integers; only rounding of decays may tell them apart."""
    program = _program(neuron, v_scale=v_scale)
    notes = write_program(program, tmp_path / "m.nir")
    assert notes == ()
    graph = load_graph(_foreign(tmp_path / "m.nir"), dt=1e-4, reset="zero", start="zero", readout="last")
    x = np.random.default_rng(1).integers(0, 2, (6, 7, 2, 5, 6))
    exact, float_ = (simulate(net, x, record=("v", "spikes")) for net in (program, graph))
    assert 0.05 < exact["lif"].spikes.mean() < 0.95
    same = exact["lif"].spikes == float_["lif"].spikes
    assert same.all() if not neuron.decay_v.any() and (neuron.decay_u == 4096).all() else same.mean() > 0.999
    if same.all():
        np.testing.assert_allclose(float_["lif"].v, exact["lif"].v * v_scale, atol=3 * v_scale)
        np.testing.assert_allclose(float_.outputs, exact.outputs, rtol=1e-5)


def test_what_nir_cannot_say_is_noted_in_the_file_and_returned(tmp_path: Path) -> None:
    neuron = IntegerLIF(
        np.asarray(150), np.asarray(0), np.asarray(4096), np.asarray(0), fire=">=", reset="soft", reset_timing="next"
    )
    notes = write_program(_program(neuron), tmp_path / "m.nir")
    assert [note.split(":")[0] for note in notes] == ["lif"] * 3
    text = nir.read(tmp_path / "m.nir").nodes["lif"].metadata["snn2chip_approximate"]
    for words in ("subtraction", "next step", ">="):
        assert words in text


def test_a_reason_that_holds_for_several_nodes_is_told_once(tmp_path: Path) -> None:
    late = IntegerLIF(np.asarray(150), np.asarray(0), np.asarray(4096), np.asarray(0), fire=">=")
    program = _program(late)
    again = program.with_nodes(Node("li", L.Neuron(late), n.inputs) if n.name == "li" else n for n in program)
    notes = write_program(again, tmp_path / "m.nir")
    (both,) = [note for note in notes if "v >= v_threshold" in note]
    assert both == "lif, li: fires at v >= v_threshold; NIR at v > v_threshold"


def test_neurons_nir_does_not_know_come_back_exactly_and_are_lifs_to_others(tmp_path: Path) -> None:
    program, x = NETWORKS["programmed"]()
    notes = write_program(program, tmp_path / "m.nir")
    for name, kind in (("ternary", "TernaryLIF"), ("qif", "QIF"), ("lnm", "LNM"), ("alif", "ALIF"), ("tpp", "TPP")):
        assert any(note.startswith(f"{name}: NIR has no {kind} neuron") for note in notes)
    back = read_program(tmp_path / "m.nir")
    assert back == program
    np.testing.assert_array_equal(simulate(back, x).outputs_int, simulate(program, x).outputs_int)
    seen = nir.read(tmp_path / "m.nir")
    assert "nearest LIF" in seen.nodes["qif"].metadata["snn2chip_approximate"]
    assert [type(seen.nodes[n]).__name__ for n in ("ternary", "tpp", "gather")] == ["LIF", "IF", "I"]


@pytest.mark.parametrize(
    ("model", "keeps"),
    [
        (QIF(0.5), 0.0),
        (QIF(0.5, carries=True), 0.875),
        (LNM(0.5, (0.0, -0.75, 0.3), "added"), 0.25),
        (LNM(0.5, (0.0, 0.75, 0.3), "subtracted", bound=5.0), 0.25),
        (LNM(0.5, (0.0, 0.25, 0.3), "absorbed", bound=None, squash=True), 0.25),
        (TernaryLIF(0.5, 0.25), 0.25),
        (ALIF(0.5, 0.25, 0.9, 0.1), 0.25),
        (TPP(0.5, 4, 0), 1.0),
    ],
)
def test_the_nearest_lif_has_their_slope_at_rest(model: FloatNeuron, keeps: float) -> None:
    chip = load_target("loihi2")
    nearest = model.quantized(np.zeros(()), 1 / 200, chip.limits, chip.arithmetic).nearest_lif(chip.arithmetic)  # type: ignore[attr-defined]
    assert isinstance(nearest, IntegerLIF)
    assert nearest.v_threshold == 100
    assert 1 - float(nearest.decay_v) / 4096 == pytest.approx(keeps, abs=1e-3)


def test_of_layers_without_a_nir_node_the_program_is_written_alone(tmp_path: Path) -> None:
    nodes = [
        Node("input", L.Input((2, 3))),
        Node("turn", L.Permute((1, 0)), (Edge("input"),)),
        Node("out", L.Output(), (Edge("turn"),)),
    ]
    program = Program(in_order(nodes), 2, "steps", load_target("loihi2"), {"input": Format(1, False, 1.0)}, np.ones(()))
    (note,) = write_program(program, tmp_path / "m.nir")
    assert note == "out: the NIR graph holds input and output only: NIR has no node for turn (Permute)"
    assert load(tmp_path / "m.nir") == program
    # The package adds ends to what is not connected.
    assert {"input", "out"} <= set(nir.read(tmp_path / "m.nir").nodes)


def _edit(path: Path, name: str, change: Callable[[Any], Any]) -> None:
    with h5py.File(path, "r+") as file:
        file[name][...] = change(file[name][()])


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("node/nodes/fc/weight", lambda w: w + 1),
        ("node/metadata/snn2chip/arrays/0", lambda w: w + 1),
        ("node/metadata/snn2chip/program", lambda text: text.replace(b"hard", b"soft")),
        ("node/edges", lambda edges: edges[::-1]),
    ],
)
def test_an_edited_file_is_refused(name: str, change: Callable[[Any], Any], tmp_path: Path) -> None:
    write_program(_program(PLAIN), tmp_path / "m.nir")
    _edit(tmp_path / "m.nir", name, change)
    with pytest.raises(S2CError, match="changed after it was written") as caught:
        read_program(tmp_path / "m.nir")
    assert "m.nir" in caught.value.where


def test_a_file_cut_short_is_refused_at_every_length(tmp_path: Path) -> None:
    write_program(_program(PLAIN), tmp_path / "m.nir")
    whole = (tmp_path / "m.nir").read_bytes()
    for length in range(0, len(whole), len(whole) // 40):
        (tmp_path / "cut.nir").write_bytes(whole[:length])
        with pytest.raises(S2CError):
            load(tmp_path / "cut.nir")


def test_flipped_bytes_never_give_another_program(tmp_path: Path) -> None:
    program = _program(PLAIN)
    write_program(program, tmp_path / "m.nir")
    whole = (tmp_path / "m.nir").read_bytes()
    rng = np.random.default_rng(3)
    for position in rng.integers(8, len(whole), 150):
        data = bytearray(whole)
        data[position] ^= 1 << int(rng.integers(8))
        (tmp_path / "flip.nir").write_bytes(bytes(data))
        with contextlib.suppress(S2CError):
            assert load(tmp_path / "flip.nir") == program


def test_a_failed_write_leaves_the_earlier_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_program(_program(PLAIN), tmp_path / "m.nir")
    before = (tmp_path / "m.nir").read_bytes()

    def broken(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(h5py.Group, "create_dataset", broken)
    with pytest.raises((S2CError, OSError)):
        write_program(_program(PLAIN, weight_scale=0.5), tmp_path / "m.nir")
    assert (tmp_path / "m.nir").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["m.nir"]
