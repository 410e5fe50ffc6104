"""Exact simulation of Programs, and float simulation of Graphs through the same door."""

from snn2chip.simulate.engine import Again, again, simulate
from snn2chip.simulate.result import Counts, Recording, Result

__all__ = ["Again", "Counts", "Recording", "Result", "again", "simulate"]
