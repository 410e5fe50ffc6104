"""Graph + Target + calibration data → Program."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

from snn2chip.errors import S2CError, UsageError
from snn2chip.ir.graph import Graph
from snn2chip.ir.program import Program
from snn2chip.ir.target import Target, load_target
from snn2chip.passes import DEFAULT_PIPELINE, run_passes
from snn2chip.quantize.assemble import assembled, network
from snn2chip.quantize.groups import Group, check_form, with_delays_in_front, with_identity_synapses
from snn2chip.quantize.host import HOSTED, host_fed
from snn2chip.quantize.neuron import APPROXIMATIONS
from snn2chip.quantize.refine import affordable_samples, best_by_themselves, refined
from snn2chip.quantize.search import NoScaleError, Quantized, search
from snn2chip.quantize.setting import Encoder, Setting
from snn2chip.quantize.shortcuts import with_own_synapses
from snn2chip.quantize.trained import as_trained
from snn2chip.simulate import simulate
from snn2chip.simulate.data import as_samples

# Widest graded spikes that analog input is coded in on the chip.
INPUT_BITS = 8


def quantize(
    graph: Graph,
    target: str | Target = "loihi2",
    calibration: Any = None,
    *,
    weight_bits: int = 8,
    encoder: Encoder = "host",
    passes: str = DEFAULT_PIPELINE,
    approximate: Collection[str] = (),
    host: Collection[str] = (),
    refine: bool = True,
    progress: Callable[[str], None] | None = None,
) -> Program:
    """The integer network the chip runs.

    Args:
        graph: the float network; the passes of ``passes`` are run on it first, each proved.
        target: name of a target, path of a ``.toml``, or a Target.
        calibration: samples as the network takes them; they choose scales, nothing else.
        weight_bits: width of the synaptic weights, sign included.
        encoder: where a direct-coded first layer runs: on the host, which then sends its sums to the chip once per
            sample, or on the chip, with the input as graded spikes.
        approximate: what a chip with a fixed neuron may do differently (``APPROXIMATIONS``); each is noted.
        host: what the host may compute between the chip's layers because no chip can (``HOSTED``); each is noted.
        refine: judge the best scales of each population in the whole network, one run of it for each; without, each
            population keeps the one that serves it best, in about half the time.
        progress: called with the name of each population when it is done.

    Raises:
        UsageError: calibration data or an option is missing or wrong.
        S2CError: the network cannot be represented; the message names the layer.
    """
    chip = load_target(target)
    _check_options(chip, calibration, weight_bits, encoder)
    approximate = _names("approximate", approximate, APPROXIMATIONS)
    host = _names("run on the host", host, HOSTED)
    data = as_samples(graph, calibration)
    if graph.time_steps is None:
        graph = dataclasses.replace(graph, time_steps=data.shape[1])
    graph, records = run_passes(graph, data, passes)
    graph, notes = with_own_synapses(graph)
    graph = with_delays_in_front(with_identity_synapses(graph)).verify()
    check_form(graph, host)
    data = data[: affordable_samples(graph)]
    reference = simulate(graph, data, record=("spikes", "v", "a", "out"))
    make = partial(Setting, graph, chip, weight_bits, encoder, data, reference)
    setting, first = _with_input_that_fits(make)
    shortlists: dict[str, list[Quantized]] = {}
    for group in setting.groups:
        name = group.population.name
        shortlists[name] = first[name] if name in first else _shortlist(setting, group)
        if progress is not None:
            progress(name)
    chosen = best_by_themselves(shortlists)
    if refine:
        chosen = refined(setting, shortlists, partial(network, setting, approximate=approximate))
    return assembled(setting, chosen, approximate=approximate, host=host, passes=records, notes=notes)


def _with_input_that_fits(make: Callable[[int], Setting]) -> tuple[Setting, dict[str, list[Quantized]]]:
    """A setting whose input is coded as finely as the sums of its readers allow, and the scales of those.

    Graded input times 8-bit weights can exceed the current's register; fewer input bits then cost less than a wrap.
    """
    for bits in range(INPUT_BITS, 0, -1):
        setting = make(bits)
        try:
            return setting, {
                g.population.name: _shortlist(setting, g) for g in setting.groups if setting.reads_input(g)
            }
        except NoScaleError:
            if setting.input_format.bits < bits or bits == 1:
                raise
    raise AssertionError("the loop returns or raises")


def _shortlist(setting: Setting, group: Group) -> list[Quantized]:
    """The best ways found to quantize one population and its synapses, best first."""
    problem = setting.problem(group)
    hosted = [s for s in group.synapses if s.name in setting.on_host]
    if hosted and (len(group.synapses) > 1 or problem.model.trained_unit is not None):
        trained = len(group.synapses) == 1
        raise S2CError(
            "a population trained in fixed point is fed by a layer on the host"
            if trained
            else "a population is fed by several layers, one of them on the host",
            where=group.population.where(),
            why="the host would sum in a unit of its own" if trained else "",
            fix='use encoder="chip" (--encoder chip)',
        )
    choose = search if problem.model.trained_unit is None else as_trained
    try:
        return [host_fed(problem)] if hosted else choose(problem)
    except S2CError as error:
        raise type(error)(error.what, where=group.population.where(), why=error.why, fix=error.fix) from None


def _check_options(target: Target, calibration: Any, bits: int, encoder: str) -> None:
    if calibration is None:
        raise UsageError(
            "quantization needs calibration data", fix="give calibration=x, samples as the network takes them"
        )
    if not 2 <= bits <= target.weights.bits:
        raise UsageError(
            f"{bits}-bit weights",
            why=f"{target.title} holds 2 to {target.weights.bits} bits",
            fix="choose --weight-bits in that range",
        )
    if encoder not in ("host", "chip"):
        raise UsageError(f"there is no encoder {encoder!r}", fix='use "host" or "chip"')


def _names(purpose: str, given: Collection[str], known: Collection[str]) -> frozenset[str]:
    """The names given, all of them known; a single one need not be in a list."""
    names = frozenset([given] if isinstance(given, str) else given)
    if unknown := names - set(known):
        raise UsageError(
            f"nothing to {purpose} is called {', '.join(sorted(unknown))}", fix=f"choose from {', '.join(known)}"
        )
    return names
