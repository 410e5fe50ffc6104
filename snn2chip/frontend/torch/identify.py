"""Which neuron is a module nobody knows? Probe it, form hypotheses, and confirm one on random input.

A module is asked, with chosen inputs and for all its neurons at once: what is the smallest input that fires now,
after half
of it, after a spike? Bisection answers to the last bit of float32. That gives threshold, decay and reset up to
rounding; the exact
numbers are looked for among those the module and its code hold. Every candidate then runs against the module on
random input
and on the inputs that only just fire. One that agrees on every spike is taken; a difference is allowed only where the
membrane is within rounding of the threshold.
"""

from __future__ import annotations

import copy
import itertools
import types
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from snn2chip.errors import S2CError
from snn2chip.frontend.torch.cells import Cell
from snn2chip.frontend.torch.recorder import tensor_attributes
from snn2chip.ir.layers import Array
from snn2chip.neurons.base import Reset, ResetTiming
from snn2chip.neurons.lif import LIF, DecayForm
from snn2chip.simulate.torch_ops import TorchOps

_RANDOM_STEPS = 24
_LARGEST = 2.0**24
# Estimates come from differences of bisected float32 values.
_NEAR = 2e-4
# How far from the threshold, relative to it, two ways of rounding may disagree about a spike.
ROUNDING = 1e-5

_INFINITE = np.asarray(np.inf)

Shown = dict[str, Tensor]


