"""Exact kernels for synapses: which ones are exact for a layer's integers, which of them to trust, which to take.

A floating-point or int8 convolution computes integers exactly as long as no partial sum, in whatever order, leaves its
mantissa: that is proved from the weights and the input's range (``ranges.sum_range``). What a proof does not cover (a
library that chooses Winograd, adds pairs in 16 bits on an old processor, or changes an internal operator) is covered by
a self-test against numpy before a kernel is used, and by falling back when it fails.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from snn2chip.ir.layers import Array, Conv, Linear, Shape, windows
from snn2chip.simulate.ops import NumpyOps, apply
from snn2chip.simulate.ranges import Range, SumRange, common_power, magnitude, sum_range

Synapse = Linear | Conv
Kernel = Callable[[torch.Tensor], torch.Tensor]

# Above this, processors without 8-bit dot products saturate when they add pairs of products in 16 bits.
_INT8_INPUT = 128
# Multiply-accumulates of one self-test in numpy; larger layers are tested on a cut-out of their input.
_TEST_MACS = 20_000_000
# Candidates are timed where a run is this many times longer than a trial.
_WORTH_TIMING = 50


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


def gain_of(layer: Synapse) -> Array | None:
    """The number each value is multiplied by, where that is all a synapse does, as (C, 1, …); None where it is not."""
    weight, groups = layer.weight, getattr(layer, "groups", 1)
    out, per_group = weight.shape[:2]
    plain = layer.bias is None and all(k == 1 for k in weight.shape[2:]) and getattr(layer, "delay", None) is None
    if isinstance(layer, Conv):
        plain = plain and all(s == 1 for s in layer.stride) and not any(layer.padding)
    if not plain or out != groups * per_group:
        return None
    blocks = weight.reshape(groups, per_group, per_group)
    gain = np.diagonal(blocks, axis1=1, axis2=2).ravel()
    if np.count_nonzero(gain) != np.count_nonzero(blocks):
        return None
    return gain.reshape(-1, *(1,) * (weight.ndim - 2))


# --- the kernels: why one is not exact for a case ("" where it is), and how it is made ---


def _refuse_int8(case: Case) -> str:
    weights = case.layer.weight // common_power(case.layer.weight)
    if isinstance(case.layer, Conv) and case.layer.axes > 2:
        return "no kernel for three axes"
    if weights.size == 0 or weights.min() < -128 or weights.max() > 127:
        return "weights exceed 8 bits"
    if case.x.low < 0 or case.x.high > _INT8_INPUT:
        return f"inputs {case.x} are not within 0…{_INT8_INPUT}"
    return "" if case.sums.partial < 2**24 else "sums exceed a float's 24 bits"


def _refuse_f32(case: Case) -> str:
    return "" if case.float_bits < 2**24 else "sums exceed 24 bits"


def _refuse_f64(case: Case) -> str:
    return "" if case.float_bits < 2**53 else "sums exceed 53 bits"


def _tensor(array: Array) -> torch.Tensor:
    return torch.from_numpy(np.array(array))


def _int8(layer: Synapse) -> Kernel:
    power = common_power(layer.weight)
    weight = _tensor(layer.weight // power).to(torch.int8)
    scales = torch.full((len(weight),), float(power))
    zeros = torch.zeros(len(weight), dtype=torch.int32)
    ops = torch.ops.onednn
    tail: tuple[Any, ...] = (1.0, 0, torch.float32, "none", [], "")
    if isinstance(layer, Linear):
        packed = ops.qlinear_prepack(weight, None)
        run: Kernel = lambda x: ops.qlinear_pointwise(x, 1.0, 0, packed, scales, zeros, None, *tail)  # noqa: E731
        return _over_rows(_plus(layer, run, torch.float32), torch.uint8)
    flat = _over_two_axes(layer)
    packed = ops.qconv_prepack(
        weight.reshape(flat.weight), scales, 1.0, 0, flat.stride, flat.padding, flat.dilation, layer.groups, None
    )
    where = (flat.stride, flat.padding, flat.dilation, layer.groups)
    run = lambda x: ops.qconv2d_pointwise(x, 1.0, 0, packed, scales, zeros, None, *where, *tail)  # noqa: E731
    return _over_images(layer, _plus(layer, run, torch.float32), torch.uint8)


def _float(dtype: torch.dtype) -> Callable[[Synapse], Kernel]:
    def make(layer: Synapse) -> Kernel:
        weight = _tensor(layer.weight).to(dtype)
        bias = None if layer.bias is None else _tensor(layer.bias).to(dtype)
        if isinstance(layer, Linear):
            return _over_rows(lambda x: F.linear(x, weight, bias), dtype)
        flat = _over_two_axes(layer)
        kernel = weight.reshape(flat.weight).contiguous(memory_format=torch.channels_last)
        where = (flat.stride, flat.padding, flat.dilation, layer.groups)
        return _over_images(layer, lambda x: F.conv2d(x, kernel, bias, *where), dtype)

    return make


def _int64(layer: Synapse) -> Kernel:
    ops = NumpyOps()

    def run(x: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(apply(layer, [x.to(torch.int64).numpy()], ops))

    return run


@dataclass(frozen=True)
class Method:
    """One way to compute a synapse: ``refuse`` says why it is not exact for a case ("" where it is)."""

    refuse: Callable[[Case], str]
    make: Callable[[Synapse], Kernel]
    text: str


# In order of preference where nothing is timed; the last one is the definition and always holds.
METHODS: dict[str, Method] = {
    "int8": Method(_refuse_int8, _int8, "8-bit weights and inputs, sums in 32 bits (oneDNN)"),
    "f32": Method(_refuse_f32, _float(torch.float32), "every partial sum is proved to fit 24 bits"),
    "f64": Method(_refuse_f64, _float(torch.float64), "every partial sum is proved to fit 53 bits"),
    "int64": Method(lambda case: "", _int64, "numpy, 64-bit integers"),
}


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
    return _Flat(shape, (*lead, *layer.stride), (*(0,) * len(lead), *layer.padding), (*lead, *layer.dilation))


def _over_rows(run: Kernel, dtype: torch.dtype) -> Kernel:
    def linear(x: torch.Tensor) -> torch.Tensor:
        y = run(x.reshape(-1, x.shape[-1]).to(dtype))
        return y.reshape(*x.shape[:-1], y.shape[-1])

    return linear


def _over_images(layer: Conv, run: Kernel, dtype: torch.dtype) -> Kernel:
    def conv(x: torch.Tensor) -> torch.Tensor:
        images = x.unsqueeze(2) if layer.axes == 1 else x
        y = run(images.to(dtype, memory_format=torch.channels_last))
        return y.squeeze(2) if layer.axes == 1 else y

    return conv


def _plus(layer: Synapse, run: Kernel, dtype: torch.dtype) -> Kernel:
    if layer.bias is None:
        return run
    shape = (1, -1) if isinstance(layer, Linear) else (1, -1, 1, 1)
    bias = _tensor(layer.bias).to(dtype).reshape(shape)
    return lambda x: run(x).add_(bias)


# --- trust ---

_trusted: dict[tuple[Any, ...], str] = {}


def distrust(name: str, case: Case) -> str:
    """Why the kernel ``name`` cannot be used for layers of this shape ("" where it passed its self-test).

    It is run once per process and geometry on random weights and inputs of the extreme range, and compared with numpy.
    """
    method = METHODS[name]
    if method.make is _int64:
        return ""
    layer = _test_layer(case, name)
    shape = _test_shape(case)
    key = (method.make, type(layer), layer.weight.shape, _geometry(layer), shape, case.x, magnitude(layer.weight))
    if key not in _trusted:
        _trusted[key] = _self_test(method, layer, shape, case.x)
    return _trusted[key]


def _geometry(layer: Synapse) -> tuple[Any, ...]:
    has_bias = layer.bias is not None
    if isinstance(layer, Linear):
        return (has_bias,)
    return (layer.stride, layer.padding, layer.dilation, layer.groups, has_bias)


def _test_layer(case: Case, name: str) -> Synapse:
    """The layer with weights drawn from the whole range for which the kernel is claimed to be exact."""
    layer, rng = case.layer, np.random.default_rng(1)
    if name == "int8":
        weight = rng.choice(np.array([-128, -127, -1, 0, 1, 126, 127]), layer.weight.shape)
    else:
        room = (2**24 if name == "f32" else 2**53) - 1
        reach = min(2**20, room // (2 * case.fan_in * max(1, case.x.magnitude)))
        if reach == 0:
            return layer
        weight = rng.integers(-reach, reach + 1, layer.weight.shape)
    bias: Array | None = None if layer.bias is None else np.asarray(rng.integers(-1000, 1001, layer.bias.shape))
    if isinstance(layer, Linear):
        return Linear(weight, bias)
    return type(layer)(weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)


def _test_shape(case: Case) -> Shape:
    """The layer's input, cut down in space until the test is affordable."""
    shape = case.input_shape
    if isinstance(case.layer, Linear):
        rows = max(1, min(math.prod(shape[:-1]), 16, _TEST_MACS // max(1, case.layer.weight.size)))
        return (rows, shape[-1]) if len(shape) > 1 else shape
    smallest = tuple(d * (k - 1) + 1 for d, k in zip(case.layer.dilation, case.layer.kernel, strict=True))
    space = shape[1:]
    while math.prod(_outputs(case.layer, space)) * case.layer.weight.size > _TEST_MACS and space != smallest:
        space = tuple(max(n // 2, least) for n, least in zip(space, smallest, strict=True))
    return (shape[0], *space)


def _outputs(layer: Conv, space: Shape) -> Shape:
    return windows(space, layer.kernel, layer.stride, layer.padding, layer.dilation)


def _self_test(method: Method, layer: Synapse, shape: Shape, x_range: Range) -> str:
    rng = np.random.default_rng(2)
    extremes = rng.choice(np.array([x_range.low, 0, x_range.high]), (2, *shape))
    between = rng.integers(x_range.low, x_range.high + 1, (1, *shape))
    full = np.full((1, *shape), x_range.high)
    x = np.concatenate([extremes, between, full]).astype(np.int64)
    try:
        found = method.make(layer)(torch.from_numpy(x)).to(torch.float64).numpy()
    except (RuntimeError, AttributeError, TypeError, ValueError, NotImplementedError) as error:
        return f"it cannot run here: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
    wrong = int(np.count_nonzero(found != apply(layer, [x], NumpyOps())))
    return f"its self-test has {wrong} of {found.size} sums wrong" if wrong else ""


# --- the choice ---


@dataclass
class Chosen:
    """A synapse ready to run: input [B, *shape] of any dtype → sums [B, *out]; exact.

    Args:
        kernel: name of the method. why: what speaks for it. proved: range of the sums, and of any partial sum.
        rejected: the methods before it and why they were not taken.
        milliseconds: of each candidate that was timed.
    """

    kernel: str
    why: str
    proved: SumRange
    run: Kernel
    rejected: dict[str, str] = field(default_factory=dict)
    milliseconds: dict[str, float] = field(default_factory=dict)


def choose(case: Case, batch: int, runs: float) -> Chosen:
    """The kernel of a synapse that will be called ``runs`` times with ``batch`` inputs.

    Whatever is chosen computes the same integers; the clock decides only how soon.
    """
    exact, rejected = [], {}
    for name, method in METHODS.items():
        reason = method.refuse(case) or distrust(name, case)
        if reason:
            rejected[name] = reason
        elif name in ("int8", "f32"):
            exact.append(name)
        elif not exact:
            exact.append(name)
            break
    if len(exact) == 1:
        return _made(exact[0], METHODS[exact[0]].text, case, rejected)
    candidates = {name: METHODS[name].make(case.layer) for name in exact}
    if runs < _WORTH_TIMING:
        name = "int8" if _prefers_int8(case) else "f32"
        reason = "not timed: the run is short"
        return Chosen(name, f"{METHODS[name].text}; {reason}", case.sums, candidates[name], rejected)
    x = torch.randint(0, case.x.high + 1, (batch, *case.input_shape), dtype=torch.uint8)
    times = {name: _milliseconds(run, x) for name, run in candidates.items()}
    name = min(times, key=lambda n: times[n])
    return Chosen(name, METHODS[name].text, case.sums, candidates[name], rejected, times)


def _made(name: str, why: str, case: Case, rejected: dict[str, str]) -> Chosen:
    return Chosen(name, why, case.sums, METHODS[name].make(case.layer), rejected)


def _milliseconds(run: Kernel, x: torch.Tensor) -> float:
    run(x)
    times = []
    for _ in range(3):
        start = time.perf_counter()
        run(x)
        times.append(time.perf_counter() - start)
    return 1000 * min(times)


def _prefers_int8(case: Case) -> bool:
    """Without a clock: 8-bit dot products in the processor, and enough work to pay for the call."""
    return has_int8_dot_products() and case.macs > 100_000


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
