"""The parts of the benchmark, each as data for JSON; every number is measured, none is typed."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench import demo, limits, sweeps, tracing
from bench.forms import COMPILED, EAGER, FOLDED, WRITTEN
from bench.measure import interleaved, summary, torch_threads
from bench.memory import FAST, Job, keep, workers
from bench.networks import NETS, Net
from bench.variants import BARE, ONE_THREAD, REFERENCE, Case, case, fast, same_predictions
from snn2chip.errors import S2CError
from snn2chip.ir.program import Program

Say = Callable[[str], None]
# Seconds that the rounds of one network may take before they become fewer.
_BUDGET = 20.0
# The float forms that peak memory is compared with, and with how many samples.
_HELD = (FOLDED, WRITTEN)
_SAMPLES_HELD = {"vgg": 32, "resnet34": 8, "spikformer": 8, "recurrent": 64, "dvsgesture": 2}


@dataclass(frozen=True)
class Options:
    """What is measured.

    Args:
        networks: names of ``NETS`` and "digits". steps: of T; None: all of a network's.
        rounds: interleaved runs of each variant. quick: fewer samples and points, nothing that takes minutes.
    """

    networks: Collection[str]
    steps: Collection[int] | None = None
    rounds: int = 7
    quick: bool = False

    def of(self, net: Net) -> list[int]:
        """The T of a network that are wanted."""
        return [t for t in net.samples if self.steps is None or t in self.steps][: 1 if self.quick else None]


def networks(options: Options, programs: Programs, say: Say) -> Iterator[dict[str, Any]]:
    """Every network: times of its variants, ratios, limits."""
    for name in options.networks:
        if name == "digits":
            say("digits: training, quantizing")
            yield _demo(options)
            continue
        for i, steps in enumerate(options.of(NETS[name])):
            say(f"{name}, T = {steps}")
            program, why = programs.of(name, steps)
            if program is None:
                yield {"name": name, "title": NETS[name].title, "time_steps": steps, "refused": why}
                continue
            yield {"name": name, **timed(_case(name, program, steps, options, first=i == 0), options.rounds)}


def _case(name: str, program: Program, steps: int, options: Options, *, first: bool) -> Case:
    net = NETS[name]
    samples = max(1, net.samples[steps] // 4) if options.quick else None
    without = {COMPILED} if options.quick else set()
    found = case(net, program, steps, samples=samples, without=without, reference=first)
    found.skipped |= dict.fromkeys(without, "left out of a quick run")
    if not first:
        found.skipped[REFERENCE] = "timed and compared with the fast engine at the smallest T"
    with torch_threads(1):
        found.facts["neurons"] = limits.neuron_bandwidth(program, found.samples, steps)
    return found


def _demo(options: Options) -> dict[str, Any]:
    found = demo.demo_case(epochs=1 if options.quick else 5)
    row = {"name": "digits", **timed(found, options.rounds)}
    why = "left out of a quick run" if options.quick else demo.lava_missing()
    if why:
        return {**row, "skipped": {**row["skipped"], demo.RUNTIME: why, demo.IN_PROCESS: why}}
    base, soonest = _soonest_eager(row["variants"]), row["variants"][_fastest(row)]["ms_per_sample"]
    for name, taken in demo.lava_seconds_per_sample(found.program, demo.digits.test_data()[0]).items():
        row["variants"][name] = {"samples": 1, "runs": 1, "ms_per_sample": 1000 * taken, "ratio": 1000 * taken / base}
        row["claims"][f"{name} / fast engine, per further sample"] = 1000 * taken / soonest
    return row


def timed(found: Case, rounds: int) -> dict[str, Any]:
    """A case as data: its variants' times, each beside the soonest eager float form, per sample."""
    times = interleaved(found.variants, rounds, _BUDGET)
    same = same_predictions(found.variants)
    rows = {name: summary(t, found.variants[name].samples) for name, t in times.items()}
    for name, row in rows.items():
        row["ratio"] = row["ms_per_sample"] / _soonest_eager(rows)
        if name in same:
            row["same_predictions"] = same[name]
    data = {
        "title": found.title,
        "time_steps": found.time_steps,
        "samples": found.samples,
        "variants": rows,
        "skipped": found.skipped,
        "program": found.facts,
    }
    return {**data, "claims": _claims(data)}


