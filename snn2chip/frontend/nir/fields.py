"""One node of a NIR file: its fields as numbers, and parameters that fit a population."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from snn2chip.errors import S2CError
from snn2chip.frontend.hdf5 import Tree, numbers
from snn2chip.ir.layers import Array, Shape


@dataclass(frozen=True)
class Fields:
    """One node of the file, with readers that say what is wrong with a field."""

    name: str
    fields: Tree

    @property
    def where(self) -> str:
        return f"{self.name} ({self.fields['type']})"

    def has(self, field: str) -> bool:
        return field in self.fields

    def array(self, field: str) -> Array:
        """A numeric field: finite, float as stored, integers as float32."""
        value = numbers(self.fields, field, self.where)
        return value if value.dtype.kind == "f" else value.astype(np.float32)

    def integers(self, field: str, count: int) -> tuple[int, ...]:
        """``count`` whole numbers, one number standing for all."""
        value = numbers(self.fields, field, self.where).ravel()
        if value.size not in (1, count) or (value != np.rint(value)).any():
            raise S2CError(
                f"{field} is {value.tolist()}",
                where=self.where,
                why=f"it takes {count} whole numbers",
                fix=f"export {count} whole numbers, or one for all",
            )
        return tuple(int(v) for v in np.broadcast_to(value, count))

    def shape(self, field: str) -> Shape:
        """A shape without batch and time."""
        value = numbers(self.fields, field, self.where).ravel()
        if not value.size or (value < 1).any() or (value != np.rint(value)).any():
            raise S2CError(
                f"{field} is {value.tolist()}",
                where=self.where,
                why="a shape is a list of whole numbers above 0",
                fix="export the shape of one sample at one step, without batch and time",
            )
        return tuple(int(v) for v in value)

    def parameter(self, field: str, shape: Shape | None) -> Array:
        """A float64 parameter that broadcasts against ``shape``, as small as can be: ``()``, ``(C, 1, 1)`` or full."""
        return fitted(self.array(field).astype(np.float64), shape, self.where, field)


def fitted(value: Array, shape: Shape | None, where: str, field: str) -> Array:
    """A parameter brought to broadcast against ``shape`` and stripped of repetition.

    Raises:
        S2CError: it fits in no way, or in two.
    """
    uniform = bool(value.size) and bool((value == value.flat[0]).all())
    if shape is None or value.size == 1:
        return value.reshape(-1)[:1].reshape(()) if uniform else value
    if value.ndim == 1 and len(shape) > 1 and value.shape[0] == shape[0] and value.shape[0] != shape[-1]:
        value = value.reshape(-1, *(1,) * (len(shape) - 1))
    try:
        fits = np.broadcast_shapes(value.shape, shape) == shape
    except ValueError:
        fits = False
    if fits and uniform:
        return value.reshape(-1)[:1].reshape(())
    if not fits or (value.ndim == 1 and len(shape) > 1):
        raise S2CError(
            f"{field} has shape {value.shape}, which does not fit {shape} neurons",
            where=where,
            why="it takes one value per neuron, or one for all",
        )
    if value.shape == shape and len(shape) > 1:
        first = value[(slice(None), *(slice(0, 1),) * (len(shape) - 1))]
        return first if (value == first).all() else value
    return value


def noted_dt(tree: Tree) -> float | None:
    """The time step that a graph's metadata note, if it is a number."""
    metadata = tree.get("metadata")
    value = np.asarray(metadata.get("dt", np.nan) if isinstance(metadata, dict) else np.nan)
    return float(value) if value.ndim == 0 and value.dtype.kind in "iuf" and np.isfinite(value) else None
