"""Compare two executions of a network: equality, the first difference, and how far apart they are.

One routine serves every pair: float Graph, Program, Lava's models, Lava's runtime, a recording. Everything is
in the sample's clock, [N, T, ...].
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from snn2chip.errors import S2CError
from snn2chip.ir.layers import Array
from snn2chip.simulate.result import Result

QUANTITIES = ("u", "v", "spikes")
OUTPUTS = "outputs"
_SAME_DATA = "run both on the same samples and steps"


@dataclass(frozen=True)
class Execution:
    """What one run of a network did.

    Args:
        name: what ran, for people.
        layers: population → quantity ("u", "v", "spikes") → [N, T, ...].
        outputs: the read-out as integers [N, ...] where there is one.
    """

    name: str
    layers: Mapping[str, Mapping[str, Array]]
    outputs: Array | None = None

    @classmethod
    def of(cls, name: str, result: Result) -> Execution:
        """A simulation that recorded u, v and spikes; an integrator's output is its v and no spike."""
        layers = {
            node.name: {
                q: array
                for q in QUANTITIES
                if (array := getattr(result.recordings[node.name], q)) is not None
                and not (q == "spikes" and node.layer.kind.endswith("LI"))
            }
            for node in result.network.neurons
            if node.name in result.recordings
        }
        return cls(name, layers, result.outputs_int)


@dataclass(frozen=True)
class Divergence:
    """The first place two executions differ.

    Args:
        sample, step: counted from 0, the step in the sample's clock; None where the read-out differs.
        neuron: index in the population's shape.
    """

    layer: str
    quantity: str
    sample: int
    step: int | None
    neuron: tuple[int, ...]
    expected: float
    found: float

    def __str__(self) -> str:
        step = "" if self.step is None else f", step {self.step}"
        place = f"sample {self.sample}{step}, neuron {self.neuron}"
        return f"{self.layer}: {self.quantity} is {self.found:g} instead of {self.expected:g} ({place})"


@dataclass(frozen=True)
class LayerComparison:
    """One population in two executions.

    Args:
        values: quantity → how many values were compared.
        differing: quantity → how many differ.
        first: the first difference, or None.
        spike_agreement: share of (sample, step, neuron) slots in which both fire or neither does.
        rate_expected, rate_found: spikes per neuron and step.
        rate_distance: mean absolute difference of the neurons' rates.
        rate_emd: earth mover's distance between the two distributions of rates over neurons.
        v_sqnr_db: power of the expected membrane over the power of the difference, in dB; inf where equal.
    """

    name: str
    values: Mapping[str, int]
    differing: Mapping[str, int]
    first: Divergence | None
    spike_agreement: float | None = None
    rate_expected: float | None = None
    rate_found: float | None = None
    rate_distance: float | None = None
    rate_emd: float | None = None
    v_sqnr_db: float | None = None

    @property
    def equal(self) -> bool:
        """Whether every compared value is the same."""
        return not any(self.differing.values())


def compare(
    expected: Execution,
    found: Execution,
    *,
    layers: Iterable[str] | None = None,
    scales: Mapping[str, float] | None = None,
) -> tuple[LayerComparison, ...]:
    """Compare every population both executions hold, in the order of ``expected``.

    Args:
        expected: the reference.
        found: what is compared with it.
        layers: compare these only.
        scales: population → factor that brings ``found``'s integer u and v to ``expected``'s unit; these are then
            compared by distance, and only spikes by equality.

    Raises:
        S2CError: no population in common, or arrays of different shapes.
    """
    wanted = list(expected.layers if layers is None else layers)
    names = [name for name in wanted if name in found.layers and name in expected.layers]
    if not names or (layers is not None and len(names) < len(wanted)):
        missing = [name for name in wanted if name not in names]
        raise S2CError(
            "there is no population to compare" if not names else "a population to be compared is missing",
            where=", ".join(missing),
            why="; ".join(f"{run.name} has {', '.join(run.layers) or 'none'}" for run in (expected, found)),
            fix="give the recorded names the layers' own: --rename LAYER=NAME",
        )
    compared = [_layer(name, expected, found, None if scales is None else scales[name]) for name in names]
    if scales is None and expected.outputs is not None and found.outputs is not None:
        compared.append(_outputs(expected.outputs, found.outputs))
    return tuple(compared)


