"""Energy per inference: exact counts times the named tables of a target."""

from snn2chip.energy.cost import Cost, Usage, energy, usage

__all__ = ["Cost", "Usage", "energy", "usage"]
