"""verify(): every oracle says equal where it is, and names layer, step and neuron where something was changed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from snn2chip.errors import S2CError, UsageError
from snn2chip.frontend.netx import read_net
from snn2chip.ir.graph import Graph, Node
from snn2chip.ir.layers import Neuron
from snn2chip.ir.program import Program
from snn2chip.neurons.lif import LIF, IntegerLIF
from snn2chip.simulate import simulate
from snn2chip.simulate.counting import silent
from snn2chip.verify import Execution, compare, first_divergence, verify
from snn2chip.verify.lava import project, shim
from tests.emit.lava_networks import NETWORKS

needs_lava = pytest.mark.skipif(not shim.installed(), reason="lava-nc is not installed")
RECORD = ("u", "v", "spikes")


def _replaced(program: Program, name: str, **fields: Any) -> Program:
    """The program with other fields in one layer, or in its neuron model."""
    old = program[name].layer
    if isinstance(old, Neuron):
        new = dataclasses.replace(old, model=dataclasses.replace(old.model, **fields))
    else:
        new = dataclasses.replace(old, **fields)
    nodes: list[Node] = [dataclasses.replace(n, layer=new) if n.name == name else n for n in program]
    return program.with_nodes(nodes)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("against", ["reference", pytest.param("lava", marks=needs_lava)])
def test_equal_where_it_is(name: str, against: str) -> None:
    program, x = NETWORKS[name]()
    report = verify(program, x, against)
    assert report.equal
    assert report.first_divergence is None
    assert [layer.name for layer in report.layers] == [*(n.name for n in program.neurons), "outputs"]
    for population, layer in zip(program.neurons, report.layers, strict=False):
        # An integrator has no spikes; its membrane is its output.
        assert set(layer.values) == {"u", "v"} | (set() if silent(population) else {"spikes"})
        assert silent(population) or layer.rate_found, "a silent layer proves nothing"
    assert "differ" not in str(report)


@needs_lava
def test_equal_in_lavas_runtime() -> None:
    program, x = NETWORKS["recurrent_soft_reset_with_delays"]()
    report = verify(program, x, "lava-runtime", timeout=120, power_of_two=True)
    assert report.equal
    assert set(report.layers[0].values) == {"u", "v", "spikes"}
    assert report.as_dict()["against"] == "Lava's runtime"


@needs_lava
def test_the_runtime_is_ended_at_its_time_limit() -> None:
    program, x = NETWORKS["conv_then_dense"]()
    with pytest.raises(S2CError, match="did not finish in time"):
        verify(program, x, "lava-runtime", timeout=0.2)


@needs_lava
@pytest.mark.parametrize("output", [0, 3])
def test_an_altered_weight_is_found_at_its_neuron_in_the_step_its_input_first_fires(output: int) -> None:
    program, x = NETWORKS["conv_then_dense"]()
    spikes = simulate(program, x, record=RECORD)["lif1"].spikes.reshape(len(x), program.time_steps, -1)
    source = int(np.argmax(spikes[0].sum(axis=0) * (spikes[0, 0] == 0)))
    step = int(np.argmax(spikes[0, :, source]))
    assert step > 0, "the case should not be the trivial one"
    weight = program["dense"].layer.weight.copy()  # type: ignore[attr-defined]
    weight[output, source] += 2
    altered = _replaced(program, "dense", weight=weight)

    compared = compare(Execution.of("altered", simulate(altered, x, record=RECORD)), project.in_process(program, x))
    found = first_divergence(compared)
    assert found is not None
    assert (found.layer, found.sample, found.step, found.neuron) == ("lif2", 0, step, (output,))
    assert found.quantity == "u"
    assert found.expected - found.found == 2 << 6
    assert [layer.equal for layer in compared[:2]] == [True, False]


@needs_lava
def test_an_altered_threshold_is_found_where_a_membrane_lies_between_the_two() -> None:
    program, x = NETWORKS["conv_then_dense"]()
    neuron = (2, 1, 1)
    model: IntegerLIF = program["lif1"].layer.model  # type: ignore[attr-defined]
    truth = simulate(program, x, record=RECORD)["lif1"]
    sample, step = (int(i) for i in np.argwhere(truth.spikes[(..., *neuron)])[0])
    threshold = np.broadcast_to(model.v_threshold, (4, 5, 3)).copy()
    threshold[neuron] = 100_000
    altered = _replaced(program, "lif1", v_threshold=threshold)

    compared = compare(Execution.of("altered", simulate(altered, x, record=RECORD)), project.in_process(program, x))
    found = first_divergence(compared)
    assert found is not None
    assert (found.layer, found.sample, found.step, found.neuron) == ("lif1", sample, step, neuron)


def test_recordings_as_mappings_and_files_in_both_layouts(tmp_path: Path) -> None:
    program, x = NETWORKS["conv_then_dense"]()
    result = simulate(program, x, record=RECORD)
    nested = {"lif1": {"v": result["lif1"].v, "spikes": result["lif1"].spikes}, "unknown": {}}
    assert verify(program, x, nested).equal
    np.savez(tmp_path / "r.npz", **{"lif2.u": result["lif2"].u, "lif1": result["lif1"].spikes})
    report = verify(program, x, str(tmp_path / "r.npz"))
    assert report.equal
    assert {layer.name: set(layer.values) for layer in report.layers} == {"lif1": {"spikes"}, "lif2": {"u"}}

    vendor = {"lif1-v": result["lif1"].v[0].transpose(), "lif2-s": result["lif2"].spikes[0].transpose()}
    assert vendor["lif1-v"].shape == (3, 5, 4, program.time_steps)
    assert verify(program, x[:1], vendor, layout="lava").equal
    vendor["lif1-v"] = vendor["lif1-v"].copy()
    vendor["lif1-v"][2, 1, 3, 4] += 1
    report = verify(program, x[:1], vendor, layout="lava")
    assert not report.equal
    found = report.first_divergence
    assert found is not None
    assert (found.layer, found.step, found.neuron, found.expected - found.found) == ("lif1", 4, (3, 1, 2), 1)


def test_every_population_of_the_vendors_recording_is_equal(material: Path) -> None:
    folder = material / "pilotnet_lif"
    program = read_net(folder / "network.net")
    with np.load(folder / "recordings.npz") as arrays:
        recording = dict(arrays)
    x = recording["input"].transpose(3, 2, 1, 0)[None]
    names = ["conv-0", "conv-1", "conv-2", "conv-3", "conv-4", "fc-0", "fc-1", "fc-2"]
    populations = [node.name for node in program.neurons]
    renamed = {
        name: {"u": recording[f"{key}-u"], "v": recording[f"{key}-v"], "spikes": recording[key]}
        for name, key in zip(populations, names, strict=False)
    }
    options: dict[str, Any] = {"layout": "lava", "clock": "machine", "reset_interval": 17}
    report = verify(program, x, renamed, registers="silicon", **options)
    assert report.equal, str(report)
    assert sum(sum(layer.values.values()) for layer in report.layers) > 8_000_000
    assert not verify(program, x, renamed, **options).equal, "v reads 128 after a spike on silicon only"


@needs_lava
def test_the_vendors_network_in_lavas_model_classes(material: Path) -> None:
    """Images wider than 127, five convolutions, and a flatten whose order decides."""
    folder = material / "pilotnet_lif"
    program = read_net(folder / "network.net", time_steps=12)
    with np.load(folder / "recordings.npz") as arrays:
        x = arrays["input"].transpose(3, 2, 1, 0)[None, :12]
    report = verify(program, x, "lava")
    assert report.equal, str(report)
    fires = {layer.name for layer in report.layers if layer.rate_found}
    # The last population is an integrator in all but name: its threshold is the largest there is.
    assert fires == {node.name for node in program.neurons[:-1]}


@pytest.mark.parametrize(
    ("recording", "says"),
    [
        ({}, "no population to compare"),
        ({"lif1": np.zeros((3, 6, 4, 3, 5))}, "should hold 3 samples"),
        ({"lif1": np.zeros((2, 6, 4, 5, 3))}, "should hold 3 samples"),
        ({"lif1": np.zeros((3, 5, 4, 5, 3))}, "different shapes"),
    ],
)
def test_recordings_that_do_not_fit(recording: dict[str, Any], says: str) -> None:
    program, x = NETWORKS["conv_then_dense"]()
    with pytest.raises(S2CError) as caught:
        verify(program, x, recording)
    assert says in str(caught.value)


def test_wrong_calls_say_what_to_do(tmp_path: Path) -> None:
    program, x = NETWORKS["conv_then_dense"]()
    with pytest.raises(UsageError, match="nothing to verify against") as caught:
        verify(program, x, "lawa")
    assert "lava-runtime" in caught.value.fix
    with pytest.raises(UsageError, match="machine's clock"):
        verify(program, x, "reference", reset_interval=3)
    with pytest.raises(S2CError, match="cannot be read"):
        verify(program, x, str(tmp_path / "missing.npz"))
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 no")
    with pytest.raises(S2CError, match="cannot be read"):
        verify(program, x, str(tmp_path / "broken.npz"))
    with pytest.raises(S2CError, match="the data has shape"):
        verify(program, x[:, :2], "reference")


@pytest.mark.parametrize("against", ["lava", "lava-runtime"])
def test_without_lava_the_doctor_is_named(against: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program, x = NETWORKS["conv_then_dense"]()
    monkeypatch.setattr(shim, "installed", lambda: False)
    with pytest.raises(S2CError, match="not installed") as caught:
        verify(program, x, against)
    assert "snn2chip doctor" in caught.value.fix


def _as_float(program: Program) -> Graph:
    """The float network of a program without currents: weights as they are, thresholds in the input's unit."""
    nodes = []
    for node in program:
        layer = node.layer
        if isinstance(layer, Neuron):
            model: IntegerLIF = layer.model
            threshold = np.asarray(model.v_threshold, dtype=np.float64)
            decay = 1 - model.decay_v / 4096
            layer = Neuron(LIF(threshold, decay, fire=model.fire, reset=model.reset))
        nodes.append(dataclasses.replace(node, layer=layer))
    return Graph(program.with_nodes(nodes).nodes, program.time_steps, program.coding)


