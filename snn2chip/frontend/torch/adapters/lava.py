"""lava-dl's slayer: refused by name, because it has an exact way out of its own.

A slayer neuron computes in the chip's integers while it trains (``lava/lib/dl/slayer/neuron/cuba.py``: quantized
weights, decays in 1/4096, states rounded at every step), and one block holds synapse, neuron and axonal delay. Its
export keeps all of that; a float graph would not.
"""

from __future__ import annotations

from torch import nn

from snn2chip.errors import S2CError
from snn2chip.frontend.torch.cells import Cell

_SLAYER = ("lava.lib.dl.slayer.block", "lava.lib.dl.slayer.neuron")


def cell(module: nn.Module) -> Cell | None:
    """See :class:`snn2chip.frontend.torch.cells.Adapter`."""
    for cls in type(module).__mro__:
        if cls.__module__.startswith(_SLAYER):
            block = f"{cls.__module__.rpartition('.')[2]}.{cls.__name__}"
            raise S2CError(
                f"lava-dl's {block} computes in integers already",
                why="tracing it as a float network would lose the rounding it was trained with",
                fix="export the network with lava-dl (export_hdf5('network.net')) and "
                "snn2chip.load('network.net'): that keeps every integer",
            )
    return None


def reset(module: nn.Module) -> bool:
    """Nothing of it is traced."""
    return False
