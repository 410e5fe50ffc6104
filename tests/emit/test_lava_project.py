"""The emitted directory: complete, the same every time, on its own, and in Lava's real runtime what it should be."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from snn2chip.emit.lava import write_project
from snn2chip.errors import S2CError
from snn2chip.simulate import simulate
from snn2chip.verify.lava import runtime, shim
from tests.emit.lava_networks import NETWORKS

needs_lava = pytest.mark.skipif(not shim.installed(), reason="lava-nc is not installed")

# Any import of snn2chip fails in the project's process.
_ALONE = (
    "import runpy, sys; sys.modules['snn2chip'] = None; sys.path.insert(0, '.'); "
    "sys.argv = ['run.py', *sys.argv[1:]]; runpy.run_path('run.py', run_name='__main__')"
)


def _tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_program_gives_the_same_bytes(name: str, tmp_path: Path) -> None:
    for copy in ("a", "b"):
        write_project(NETWORKS[name]()[0], tmp_path / copy)
    assert _tree(tmp_path / "a") == _tree(tmp_path / "b")


def test_writing_again_replaces_the_project_and_a_foreign_directory_is_left_alone(tmp_path: Path) -> None:
    first, second = NETWORKS["conv_then_dense"]()[0], NETWORKS["host_on_both_ends"]()[0]
    write_project(first, tmp_path / "lava")
    (tmp_path / "lava" / "leftover").touch()
    write_project(second, tmp_path / "lava")
    write_project(second, tmp_path / "fresh")
    assert _tree(tmp_path / "lava") == _tree(tmp_path / "fresh")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(S2CError, match="could not be written"):
        write_project(first, tmp_path / "mine")
    assert _tree(tmp_path / "mine") == {"thesis.tex": b"years of work"}


def test_nothing_but_processes_lies_where_lava_executes_every_file(tmp_path: Path) -> None:
    write_project(NETWORKS["conv_then_dense"]()[0], tmp_path / "lava")
    files = _tree(tmp_path / "lava")
    processes = {name for name in files if name.startswith("processes/")}
    assert processes == {f"processes/{name}.py" for name in ("__init__", "neuron", "recorder")}
    code = b"".join(text for name, text in files.items() if name.endswith(".py"))
    assert not re.search(rb"^\s*(from|import) snn2chip", code, re.MULTILINE)
    assert b"from ." not in b"".join(files[name] for name in processes)


@needs_lava
@pytest.mark.parametrize("power_of_two", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_lavas_own_runtime_gives_the_engines_u_v_spikes_and_outputs(
    name: str, power_of_two: bool, tmp_path: Path
) -> None:
    program, x = NETWORKS[name]()
    write_project(program, tmp_path / "lava", power_of_two=power_of_two)
    np.save(tmp_path / "x.npy", x)
    arguments = ["--input", "../x.npy", "--output", "../out.npz", "--record", "u,v,spikes"]
    runtime.run_python(["-c", _ALONE, *arguments], cwd=tmp_path / "lava", timeout=120)
    result = simulate(program, x, record=("u", "v", "spikes"))
    recorded = {
        node.name: ("u", "v") if node.layer.model.v_threshold is None else ("u", "v", "spikes")  # type: ignore[attr-defined]
        for node in program.neurons
    }
    with np.load(tmp_path / "out.npz") as out:
        assert set(out) == {"outputs", "outputs_int"} | {
            f"{n}.{quantity}" for n, qs in recorded.items() for quantity in qs
        }
        np.testing.assert_array_equal(out["outputs_int"], result.outputs_int)
        np.testing.assert_array_equal(out["outputs"], result.outputs)
        for layer, quantities in recorded.items():
            assert result[layer].spikes.any(), f"{layer} is silent: nothing would be compared"
            for quantity in quantities:
                np.testing.assert_array_equal(out[f"{layer}.{quantity}"], getattr(result[layer], quantity))


@needs_lava
def test_samples_and_integers_of_the_command_line(tmp_path: Path) -> None:
    program, x = NETWORKS["host_on_both_ends"]()
    write_project(program, tmp_path / "lava")
    np.save(tmp_path / "x.npy", np.clip(np.rint(x / 0.02), -128, 127).astype(np.int64))
    arguments = ["run.py", "--input", "../x.npy", "--integers", "--samples", "2", "--output", "../out.npz"]
    runtime.run_python(arguments, cwd=tmp_path / "lava", timeout=120)
    with np.load(tmp_path / "out.npz") as out:
        assert set(out) == {"outputs", "outputs_int"}
        np.testing.assert_array_equal(out["outputs_int"], simulate(program, x[:2]).outputs_int)


@needs_lava
@pytest.mark.parametrize(
    ("x", "says"),
    [
        (np.zeros((2, 6, 2, 7, 5)), "one step of the data has shape (2, 7, 5); this network takes (2, 5, 7)"),
        (np.zeros((2, 5, 2, 5, 7)), "this network takes [N, 6, ...]"),
        (np.full((2, 6, 2, 5, 7), 0.5), "whole numbers from 0 to 1"),
        (np.full((2, 6, 2, 5, 7), np.nan), "finite"),
        (np.zeros((0, 6, 2, 5, 7)), "no sample"),
    ],
)
def test_data_that_does_not_fit_ends_with_a_sentence(x: np.ndarray, says: str, tmp_path: Path) -> None:
    write_project(NETWORKS["conv_then_dense"]()[0], tmp_path / "lava")
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(S2CError) as caught:
        runtime.run_python(
            ["run.py", "--input", "../x.npy", "--output", "../out.npz"], cwd=tmp_path / "lava", timeout=60
        )
    assert "exit status 1" in caught.value.why
    assert says in caught.value.why
    assert "Traceback" not in caught.value.why
    assert not (tmp_path / "out.npz").exists()


def test_a_wrong_option_needs_no_lava_to_be_told(tmp_path: Path) -> None:
    write_project(NETWORKS["conv_then_dense"]()[0], tmp_path / "lava")
    with pytest.raises(S2CError) as caught:
        runtime.run_python(
            [
                "-c",
                "import sys; sys.modules['lava'] = None; " + _ALONE,
                "--input",
                "x",
                "--output",
                "y",
                "--record",
                "w",
            ],
            cwd=tmp_path / "lava",
            timeout=60,
        )
    assert "exit status 2" in caught.value.why
    assert "cannot record w" in caught.value.why


def test_the_description_is_readable_json(tmp_path: Path) -> None:
    write_project(NETWORKS["recurrent_soft_reset_with_delays"]()[0], tmp_path / "lava")
    network = json.loads((tmp_path / "lava" / "network.json").read_text("utf-8"))
    assert network["time_steps"] == 5
    # Two steps of synaptic delay and, from the population, one of recurrence or one on the edge.
    assert network["interval"] == 5 + 2
    assert {name: entry["process"] for name, entry in network["populations"].items()} == {
        "soft": "IntegerNeuron",
        "late": "IntegerNeuron",
    }
    assert "membrane does not start at zero" not in (tmp_path / "lava" / "README.md").read_text("utf-8")
    assert "silent between samples" in (tmp_path / "lava" / "README.md").read_text("utf-8")


@needs_lava
def test_importing_a_project_leaves_the_interpreter_as_it_was(tmp_path: Path) -> None:
    from snn2chip.verify.lava.project import project_modules

    write_project(NETWORKS["conv_then_dense"]()[0], tmp_path / "lava")
    theirs = type(sys)("network")
    sys.modules["network"] = theirs
    before = list(sys.path)
    try:
        with project_modules(tmp_path / "lava") as (network, _):
            assert network is not theirs
        assert sys.modules["network"] is theirs
        assert "processes.neuron" not in sys.modules
        assert sys.path == before
    finally:
        del sys.modules["network"]
