"""Run a Program and something else on the same data, and say whether they agree or where they first differ."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from snn2chip.errors import UsageError
from snn2chip.ir.graph import Graph
from snn2chip.ir.layers import Array
from snn2chip.ir.program import Program
from snn2chip.passes import laid_out
from snn2chip.simulate import simulate
from snn2chip.simulate.data import as_samples
from snn2chip.simulate.reference import Clock
from snn2chip.verify.compare import (
    OUTPUTS,
    QUANTITIES,
    Divergence,
    Execution,
    LayerComparison,
    compare,
    first_divergence,
)
from snn2chip.verify.lava import project
from snn2chip.verify.recording import Layout, execution_of, read_recording

Oracle = str | os.PathLike[str] | Graph | Mapping[str, Any]

_REFERENCE = "snn2chip's reference engine"


@dataclass(frozen=True)
class VerifyReport:
    """What a verification found.

    Args:
        against: what the Program was compared with.
        samples: how many samples.
        exact: whether equality is what is claimed; against a float network it is not.
        layers: one comparison per population, in order of execution, and one of the read-out where both have one.
        first_divergence: where the difference begins, or None.
    """

    against: str
    samples: int
    exact: bool
    layers: tuple[LayerComparison, ...]
    first_divergence: Divergence | None

    @property
    def equal(self) -> bool:
        """Whether every compared value is the same; against a float network, every spike."""
        return all(layer.equal for layer in self.layers)

    def __str__(self) -> str:
        samples = f"{self.samples} sample{'s' * (self.samples != 1)}"
        lines = [f"Against {self.against}, {samples}: {self._verdict()}"]
        width = max(len(layer.name) for layer in self.layers)
        lines += [f"  {layer.name:<{width}}  {_line(layer, self.exact)}" for layer in self.layers]
        if self.first_divergence is not None:
            lines.append(f"First difference: {self.first_divergence}")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON-able data; infinite signal-to-noise ratios become None."""
        return {
            "against": self.against,
            "ran": True,
            "equal": self.equal,
            "exact": self.exact,
            "samples": self.samples,
            "detail": self._verdict() if self.first_divergence is None else str(self.first_divergence),
            "layers": [_plain(layer) for layer in self.layers],
            "first_divergence": None if self.first_divergence is None else dataclasses.asdict(self.first_divergence),
        }

    def _verdict(self) -> str:
        compared = sum(sum(layer.values.values()) for layer in self.layers)
        differing = sum(sum(layer.differing.values()) for layer in self.layers)
        what = "values" if self.exact else "spikes"
        return f"all {compared:,} {what} equal" if self.equal else f"{differing:,} of {compared:,} {what} differ"


def verify(
    program: Program,
    x: Any,
    against: Oracle = "lava",
    *,
    layers: Iterable[str] | None = None,
    timeout: float = 600.0,
    power_of_two: bool = False,
    clock: Clock = "sample",
    reset_interval: int | None = None,
    reset_phase: int = 0,
    registers: str | None = None,
    layout: Layout = "program",
) -> VerifyReport:
    """Compare ``program``, run by the reference engine, with another execution on the same samples.

    Args:
        x: samples [N, T, ...], or [N, ...] with direct coding.
        against: "reference" (the engine again, with other batches), "fast" (the fast
            engine, see :mod:`snn2chip.simulate.fast`), "lava" (the emitted project's processes,
            stepped here with Lava's own model classes), "lava-runtime" (its ``run.py`` in a subprocess, Lava's own
            runtime), a float Graph, or a recording: a mapping or the path of an ``.npz`` file, with NAME.spikes,
            NAME.u, NAME.v (also spelled NAME, NAME-u, …) or name → quantity → array.
        layers: compare these populations only.
        timeout: limit of "lava-runtime" in seconds.
        power_of_two: of the emitted project, see :func:`~snn2chip.emit.lava.write_project`.
        clock, reset_interval, reset_phase, registers: how a recording was made, see
            :func:`~snn2chip.simulate.simulate`.
        layout: axes of a recording: "program" [N, T, C, H, W] ([T, C, H, W] for one sample), or "lava" (W, H, C, T).

    Raises:
        S2CError: Lava is missing or cannot compute the program exactly, a recording does not fit.
        UsageError: ``against`` names nothing known.
    """
    as_samples(program, x, free_time=clock == "machine")
    if isinstance(against, Graph):
        return _against_graph(program, x, against, layers)
    if not isinstance(against, str) or against not in _ORACLES:
        recording = against if isinstance(against, Mapping) else _read(os.fspath(against))
        result = simulate(
            program,
            x,
            record=QUANTITIES,
            clock=clock,
            reset_interval=reset_interval,
            reset_phase=reset_phase,
            registers=registers,
            engine="reference",
        )
        # A recording is the truth; everything else is measured against the reference engine, the definition.
        truth = execution_of(recording, program, len(x), layout, against if isinstance(against, str) else "a recording")
        wanted = list(truth.layers if layers is None else layers)
        return _report(truth.name, x, compare(truth, Execution.of(_REFERENCE, result), layers=wanted))
    if clock != "sample" or reset_interval is not None or reset_phase or registers is not None:
        options = "clock, reset_interval, reset_phase and registers"
        raise UsageError("the machine's clock is for recordings", fix=f"leave out {options}")
    expected = Execution.of(_REFERENCE, simulate(program, x, record=QUANTITIES, engine="reference"))
    found = _ORACLES[against](program, x, timeout, power_of_two)
    return _report(found.name, x, compare(expected, found, layers=layers))