@dataclass
class Probe:
    """A pristine copy of a module, and how the model calls it.

    Args:
        args: arguments of its first call: the input, then states.
        calls: how often it was called in one sample.
        time_axis: axis of the input it loops over, None where it is called at every step.
        delay: steps by which its spikes leave late; they are asked for that much later.
    """

    module: nn.Module
    args: tuple[Any, ...]
    calls: int
    time_axis: int | None = None
    delay: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample at one step, with a batch axis of one."""
        shape = list(self.args[0].shape)
        if self.time_axis is not None:
            del shape[self.time_axis]
        return (1, *shape[1:])

    def __call__(self, xs: list[Tensor]) -> tuple[list[Tensor], list[Shown]]:
        """Spikes at every step, and at every step what else of the same shape the module returned or holds."""
        if self.delay:
            late, held = replace(self, delay=0)([*xs, *[torch.zeros_like(xs[0])] * self.delay])
            return late[self.delay :], held[: len(xs)]
        module = copy.deepcopy(self.module)
        with torch.no_grad():
            if self.time_axis is not None:
                first = _tensors(module(torch.stack(xs, self.time_axis), *self.args[1:]))[0]
                return list(first.unbind(self.time_axis)), [{} for _ in xs]
            spikes: list[Tensor] = []
            shown: list[Shown] = []
            states = pytree.tree_map(lambda s: s[:1].clone() if isinstance(s, Tensor) and s.ndim else s, self.args[1:])
            for x in xs:
                out = module(x, *states)
                tensors = _tensors(out)
                spikes.append(tensors[0].clone())
                left = {f"attr:{k}": v for k, v in tensor_attributes(module).items()}
                here = {**{str(i): v for i, v in enumerate(tensors) if i}, **left}
                shown.append({name: v.clone() for name, v in here.items() if v.shape == x.shape})
                if states:
                    states = _handed_back(out, len(states))
            return spikes, shown


def _tensors(out: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(out) if isinstance(leaf, Tensor)]


def _handed_back(out: Any, count: int) -> tuple[Any, ...]:
    rest = tuple(out[1:]) if isinstance(out, (tuple, list)) else ()
    if len(rest) != count:
        raise S2CError("it takes states that it does not return", why=f"{count} in, {len(rest)} out")
    return rest


def identify(probe: Probe) -> Cell:
    """The neuron a module is.

    Raises:
        S2CError: it is none that is known; the message says what was found.
    """
    try:
        if len(probe.args) == 1:
            probe = replace(probe, time_axis=_time_axis(probe))
        probe = replace(probe, delay=_delay(probe))
        answers = _ask(probe)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise S2CError("it does not run on its own", why=f"{type(error).__name__}: {error}") from None
    candidates = list(_candidates(probe, answers))
    # A module that orders its operations in another way is right up to rounding; one that matches exactly goes first.
    for exact, model in itertools.product((True, False), candidates):
        cell = _confirmed(probe, answers, model, exact)
        if cell is not None:
            return cell
    raise S2CError("no neuron of the integrate-and-fire family behaves like it", why=answers.describe())


def identify_integrator(probe: Probe) -> Cell:
    """The leaky integrator a module is: it never fires, and returns its membrane.

    Raises:
        S2CError: it is none.
    """
    try:
        if len(probe.args) == 1:
            probe = replace(probe, time_axis=_time_axis(probe))
        one, zero = torch.ones(probe.shape), torch.zeros(probe.shape)
        silence, response = probe([zero])[0][0], probe([one, zero])[0]
        generator = torch.Generator().manual_seed(0)
        xs = [torch.randn(probe.shape, generator=generator) for _ in range(_RANDOM_STEPS)]
        expected, shown = probe(xs)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise S2CError("it does not run on its own", why=f"{type(error).__name__}: {error}") from None
    gain, decay = response[0], response[1] / response[0]
    if bool(silence.any()) or not bool((torch.isfinite(decay) & (decay > 0) & (decay <= 1 + _NEAR)).all()):
        raise S2CError("it is no leaky integrator")
    answers = _Answers(zero, zero, decay.clamp(max=1), None, 1.0, xs, expected, shown)
    candidates = [
        LIF(_INFINITE, _array(value), form, gain=_array(factor), reset="none")
        for form, value, factor, total in _decays(answers, list(_numbers(probe.module)))
        if _fits(total, gain)
    ]
    for exact, model in itertools.product((True, False), candidates):
        membranes = torch.stack(_run(model, xs)[0])
        found = torch.stack(expected)
        if torch.equal(membranes, found) if exact else _close(found, membranes):
            cell = _cell(probe, answers, model)
            if cell is not None:
                return cell
    raise S2CError("it is no leaky integrator")


# ---------------------------------------------------------------------- questions


@dataclass
class _Answers:
    """What the questions showed, in units of the input, per neuron [1, ...].

    Args:
        low, theta: largest input that does not fire from rest, smallest that does.
        decay: how much of the membrane is left one step later.
        carried: what is left of an input of 1.25 and 1.75 θ one step after the spike; None where nothing fires then.
        spike_value: what a spike is worth.
        xs, spikes, shown: a random run.
    """

    low: Tensor
    theta: Tensor
    decay: Tensor
    carried: tuple[Tensor, Tensor] | None
    spike_value: float
    xs: list[Tensor]
    spikes: list[Tensor]
    shown: list[Shown]

    def describe(self) -> str:
        parts = [f"fires from input {_range(self.theta)}", f"keeps {_range(self.decay)} per step"]
        if self.carried is None:
            parts.append("does not fire in the step after a spike")
        else:
            kept = [_range(c / self.theta) for c in self.carried]
            parts.append(
                f"after spikes of 1.25 and 1.75 times the threshold {kept[0]} and {kept[1]} of the threshold are left"
            )
        return ", ".join(parts)


def _range(x: Tensor) -> str:
    low, high = float(x.min()), float(x.max())
    return f"{low:.4g}" if high - low <= 1e-3 * abs(high) else f"{low:.4g} to {high:.4g}"


def _ask(probe: Probe) -> _Answers:
    ones = torch.ones(probe.shape)
    spike_value = float(probe([_LARGEST * ones])[0][0].max())
    if not spike_value > 0:
        raise S2CError("it does not fire in its first step", why=f"input {_LARGEST:.3g} gave no spike")
    low, theta = _boundary(probe, [], spike_value)
    if bool((theta <= 0).any()):
        raise S2CError("it fires without input", why=f"from input {_range(theta)}")
    half = 0.5 * theta
    decay = (theta - _boundary(probe, [half], spike_value)[1]) / half
    carried = None
    if bool((probe([1.5 * theta, _LARGEST * ones])[0][1] > 0).any()):
        first, second = (theta - _boundary(probe, [c * theta], spike_value)[1] for c in (1.25, 1.75))
        carried = first, second
    generator = torch.Generator().manual_seed(0)
    xs = [theta * (0.4 + torch.randn(probe.shape, generator=generator)) for _ in range(_RANDOM_STEPS)]
    spikes, shown = probe(xs)
    if any(bool(((s - s.round() * 1.0).abs() > 1e-5).any()) for s in [s / spike_value for s in spikes]):
        raise S2CError("its output is no spike", why="it takes more than two values")
    return _Answers(low, theta, decay.clamp(min=0), carried, spike_value, xs, spikes, shown)


def _fires(probe: Probe, xs: list[Tensor], spike_value: float) -> Tensor:
    return probe(xs)[0][-1] > 0.5 * spike_value


def _boundary(probe: Probe, before: list[Tensor], spike_value: float) -> tuple[Tensor, Tensor]:
    """Largest input that does not fire after ``before``, and the smallest that does: neighbours in float32."""
    high = torch.full(probe.shape, 2.0**-20)
    while not bool((fired := _fires(probe, [*before, high], spike_value)).all()):
        high = torch.where(fired, high, high * 4)
        if float(high.max()) > _LARGEST:
            raise S2CError("some of it never fires", why=f"no spike for inputs up to {_LARGEST:.3g}")
    low = -4 * torch.maximum(high, torch.ones(()))
    if bool(_fires(probe, [*before, low], spike_value).any()):
        raise S2CError("it fires for negative input too")
    for _ in range(200):
        middle = (low + high) / 2
        if bool(((middle == low) | (middle == high)).all()):
            break
        fired = _fires(probe, [*before, middle], spike_value)
        low, high = torch.where(fired, low, middle), torch.where(fired, middle, high)
    return low, high


def _delay(probe: Probe) -> int:
    """1 where the spike of an input leaves one step later: the fire test comes before the membrane is updated."""
    strong, nothing = torch.full(probe.shape, _LARGEST), torch.zeros(probe.shape)
    first, second = probe([strong, nothing])[0]
    return int(not bool((first > 0).any()) and bool((second > 0).all()))


def _time_axis(probe: Probe) -> int | None:
    """The axis along which an earlier input changes a later output."""
    shape = probe.args[0].shape
    generator = torch.Generator().manual_seed(0)

    def outputs(x: Tensor) -> Tensor:
        with torch.no_grad():
            return _tensors(copy.deepcopy(probe.module)(x))[0]

    for exponent in sorted(range(-10, 11), key=abs):
        x = torch.rand(shape, generator=generator) * 2.0**exponent
        for axis, size in enumerate(shape):
            if size < 2:
                continue
            other = x.clone()
            other.select(axis, 0).mul_(torch.rand(x.select(axis, 0).shape, generator=generator))
            changed = (outputs(x) != outputs(other)).narrow(axis, 1, size - 1)
            if bool(changed.any()):
                return axis
    return None


# ---------------------------------------------------------------------- hypotheses


def _candidates(probe: Probe, a: _Answers) -> Iterator[LIF]:
    """Neurons that fit the answers, the likeliest first."""
    numbers = list(_numbers(probe.module))
    resets = list(_resets(a))
    for form, decay, gain, total in _decays(a, numbers):
        thresholds = _matching(a.theta * total, numbers)
        for threshold, (reset, timing, target) in itertools.product(thresholds, resets):
            goals = _matching(target * total, numbers) if target is not None else [torch.zeros(())]
            for goal, fire in itertools.product(goals, (">=", ">")):
                yield LIF(
                    v_threshold=_array(threshold),
                    decay=_array(decay),
                    decay_form=form,
                    gain=_array(gain),
                    fire=fire,  # type: ignore[arg-type]
                    reset=reset,
                    reset_timing=timing,
                    v_reset=_array(goal),
                    v_rest=_array(torch.zeros(())),
                    spike_value=a.spike_value,
                )


def _resets(a: _Answers) -> Iterator[tuple[Reset, ResetTiming, Tensor | None]]:
    """Kinds of reset that explain what is left one step after a spike; the last entry is where a hard one goes."""
    if a.carried is None:
        yield "hard", "next", None
        return
    first, second = a.carried
    slack = 1e-3 * a.theta
    timings: tuple[ResetTiming, ...] = ("same", "gate")

    def close(x: Tensor, y: Tensor) -> bool:
        return bool(((x - y).abs() <= slack).all())

    if close(first, second):
        target = first / a.decay.clamp(min=1e-6)
        for timing in timings:
            yield "hard", timing, target
    if close(first, a.decay * 0.25 * a.theta) and close(second, a.decay * 0.75 * a.theta):
        for timing in timings:
            yield "soft", timing, None
    if close(first, (1.25 * a.decay - 1) * a.theta) and close(second, (1.75 * a.decay - 1) * a.theta):
        yield "soft", "next", None
    if close(first, 1.25 * a.decay * a.theta) and close(second, 1.75 * a.decay * a.theta):
        yield "none", "same", None


def _decays(a: _Answers, numbers: list[Tensor]) -> Iterator[tuple[DecayForm, Tensor, Tensor, Tensor]]:
    """Decay form, its value, gain, and the whole factor on the input."""
    one = torch.ones(())
    factors = [
        *_matching(a.decay, [f(x) for x in numbers for f in (_same, _complement, _leak, _exponential, _sigmoid)])
    ]
    taus = [x for x in numbers if _fits(1 - 1 / x, a.decay)]
    rates = [y for x in numbers for y in (x, torch.sigmoid(x)) if _fits(1 - y, a.decay)]
    for factor in factors:
        yield "factor", factor, one, one
    for tau in taus:
        yield "tau", tau, one, 1 / tau
        yield "tau_undriven", tau, one, one
    for rate in rates:
        yield "rate", rate, one, rate
        yield "subtract", rate, one, one
    for factor in factors:
        yield "factor", factor, 1 - factor, 1 - factor


def _same(x: Tensor) -> Tensor:
    return x


def _complement(x: Tensor) -> Tensor:
    return 1 - x


def _leak(x: Tensor) -> Tensor:
    return 1 - 1 / x


def _exponential(x: Tensor) -> Tensor:
    return torch.exp(-1 / x)


def _sigmoid(x: Tensor) -> Tensor:
    return torch.sigmoid(x)


def _fits(value: Tensor, estimate: Tensor) -> bool:
    """Whether a number the module holds could be the estimated one, for every neuron."""
    try:
        spread = value.broadcast_to(estimate.shape)
    except RuntimeError:
        return False
    return bool(((spread - estimate).abs() <= _NEAR * estimate.abs() + 1e-6).all())


def _matching(estimate: Tensor, numbers: list[Tensor]) -> list[Tensor]:
    """Exact values for an estimate: numbers the module holds, then the nearest short decimal, then the estimate."""
    found: list[Tensor] = []
    for value in [*numbers, *_decimals(estimate), estimate]:
        if _fits(value, estimate) and not any(v.shape == value.shape and torch.equal(v, value) for v in found):
            found.append(value)
    return found


def _decimals(estimate: Tensor) -> Iterator[Tensor]:
    middle = estimate.double().median()
    for digits in (1, 2, 3, 4):
        value = torch.tensor(float(f"{float(middle):.{digits}g}"), dtype=torch.float64)
        yield value
        yield torch.round(estimate.double() * 10**digits) / 10**digits


def _numbers(module: nn.Module) -> Iterator[Tensor]:
    """Numbers the module and its code hold: attributes, parameters, constants and globals of its methods."""
    plain: list[Any] = [0.0, 1.0]
    for part in module.modules():
        plain += [*vars(part).values(), *vars(type(part)).values()]
        yield from (t.detach().double() for t in (*part.parameters(recurse=False), *part.buffers(recurse=False)))
        for method in vars(type(part)).values():
            if isinstance(method, types.FunctionType):
                plain += [*_constants(method.__code__), *(method.__defaults__ or ())]
                names = method.__code__.co_names
                plain += [method.__globals__.get(name) for name in names]
                for name in names:
                    plain += _function_numbers(method.__globals__.get(name))
    for value in dict.fromkeys(v for v in plain if isinstance(v, (int, float)) and not isinstance(v, bool)):
        yield torch.tensor(float(value), dtype=torch.float64)
    yield from (v.detach().double() for v in plain if isinstance(v, Tensor) and v.is_floating_point())


def _constants(code: types.CodeType) -> Iterator[Any]:
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _constants(constant)
        else:
            yield constant


def _function_numbers(value: Any) -> list[Any]:
    """Constants of a helper function or of an autograd function's forward."""
    if isinstance(value, type) and issubclass(value, torch.autograd.Function):
        value = value.forward
    elif isinstance(value, types.BuiltinMethodType | types.MethodType) and isinstance(value.__self__, type):
        value = getattr(value.__self__, "forward", None)
    if not isinstance(value, types.FunctionType):
        return []
    held = [value.__globals__.get(name) for name in value.__code__.co_names]
    return [*_constants(value.__code__), *(value.__defaults__ or ()), *held]


