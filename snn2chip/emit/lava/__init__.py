"""A runnable Lava project, which needs nothing of snn2chip."""

from snn2chip.emit.lava.description import Description, describe
from snn2chip.emit.lava.write import write_project

__all__ = ["Description", "describe", "write_project"]
