"""The deployed output: the signal it is, how it is read out over time, and what the model itself made of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from snn2chip.errors import S2CError, UsageError
from snn2chip.frontend.torch.context import Context, combined
from snn2chip.frontend.torch.elements import STATIC, Rows, Signal
from snn2chip.frontend.torch.recording import Call, Ref
from snn2chip.ir.graph import Source
from snn2chip.ir.layers import Array, Scale

How = Literal["mean", "sum", "last", "max"]
WHERE = "the model's output"


@dataclass(frozen=True)
class ReadOut:
    """A signal read out over time.

    Args:
        how: None where every step is given.
        outputs: what the model gave: [N, ...], or [N, T, ...] where every step is.
    """

    signal: Signal
    how: How | None
    outputs: Array


def read_out(context: Context, output: Ref, readout: How | None) -> ReadOut:
    """The deployed output of a recording whose calls are translated.

    Args:
        readout: how outputs of every step are to be read out.

    Raises:
        S2CError: it is no signal, or none of the ways to read one out.
        UsageError: ``readout`` does not apply.
    """
    if not output.call.depends_on_data:
        raise S2CError("the deployed output does not depend on the input", fix="select another with output=")
    end = Call("op", "output", None, (output,), {}, [], "", Source(WHERE))
    found = _rows(context, end, context.value(output, end))
    how, signal = _way(context, context.signal(found.patterns[0], end), found, end, readout)
    if signal.late:
        raise S2CError("the deployed output is a value of an earlier step", where=WHERE, fix="return it undelayed")
    return ReadOut(signal, how, _outputs(context, found, output, how))


def _rows(context: Context, end: Call, ids: Tensor) -> Rows:
    found, batch = context.rows(end, [ids], 0), context.elements.batch
    samples = sorted(set(found.n.tolist()))
    if samples != list(range(batch)):
        raise S2CError(
            "the output does not hold every sample of the batch",
            where=WHERE,
            why=f"it holds samples {', '.join(map(str, samples))} of a batch of {batch}",
            fix="return every sample; output= can select the tensor that does",
        )
    return found


def _way(context: Context, signal: Signal, found: Rows, end: Call, readout: How | None) -> tuple[How | None, Signal]:
    steps, last = context.elements.steps, context.elements.steps - 1
    times = sorted(set(found.t.tolist()))
    if times == list(range(steps)) and len(found.t) == steps * context.elements.batch and (steps > 1 or readout):
        return readout, signal
    if readout is not None:
        raise UsageError(
            f"readout={readout!r} cannot be applied",
            why="the model does not return its output for every step",
            fix="leave it out",
        )
    if signal.over_time is not None:
        if isinstance(signal.over_time, Signal):
            return "max", signal.over_time
        return _weighted(context, signal, end)
    if times == [STATIC]:
        raise S2CError(
            "the deployed output is the same at every step",
            where=WHERE,
            why="no neuron reaches it",
            fix="output= selects another",
        )
    if times == [last]:
        return "last", signal
    raise S2CError(
        f"the deployed output is taken at step {', '.join(map(str, times))} of {steps}",
        where=WHERE,
        why="the last step, all steps, or a sum, mean or maximum over all steps can be read out",
        fix="where the model returns a list with an output per step, all are deployed by "
        "output=lambda out: torch.stack(out), the last by output=-1",
    )


def _weighted(context: Context, signal: Signal, end: Call) -> tuple[How, Signal]:
    assert isinstance(signal.over_time, dict)
    steps = context.elements.steps
    base, coefficients = combined(context, end, signal)
    weight = coefficients[-1]
    if any(not math.isclose(c, weight, rel_tol=1e-6, abs_tol=1e-12) for c in coefficients):
        only = [t for t, c in enumerate(coefficients) if c]
        if only == [steps - 1] and weight == 1:
            return "last", base
        raise S2CError(
            "the read-out weighs steps differently",
            where=WHERE,
            why=f"weights {', '.join(f'{c:.4g}' for c in coefficients)}",
            fix="read out the mean, the sum, the maximum or the last step",
        )
    if weight == 1:
        return "sum", base
    if math.isclose(weight * steps, 1, rel_tol=1e-6):
        return "mean", base
    factor = np.asarray(np.float32(weight))
    return "sum", context.builder.add(Scale(factor), [base], factor.tobytes(), end.source, "scale")


_READ: dict[How, Callable[[Tensor], Tensor]] = {
    "mean": lambda v: v.sum(1) / v.shape[1],
    "sum": lambda v: v.sum(1),
    "last": lambda v: v[:, -1],
    "max": lambda v: v.amax(1),
}


def _outputs(context: Context, found: Rows, output: Ref, how: How | None) -> Array:
    steps, batch = context.elements.steps, context.elements.batch
    value = found.arrange(output.call.values[output.out]).to(torch.float32)
    value = value[torch.argsort(found.n * steps + found.t.clamp(min=0), stable=True)]
    if len(found.t) == steps * batch and steps > 1:
        value = value.reshape(batch, steps, *value.shape[1:])
        value = value if how is None else _READ[how](value)
    array: Array = value.numpy()
    return array
