"""Quantization: formats, scale search on calibration data, overflow proof."""

from snn2chip.quantize.quantize import quantize

__all__ = ["quantize"]
