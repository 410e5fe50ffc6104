"""Whole test sets: streamed, in shards, resumable, on several workers; the integers of one simulation over all."""

from snn2chip.evaluate.evaluate import evaluate
from snn2chip.evaluate.evaluation import Evaluation, LayerTotals
from snn2chip.evaluate.progress import Progress
from snn2chip.evaluate.sizing import Extent

__all__ = ["Evaluation", "Extent", "LayerTotals", "Progress", "evaluate"]
