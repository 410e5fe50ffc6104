"""Asking a module what it does: runs from rest with chosen inputs, and the input that only just makes it fire."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from snn2chip.errors import S2CError
from snn2chip.frontend.torch.nests import all_of, mapped
from snn2chip.frontend.torch.recorder import tensor_attributes

LARGEST = 2.0**24
_LATEST = 4
# Elements per axis that are asked of a large image, and how much smaller that must make it.
_CORNER = 4
_WORTHWHILE = 4

Shown = dict[str, Tensor]


@dataclass
class Probe:
    """A pristine copy of a module, and how the model calls it.

    Args:
        args: arguments of its first call: the input, then states.
        calls: how often it was called in one sample.
        time_axis: axis of the input it loops over, None where it is called at every step.
        only_steps: the one number of steps it can loop over; None for any.
        late: steps by which an input reaches its output late; answers are asked for that much later.
    """

    module: nn.Module
    args: tuple[Any, ...]
    calls: int
    time_axis: int | None = None
    only_steps: int | None = None
    late: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample at one step, with a batch axis of one."""
        shape = list(self.args[0].shape)
        if self.time_axis is not None:
            del shape[self.time_axis]
        return (1, *shape[1:])

    @property
    def longest(self) -> int:
        """The longest run that can be asked for."""
        return 1 << 10 if self.only_steps is None else self.only_steps - self.late

    def corner(self) -> Probe | None:
        """The same for a corner of its images, the last two axes; None for anything small."""
        shape = self.args[0].shape
        small = (*shape[:-2], *(min(size, _CORNER) for size in shape[-2:]))
        if len(shape) < 4 or math.prod(small) * _WORTHWHILE > math.prod(shape):
            return None

        def cut(x: Tensor) -> Tensor:
            return x[..., :_CORNER, :_CORNER].clone() if x.shape == shape else x

        return replace(self, args=mapped(self.args, Tensor, cut))

    def zeros(self, steps: int) -> list[Tensor]:
        """So many steps without input."""
        return [torch.zeros(self.shape)] * steps

    def __call__(self, xs: list[Tensor]) -> tuple[list[Tensor], list[Shown]]:
        """What it makes of every input, and what else of the same shape it returned or held, ``late`` steps longer."""
        padded = [*xs, *self.zeros(self.late)]
        with torch.no_grad():
            if self.time_axis is not None:
                return self._looped(padded)[self.late :][: len(xs)], [{} for _ in padded]
            outputs, shown = self._called(padded)
        return outputs[self.late :], shown

    def _looped(self, xs: list[Tensor]) -> list[Tensor]:
        """One call for all steps; a module that takes one number of steps gets zeros behind the input."""
        xs = [*xs, *self.zeros((self.only_steps or 0) - len(xs))]
        whole = torch.stack(xs, self.time_axis or 0)
        first = all_of(_run(copy.deepcopy(self.module), whole, *self.args[1:]), Tensor)[0]
        if first.shape != whole.shape:
            raise ValueError(f"{len(xs)} steps gave an output of shape {tuple(first.shape)}")
        return list(first.unbind(self.time_axis or 0))

    def _called(self, xs: list[Tensor]) -> tuple[list[Tensor], list[Shown]]:
        module = copy.deepcopy(self.module)
        outputs: list[Tensor] = []
        shown: list[Shown] = []
        states = mapped(self.args[1:], Tensor, lambda s: s[:1].clone() if s.ndim else s)
        for x in xs:
            out = _run(module, x, *states)
            found = all_of(out, Tensor)
            outputs.append(found[0].clone())
            left = {f"attr:{k}": v for k, v in tensor_attributes(module).items()}
            here = {**{str(i): v for i, v in enumerate(found) if i}, **left}
            shown.append({name: v.clone() for name, v in here.items() if v.shape == x.shape})
            if states:
                states = _handed_back(out, len(states))
        return outputs, shown

    def remembers(self, xs: list[Tensor]) -> bool:
        """Whether it starts its second call from the state of the first."""
        if self.time_axis is None:
            return True
        module = copy.deepcopy(self.module)
        x = torch.stack([*xs, *self.zeros((self.only_steps or 0) - len(xs))], self.time_axis)
        with torch.no_grad():
            first, second = (all_of(_run(module, x), Tensor)[0].clone() for _ in range(2))
        return not torch.equal(first, second)


