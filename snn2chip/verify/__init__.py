"""Run two things on the same data and say where they first differ."""

from snn2chip.verify.compare import Divergence, Execution, LayerComparison, compare, first_divergence
from snn2chip.verify.verification import VerifyReport, verify

__all__ = [
    "Divergence",
    "Execution",
    "LayerComparison",
    "VerifyReport",
    "compare",
    "first_divergence",
    "verify",
]
