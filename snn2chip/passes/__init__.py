"""Rewrites of the Graph, one a file, and the runner that proves each."""

from snn2chip.passes.runner import DEFAULT_PIPELINE, PASSES, laid_out, parse_pipeline, run_passes

__all__ = ["DEFAULT_PIPELINE", "PASSES", "laid_out", "parse_pipeline", "run_passes"]
