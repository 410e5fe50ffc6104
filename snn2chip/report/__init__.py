"""The report: JSON first; Markdown, HTML and the terminal show what stands in it."""

from snn2chip.report.collect import collect
from snn2chip.report.document import document
from snn2chip.report.files import read_report, views

__all__ = ["collect", "document", "read_report", "views"]
