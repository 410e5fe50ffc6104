"""Everything that can compute a network, ready to be timed, and the checks that it is the same network."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

import snn2chip as s2c
from bench import forms, limits
from bench.measure import Variant, seconds, torch_threads
from bench.networks import Net
from snn2chip.ir.layers import Conv, Linear
from snn2chip.ir.program import Program
from snn2chip.simulate.explain import explain_engine

REFERENCE = "snn2chip, reference engine"
ONE_THREAD = "snn2chip fast, 1 thread"
BARE = "its int8 convolutions alone, 1 thread"
# Slow ones take part in one round of so many.
_SELDOM = 5


def fast(threads: int) -> str:
    """The name of the fast engine's variant."""
    return ONE_THREAD if threads == 1 else f"snn2chip fast, {threads} threads"


@dataclass
class Case:
    """One network with one T.

    Args:
        variants: by name. skipped: variants that cannot be run, and why.
        facts: of the Program: mean firing rate, rates of every population, kernels.
    """

    title: str
    samples: int
    time_steps: int
    program: Program
    variants: dict[str, Variant] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


def case(
    net: Net,
    program: Program,
    steps: int,
    *,
    samples: int | None = None,
    without: Collection[str] = (),
    reference: bool = True,
) -> Case:
    """A network's variants, each run once (compiled, prepared) and compared.

    Args:
        net: the float network.
        program: what it was quantized to, for this T.
        steps: T.
        samples: fewer than the network's own.
        without: names of variants to leave out.
        reference: whether the reference engine is timed, and compared integer for integer.

    Raises:
        AssertionError: two engines differ in an integer, or a population never fires.
    """
    x = net.data(samples or net.samples[steps], steps)
    found = Case(net.title, len(x), steps, program)
    for name, make in forms.FORMS.items():
        if name in without:
            continue
        try:
            found.variants[name] = _float(name, make(net, steps), x, steps)
        except forms.UnavailableError as why:
            found.skipped[name] = str(why)
    add_engines(found, x.numpy(), reference=reference)
    with torch_threads(1):
        bare = limits.bare_convolutions(program, len(x), steps)
    found.variants[BARE] = Variant(bare, len(x), threads=1)
    for name, variant in found.variants.items():
        if name != REFERENCE:
            variant.run()
    return found


def add_engines(found: Case, x: np.ndarray, *, reference: bool = True) -> None:
    """The engines of snn2chip on a case's Program, checked against each other."""
    program = found.program
    found.facts = facts(program, x)
    for threads in dict.fromkeys((1, torch.get_num_threads())):
        found.variants[fast(threads)] = Variant(
            lambda: s2c.simulate(program, x, engine="fast"), len(x), threads, lambda result: result.outputs
        )
    if reference:
        expected = s2c.simulate(program, x[:1], engine="reference").outputs_int
        np.testing.assert_array_equal(expected, s2c.simulate(program, x, engine="fast").outputs_int[:1])
        found.variants[REFERENCE] = Variant(
            lambda: s2c.simulate(program, x[:1], engine="reference"), 1, 1, every=_SELDOM
        )


def facts(program: Program, x: np.ndarray) -> dict[str, Any]:
    """Firing rates and kernels of a Program; every population must fire."""
    counts = s2c.simulate(program, x[:4], engine="fast").counts
    rates = {n.name: float(counts[n.name].spikes.sum() / counts[n.name].neuron_updates.sum()) for n in program.neurons}
    dead = [name for name, rate in rates.items() if not 0 < rate < 1]
    assert not dead, f"populations that never or always fire: {', '.join(dead)}"
    rows = explain_engine(program, len(x), program.time_steps or x.shape[1]).rows
    kernels = [row.kernel for row in rows if isinstance(program[row.layer].layer, Conv | Linear)]
    return {
        "mean_rate": float(np.mean(list(rates.values()))),
        "lowest_rate": min(rates.values()),
        "populations": len(rates),
        "kernels": {kernel: kernels.count(kernel) for kernel in dict.fromkeys(kernels)},
    }


def inference(run: Callable[[Tensor], Any], x: Tensor) -> Callable[[], Any]:
    """A call without autograd."""

    def call() -> Any:
        with torch.inference_mode():
            return run(x)

    return call


def in_the_best_parts(form: forms.Form, x: Tensor, steps: int) -> Callable[[], Any]:
    """All samples at once or what stays in the cache, whichever is sooner."""
    ways = [inference(forms.in_parts(form, n), x) for n in forms.at_once(len(x), steps)]
    return ways[0] if len(ways) == 1 else min(ways, key=lambda way: (way(), seconds(way))[1])


def _float(name: str, form: forms.Form, x: Tensor, steps: int) -> Variant:
    run = in_the_best_parts(form, x, steps) if name in (forms.FOLDED, forms.COMPILED) else inference(form, x)
    same = name not in forms.OF_ITS_OWN
    return Variant(run, len(x), outputs=(lambda out: out.numpy()) if same else None, every=1 if same else _SELDOM)


def same_predictions(variants: dict[str, Variant]) -> dict[str, float]:
    """Share of samples on which each variant predicts what the network as written predicts.

    Float forms differ where rounding moves a membrane across its threshold; the engines also by quantization.
    """
    outputs = {name: v.outputs(v.run()) for name, v in variants.items() if v.outputs is not None}
    expected = next(iter(outputs.values())).argmax(1)
    return {name: float((out.argmax(1) == expected).mean()) for name, out in outputs.items()}