def _array(value: Tensor) -> Array:
    """A parameter without the batch axis of one; one number where all are the same."""
    value = value.detach().double()
    if value.ndim and bool((value == value.flatten()[0]).all()):
        value = value.flatten()[0]
    while value.ndim > 1 and value.shape[0] == 1:
        value = value[0]
    array: Array = value.cpu().numpy()
    return array


# ---------------------------------------------------------------------- confirmation


def _confirmed(probe: Probe, a: _Answers, model: LIF, exact: bool) -> Cell | None:
    """The cell, if the candidate does what the module does; ``exact``: also on inputs that only just fire or don't."""
    try:
        model.check(probe.shape[1:])
    except S2CError:
        return None
    spike = torch.full(probe.shape, a.spike_value)
    edges = (([a.low], [torch.zeros(probe.shape)]), ([a.theta], [spike]))
    if not all(agrees(model, xs, spikes, exact) for xs, spikes in ((a.xs, a.spikes), *edges)):
        return None
    return _cell(probe, a, model)


def _cell(probe: Probe, a: _Answers, model: LIF) -> Cell | None:
    """The cell of a confirmed model; None where a state the module shows contradicts it."""
    ports = _ports(model, a)
    if ports is None:
        return None
    returns = ("out", *(ports.get(str(i)) for i in range(1, 8)))
    attributes = {name[5:]: port for name, port in ports.items() if name.startswith("attr:")}
    states = tuple(returns[1 : len(probe.args)])
    if None in states:
        return None
    carries = probe.time_axis is None or _remembers(probe, a)
    return Cell(model, probe.time_axis, returns, states, {}, attributes, carries, probe.delay)  # type: ignore[arg-type]


