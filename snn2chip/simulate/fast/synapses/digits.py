"""Wide inputs and weights by 8-bit kernels: both are written in digits to the base 256, multiplied digit by digit.

With x = Σ 256^i·x_i and w = Σ 256^j·w_j, Σ w·x = Σ 256^(i+j)·Σ w_j·x_i. The digits of inputs are further samples, those
of weights further outputs, so that one call of the 8-bit kernel computes all products. A direct-coded first layer, of
16-bit inputs and weights, costs less so than in double precision.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from snn2chip.ir.layers import Array, Conv
from snn2chip.simulate.fast import compiled
from snn2chip.simulate.fast.kernels import join_kernel
from snn2chip.simulate.fast.stateless import array_dtype, dtype_of
from snn2chip.simulate.fast.synapses.linear import Case, Kernel, int8_kernel, refuse_int8
from snn2chip.simulate.ranges import Range, common_power

# Products of digits beyond which double precision is as fast.
_MOST_PRODUCTS = 4
# Sums of products held at once.
_PRODUCTS = 1 << 19


@dataclass(frozen=True)
class _Digits:
    """How a case is taken apart.

    Args:
        inputs: digits of the inputs, each from 0 to 255.
        weights: digits of the weights, each from −128 to 127.
        stacked: the synapse of one digit of the inputs and all digits of the weights, the lowest first.
    """

    inputs: int
    weights: int
    stacked: Case


def refuse_digits(case: Case) -> str:
    """Why a case is not computed exactly so; "" where it is."""
    found = _taken_apart(case)
    return found if isinstance(found, str) else ""


def digits_kernel(case: Case) -> Kernel:
    """The sums of a case that is not refused."""
    digits = _taken_apart(case)
    assert isinstance(digits, _Digits)
    multiply, join = int8_kernel(digits.stacked), _join(case, digits)
    shape, channels_last = case.layer.output_shape(case.input_shape), isinstance(case.layer, Conv)
    memory = (*shape[1:], shape[0]) if channels_last else shape
    dtype = array_dtype(dtype_of(case.sums.out))
    at_once = max(1, _PRODUCTS // (digits.inputs * digits.weights * math.prod(shape)))

    def run(x: torch.Tensor) -> torch.Tensor:
        out = np.empty((len(x), *memory), dtype)
        for start in range(0, len(x), at_once):
            join(multiply(_bytes(x[start : start + at_once], digits.inputs)), out[start : start + at_once])
        return torch.from_numpy(out).movedim(-1, 1) if channels_last else torch.from_numpy(out)

    return run


def _bytes(x: torch.Tensor, digits: int) -> torch.Tensor:
    """[B, …] → [digits · B, …], the lowest digits first."""
    if digits == 1:
        return x
    whole = x.to(torch.int32)
    return torch.cat([(whole >> 8 * i).to(torch.uint8) for i in range(digits)])


def _taken_apart(case: Case) -> _Digits | str:
    layer, x = case.layer, case.x
    if not refuse_int8(case):
        return "8 bits suffice"
    if getattr(layer, "groups", 1) != 1:
        return "groups are not taken apart"
    if x.low < 0:
        return "inputs below 0 are not taken apart"
    if case.float_bits >= 2**53:
        return "sums exceed 53 bits"
    planes = _signed_digits(layer.weight // common_power(layer.weight))
    of_x = max(1, math.ceil(x.high.bit_length() / 8))
    if of_x > 4 or of_x * len(planes) > _MOST_PRODUCTS:
        return f"{of_x} × {len(planes)} digits"
    layer = dataclasses.replace(layer, weight=np.concatenate(planes), bias=None)
    stacked = Case.of(layer, case.input_shape, Range(0, min(255, x.high)))
    return refuse_int8(stacked) or _Digits(of_x, len(planes), stacked)


def _signed_digits(weight: Array) -> list[Array]:
    planes: list[Array] = []
    rest = weight
    while rest.any() or not planes:
        low = (rest + 128) % 256 - 128
        planes.append(low)
        rest = (rest - low) >> 8
    return planes


def _join(case: Case, digits: _Digits) -> Callable[[torch.Tensor, Array], None]:
    """Products [inputs · B, …] of weights · C outputs → sums, written to [B, *space, C]."""
    outputs, power = len(case.layer.weight), common_power(case.layer.weight)
    bias = np.zeros(outputs) if case.layer.bias is None else case.layer.bias.astype(np.float64)
    places = power * 256.0 ** np.add.outer(np.arange(digits.inputs), np.arange(digits.weights))

    def join(products: torch.Tensor, out: Array) -> None:
        last = products.movedim(1, -1) if isinstance(case.layer, Conv) else products
        y = last.contiguous().numpy().reshape(digits.inputs, -1, digits.weights, outputs)
        if compiled.missing():
            out[:] = (np.einsum("ij,irjc->rc", places, y.astype(np.float64)) + bias).reshape(out.shape)
        else:
            join_kernel()(y, places, bias, np.empty(outputs), out.reshape(-1, outputs))

    return join
