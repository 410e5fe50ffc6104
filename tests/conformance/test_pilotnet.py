"""PilotNet as the vendor ships it: every recorded current, membrane and spike of every layer, integer for integer.

Conventions of the recording, as options of simulator and target: machine clock, layers reset every 17 steps at the
phase of their depth, and registers read as silicon shows them (v is 128 in the step of a spike). The last layer was
recorded in another run: reset every 16 steps, one step earlier, one step longer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from snn2chip.emit.nir import write_program
from snn2chip.frontend.load import load
from snn2chip.ir.program import Program
from snn2chip.simulate import simulate
from snn2chip.simulate.result import Result

Array = np.ndarray[Any, Any]

# Name in the recording → population of the program.
LAYERS = {f"conv-{i}": f"layer.{i + 1}" for i in range(5)} | {f"fc-{i}": f"layer.{i + 7}" for i in range(3)}


@pytest.fixture(scope="module")
def recording(material: Path) -> dict[str, Array]:
    with np.load(material / "pilotnet_lif" / "recordings.npz") as data:
        # From (W, H, C, T) or (N, T) to time first and (C, H, W).
        return {name: data[name].transpose(*reversed(range(data[name].ndim))) for name in data}


@pytest.fixture(scope="module")
def program(material: Path) -> Program:
    return load(material / "pilotnet_lif" / "network.net")


@pytest.fixture(scope="module")
def result(program: Program, recording: dict[str, Array]) -> Result:
    x = recording["input"][None]
    record = ("u", "v", "spikes")
    return simulate(program, x, record=record, clock="machine", reset_interval=17, registers="silicon")


@pytest.mark.parametrize("layer", LAYERS)
def test_every_recorded_value(layer: str, result: Result, recording: dict[str, Array]) -> None:
    ours = result[LAYERS[layer]]
    assert recording[layer].any()
    for name, got in (("-u", ours.u), ("-v", ours.v), ("", ours.spikes)):
        assert got is not None
        np.testing.assert_array_equal(got[0], recording[layer + name], err_msg=f"{layer}{name}")


def test_every_recorded_value_of_the_last_layer(program: Program, recording: dict[str, Array]) -> None:
    frames = recording["input-s"]
    x = np.concatenate([frames, np.zeros_like(frames[:1])])[None]
    result = simulate(
        program,
        x,
        record=("u", "v", "spikes"),
        clock="machine",
        reset_interval=16,
        reset_phase=-1,
        registers="silicon",
    )
    ours = result["layer.10"]
    for name, got in (("u", ours.u), ("v", ours.v), ("s", ours.spikes)):
        assert got is not None
        np.testing.assert_array_equal(got[0], recording[f"fc-3-{name}"], err_msg=name)
    assert recording["fc-3-v"].any()


def test_other_conventions_do_not_fit(program: Program, recording: dict[str, Array]) -> None:
    """The comparison would notice: another phase, or v read as zero after a spike, differs."""
    x = recording["input"][None]
    for options in ({"reset_phase": 1, "registers": "silicon"}, {"registers": "simulation"}):
        result = simulate(program, x, record="v", clock="machine", reset_interval=17, **options)  # type: ignore[arg-type]
        assert (result["layer.1"].v[0] != recording["conv-0-v"]).any()  # type: ignore[index]


def test_the_file_says_16_steps_and_an_integrator_at_the_end(program: Program) -> None:
    assert program.time_steps == 16
    assert program.shapes()["output"] == (1,)
    assert any("input" in note for note in program.notes)
    assert program["readout"].inputs[0].port == "v"


def test_the_program_survives_as_nir(program: Program, tmp_path: Path) -> None:
    write_program(program, tmp_path / "pilotnet.nir")
    assert load(tmp_path / "pilotnet.nir") == program