def _claims(data: dict[str, Any]) -> dict[str, float]:
    rows = data["variants"]
    soonest = _fastest(data)
    pairs = [(soonest, COMPILED), (soonest, WRITTEN), (ONE_THREAD, BARE), (REFERENCE, soonest)]
    found = {f"{soonest} / the soonest eager float": rows[soonest]["ratio"]}
    return found | {
        f"{a} / {b}": rows[a]["ms_per_sample"] / rows[b]["ms_per_sample"] for a, b in pairs if {a, b} <= set(rows)
    }


def _soonest_eager(rows: dict[str, Any]) -> float:
    return float(min(row["ms_per_sample"] for name, row in rows.items() if name in EAGER))


def _fastest(data: dict[str, Any]) -> str:
    """The fast engine with all threads."""
    name = fast(torch.get_num_threads())
    return name if name in data["variants"] else ONE_THREAD


class Programs:
    """Every network is traced and quantized once, and kept in a folder for other processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._made: dict[str, tuple[Program | None, str]] = {}

    def of(self, name: str, steps: int) -> tuple[Program | None, str]:
        """A network's Program for so many steps, or None and why there is none."""
        if name not in self._made:
            try:
                self._made[name] = NETS[name].program(steps), ""
            except S2CError as error:
                self._made[name] = None, str(error).splitlines()[0]
        program, why = self._made[name]
        return (None, why) if program is None else (NETS[name].for_steps(program, steps), "")

    def file(self, name: str, steps: int) -> str:
        """The Program's file; empty where there is none."""
        path = self.folder / f"{name}.program"
        program, _ = self.of(name, steps)
        if program is None:
            return ""
        if not path.exists():
            keep(program, path)
        return str(path)


def trace_times(options: Options) -> dict[str, Any]:
    """Tracing and folding beside ``torch.onnx.export``."""
    net = NETS["vgg" if options.quick else "resnet34"]
    variants, skipped = tracing.variants(net, 4)
    rounds = 1 if options.quick else 2
    for variant in variants.values():
        variant.run()
    rows = {name: summary(times, 1) for name, times in interleaved(variants, rounds).items()}
    for row in rows.values():
        row["ratio"] = row["median_ms"] / rows[tracing.OURS]["median_ms"]
    return {"title": net.title, "time_steps": 4, "variants": rows, "skipped": skipped}


def peak_memory(options: Options, programs: Programs, say: Say) -> Iterator[dict[str, Any]]:
    """Peak memory at the largest T, in processes of their own."""
    with workers() as run:
        for name in options.networks:
            if name not in NETS or not (wanted := options.of(NETS[name])):
                continue
            steps = max(wanted)
            file = programs.file(name, steps)
            if not file:
                continue
            samples = max(1, _SAMPLES_HELD[name] // (4 if options.quick else 1))
            say(f"{name}, T = {steps}: memory")
            rows = {v: run(Job(v, name, steps, samples, file, runs=1)) for v in (FAST, *_HELD)}
            yield {
                "name": name,
                "title": NETS[name].title,
                "time_steps": steps,
                "samples": samples,
                "variants": rows,
                "claims": {f"{FAST} / {v}": rows[FAST]["added_mib"] / rows[v]["added_mib"] for v in _HELD},
            }


def sweep_rows(options: Options, folder: Path, say: Say) -> dict[str, list[dict[str, Any]]]:
    """Rows of every sweep."""
    found: dict[str, list[dict[str, Any]]] = {}
    for name, row in sweeps.measured(folder, quick=options.quick):
        found.setdefault(name, []).append(row)
        say(f"sweep over {row['axis']}: {row['at']:g}, {row['variant']}")
    return found


def everything(options: Options, parts: Collection[str], machine: dict[str, Any], say: Say) -> dict[str, Any]:
    """The whole report."""
    report: dict[str, Any] = {"machine": machine, "rounds": options.rounds, "quick": options.quick}
    with tempfile.TemporaryDirectory(prefix="snn2chip-bench-") as name:
        folder = Path(name)
        programs = Programs(folder)
        if "networks" in parts:
            report["networks"] = list(networks(options, programs, say))
        if "memory" in parts:
            report["memory"] = list(peak_memory(options, programs, say))
        if "tracing" in parts:
            say("tracing beside torch.onnx.export")
            report["tracing"] = trace_times(options)
        if "sweeps" in parts:
            report["sweeps"] = sweep_rows(options, folder, say)
    return report
