"""Which of a synapse's exact kernels to trust, and which to take.

A proof says nothing of a library that chooses Winograd, adds pairs in 16 bits on an old processor, or changes an
internal operator. So every kernel is run against numpy before it is used, and left out where it fails; among those that
are left the clock decides.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from snn2chip.errors import first_line
from snn2chip.ir.layers import Array, Conv, Linear, Shape, windows
from snn2chip.simulate.fast.stateless import dtype_of
from snn2chip.simulate.fast.synapses.linear import Case, Kernel, Synapse, has_int8_dot_products
from snn2chip.simulate.fast.synapses.methods import METHODS, Method
from snn2chip.simulate.ops import NumpyOps, apply
from snn2chip.simulate.ranges import SumRange, magnitude

# Multiply-accumulates of one self-test in numpy; larger layers are tested on a cut-out of their input.
_TEST_MACS = 20_000_000
# Fresh memory is zero, which hides what a kernel reads without having written it.
_JUNK = (0x4D, 0xFF)
_LITTER_BYTES = 1 << 20
# Candidates are timed where a run is this many times longer than a trial.
_WORTH_TIMING = 50

# --- trust ---

_trusted: dict[tuple[Any, ...], str] = {}


def distrust(name: str, case: Case) -> str:
    """Why the kernel ``name`` cannot be used for layers of this shape ("" where it passed its self-test).

    It is run once per process and geometry on random weights and inputs of the extreme range, and compared with numpy.
    """
    method = METHODS[name]
    if name == "int64":
        return ""
    layer, shape = case.layer, _test_shape(case)
    reach = _test_reach(case, name) or magnitude(layer.weight)
    key = (method.make, type(layer), layer.weight.shape, _geometry(layer), shape, case.x, reach)
    if key not in _trusted:
        _trusted[key] = _self_test(method, Case.of(_test_layer(case, name), shape, case.x))
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
        # Sums that only grow, so that no cancellation hides a saturated pair.
        weight[0], weight[-1] = 127, -128
    elif name == "int8 digits":
        # Its own weights in another order: digits and sums of digits stay as they are.
        weight = rng.permuted(layer.weight.reshape(len(layer.weight), -1), axis=1).reshape(layer.weight.shape)
    else:
        reach = _test_reach(case, name)
        if reach == 0:
            return layer
        weight = rng.integers(-reach, reach + 1, layer.weight.shape)
    bias: Array | None = None if layer.bias is None else np.asarray(rng.integers(-1000, 1001, layer.bias.shape))
    if isinstance(layer, Linear):
        return Linear(weight, bias)
    return type(layer)(weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)


def _test_reach(case: Case, name: str) -> int:
    """The largest weight of a self-test; 0 where only the layer's own weights are known to be in range."""
    if name.startswith("int8"):
        return 128 if name == "int8" else 0
    room = (2**24 if name == "f32" else 2**53) - 1
    return min(2**20, room // (2 * case.fan_in * max(1, case.x.magnitude)))


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


def _self_test(method: Method, case: Case) -> str:
    rng, x_range, shape = np.random.default_rng(2), case.x, case.input_shape
    extremes = rng.choice(np.array([x_range.low, 0, x_range.high]), (2, *shape))
    between = rng.integers(x_range.low, x_range.high + 1, (1, *shape))
    full = np.full((1, *shape), x_range.high)
    x = np.concatenate([extremes, between, full]).astype(np.int64)
    truth = apply(case.layer, [x], NumpyOps())
    for junk in _JUNK:
        try:
            _litter(case.layer.weight.size, junk)
            run = method.make(case)
            _litter(truth.size, junk)
            found = run(torch.from_numpy(x)).to(torch.float64).numpy()
        except (RuntimeError, AttributeError, TypeError, ValueError, NotImplementedError) as error:
            return f"it cannot run here: {first_line(error)}"
        wrong = int(np.count_nonzero(found != truth))
        if wrong:
            return f"its self-test has {wrong} of {found.size} sums wrong"
    return ""


def _litter(size: int, junk: int) -> None:
    """Leave junk in the memory that is handed out next: a kernel that reads what nobody wrote then shows it."""
    most = min(4 * size, _LITTER_BYTES).bit_length()
    held = [torch.full((n,), junk, dtype=torch.uint8) for k in range(5, most + 1) for n in (1 << k, 3 << k - 1)]
    del held


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
    if isinstance(case.layer, Conv) and case.layer.per_place:
        return _per_place(case, case.layer, batch, runs)
    exact, rejected = [], {}
    for name, method in METHODS.items():
        reason = method.refuse(case) or distrust(name, case)
        if reason:
            rejected[name] = reason
            continue
        exact.append(name)
        if method.widest:
            break
    if len(exact) == 1:
        return _made(exact[0], METHODS[exact[0]].text, case, rejected)
    if runs < _WORTH_TIMING:
        name = exact[0] if _prefers_int8(case, batch) else exact[-1]
        return _made(name, f"{METHODS[name].text}; not timed: the run is short", case, rejected)
    candidates = {name: METHODS[name].make(case) for name in exact}
    x = torch.randint(case.x.low, case.x.high + 1, (batch, *case.input_shape)).to(dtype_of(case.x))
    times = {name: milliseconds(functools.partial(run, x)) for name, run in candidates.items()}
    name = min(times, key=lambda n: times[n])
    return Chosen(name, METHODS[name].text, case.sums, candidates[name], rejected, times)


def _per_place(case: Case, layer: Conv, batch: int, runs: float) -> Chosen:
    """The same with a bias that differs from place to place, which is added to the kernel's sums."""
    # The sums stay those with the bias: a kernel that holds them holds what is added, too.
    chosen = choose(replace(case, layer=replace(layer, bias=None)), batch, runs)
    bias = torch.from_numpy(np.array(layer.bias))

    def run(x: torch.Tensor) -> torch.Tensor:
        sums = chosen.run(x)
        return sums + bias.to(sums.dtype)

    return replace(chosen, run=run)


def _made(name: str, why: str, case: Case, rejected: dict[str, str]) -> Chosen:
    return Chosen(name, why, case.sums, METHODS[name].make(case), rejected)


def milliseconds(run: Callable[[], Any]) -> float:
    """The soonest of three calls after a first one."""
    run()
    times = []
    for _ in range(3):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return 1000 * min(times)


def _prefers_int8(case: Case, batch: int) -> bool:
    """Without a clock: 8-bit dot products in the processor, and enough work to pay for the call."""
    return has_int8_dot_products() and case.macs * batch > 1_000_000