# name → (program, samples, timeout, power_of_two) → what it did
_ORACLES: Mapping[str, Callable[[Program, Any, float, bool], Execution]] = {
    "reference": lambda program, x, timeout, power_of_two: Execution.of(
        "the same engine in other batches",
        simulate(program, x, record=QUANTITIES, batch_size=7 if len(x) > 7 else 1, engine="reference"),
    ),
    "fast": lambda program, x, timeout, power_of_two: Execution.of(
        "the fast engine", simulate(program, x, record=QUANTITIES, engine="fast")
    ),
    "lava": lambda program, x, timeout, power_of_two: project.in_process(program, x, power_of_two=power_of_two),
    "lava-runtime": lambda program, x, timeout, power_of_two: project.in_runtime(
        program, x, timeout=timeout, power_of_two=power_of_two
    ),
}


def _against_graph(program: Program, x: Any, graph: Graph, layers: Iterable[str] | None) -> VerifyReport:
    mine = Execution.of(_REFERENCE, simulate(program, x, record=QUANTITIES))
    graph = laid_out(graph, program.passes)
    truth = Execution.of("the float network", simulate(graph, x, record=QUANTITIES))
    scales = {node.name: _scale_of_v(program, node.name) for node in program.neurons}
    compared = compare(truth, mine, layers=layers, scales=scales)
    return _report(truth.name, x, compared, exact=False)


def _report(against: str, x: Any, compared: tuple[LayerComparison, ...], exact: bool = True) -> VerifyReport:
    return VerifyReport(against, len(x), exact, compared, first_divergence(compared))


def _read(path: str) -> Mapping[str, Array]:
    if not path.endswith(".npz"):
        known = ", ".join(f'"{name}"' for name in _ORACLES)
        raise UsageError(
            f"there is nothing to verify against that is called {path!r}",
            fix=f"use {known}, a Graph, or the path of an .npz recording",
        )
    return read_recording(path)


def _scale_of_v(program: Program, name: str) -> float:
    form = program.formats.get(f"{name}.v")
    return 1.0 if form is None else form.scale


def _line(layer: LayerComparison, exact: bool) -> str:
    texts = []
    if exact:
        total, differing = sum(layer.values.values()), sum(layer.differing.values())
        names = ", ".join(layer.values)
        texts.append(
            f"{names} equal ({total:,} values)" if layer.equal else f"{differing:,} of {total:,} values differ"
        )
    elif layer.spike_agreement is not None:
        texts.append(f"{layer.spike_agreement:.4%} of spikes agree, distance of rates {layer.rate_distance:.2g}")
    if layer.rate_found is not None:
        texts.append(f"{layer.rate_found:.4g} spikes per neuron and step")
    if not layer.equal or not exact:
        texts += [] if layer.v_sqnr_db is None else [f"v {layer.v_sqnr_db:.1f} dB"]
    return (
        "; ".join(texts)
        if layer.name != OUTPUTS or not layer.equal
        else f"equal ({sum(layer.values.values()):,} values)"
    )


def _plain(layer: LayerComparison) -> dict[str, Any]:
    data = {**dataclasses.asdict(layer), "equal": layer.equal}
    if layer.v_sqnr_db is not None and not math.isfinite(layer.v_sqnr_db):
        data["v_sqnr_db"] = None
    return data
