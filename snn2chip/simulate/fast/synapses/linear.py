"""Kernels for synapses, and which of them are exact for a layer's integers.

A floating-point or int8 convolution computes integers exactly as long as no partial sum, in whatever order, leaves its
mantissa: that is proved from the weights and the input's range (``ranges.sum_range``). What a proof does not cover is
tested before a kernel is used (``choice.py``).
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from snn2chip.ir.layers import Array, Conv, Linear, Shape
from snn2chip.simulate.fast.stateless import dtype_of
from snn2chip.simulate.ops import NumpyOps, apply
from snn2chip.simulate.ranges import Range, SumRange, common_power, magnitude, sum_range

Synapse = Linear | Conv
Kernel = Callable[[torch.Tensor], torch.Tensor]

# How far apart inputs may lie; processors without 8-bit dot products add pairs of products in 16 bits and saturate.
_INT8_SPAN = {True: 255, False: 128}


@contextlib.contextmanager
def exact_floats() -> Iterator[None]:
    """No Winograd (NNPACK), no reduced precision, no autocast, while float kernels carry integers."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        stack.enter_context(torch.autocast("cpu", enabled=False))
        stack.enter_context(torch.backends.nnpack.flags(enabled=False))
        for part in ("matmul", "conv"):
            backend = getattr(torch.backends.mkldnn, part, None)
            before = getattr(backend, "fp32_precision", None)
            if before not in (None, "ieee", "none"):
                backend.fp32_precision = "ieee"  # type: ignore[union-attr]
                stack.callback(setattr, backend, "fp32_precision", before)
        yield


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Kernels are prepared for one thread, as chunks side by side run them.

    oneDNN packs weights for the number of threads there is; with another it packs them anew at every call.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class Case:
    """A synaptic layer, what its input can be, and what that proves."""

    layer: Synapse
    input_shape: Shape
    x: Range
    sums: SumRange

    @classmethod
    def of(cls, layer: Synapse, input_shape: Shape, x: Range) -> Case:
        """With the sums worked out."""
        return cls(layer, input_shape, x, sum_range(layer, x))

    @property
    def fan_in(self) -> int:
        """Synapses per output."""
        return math.prod(self.layer.weight.shape[1:])

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one input."""
        return math.prod(self.layer.output_shape(self.input_shape)) * self.fan_in

    @property
    def float_bits(self) -> int:
        """Mantissa bits that hold the weights, the inputs and every partial sum."""
        return max(self.sums.partial, magnitude(self.layer.weight) // common_power(self.layer.weight), self.x.mantissa)


# --- the kernels: why one is not exact for a case ("" where it is), and how it is made ---


@functools.cache
def has_int8_dot_products() -> bool:
    """Whether oneDNN will use 8-bit dot products (VNNI or better); a limit set in the environment counts."""
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "ALL").upper()
    if limit not in ("ALL", "DEFAULT") and not any(part in limit for part in ("VNNI", "AMX", "BF16", "FP16")):
        return False
    try:
        return bool(torch.cpu._is_vnni_supported())
    except AttributeError:
        return False


def _zero_point(x: Range) -> int:
    """What is added to inputs so that they are bytes; the operator takes it off again, padding included."""
    return max(0, -x.low)


def refuse_int8(case: Case) -> str:
    """Why oneDNN's int8 kernels are not exact for a case; "" where they are."""
    weights = case.layer.weight // common_power(case.layer.weight)
    if isinstance(case.layer, Conv) and (why := _unsound_in_onednn(case.layer, case.input_shape, _zero_point(case.x))):
        return why
    if weights.size == 0 or weights.min() < -128 or weights.max() > 127:
        return "weights exceed 8 bits"
    span = max(0, case.x.high) + _zero_point(case.x)
    if span > _INT8_SPAN[has_int8_dot_products()] or dtype_of(case.x) not in (torch.uint8, torch.int8):
        return f"inputs {case.x} exceed 8 bits" + ("" if span > 255 else " of a processor without 8-bit dot products")
    shifted = sum_range(case.layer, Range(0, span)).partial
    return "" if max(case.sums.partial, shifted) < 2**24 else "sums exceed a float's 24 bits"


def _unsound_in_onednn(layer: Conv, shape: Shape, zero_point: int) -> str:
    """Where 8-bit convolutions read memory that is not theirs, which ends the process, or that nobody has written.

    Found by comparing tens of thousands of geometries with memory full of junk (oneDNN in torch 2.13, AVX-512); no
    self-test survives the former, and the latter passes it where memory happens to be zero.
    """
    if layer.axes > 2:
        return "no kernel for three axes"
    spans = (d * (k - 1) + 1 for d, k in zip(layer.dilation, layer.kernel, strict=True))
    if any(p >= span for p, span in zip(layer.padding, spans, strict=True)):
        return "oneDNN may crash: some windows hold nothing but padding"
    out, per_group = layer.weight.shape[:2]
    if layer.groups > 1 and per_group == 1 and out > layer.groups:
        return "oneDNN may compute junk: several outputs for the one input of a group"
    if (zero_point or per_group == 1) and layer.kernel[-1] > 1 and layer.output_shape(shape)[-1] == 1:
        return "oneDNN may compute junk: rows of one output"
    return ""


