"""The public functions, and ``compile``: from a trained model to a folder of verified artefacts and a report."""

from __future__ import annotations

import importlib.util
import random
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from snn2chip.atomic import atomic_dir
from snn2chip.emit.lava import write_project
from snn2chip.emit.netx import write_net
from snn2chip.emit.nir import write_program
from snn2chip.errors import S2CError, UsageError
from snn2chip.evaluate import evaluate
from snn2chip.frontend.load import load, load_graph
from snn2chip.ir.graph import Graph
from snn2chip.ir.layers import Array
from snn2chip.ir.program import Program
from snn2chip.ir.structure import fingerprint
from snn2chip.ir.target import Target, load_target
from snn2chip.mapping import require
from snn2chip.passes import DEFAULT_PIPELINE
from snn2chip.quantize import quantize
from snn2chip.report import collect, views
from snn2chip.report.manifest import MANIFEST, hashes, versions, write_manifest
from snn2chip.report.terminal import summary
from snn2chip.simulate import simulate
from snn2chip.simulate.data import as_numpy, as_samples, require_dense
from snn2chip.simulate.readout import classes, require_classes
from snn2chip.verify import verify
from snn2chip.verify.measure import measure

__all__ = ["Build", "compile", "evaluate", "load", "load_graph", "quantize", "simulate", "trace", "verify"]

# Samples that are traced where no example is given.
_EXAMPLE_SAMPLES = 4

Progress = Callable[[str, int, "int | None"], None]


@dataclass(frozen=True)
class Build:
    """What a compile left behind.

    Args:
        out: the folder: ``model.nir``, ``model.net`` where NetX can take the network, ``lava/``, ``report.json``,
            ``report.html``, ``report.md``, ``manifest.json``.
        graph: the float network as it was traced.
        program: what the chip runs.
        report: the content of ``report.json``.
    """

    out: Path
    graph: Graph
    program: Program
    report: Mapping[str, Any]

    @property
    def verified(self) -> bool:
        """Whether every oracle that ran found the Program equal."""
        return all(entry["equal"] for entry in self.report["verification"] if entry["ran"])

    def summary(self) -> str:
        """The report in a few lines of plain text."""
        return summary(dict(self.report))


def trace(
    model: Any,
    example: Any,
    *,
    time_steps: int | None = None,
    run: Callable[[Any, Any], Any] | None = None,
    **options: Any,
) -> Graph:
    """The float Graph of a torch model, unedited; see :func:`snn2chip.frontend.torch.trace`.

    Args:
        model: a ``torch.nn.Module``.
        example: one batch, as the model takes it; torch or numpy.
        time_steps: T, where the example does not show it.
        run: ``run(model, example) -> output`` where a sample is not one ``model(example)``: it resets and loops.
        options: what else the tracer takes.

    Raises:
        S2CError: torch is missing, or the model holds something that cannot be carried over exactly.
    """
    if importlib.util.find_spec("torch") is None:
        raise S2CError("tracing a model needs torch", why="it is not installed", fix="pip install torch")
    import torch

    from snn2chip.frontend.torch import trace as traced

    require_dense(example, "example")
    batch = torch.from_numpy(example) if isinstance(example, np.ndarray) else example
    return traced(model, batch, time_steps=time_steps, run=run, **options)