def first_divergence(layers: Iterable[LayerComparison]) -> Divergence | None:
    """The earliest difference: the first sample that differs, in it the first step, in it the first layer.

    A difference cannot spread to an earlier step or, within a step, to an earlier layer, so this is where it began.
    """
    found = [layer.first for layer in layers if layer.first is not None]
    return min(found, key=_when, default=None)


def _when(divergence: Divergence) -> tuple[int, float]:
    return divergence.sample, math.inf if divergence.step is None else divergence.step


def _layer(name: str, expected: Execution, found: Execution, scale: float | None) -> LayerComparison:
    mine, theirs = expected.layers[name], found.layers[name]
    both = [q for q in QUANTITIES if q in mine and q in theirs]
    if not both:
        raise S2CError(
            "nothing of this population was recorded by both", where=name, fix=f"record one of {', '.join(QUANTITIES)}"
        )
    for quantity in both:
        if mine[quantity].shape != theirs[quantity].shape:
            raise S2CError(
                f"two recordings of {quantity} have different shapes",
                where=name,
                why=f"{expected.name}: {mine[quantity].shape}, {found.name}: {theirs[quantity].shape}",
                fix=_SAME_DATA,
            )
    exact = both if scale is None else [q for q in both if q == "spikes"]
    unequal = {q: _unequal(mine[q], theirs[q], signs=scale is not None) for q in exact}
    firsts = [_first(name, q, unequal[q], mine[q], theirs[q]) for q in exact if unequal[q].any()]
    return LayerComparison(
        name,
        {q: int(u.size) for q, u in unequal.items()},
        {q: int(np.count_nonzero(u)) for q, u in unequal.items()},
        min(firsts, key=_when, default=None),
        **(_spike_statistics(mine["spikes"], theirs["spikes"]) if "spikes" in both else {}),
        v_sqnr_db=_sqnr(mine["v"], theirs["v"] * (1.0 if scale is None else scale)) if "v" in both else None,
    )


def _outputs(expected: Array, found: Array) -> LayerComparison:
    if expected.shape != found.shape:
        raise S2CError("two read-outs have different shapes", why=f"{expected.shape} and {found.shape}", fix=_SAME_DATA)
    unequal = expected != found
    first = None
    if unequal.any():
        index = _first_index(unequal)
        values = expected[index].item(), found[index].item()
        first = Divergence(OUTPUTS, "read-out", index[0], None, index[1:], *values)
    return LayerComparison(OUTPUTS, {"read-out": unequal.size}, {"read-out": int(unequal.sum())}, first)


def _unequal(a: Array, b: Array, signs: bool) -> Array:
    unequal: Array = np.sign(a) != np.sign(b) if signs else a != b
    return unequal


def _first(name: str, quantity: str, unequal: Array, expected: Array, found: Array) -> Divergence:
    index = _first_index(unequal)
    return Divergence(name, quantity, index[0], index[1], index[2:], expected[index].item(), found[index].item())


def _first_index(unequal: Array) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(unequal)), unequal.shape))


def _spike_statistics(expected: Array, found: Array) -> dict[str, Any]:
    rates_a, rates_b = (np.mean(s != 0, axis=(0, 1)).ravel() for s in (expected, found))
    return {
        "spike_agreement": float(np.mean(np.sign(expected) == np.sign(found))),
        "rate_expected": float(rates_a.mean()),
        "rate_found": float(rates_b.mean()),
        "rate_distance": float(np.abs(rates_a - rates_b).mean()),
        # Of two samples of equal size, the distance between the sorted values (Wasserstein-1 in one dimension).
        "rate_emd": float(np.abs(np.sort(rates_a) - np.sort(rates_b)).mean()),
    }


def _sqnr(expected: Array, found: Array) -> float:
    signal = float(np.sum(np.square(expected.astype(np.float64))))
    noise = float(np.sum(np.square(expected.astype(np.float64) - found.astype(np.float64))))
    if noise == 0:
        return float("inf")
    return float(10 * np.log10(signal / noise)) if signal else float("-inf")
