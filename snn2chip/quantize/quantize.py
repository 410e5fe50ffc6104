"""Graph + Target + calibration data → Program."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import numpy as np

from snn2chip.errors import S2CError, UsageError
from snn2chip.ir.graph import Graph
from snn2chip.ir.program import Program
from snn2chip.ir.target import Target, load_target
from snn2chip.passes import DEFAULT_PIPELINE, run_passes
from snn2chip.quantize.assemble import assembled
from snn2chip.quantize.groups import Group, check_form, with_delays_in_front, with_identity_synapses
from snn2chip.quantize.host import HOSTED, host_fed
from snn2chip.quantize.neuron import APPROXIMATIONS
from snn2chip.quantize.search import NoScaleError, Quantized, search
from snn2chip.quantize.setting import Encoder, Setting
from snn2chip.quantize.shortcuts import with_own_synapses
from snn2chip.quantize.trained import as_trained
from snn2chip.simulate import simulate
from snn2chip.simulate.data import as_samples

# Widest graded spikes that analog input is coded in on the chip.
INPUT_BITS = 8
# Calibration samples that are run at most; more refine nothing that 8-bit weights can show.
CALIBRATION_SAMPLES = 128
# Values of all layers over all steps and samples that a calibration run holds at most.
CALIBRATION_VALUES = 60_000_000
# Values of all layers that the whole network is run on for each alternative at most.
REFINING_VALUES = 20_000_000


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
            population keeps the one that serves it best. A network of thirty populations takes minutes with it.
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
    build = partial(assembled, setting, approximate=approximate, host=host, notes=notes)
    chosen = _refined(setting, shortlists, build) if refine else _best_by_itself(shortlists)
    return build(chosen, passes=records)


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


def affordable_samples(graph: Graph, limit: int = CALIBRATION_VALUES) -> int:
    """How many calibration samples are run: as many as hold ``limit`` values over all layers and steps, at least 4."""
    shapes = graph.shapes()
    values = (graph.time_steps or 1) * sum(int(np.prod(shapes[node.name])) for node in graph)
    return min(CALIBRATION_SAMPLES, max(4, limit // values))


def _best_by_itself(shortlists: dict[str, list[Quantized]]) -> dict[str, Quantized]:
    return {name: shortlist[0] for name, shortlist in shortlists.items()}


def _refined(
    setting: Setting, shortlists: dict[str, list[Quantized]], build: Callable[[dict[str, Quantized]], Program]
) -> dict[str, Quantized]:
    """One alternative per population: the local best, unless another brings the whole network closer to its float self.

    Populations are visited in order; each keeps the alternative with which the outputs on the calibration data deviate
    least. Labels are not looked at.
    """
    chosen = _best_by_itself(shortlists)
    samples = affordable_samples(setting.graph, REFINING_VALUES)
    outputs = setting.reference.outputs[:samples]
    spread = float(((outputs - outputs.mean(axis=0)) ** 2).sum()) or 1.0

    def deviation(choices: dict[str, Quantized]) -> float:
        found = simulate(build(choices), setting.data[:samples]).outputs
        return float(((found - outputs) ** 2).sum()) / spread

    least = deviation(chosen)
    for name, shortlist in shortlists.items():
        for alternative in shortlist[1:]:
            found = deviation(chosen | {name: alternative})
            if found < least:
                least, chosen = found, chosen | {name: alternative}
    return chosen


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