def compile(  # noqa: A001  the name is the public one
    model: Any,
    example: Any = None,
    time_steps: int | None = None,
    *,
    target: str | Target = "loihi2",
    calibration: Any = None,
    out: str | Path = "out",
    data: Any = None,
    labels: Any = None,
    run: Callable[[Any, Any], Any] | None = None,
    trace_options: Mapping[str, Any] | None = None,
    weight_bits: int = 8,
    encoder: Literal["host", "chip"] = "host",
    passes: str = DEFAULT_PIPELINE,
    approximate: Collection[str] = (),
    host: Collection[str] = (),
    against: Iterable[str] = ("lava",),
    verify_samples: int = 2,
    seed: int = 0,
    name: str = "",
    inputs: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> Build:
    """Compile a trained network, verify it, and write everything to ``out``, all or nothing.

    The same inputs give the same bytes.

    Args:
        model: a torch module, or a Graph.
        example: one batch as the model takes it (not for a Graph); left out, a few calibration samples, turned to
            [T, N, ...] where the model takes time first.
        time_steps: T, where the example does not show it.
        target: name of a target, path of a ``.toml``, or a Target.
        calibration: samples [N, T, ...] (or [N, ...] with direct coding) that choose scales.
        out: folder to create; an earlier output of this function is replaced.
        data, labels: samples and their classes [N], counted from 0, to measure on; left out, the calibration samples
            without accuracy.
        run, trace_options: how a sample is run where it is not one ``model(x)``, and what else :func:`trace` takes.
        weight_bits, encoder, passes, approximate, host: see :func:`quantize`.
        against: oracles of :func:`verify` to run; one that is not installed, or cannot run the program, is reported as
            not run. Where none of them runs, the fast engine is compared too.
        verify_samples: samples each oracle runs.
        seed: seeds torch, numpy and random before the model is run.
        name: what the report calls the model.
        inputs: further SHA-256 to note in the manifest, by name.
        progress: called as ``progress(stage, done, total)``.

    Raises:
        UsageError: an argument is missing or wrong.
        S2CError: a label is no class; the network cannot be traced, represented or verified; or the folder cannot be
            written. Nothing is left behind then, and an earlier output stays as it was.
    """
    tell = progress or (lambda stage, done, total: None)
    if calibration is None:
        raise UsageError("calibration data is missing", fix="give some samples of the training data; 64 are plenty")
    if labels is not None and data is None:
        raise UsageError("there are labels but no data", fix="give the samples the labels belong to")
    chip = load_target(target)
    oracles = tuple(against)
    # Entered first: a folder that cannot be written is found out before the work is done.
    with atomic_dir(out, marker=MANIFEST) as folder:
        seed_everything(seed)
        tell("trace", 0, None)
        options = {"time_steps": time_steps, "run": run, **(trace_options or {})}
        if example is None:
            graph, chosen = _graph_of_samples(model, calibration, options)
        else:
            graph, chosen = _graph(model, example, options)
        calibrating = as_samples(graph, calibration)
        tested = calibrating if data is None else as_samples(graph, data)
        truth = None if labels is None else _labels(labels, graph, len(tested))

        done: list[str] = []

        def quantized(population: str) -> None:
            done.append(population)
            tell("quantize", len(done), len(graph.neurons))

        tell("quantize", 0, len(graph.neurons))
        program = quantize(
            graph,
            chip,
            calibrating,
            weight_bits=weight_bits,
            encoder=encoder,
            passes=passes,
            approximate=approximate,
            host=host,
            progress=quantized,
        )
        require(program)
        read = {
            **(inputs or {}),
            "graph": fingerprint(graph),
            "calibration": fingerprint(calibrating),
            "data": fingerprint(tested),
            **({} if truth is None else {"labels": fingerprint(truth)}),
        }
        tell("write", 0, None)
        remarks, not_done = _write_artefacts(program, folder)
        measured = measure(graph, program, tested, truth, lambda n: tell("measure", n, len(tested)))
        checked = [_reread(program, folder / "model.nir")]
        for oracle in oracles:
            tell(f"verify against {oracle}", 0, None)
            checked.append(_verified(program, tested[:verify_samples], oracle))
        if oracles and not any(entry["ran"] for entry in checked[1:]):
            checked.append(_verified(program, tested[:verify_samples], "fast"))
        subject = {"model": name or type(model).__name__, "notes": [*chosen, *remarks, *_overlap(calibrating, tested)]}
        report = collect(
            program,
            subject=subject,
            options={
                **program.options,
                "passes": passes,
                "against": ",".join(oracles),
                "verify_samples": verify_samples,
                "seed": seed,
            },
            measurement=measured,
            labels=truth,
            verification=checked,
            versions=versions(),
            inputs=read,
            artefacts=[{"path": path, **entry} for path, entry in hashes(folder)],
            not_done=not_done,
        )
        for file, text in views(report).items():
            (folder / file).write_text(text, "utf-8")
        write_manifest(folder, report)
    return Build(Path(out), graph, program, report)


def _graph(model: Any, example: Any, options: Mapping[str, Any]) -> tuple[Graph, list[str]]:
    """The Graph of a model, and what the tracer chose and told (as warnings) on the way."""
    if isinstance(model, Graph):
        if options["time_steps"] not in (None, model.time_steps):
            contradiction = (
                f"time_steps={options['time_steps']} contradicts the Graph, which has T = {model.time_steps}"
            )
            raise UsageError(contradiction, fix="leave time_steps out: the Graph has its own")
        return model, []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        graph = trace(model, example, **options)
    told = [str(warning.message) for warning in caught if warning.filename == __file__]
    for warning in caught:
        if warning.filename != __file__:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return graph, told


def _graph_of_samples(model: Any, samples: Any, options: Mapping[str, Any]) -> tuple[Graph, list[str]]:
    """The Graph of a model, traced on the first ``samples`` [N, T, ...].

    A model that takes [T, N, ...] would read samples as steps. It either fails or becomes a Graph of another T, which
    cannot take the samples; then it is given them with time first.
    """
    require_dense(samples, "calibration")
    batch = (samples if hasattr(samples, "ndim") else as_numpy(samples, "calibration"))[:_EXAMPLE_SAMPLES]
    turned = () if isinstance(model, Graph) or batch.ndim < 3 else (batch.swapaxes(0, 1),)
    failure: S2CError | None = None
    for example in (batch, *turned):
        try:
            graph, told = _graph(model, example, options)
            as_samples(graph, batch)
        except S2CError as error:
            failure = failure or error
        else:
            return graph, told
    assert failure is not None
    raise failure


def _labels(labels: Any, graph: Graph, samples: int) -> Array:
    array = as_numpy(labels, "labels")
    require_classes(array, samples, classes(graph))
    return array.astype(np.int64)


def _overlap(calibration: Array, data: Array) -> list[str]:
    """A remark where scales were chosen on samples that are measured on."""
    known = {sample.tobytes() for sample in calibration}
    both = sum(sample.tobytes() in known for sample in data)
    return [f"{both} of the {len(data)} samples measured on were calibration samples too."] if both else []


def seed_everything(seed: int) -> None:
    """Seed every generator a model may draw from."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  a user's model may draw from the global generator
    if importlib.util.find_spec("torch") is not None:
        import torch

        torch.manual_seed(seed)


def _write_artefacts(program: Program, folder: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Write the network files; what they say only approximately, and what was not written and why."""
    remarks = [
        f"model.nir, as other NIR tools read it: {line}" for line in write_program(program, folder / "model.nir")
    ]
    not_done = []
    for what, write in (
        ("model.net", lambda: write_net(program, folder / "model.net")),
        ("lava/", lambda: write_project(program, folder / "lava")),
    ):
        try:
            write()
        except S2CError as error:
            not_done.append({"what": what, "why": error.why or error.what, "fix": error.fix})
    return remarks, not_done


def _reread(program: Program, path: Path) -> dict[str, Any]:
    equal = load(path) == program
    detail = "every integer and every choice read back" if equal else "the file does not read back as it was written"
    return {"against": "model.nir read back", "ran": True, "equal": equal, "detail": detail}


def _verified(program: Program, x: Array, oracle: str) -> dict[str, Any]:
    """What the oracle found, or why it could not run; a program that it cannot run is no failure of the program."""
    try:
        return verify(program, x, against=oracle).as_dict()
    except UsageError:
        raise
    except S2CError as error:
        why = " ".join(part for part in (error.what, error.why and f"({error.why})") if part)
        return {"against": oracle, "ran": False, "equal": None, "detail": why, "fix": error.fix}
