"""Energy per inference: exact counts times the named tables of a target; dense counts beside them."""

from snn2chip.energy.cost import Cost, Usage, energy, usage
from snn2chip.energy.dense import DenseOperations, dense_operations

__all__ = ["Cost", "DenseOperations", "Usage", "dense_operations", "energy", "usage"]
