"""Write a Program as a directory that runs in Lava on its own."""

from __future__ import annotations

import inspect
import json
import os
import re
from collections.abc import Callable
from importlib import resources
from types import ModuleType
from typing import Any

import numpy as np

from snn2chip import errors, lava_compat
from snn2chip.atomic import atomic_dir
from snn2chip.emit.lava.description import Description, describe
from snn2chip.emit.lava.populations import program_name
from snn2chip.ir import layers, structure
from snn2chip.ir.program import Program
from snn2chip.neurons import arithmetic
from snn2chip.simulate import ops

_MARKER = "network.json"
_PROJECT = (
    "README.md",
    "run.py",
    "network.py",
    "host.py",
    "processes/__init__.py",
    "processes/neuron.py",
    "processes/recorder.py",
)
# The project computes with the very lines that define the numbers here; only their imports are renamed.
_COPIED: dict[str, ModuleType] = {
    "reference/errors.py": errors,
    "reference/structure.py": structure,
    "reference/layers.py": layers,
    "reference/ops.py": ops,
    "reference/arithmetic.py": arithmetic,
}
_REFERENCE = '"""How the numbers are defined: copied as it stands from snn2chip, which wrote this."""\n'
_RENAMED = {
    "from snn2chip.errors": "from reference.errors",
    "from snn2chip.ir.structure": "from reference.structure",
    "from snn2chip.ir.layers": "from reference.layers",
    "from snn2chip.ir import": "from reference import",
}
_NEURON_HEADER = '''"""The neuron's integer step, one population at a time."""

from __future__ import annotations

from typing import Any

import numpy as np

from reference.arithmetic import {names}


'''


def write_project(
    program: Program,
    directory: str | os.PathLike[str],
    *,
    time_steps: int | None = None,
    power_of_two: bool = False,
) -> Description:
    """Write ``program`` as a runnable Lava project, byte for byte the same for the same program.

    Args:
        program: what to write.
        directory: created, or replaced where it is an earlier output.
        time_steps: T of a sample, where the program leaves it open.
        power_of_two: round the interval between samples up to a power of two, which resets on the chip need.

    Returns:
        what ``network.json`` and ``weights.npz`` hold.

    Raises:
        S2CError: a layer that Lava cannot compute exactly, or a directory that cannot be written.
    """
    description = describe(program, time_steps=time_steps, power_of_two=power_of_two)
    with atomic_dir(directory, marker=_MARKER) as folder:
        for name, text in {**_files(description), **_programs(program)}.items():
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, "utf-8")
        np.savez_compressed(folder / "weights.npz", **description.arrays)  # type: ignore[arg-type]
    return description


def _files(description: Description) -> dict[str, str]:
    project = resources.files("snn2chip.emit.lava") / "project"
    files = {name: project.joinpath(name).read_text("utf-8") for name in _PROJECT}
    files["README.md"] += _overview(description)
    files["compat.py"] = inspect.getsource(lava_compat)
    files["reference/__init__.py"] = _REFERENCE
    files |= {name: _renamed(inspect.getsource(module)) for name, module in _COPIED.items()}
    files[_MARKER] = json.dumps(description.network, indent=1) + "\n"
    return files


def _programs(program: Program) -> dict[str, str]:
    """The programs of the network's neurons, one file each."""
    models = (node.layer.model for node in program.neurons)  # type: ignore[attr-defined]
    return {f"reference/{program_name(model)}.py": _neuron(*model.program) for model in models}


def _neuron(*functions: Callable[..., Any]) -> str:
    source = "\n\n".join(map(inspect.getsource, functions))
    arithmetics = [name for name in vars(arithmetic) if re.search(rf"\b{name}\(", source)]
    # A program that others call has a name of its own; the process asks for this one.
    step = functions[-1].__name__
    named = "" if step == "integer_step" else f"\n\ninteger_step = {step}\n"
    return _NEURON_HEADER.format(names=", ".join(sorted(arithmetics))) + source + named


def _renamed(source: str) -> str:
    for old, new in _RENAMED.items():
        source = source.replace(old, new)
    return source


def _overview(description: Description) -> str:
    """The populations of this network as a table for the README."""
    network = description.network
    rows = [
        " | ".join(
            [
                f"| {name}",
                "×".join(map(str, entry["shape"])),
                str(entry["depth"]),
                entry["process"],
                f"{entry['reason'] or 'native'} |",
            ]
        )
        for name, entry in network["populations"].items()
    ]
    return "\n".join(
        [
            "",
            "## This network",
            "",
            f"{network['time_steps']} steps a sample, one sample every {network['interval']} machine steps.",
            "",
            "| population | shape | depth | process | why |",
            "|---|---|---|---|---|",
            *rows,
            "",
        ]
    )
