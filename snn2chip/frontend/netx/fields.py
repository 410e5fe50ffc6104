"""A group of a NetX file: its fields as whole numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from snn2chip.errors import S2CError
from snn2chip.frontend.hdf5 import Tree, numbers
from snn2chip.ir.layers import Array


@dataclass(frozen=True)
class Fields:
    """A group of the file, with readers that say what is wrong with a field."""

    where: str
    fields: Tree

    @property
    def kind(self) -> str:
        """The group's type; NetX stores it as a text or as a list of one."""
        stored = np.asarray(self.fields.get("type", ""), dtype=object).ravel()
        return str(stored[0]) if stored.size else ""

    def integers(self, name: str) -> Array:
        """A field of whole numbers, int64."""
        value = numbers(self.fields, name, self.where)
        whole: Array = np.rint(value)
        if (value != whole).any():
            bad = value[value != whole].flat[0]
            raise S2CError(
                f"{name} holds {bad:.6g}",
                where=self.where,
                why="NetX files hold the integers of the chip; NetX would cut the fraction off",
                fix="export with the quantization of the training (lava-dl does it in export_hdf5)",
            )
        return whole.astype(np.int64)

    def limited(self, name: str, low: int, high: int) -> Array:
        """A field of whole numbers within bounds."""
        value = self.integers(name)
        if value.size and (value.min() < low or value.max() > high):
            raise S2CError(
                f"{name} spans {value.min()}…{value.max()}",
                where=self.where,
                why=f"it lies in {low}…{high}",
                fix="quantize it to this range before the export",
            )
        return value
