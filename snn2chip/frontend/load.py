"""Opening a file that holds a Program, whatever its format."""

from __future__ import annotations

import os

from snn2chip.frontend.hdf5 import format_of, opened, refuse_format
from snn2chip.frontend.netx import read_net
from snn2chip.frontend.nir import read_program
from snn2chip.ir.program import Program


def load(path: str | os.PathLike[str]) -> Program:
    """Read a compiled program (``.nir`` written by snn2chip) or a vendor's NetX network (``.net``), told by content.

    Raises:
        S2CError: the file cannot be read, is damaged, or holds something else; a NIR graph of another tool is float and
            without a time step: ``load_graph`` reads it.
    """
    with opened(path) as file:
        netx = format_of(file) == "netx"
        if not netx:
            refuse_format(file, path, "program")
    return read_net(path) if netx else read_program(path)
