"""Programs as ``.nir`` files."""

from snn2chip.emit.nir.write import write_program

__all__ = ["write_program"]