class ModuleError(RuntimeError):
    """The module failed on what it was asked; the message names the type and text of what it raised."""


def _run(module: nn.Module, *args: Any) -> Any:
    try:
        return module(*args)
    except Exception as error:
        raise ModuleError(f"{type(error).__name__}: {error}") from error


def _handed_back(out: Any, count: int) -> tuple[Any, ...]:
    rest = tuple(out[1:]) if isinstance(out, (tuple, list)) else ()
    if len(rest) != count:
        raise S2CError("it takes states that it does not return", why=f"{count} in, {len(rest)} out")
    return rest


def prepared(probe: Probe) -> Probe:
    """The probe with what is to be known before anything is asked: time axis, number of steps, lateness."""
    if len(probe.args) == 1:
        probe = replace(probe, time_axis=_time_axis(probe))
    if probe.time_axis is not None:
        steps = int(probe.args[0].shape[probe.time_axis])
        try:
            # One that was told its number of steps fails on fewer, where it does not look at those too many.
            for other in (1, 2 * steps + 1):
                probe(probe.zeros(other))
        except (RuntimeError, TypeError, ValueError, IndexError):
            probe = replace(probe, only_steps=steps)
    return replace(probe, late=_lateness(probe))


def _lateness(probe: Probe) -> int:
    """Steps after which a strong input first shows: more than 0 where something is read before it is updated."""
    pulse = torch.full(probe.shape, LARGEST)
    after = min(_LATEST, probe.longest - 1)
    quiet = probe(probe.zeros(after + 1))[0]
    before = probe([*probe.zeros(after), pulse])[0]
    if any(not torch.equal(a, b) for a, b in zip(before[:-1], quiet, strict=False)):
        raise S2CError("its output depends on later inputs", why="a neuron knows only what came before")
    for late, (out, rest) in enumerate(zip(probe([pulse, *probe.zeros(after)])[0], quiet, strict=True)):
        if bool((out != rest).all()):
            return late
        if bool((out != rest).any()):
            break
    return 0


def _time_axis(probe: Probe) -> int | None:
    """The axis along which an earlier input changes a later output."""
    shape = probe.args[0].shape
    generator = torch.Generator().manual_seed(0)

    def outputs(x: Tensor) -> Tensor:
        with torch.no_grad():
            return all_of(copy.deepcopy(probe.module)(x), Tensor)[0]

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


def fires(probe: Probe, xs: list[Tensor], spike_value: float) -> Tensor:
    """Where the last of these inputs makes it fire."""
    return probe(xs)[0][-1] > 0.5 * spike_value


def boundary(probe: Probe, before: list[Tensor], spike_value: float) -> tuple[Tensor, Tensor]:
    """Largest input that does not fire after ``before``, and the smallest that does: neighbours in float32.

    Raises:
        S2CError: there is none, or the run is longer than the module takes.
    """
    if len(before) >= probe.longest:
        raise S2CError(f"it takes {probe.only_steps} steps only, too few to ask it all", fix="trace it with more steps")
    high = torch.full(probe.shape, 2.0**-20)
    while not bool((fired := fires(probe, [*before, high], spike_value)).all()):
        high = torch.where(fired, high, high * 4)
        if float(high.max()) > LARGEST:
            raise S2CError("some of it never fires", why=f"no spike for inputs up to {LARGEST:.3g}")
    low = -4 * torch.maximum(high, torch.ones(()))
    while bool((fired := fires(probe, [*before, low], spike_value)).any()):
        low = torch.where(fired, low * 4, low)
        if float(low.min()) < -LARGEST:
            raise S2CError("it fires whatever the input")
    for _ in range(200):
        middle = (low + high) / 2
        if bool(((middle == low) | (middle == high)).all()):
            break
        fired = fires(probe, [*before, middle], spike_value)
        low, high = torch.where(fired, low, middle), torch.where(fired, middle, high)
    return low, high
