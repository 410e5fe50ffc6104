"""Cores and memory a Program needs on its target, and the limits it may break."""

from snn2chip.mapping.constraints import Violation, check, require
from snn2chip.mapping.cores import CoreEstimate, LayerCores, estimate

__all__ = ["LayerCores", "CoreEstimate", "Violation", "check", "estimate", "require"]
