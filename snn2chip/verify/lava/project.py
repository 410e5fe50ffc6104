"""Run an emitted Lava project: in this process with Lava's model classes, or in Lava's own runtime."""

from __future__ import annotations

import importlib
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from snn2chip.emit.lava import write_project
from snn2chip.errors import S2CError
from snn2chip.ir.program import Program
from snn2chip.verify.compare import QUANTITIES, Execution
from snn2chip.verify.lava import shim
from snn2chip.verify.lava.inprocess import run_inprocess
from snn2chip.verify.lava.runtime import run_project


def in_process(program: Program, x: Any, *, power_of_two: bool = False) -> Execution:
    """Emit ``program`` and step the emitted processes with Lava's own model classes, all samples back to back.

    Raises:
        S2CError: Lava is missing, or cannot compute the program exactly.
    """
    require_lava()
    with tempfile.TemporaryDirectory(prefix="snn2chip-lava-") as folder:
        project = Path(folder, "lava")
        write_project(program, project, time_steps=np.shape(x)[1], power_of_two=power_of_two)
        with project_modules(project) as (network, host):
            return _run_in_process(project, network, host, x)


def in_runtime(program: Program, x: Any, *, timeout: float, power_of_two: bool = False) -> Execution:
    """Emit ``program`` and run the project's ``run.py`` in a subprocess: Lava's multi-process runtime.

    Args:
        program: what to run.
        x: samples.
        timeout: limit in seconds, after which the run is ended.
        power_of_two: as in :func:`~snn2chip.emit.lava.write_project`.

    Raises:
        S2CError: Lava is missing, cannot compute the program exactly, failed, or did not finish in time.
    """
    require_lava()
    with tempfile.TemporaryDirectory(prefix="snn2chip-lava-") as folder:
        project = Path(folder, "lava")
        write_project(program, project, time_steps=np.shape(x)[1], power_of_two=power_of_two)
        np.save(Path(folder, "x.npy"), np.asarray(x))
        run_project(
            project, "--input", "../x.npy", "--output", "../out.npz", "--record", ",".join(QUANTITIES), timeout=timeout
        )
        with np.load(Path(folder, "out.npz")) as out:
            layers = {
                node.name: {q: out[f"{node.name}.{q}"] for q in QUANTITIES if f"{node.name}.{q}" in out}
                for node in program.neurons
            }
            return Execution("Lava's runtime", layers, out["outputs_int"])


def require_lava() -> None:
    """Raise :class:`S2CError` unless Lava is installed."""
    if not shim.installed():
        raise S2CError(
            "Lava is not installed.",
            why="this check runs Intel Lava's own code; everything else works without it",
            fix=f"`snn2chip doctor` says what is missing; {shim.LAVA_INSTALL}",
        )


@contextmanager
def project_modules(project: Path) -> Iterator[tuple[ModuleType, ModuleType]]:
    """Import a project's ``network`` and ``host``; its module names are free again afterwards."""
    shim.prepare()
    names = {path.stem for path in project.iterdir()}

    def of_project() -> list[str]:
        return [name for name in sys.modules if name.partition(".")[0] in names]

    hidden = {name: sys.modules.pop(name) for name in of_project()}
    sys.path.insert(0, str(project))
    importlib.invalidate_caches()
    try:
        yield importlib.import_module("network"), importlib.import_module("host")
    finally:
        sys.path.remove(str(project))
        for name in of_project():
            del sys.modules[name]
        sys.modules.update(hidden)


def _run_in_process(project: Path, network: Any, host: Any, x: Any) -> Execution:
    description, arrays = network.load(project)
    integers = host.integers(description, np.asarray(x))
    steps = network.steps(description, len(integers))
    streams = host.streams(description, arrays, integers, steps)
    populations, sources = network.build(description, arrays, streams)
    record: dict[str, tuple[Any, str]] = {}
    for name, process in populations.items():
        record |= {f"u {name}": (process, "u"), f"v {name}": (process, "v")}
        if not description["populations"][name]["integrates_only"]:
            record[f"spikes {name}"] = (process, "s_out")
    rows = run_inprocess([*populations.values(), *sources.values()], steps, record)
    layers: dict[str, dict[str, Any]] = {name: {} for name in populations}
    for label, values in rows.items():
        quantity, _, name = label.partition(" ")
        layers[name][quantity] = host.samples(description, name, values, len(integers))
    recorded = {(name, q): layers[name][q] for name, q in host.needed(description)}
    outputs, _ = host.read_out(description, arrays, integers, recorded)
    return Execution("Lava's model classes", layers, outputs)
