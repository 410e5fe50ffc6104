"""Layers that the host computes: a direct-coded first layer before the chip, a read-out layer after it, and between
its layers what the chip cannot do.
"""

from __future__ import annotations

import dataclasses
from typing import TypeVar

import numpy as np

from snn2chip.errors import S2CError
from snn2chip.ir.layers import Conv, Linear, Rescale
from snn2chip.quantize.overflow import register_limits, sum_range
from snn2chip.quantize.pools import reach, summed
from snn2chip.quantize.search import HEADROOM, Branch, HostLayer, Problem, Quantized, judged, preferred, snapped
from snn2chip.quantize.setting import HOST_BITS
from snn2chip.simulate.ops import NumpyOps, apply

Synaptic = TypeVar("Synaptic", Linear, Conv)

# What the host may compute between the chip's layers → how that reads in a report.
HOSTED = {
    "products": "multiplied on the host; the chip has no product of two spike trains",
    "pools": "maxima taken on the host; the chip has no maximum but of spikes that are 0 or 1",
}

_OPS = NumpyOps()
_TOP = (1 << (HOST_BITS - 1)) - 1


def host_fed(problem: Problem) -> Quantized:
    """A population whose sums the host computes in wide integers and hands over once per sample.

    Raises:
        S2CError: they fit the chip's registers at no scale.
    """
    (branch,) = problem.branches
    limits, arithmetic, model = problem.target.limits, problem.target.arithmetic, problem.model
    room = register_limits(arithmetic, arithmetic.current_bits)["u"] >> arithmetic.input_shift
    smallest = HEADROOM * (float(np.abs(problem.sums).max(initial=0.0)) or 1.0) / room
    if not model.integrates_only:
        smallest = max(smallest, float(np.max(model.v_threshold / model.input_gain)) / limits.threshold_max)
    # Coarser units leave more room above what the data reached, up to where the worst case fits.
    units = [snapped(smallest * 2.0**k, model) for k in range(12)]
    fitting = [q for unit in units if (q := _handed_over(branch, problem, unit)) is not None]
    if not fitting:
        raise S2CError("the sums of the host do not fit the chip's registers at any scale")
    return preferred(fitting)


def _handed_over(branch: Branch, problem: Problem, unit: float) -> Quantized | None:
    """The host's integer layer and its shift at this unit, and the population judged on what they hand over."""
    largest = float(np.abs(branch.layer.weight).max(initial=0.0)) or 1.0
    shift = max(0, int(np.floor(np.log2(unit * _TOP / largest))))
    weight = np.clip(np.rint(branch.layer.weight / (unit / 2.0**shift)), -_TOP, _TOP).astype(np.int64)
    layer = dataclasses.replace(branch.layer, weight=weight, bias=None)
    assert branch.inputs is not None
    # Direct coding: every step brings the same sums, so that the first says all.
    sums = {branch.name: apply(layer, [branch.inputs[:, 0]], _OPS)[:, None]}
    outside = np.broadcast_to(apply(Rescale(shift), [summed(sums, problem.pooled)], _OPS), problem.spikes.shape)
    low, high = reach({branch.name: sum_range(layer, branch.source)}, problem.pooled)
    found = judged(problem, unit, problem.bias, ((low >> shift) - 1, (high >> shift) + 1), outside)
    return None if found is None else dataclasses.replace(found, host=HostLayer(layer, shift))


def head(layer: Synaptic, worth: float) -> tuple[Synaptic, float]:
    """A layer after the last population in the host's integers, and the float value of one unit of its weights.

    Args:
        layer: float weights and bias.
        worth: float value of one unit of its input.
    """
    scale = (float(np.abs(layer.weight).max(initial=0.0)) or 1.0) / _TOP
    weight = np.rint(layer.weight.astype(np.float64) / scale).astype(np.int64)
    bias = None if layer.bias is None else np.rint(layer.bias.astype(np.float64) / (scale * worth)).astype(np.int64)
    return dataclasses.replace(layer, weight=weight, bias=bias), scale
