"""Random Programs: the reference engine against the emitted project, run with Lava's own model classes."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import examples
from snn2chip.emit.lava import describe
from snn2chip.simulate import simulate
from snn2chip.verify import Execution, compare, first_divergence
from snn2chip.verify.lava import project, shim
from tests.emit.random_programs import Case, cases

if not shim.installed():
    pytest.skip("lava-nc is not installed", allow_module_level=True)

NETWORKS = examples(240)


@pytest.mark.filterwarnings("ignore::scipy.sparse.SparseEfficiencyWarning")
def test_u_v_spikes_and_read_out_of_every_population_equal_lavas_over_samples_back_to_back() -> None:
    seen: Counter[str] = Counter()

    @settings(max_examples=NETWORKS)
    @given(cases(), st.booleans())
    def check(case: Case, power_of_two: bool) -> None:
        result = simulate(case.program, case.x, record=("u", "v", "spikes"))
        mine = Execution.of("reference", result)
        theirs = project.in_process(case.program, case.x, power_of_two=power_of_two)
        compared = compare(mine, theirs)
        assert all(layer.equal for layer in compared), str(first_divergence(compared))
        assert {layer.name for layer in compared} == {node.name for node in case.program.neurons} | {"outputs"}
        seen["networks"] += 1
        seen["every layer fires"] += all(a["spikes"].any() for a in mine.layers.values() if "spikes" in a)
        network = describe(case.program).network
        kinds = {e["process"] for e in [*network["populations"].values(), *network["synapses"]]}
        seen.update(map(str, kinds))
        seen["a gap between samples"] += network["interval"] > network["time_steps"]

    check()
    assert seen["networks"] >= NETWORKS
    assert seen["every layer fires"] > 0.5 * seen["networks"]
    for kind in (
        "LIFReset",
        "IntegerNeuron",
        "Dense",
        "Sparse",
        "DelayDense",
        "DelaySparse",
        "Conv",
        "a gap between samples",
    ):
        assert seen[kind] >= 3, f"{kind} was hardly tried: {dict(seen)}"
