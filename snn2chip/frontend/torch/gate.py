"""The equality gate: model and graph run side by side on fresh input, and must do the same thing in every layer."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from snn2chip.errors import S2CError
from snn2chip.frontend.torch.convert import Traced
from snn2chip.frontend.torch.identify import ROUNDING
from snn2chip.frontend.torch.layout import Layout
from snn2chip.ir.graph import Graph, Node
from snn2chip.ir.layers import Array
from snn2chip.simulate import Result, simulate

_OUTPUT_TOLERANCE = 1e-4
_DRAWS = 2


@dataclass
class Difference:
    """Where model and graph first differ."""

    layer: str
    sample: int
    step: int
    neuron: tuple[int, ...]
    model: float
    graph: float
    margin: float


def fresh_samples(x: Tensor, seed: int) -> Tensor:
    """Random data of the kind ``x`` is: spikes for spikes, numbers drawn from its own values for the rest."""
    generator = torch.Generator().manual_seed(seed)
    if bool(((x == 0) | (x == 1)).all()):
        return (torch.rand(x.shape, generator=generator) < x.mean().clamp(0.1, 0.9)).to(x.dtype)
    drawn = x.flatten()[torch.randint(x.numel(), (x.numel(),), generator=generator)].reshape(x.shape)
    return drawn * (0.5 + torch.rand(x.shape, generator=generator))


def check_equal(name: str, traced: Traced, rerun: Callable[[Tensor], Traced], layout: Layout, example: Tensor) -> None:
    """Compare on the example and on fresh data, one batch after another without anything in between.

    Args:
        rerun: records the model on another batch.

    Raises:
        S2CError: the model gives another graph for other data, or the graph does something else than the model; the
            message names the first layer, step and neuron that differ, with both values.
    """
    silent = compare(name, traced, layout.to_samples(example))
    for seed in range(_DRAWS):
        x = fresh_samples(example, seed)
        again = rerun(x)
        if again.graph != traced.graph:
            raise S2CError(
                f"{name} computes another network for other data",
                where=_first_change(traced.graph, again.graph),
                why="something outside torch's sight, or a value left from an earlier call, changes it",
                fix="compute it with torch operations, and reset every state at the start of a sample",
            )
        silent &= compare(name, again, layout.to_samples(x))
    if silent:
        warnings.warn(
            f"{', '.join(sorted(silent))} never fired while the graph was compared with {name}: "
            "give an example of real data to compare it better",
            stacklevel=4,
        )


def compare(name: str, traced: Traced, samples: Tensor) -> set[str]:
    """Compare one recorded run with the simulated graph; returns the layers that never fired.

    Raises:
        S2CError: they differ.
    """
    result = simulate(traced.graph, samples, record=("spikes", "h", "v"), backend="torch")
    excused = np.zeros(len(samples), dtype=bool)
    silent = set()
    for node in traced.graph.neurons:
        expected = traced.observed.get((node.name, "out"))
        if expected is None:
            continue
        if not expected.any():
            silent.add(node.name)
        difference = _layer_difference(node, expected, result, excused)
        if difference is not None:
            raise _unequal(name, difference)
    expected, found = traced.outputs, result.outputs
    scale = float(np.abs(expected).max(initial=1e-6))
    wrong = np.abs(expected - found) > _OUTPUT_TOLERANCE * scale
    wrong[excused] = False
    if expected.shape != found.shape or wrong.any():
        at = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise _unequal(name, Difference("output", at[0], -1, at[1:], float(expected[at]), float(found[at]), 0.0))
    return silent


def _layer_difference(node: Node, expected: Array, result: Result, excused: Array) -> Difference | None:
    """The first spike that differs and is no matter of rounding; samples with one that is are excused from then on."""
    recording = result[node.name]
    assert recording.spikes is not None
    assert recording.h is not None
    model = node.layer.model  # type: ignore[attr-defined]
    worth = 1.0 if model.integrates_only else model.spike_value
    tolerance = (
        1e-5 * worth if not model.integrates_only else _OUTPUT_TOLERANCE * float(np.abs(expected).max(initial=1e-6))
    )
    wrong = np.abs(recording.spikes - expected) > tolerance
    for sample in np.flatnonzero(wrong.reshape(len(wrong), -1).any(1) & ~excused):
        step = int(np.flatnonzero(wrong[sample].reshape(wrong.shape[1], -1).any(1))[0])
        bad, margin = wrong[sample, step], np.zeros(wrong.shape[2:])
        if not model.integrates_only:
            theta = np.broadcast_to(model.v_threshold, wrong.shape[2:])
            margin = np.abs(recording.h[sample, step] - theta)
            reach = max(float(np.abs(recording.h[sample]).max()), float(np.abs(theta).max()))
            bad = bad & ~(margin <= ROUNDING * reach)
        if bad.any():
            at = tuple(int(i) for i in np.argwhere(bad)[0])
            here = (int(sample), step, *at)
            return Difference(
                node.name,
                int(sample),
                step,
                at,
                float(expected[here]),
                float(recording.spikes[here]),
                float(margin[at]),
            )
        excused[sample] = True
    return None


def _unequal(name: str, d: Difference) -> S2CError:
    place = f"layer {d.layer}, sample {d.sample}" + (f", step {d.step}" if d.step >= 0 else "") + f", index {d.neuron}"
    return S2CError(
        f"the traced graph does not do what {name} does",
        where=place,
        why=f"the model gives {d.model:.6g}, the graph {d.graph:.6g}"
        + (f" ({d.margin:.3g} from the threshold)" if d.margin else ""),
        fix="if a neuron keeps its state between samples, reset it: run=my_run; if you registered it, correct what you "
        "registered; otherwise please report the model",
    )


def _first_change(a: Graph, b: Graph) -> str:
    for one, two in zip(a, b, strict=False):
        if one != two:
            return one.where()
    return ""