def refuse_f32(case: Case) -> str:
    """The same of float32."""
    return "" if case.float_bits < 2**24 else "sums exceed 24 bits"


def refuse_f64(case: Case) -> str:
    """The same of float64."""
    return "" if case.float_bits < 2**53 else "sums exceed 53 bits"


def _tensor(array: Array) -> torch.Tensor:
    return torch.from_numpy(np.array(array))


def int8_kernel(case: Case) -> Kernel:
    """OneDNN's product of bytes, inputs shifted so that they are unsigned."""
    layer, zero = case.layer, _zero_point(case.x)
    power = common_power(layer.weight)
    weight = _tensor(layer.weight // power).to(torch.int8)
    scales = torch.full((len(weight),), float(power))
    zeros = torch.zeros(len(weight), dtype=torch.int32)
    ops = torch.ops.onednn
    tail: tuple[Any, ...] = (1.0, 0, torch.float32, "none", [], "")
    if isinstance(layer, Linear):
        packed = ops.qlinear_prepack(weight, None)
        run: Kernel = lambda x: ops.qlinear_pointwise(x, 1.0, zero, packed, scales, zeros, None, *tail)  # noqa: E731
        return _over_rows(_plus(layer, run, torch.float32), lambda x: _bytes(x, zero))
    flat = _over_two_axes(layer)
    where = (flat.stride, flat.padding, flat.dilation, layer.groups)
    # Without the input's size oneDNN may pack weights in an order that it changes at every call, forty times slower.
    image = [1, case.input_shape[0], *(1,) * (2 - layer.axes), *case.input_shape[1:]]
    packed = ops.qconv_prepack(weight.reshape(flat.weight), scales, 1.0, zero, *where, image)
    run = lambda x: ops.qconv2d_pointwise(x, 1.0, zero, packed, scales, zeros, None, *where, *tail)  # noqa: E731
    return _over_images(layer, _plus(layer, run, torch.float32), lambda x: _bytes(x, zero))


def _bytes(x: torch.Tensor, zero: int) -> torch.Tensor:
    """``x + zero`` in unsigned bytes, where that is what it fits."""
    return x.to(torch.int8).view(torch.uint8).add(zero) if zero else x.to(torch.uint8)


def float_kernel(dtype: torch.dtype) -> Callable[[Case], Kernel]:
    """Torch's product in a float type that holds every sum."""

    def make(case: Case) -> Kernel:
        layer = case.layer
        weight = _tensor(layer.weight).to(dtype)
        bias = None if layer.bias is None else _tensor(layer.bias).to(dtype)
        if isinstance(layer, Linear):
            return _over_rows(lambda x: F.linear(x, weight, bias), lambda x: x.to(dtype))
        flat = _over_two_axes(layer)
        kernel = weight.reshape(flat.weight).contiguous(memory_format=torch.channels_last)
        where = (flat.stride, flat.padding, flat.dilation, layer.groups)
        return _over_images(layer, lambda x: F.conv2d(x, kernel, bias, *where), lambda x: x.to(dtype))

    return make


def numpy_kernel(case: Case) -> Kernel:
    """The definition."""
    ops = NumpyOps()

    def run(x: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(apply(case.layer, [x.to(torch.int64).numpy()], ops))

    return run


@dataclass(frozen=True)
class _Flat:
    """A convolution's numbers over two axes; one axis is a row of height 1."""

    weight: Shape
    stride: Shape
    padding: Shape
    dilation: Shape


def _over_two_axes(layer: Conv) -> _Flat:
    lead = (1,) * (2 - layer.axes)
    shape = (*layer.weight.shape[:2], *lead, *layer.kernel)
    # A single tap lies where it lies however far apart taps are; oneDNN's int8 convolution can crash on its dilation.
    dilation = (d if k > 1 else 1 for d, k in zip(layer.dilation, layer.kernel, strict=True))
    return _Flat(shape, (*lead, *layer.stride), (*(0,) * len(lead), *layer.padding), (*lead, *dilation))


def _over_rows(run: Kernel, cast: Kernel) -> Kernel:
    def linear(x: torch.Tensor) -> torch.Tensor:
        y = run(cast(x.reshape(-1, x.shape[-1])))
        return y.reshape(*x.shape[:-1], y.shape[-1])

    return linear


def _over_images(layer: Conv, run: Kernel, cast: Kernel) -> Kernel:
    def conv(x: torch.Tensor) -> torch.Tensor:
        images = x.unsqueeze(2) if layer.axes == 1 else x
        y = run(cast(images).contiguous(memory_format=torch.channels_last))
        return y.squeeze(2) if layer.axes == 1 else y

    return conv


def _plus(layer: Synapse, run: Kernel, dtype: torch.dtype) -> Kernel:
    if layer.bias is None:
        return run
    shape = (1, -1) if isinstance(layer, Linear) else (1, -1, 1, 1)
    bias = _tensor(layer.bias).to(dtype).reshape(shape)
    return lambda x: run(x).add_(bias)
