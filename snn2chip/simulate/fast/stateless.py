"""Exact torch operations for the layers between synapses and populations, on batches of any integer-valued dtype.

Every tensor of the engine holds whole numbers in the narrowest dtype that is proved to hold them: bytes, float32,
float64, int64. An operation is computed in the dtype its own intermediate values fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from snn2chip.ir import layers as L
from snn2chip.ir.layers import Array, Shape
from snn2chip.simulate.fast import compiled
from snn2chip.simulate.fast.kernels import count_kernel, pool_kernel, rescale_kernel
from snn2chip.simulate.ops import NumpyOps, apply
from snn2chip.simulate.ranges import Range, common_power, magnitude

Operation = Callable[[list[torch.Tensor]], torch.Tensor]


def dtype_of(x: Range) -> torch.dtype:
    """The narrowest dtype that holds every value of ``x``."""
    if x.within(Range(0, 255)):
        return torch.uint8
    return torch.int8 if x.within(Range(-128, 127)) else wide(x.magnitude, x.step)


def array_dtype(dtype: torch.dtype) -> np.dtype[Any]:
    """The same in numpy."""
    return torch.empty(0, dtype=dtype).numpy().dtype


def wide(magnitude: int, step: int) -> torch.dtype:
    """The dtype for sums and products up to ``magnitude``, multiples of ``step``."""
    if magnitude >= 2**63:  # integers lose their upper bits, floats do not
        return torch.int64
    if magnitude // step < 2**24:
        return torch.float32
    return torch.float64 if magnitude // step < 2**53 else torch.int64


@dataclass(frozen=True)
class Site:
    """A stateless layer where it stands: the shapes and ranges of its inputs and the range of its output."""

    layer: L.Layer
    shapes: tuple[Shape, ...]
    inputs: tuple[Range, ...]
    out: Range


def operation(site: Site) -> Operation:
    """The layer on inputs [B, *shape]; the output has ``dtype_of(site.out)``."""
    make = next((_MAKERS[cls] for cls in type(site.layer).__mro__ if cls in _MAKERS), _in_numpy)
    compute, dtype = make(site), dtype_of(site.out)
    return lambda xs: compute(xs).to(dtype)


def _in_numpy(site: Site) -> Operation:
    """The definition, for what has nothing faster."""
    ops = NumpyOps()

    def run(xs: list[torch.Tensor]) -> torch.Tensor:
        y = apply(site.layer, [x.to(torch.int64).numpy() for x in xs], ops)
        return torch.from_numpy(np.ascontiguousarray(y))

    return run


def _reshaped(site: Site) -> Operation:
    shape = site.layer.output_shape(*site.shapes)
    return lambda xs: xs[0].reshape(len(xs[0]), *shape)


def _permute(site: Site) -> Operation:
    assert isinstance(site.layer, L.Permute)
    dims = (0, *(d + 1 for d in site.layer.dims))
    return lambda xs: xs[0].permute(dims)


def _gather(site: Site) -> Operation:
    assert isinstance(site.layer, L.Gather)
    index = torch.from_numpy(np.where(site.layer.index < 0, math.prod(site.shapes[0]), site.layer.index))
    zeros = int(bool((site.layer.index < 0).any()))

    def run(xs: list[torch.Tensor]) -> torch.Tensor:
        flat = F.pad(xs[0].flatten(1), (0, zeros)) if zeros else xs[0].flatten(1)
        return flat.index_select(1, index.flatten()).reshape(len(flat), *index.shape)

    return run


def _add(site: Site) -> Operation:
    lows, highs = [min(x.low, 0) for x in site.inputs], [max(x.high, 0) for x in site.inputs]
    dtype = dtype_of(Range(sum(lows), sum(highs), min(x.step for x in site.inputs)))

    def run(xs: list[torch.Tensor]) -> torch.Tensor:
        total = xs[0].to(dtype)
        for x in xs[1:]:
            total = total + x.to(dtype)
        return total

    return run


def _mul(site: Site) -> Operation:
    dtype = _product_dtype(site, 1)
    return lambda xs: xs[0].to(dtype) * xs[1].to(dtype)


def _matmul(site: Site) -> Operation:
    dtype = _product_dtype(site, site.shapes[0][-1])
    return lambda xs: xs[0].to(dtype) @ xs[1].to(dtype)


def _product_dtype(site: Site, terms: int) -> torch.dtype:
    a, b = site.inputs
    return wide(max(a.magnitude * b.magnitude * terms, a.magnitude, b.magnitude), min(a.step, b.step))


def _scale(site: Site) -> Operation:
    assert isinstance(site.layer, L.Scale)
    reach, scale, (x,) = magnitude(site.layer.scale), torch.from_numpy(np.array(site.layer.scale)), site.inputs
    dtype = wide(max(reach * x.magnitude, reach, x.magnitude), min(common_power(site.layer.scale), x.step))
    factor = scale.to(dtype)
    return lambda xs: xs[0].to(dtype) * factor


def _rescale(site: Site) -> Operation:
    assert isinstance(site.layer, L.Rescale)
    shift = site.layer.shift
    half = (1 << shift) >> 1
    dtype = wide(site.inputs[0].magnitude + half, 1)
    if dtype == torch.int64:
        return lambda xs: (xs[0].to(torch.int64) + half) >> shift
    # A power of two changes the exponent alone, and the floor of a float is exact.
    factor, out = 2.0**-shift, array_dtype(dtype_of(site.out))
    if compiled.missing():
        return lambda xs: xs[0].to(dtype).add(half).mul_(factor).floor_()
    rescale = rescale_kernel()

    def run(xs: list[torch.Tensor]) -> torch.Tensor:
        last = xs[0].dim() > 2 and not xs[0].is_contiguous()
        x = (xs[0].movedim(1, -1) if last else xs[0]).contiguous().numpy()
        y = np.empty(x.shape, out)
        rescale(x.reshape(-1), float(half), factor, y.reshape(-1))
        return torch.from_numpy(y).movedim(-1, 1) if last else torch.from_numpy(y)

    return run


def _concat(site: Site) -> Operation:
    assert isinstance(site.layer, L.Concat)
    axis, dtype = site.layer.axis, dtype_of(site.out)
    along = axis + 1 if axis >= 0 else axis
    return lambda xs: torch.cat([x.to(dtype) for x in xs], dim=along)


def _pool(site: Site) -> Operation:
    layer = site.layer
    assert isinstance(layer, L.Pool)
    plain = len(layer.kernel) <= 2 and all(p < k for p, k in zip(layer.padding, layer.kernel, strict=True))
    if compiled.missing() or not plain:
        return _in_numpy(site)
    lead = 2 - len(layer.kernel)
    sizes = [(1,) * lead + layer.kernel, (1,) * lead + layer.stride, (0,) * lead + layer.padding]
    numbers = [value for size in sizes for value in size]
    channels, *space = layer.output_shape(*site.shapes)
    out_space = (1,) * lead + tuple(space)
    dtype, largest = dtype_of(site.out), isinstance(layer, L.MaxPool)
    run = pool_kernel()

    def pool(xs: list[torch.Tensor]) -> torch.Tensor:
        x = xs[0].to(dtype)
        images = (x.unsqueeze(2) if lead else x).movedim(1, -1).contiguous()
        out = torch.empty((len(x), *out_space, channels), dtype=dtype)
        run(images.numpy(), out.numpy(), *numbers, largest)
        y = out.movedim(-1, 1)
        return y.squeeze(2) if lead else y

    return pool


_MAKERS: dict[type[L.Layer], Callable[[Site], Operation]] = {
    L.SumPool: _pool,
    L.MaxPool: _pool,
    L.Flatten: _reshaped,
    L.Reshape: _reshaped,
    L.Permute: _permute,
    L.Gather: _gather,
    L.Add: _add,
    L.Mul: _mul,
    L.MatMul: _matmul,
    L.Scale: _scale,
    L.Rescale: _rescale,
    L.Concat: _concat,
}

# Every layer this engine computes, beside synapses, populations and what has no arithmetic.
COVERED: tuple[type[L.Layer], ...] = tuple(_MAKERS)


Counter = Callable[[torch.Tensor], Array]


@dataclass(frozen=True)
class Events:
    """Synaptic events of a layer's input: ``fan`` for each nonzero value, corrected where fewer or more synapses leave.

    Args:
        fan: synapses leaving most of the positions.
        elsewhere: inputs [B, *shape] → int64 [B], the correction; None where all positions are alike.
        corrections: of every place, what is added to ``fan``, [P]; empty where all positions are alike.
    """

    fan: int
    elsewhere: Counter | None = None
    corrections: Array = field(default_factory=lambda: np.empty(0, np.int64))


def events_of(layer: L.Layer, fan: Array) -> Events:
    """How the events of a synapse are counted.

    Args:
        layer: the synapse; a convolution's ``fan`` depends on the place, not on the channel.
        fan: synapses leaving every input position, of the input's shape.
    """
    if not isinstance(layer, L.Conv):
        return Events(int(fan.flat[0]) if fan.size else 0)
    per_place = fan[0].ravel()
    values, counts = np.unique(per_place, return_counts=True)
    most = int(values[np.argmax(counts)])
    corrections = per_place - most
    places = np.flatnonzero(corrections)
    return Events(most, _counter(places, corrections[places]), corrections) if places.size else Events(most)


def nonzero_counter() -> Counter:
    """Nonzero values of every row [B, *shape] as int64 [B], in whatever order they lie."""
    return _counter(np.zeros(1, np.int64), np.ones(1, np.int64), one_place=True)


def _counter(places: Array, weights: Array, one_place: bool = False) -> Counter:
    """Nonzero values at some places of [B, C, *space], or of a whole row as ``one_place``, times their weights."""

    def arranged(x: torch.Tensor) -> torch.Tensor:
        if x.dim() > 2 and not (one_place and x.is_contiguous()):
            x = x.movedim(1, -1)
        return x.reshape(len(x), *((1, math.prod(x.shape[1:])) if one_place else (-1, x.shape[-1])))

    if compiled.missing():
        return lambda x: np.count_nonzero(arranged(x).numpy()[:, places], axis=2) @ weights
    run = count_kernel()

    def count(x: torch.Tensor) -> Array:
        found = np.empty(len(x), dtype=np.int64)
        run(arranged(x).contiguous().numpy(), places, weights, found)
        return found

    return count
