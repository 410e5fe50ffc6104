"""Neurons that chips do not have built in: the same integers from every engine, on any split of the batch."""

from __future__ import annotations

import numpy as np
import pytest

from snn2chip.simulate import simulate
from tests.emit.lava_networks import NETWORKS

pytest.importorskip("torch", reason="the fast engine needs torch")


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_the_fast_engine_and_the_definition_agree(batch_size: int) -> None:
    program, x = NETWORKS["programmed"]()
    samples = np.random.default_rng(9).integers(0, 2, (20, *x.shape[1:]))
    record = ("u", "v", "spikes")
    wanted = simulate(program, samples, record=record, engine="reference")
    found = simulate(program, samples, record=record, engine="fast", batch_size=batch_size)
    for node in program.neurons:
        assert wanted[node.name].spikes is not None
        assert np.mean(wanted[node.name].spikes != 0) > 0.03
        for quantity in record:
            np.testing.assert_array_equal(getattr(found[node.name], quantity), getattr(wanted[node.name], quantity))
    np.testing.assert_array_equal(found.outputs_int, wanted.outputs_int)
    for name, counts in wanted.counts.items():
        for kind in ("spikes", "synops", "neuron_updates", "macs"):
            np.testing.assert_array_equal(getattr(found.counts[name], kind), getattr(counts, kind))