def _run(model: LIF, xs: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Membranes and spikes of a model."""
    ops, state = TorchOps(), None
    membranes, spikes = [], []
    for x in xs:
        state, out = model.step(model.start(x, ops) if state is None else state, x, ops)
        membranes.append(state["v"])
        spikes.append(out)
    return membranes, spikes


def agrees(model: LIF, xs: list[Tensor], expected: list[Tensor], exact: bool) -> bool:
    """Whether a neuron gives the expected spikes; unless ``exact``, up to membranes within rounding of θ."""
    ops, state = TorchOps(), None
    excused = torch.zeros(xs[0].shape, dtype=torch.bool)
    for x, spikes in zip(xs, expected, strict=True):
        state, out = model.step(model.start(x, ops) if state is None else state, x, ops)
        wrong = ((out - spikes).abs() > 1e-5 * model.spike_value) & ~excused
        theta = ops.const(model.v_threshold, x)
        near = (state["h"] - theta).abs() <= ROUNDING * torch.maximum(theta.abs(), x.abs())
        if bool((wrong & ~near).any()) or (exact and bool(wrong.any())):
            return False
        # Once a spike differs, so do all membranes after it.
        excused |= wrong
    return True


def _ports(model: LIF, a: _Answers) -> dict[str, Any] | None:
    """Which tensors the module shows are its membrane or its spikes; None where a membrane contradicts the model."""
    membranes, spikes = _run(model, a.xs)
    found: dict[str, Any] = {}
    for name in a.shown[0]:
        values = [here.get(name) for here in a.shown]
        if any(v is None for v in values):
            continue
        series = torch.stack([v for v in values if v is not None])
        if _close(series, torch.stack(membranes)):
            found[name] = "v"
        elif _close(series, torch.stack(spikes)):
            found[name] = "out"
    # A module that shows a moving state must show the model's: that tells reset timings apart, which spikes cannot.
    moving = [
        n for n in a.shown[0] if all(n in here for here in a.shown) and not torch.equal(a.shown[0][n], a.shown[-1][n])
    ]
    return found if not moving or "v" in found.values() else None


def _close(a: Tensor, b: Tensor) -> bool:
    return bool(((a - b).abs() <= ROUNDING * torch.maximum(b.abs().max(), torch.ones(()))).all())


def _remembers(probe: Probe, a: _Answers) -> bool:
    """Whether a module that loops over time starts its second call from the state of the first."""
    module = copy.deepcopy(probe.module)
    x = torch.stack(a.xs, probe.time_axis or 0)
    with torch.no_grad():
        first, second = (_tensors(module(x))[0].clone() for _ in range(2))
    return not torch.equal(first, second)
