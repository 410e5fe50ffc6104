"""The comparison that every trace ends with: what it lets pass, and what it says."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from snn2chip.errors import S2CError
from snn2chip.frontend.torch.convert import Traced
from snn2chip.frontend.torch.gate import compare, fresh_samples
from snn2chip.frontend.torch.job import Job
from snn2chip.frontend.torch.state import preserved
from snn2chip.frontend.torch.trace import Tracing
from snn2chip.ir.layers import Neuron
from snn2chip.simulate import simulate
from torch_networks import HandLIF, T, lively

X = torch.rand(6, 12, generator=torch.Generator().manual_seed(0))


def traced() -> Traced:
    net = lively(nn.Sequential(nn.Linear(12, 20), HandLIF(), nn.Linear(20, 5), HandLIF()))
    job = Job(net, X, time_steps=T)
    with preserved(net):
        tracing = Tracing(job)
        _, layout = tracing.trace()
        return tracing.once(job.x, layout)


def test_what_the_model_did_is_what_the_graph_does() -> None:
    assert compare("net", traced(), X) == set()


def test_one_wrong_spike_is_named() -> None:
    found = traced()
    found.observed["1", "out"][4, 2, 7] += 1
    with pytest.raises(S2CError, match="does not do what net does") as caught:
        compare("net", found, X)
    assert caught.value.where == "layer 1, sample 4, step 2, index (7,)"


def test_a_wrong_output_is_named() -> None:
    found = traced()
    found.outputs[3, 1] += 0.1
    with pytest.raises(S2CError, match="does not do what net does") as caught:
        compare("net", found, X)
    assert caught.value.where == "layer output, sample 3, index (1,)"


@pytest.mark.parametrize(("distance", "passes"), [(1e-6, True), (1e-3, False)])
def test_only_a_membrane_within_rounding_of_the_threshold_excuses_a_spike(distance: float, passes: bool) -> None:
    found = traced()
    h = simulate(found.graph, X, record=("h",))["1"].h
    assert h is not None
    # The smallest membrane that fires: a threshold just above it takes away that spike and no other.
    least = h[h >= 1.0].min()
    node = found.graph["1"]
    theta = np.asarray(np.float64(least) * (1 + distance))
    assert np.count_nonzero((h >= least) & (h < theta)) >= 1
    model = dataclasses.replace(node.layer.model, v_threshold=theta)  # type: ignore[attr-defined]
    nodes = [dataclasses.replace(n, layer=Neuron(model)) if n.name == "1" else n for n in found.graph]
    changed = dataclasses.replace(found, graph=found.graph.with_nodes(nodes))
    spikes = simulate(changed.graph, X, record=("spikes",))["1"].spikes
    assert not np.array_equal(spikes, found.observed["1", "out"])
    if passes:
        compare("net", changed, X)
    else:
        with pytest.raises(S2CError, match="does not do what net does"):
            compare("net", changed, X)


def test_fresh_data_is_of_the_kind_of_the_example() -> None:
    spikes = (X < 0.3).float()
    drawn = fresh_samples(spikes, 1)
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    assert not torch.equal(drawn, spikes)
    values = fresh_samples(X, 1)
    assert float(values.min()) >= 0
    assert float(values.max()) <= 1.5 * float(X.max())


class Leaking(nn.Module):
    """Integrates, and never fires."""

    def forward(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        v = 0.9 * v + x
        return v, v


def test_an_integrator_with_another_decay_is_no_matter_of_rounding() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.lif, self.fc2, self.out = nn.Linear(12, 20), HandLIF(), nn.Linear(20, 5), Leaking()

        def forward(self, x: Tensor) -> Tensor:
            self.lif.reset()
            v = torch.zeros(len(x), 5)
            for _ in range(6):
                y, v = self.out(self.fc2(self.lif(self.fc1(x))), v)
            return y

    net = lively(Net())
    job = Job(net, X)
    with preserved(net):
        tracing = Tracing(job)
        _, layout = tracing.trace()
        found = tracing.once(job.x, layout)
    assert compare("net", found, X) == set()
    slower = Neuron(dataclasses.replace(found.graph["out"].layer.model, decay=np.asarray(0.8)))
    nodes = [dataclasses.replace(n, layer=slower) if n.name == "out" else n for n in found.graph]
    wrong = dataclasses.replace(found, graph=found.graph.with_nodes(nodes))
    with pytest.raises(S2CError, match=r"(?s)does not do what net does.*layer out") as caught:
        compare("net", wrong, X)
    assert "from the threshold" not in caught.value.why