def test_against_the_float_network_spikes_are_counted_and_membranes_measured() -> None:
    program, x = NETWORKS["conv_then_dense"]()
    plain = {"bias": np.asarray(0), "decay_u": np.asarray(4096), "decay_v": np.asarray(0)}
    program = _replaced(_replaced(program, "lif1", **plain), "lif2", **plain)
    program = dataclasses.replace(
        program,
        formats={
            **program.formats,
            **{f"{n}.v": dataclasses.replace(program.formats["x"], scale=1 / 64) for n in ("lif1", "lif2")},
        },
    )
    graph = _as_float(program)
    report = verify(program, x, graph)
    # Without decay and bias the float network's numbers are whole: the two are the same network.
    assert report.equal
    assert not report.exact
    assert {layer.v_sqnr_db for layer in report.layers} == {float("inf")}
    shifted = _replaced(program, "lif2", v_threshold=program["lif2"].layer.model.v_threshold + 200)  # type: ignore[attr-defined]
    report = verify(shifted, x, graph)
    first, second = report.layers
    assert first.spike_agreement == 1.0
    assert second.spike_agreement is not None
    assert 0.3 < second.spike_agreement < 1.0
    assert report.first_divergence is not None
    assert report.first_divergence.layer == "lif2"
    data = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert data["layers"][0]["v_sqnr_db"] is None
    assert data["equal"] is False
    assert data["first_divergence"]["layer"] == "lif2"
    assert "of spikes agree" in str(report)
