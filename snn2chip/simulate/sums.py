"""The exact sums of one synaptic layer for many inputs, by the fast engine's kernels where these pay."""

from __future__ import annotations

import math

import numpy as np

from snn2chip.ir.layers import Array, Conv, Linear
from snn2chip.simulate.fast import torch_missing
from snn2chip.simulate.ops import NumpyOps, apply

# Multiply-accumulates below which a kernel is not worth its preparation.
_WORTHWHILE = 5_000_000


def exact_sums(layer: Linear | Conv, x: Array) -> Array:
    """What a layer of integers without delays makes of integers ``x`` [B, ...], whatever the integers' types; int64."""
    macs = math.prod(layer.output_shape(x.shape[1:])) * math.prod(layer.weight.shape[1:]) * len(x)
    if macs < _WORTHWHILE or torch_missing():
        return np.asarray(apply(layer, [x], NumpyOps()), dtype=np.int64)
    import torch

    from snn2chip.simulate.fast.synapses.choice import choose
    from snn2chip.simulate.fast.synapses.linear import Case, exact_floats
    from snn2chip.simulate.ranges import Range

    # At least 0 to 1: what is proved of more values holds for fewer, and fewer kinds of inputs are fewer self-tests.
    case = Case.of(layer, x.shape[1:], Range(min(0, int(x.min())), max(1, int(x.max()))))
    with exact_floats():
        found: torch.Tensor = choose(case, len(x), runs=1).run(torch.from_numpy(np.ascontiguousarray(x)))
        return found.to(torch.int64).contiguous().numpy()
