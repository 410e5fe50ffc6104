"""A vendor's recording, arrays under many spellings and in two layouts, as an execution to compare with."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np

from snn2chip.errors import S2CError
from snn2chip.ir.layers import Array
from snn2chip.ir.program import Program
from snn2chip.verify.compare import QUANTITIES, Execution

Layout = Literal["program", "lava"]


def read_recording(path: str) -> dict[str, Array]:
    """The arrays of an ``.npz`` file.

    Raises:
        S2CError: it cannot be read.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise S2CError(
            "the recording cannot be read",
            where=path,
            why=str(error),
            fix="give the .npz file of a recording, saved with numpy.savez",
        ) from None


def execution_of(recording: Mapping[str, Any], program: Program, samples: int, layout: Layout, name: str) -> Execution:
    """What a recording holds of the populations of ``program``.

    Args:
        recording: NAME.spikes, NAME.u, NAME.v (also spelled NAME, NAME-u, …), or name → quantity → array.
        samples: how many it should hold; of one sample, the axis may be missing.
        layout: "program" [N, T, C, H, W], or "lava" (W, H, C, T).
        name: of the recording, for people.

    Raises:
        S2CError: an array has another shape than the population in this layout.
    """
    shapes = program.shapes()
    found: dict[str, dict[str, Array]] = {}
    for node in program.neurons:
        for quantity in QUANTITIES:
            array = _array_of(recording, node.name, quantity)
            if array is None:
                continue
            placed = array if layout == "program" else array.transpose()
            if placed.ndim == len(shapes[node.name]) + 1 and samples == 1:
                placed = placed[None]
            if placed.shape[:1] + placed.shape[2:] != (samples, *shapes[node.name]):
                raise S2CError(
                    f"the recording of {quantity} has shape {array.shape}",
                    where=node.where(),
                    why=f"in the layout {layout!r} it should hold {samples} samples of {shapes[node.name]} neurons",
                    fix='give layout="lava" for (W, H, C, T), or choose the samples that were recorded',
                )
            found.setdefault(node.name, {})[quantity] = placed
    return Execution(name, found)


def _array_of(recording: Mapping[str, Any], name: str, quantity: str) -> Array | None:
    nested = recording.get(name)
    if isinstance(nested, Mapping):
        array = nested.get(quantity)
    else:
        array = next((recording[key] for key in _spellings(name, quantity) if key in recording), None)
    return None if array is None else np.asarray(array)


def _spellings(name: str, quantity: str) -> Iterator[str]:
    letters = {"spikes": ("spikes", "s")}.get(quantity, (quantity,))
    yield from (f"{name}{mark}{letter}" for mark in (".", "-", "/", "_") for letter in letters)
    if quantity == "spikes":
        yield name
