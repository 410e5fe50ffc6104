"""Input data: shape and value checks, and the integers the chip sees."""

from __future__ import annotations

from typing import Any

import numpy as np

from snn2chip.errors import S2CError, first_line
from snn2chip.ir.graph import Network
from snn2chip.ir.layers import Array
from snn2chip.ir.program import Format, Program


def as_numpy(value: Any, where: str = "input") -> Array:
    """An array, a torch tensor of any device, or nested lists of numbers as a numpy array.

    Args:
        value: to convert.
        where: it stands, for messages.

    Raises:
        S2CError: it is none of those: ragged lists, a sparse, nested or quantized tensor; or values are masked.
    """
    require_dense(value, where)
    try:
        if not hasattr(value, "detach"):
            return np.asarray(value)
        tensor = value.detach().cpu()
        # numpy has no floats of 8 bits and none called bfloat16; 32 bits hold all of them.
        narrow = str(tensor.dtype).startswith(("torch.bfloat16", "torch.float8"))
        return np.asarray((tensor.float() if narrow else tensor).numpy())
    except (TypeError, ValueError, RuntimeError) as error:
        why = f"{type(error).__name__}: {first_line(error)}"
        fix = "give a dense array or tensor [N, ...], all samples of one shape"
        raise S2CError("this cannot be read as an array of numbers", where=where, why=why, fix=fix) from None


def require_dense(value: Any, where: str) -> None:
    """Raise unless every value is there: numpy would take what lies under a mask for data.

    Args:
        value: an array, a tensor, or lists of them; anything else passes.
        where: it stands, for messages.
    """
    if isinstance(value, list | tuple):
        for item in value:
            require_dense(item, where)
    elif isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise S2CError(
            f"{np.ma.getmaskarray(value).sum()} of {value.size} values are masked",
            where=where,
            why="a network has no missing inputs, and what lies under the mask is no data",
            fix="say what stands there: array.filled(0)",
        )
    elif getattr(value, "is_nested", False) is True:
        raise S2CError(
            "the data is a nested tensor",
            where=where,
            why="its samples have shapes of their own",
            fix="bring them to one shape, e.g. with torch.nested.to_padded_tensor(x, 0.0)",
        )


def no_sample() -> S2CError:
    """The refusal of data without a sample."""
    return S2CError("there is nothing to simulate", why="the data holds no sample", fix="give at least one, [N, ...]")


def as_samples(network: Network, x: Any, *, free_time: bool = False, first: int = 0) -> Array:
    """``x`` as an array [N, *sample_shape] of finite numbers; torch tensors are taken too.

    Args:
        network: whose input the data is for.
        x: numpy array or torch tensor [N, T, ...], or [N, ...] with direct coding.
        free_time: any number of steps is allowed (the machine's clock).
        first: number of the first sample in the data, for messages.

    Raises:
        S2CError: the shape does not fit, or a value is NaN or infinite; the message says which sample.
    """
    array = as_numpy(x)
    check_shape(network, array.shape, array.dtype, free_time=free_time)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        sample = int(np.argwhere(~np.isfinite(array).reshape(len(array), -1).all(axis=1))[0, 0])
        raise S2CError(
            "the data holds NaN or infinite values",
            where=f"input, sample {first + sample}",
            fix="leave such samples out, or mend what makes them",
        )
    return array


def check_shape(network: Network, shape: tuple[int, ...], dtype: np.dtype[Any], *, free_time: bool = False) -> None:
    """Whether data of ``shape`` [N, ...] and ``dtype`` is for this network.

    Raises:
        S2CError: it is not.
    """
    want, got = network.sample_shape, shape[1:]
    if network.coding == "steps" and got and (free_time or network.time_steps is None):
        if got[0] == 0:
            raise S2CError(
                "the data has no time step",
                where="input",
                why=f"its shape is {shape}",
                fix="give samples of at least one step: [N, T, ...]",
            )
        want, got = want[1:], got[1:]
    if not shape or got != want or dtype.kind not in "biuf":
        shown = ["T" if size < 0 else str(size) for size in network.sample_shape]
        steps = " (T first)" if network.coding == "steps" else " (the same at every step)"
        raise S2CError(
            f"the data has shape {shape} and type {dtype}",
            where="input",
            why=f"this network takes numbers of shape [N, {', '.join(shown)}]{steps}",
            fix="check the order of the axes, or quantize and trace with data of this shape",
        )


def to_integers(program: Program, x: Array, first: int = 0, dtype: Any = np.int64) -> tuple[Array, int]:
    """The integers the program's input format makes of ``x``, and how many values had to be clipped.

    Args:
        program: whose input format.
        x: samples, the first of them number ``first`` of the data (for messages).
        dtype: of the integers; it holds every value of the format.

    Raises:
        S2CError: binary spikes were expected and something else came.
    """
    form: Format = program.formats[program.input.name]
    low, high = form.range
    if form.scale == 1.0 and form.overflow == "error":
        bad = (x < low) | (x > high)
        if x.dtype.kind == "f":
            bad |= x != np.rint(x)
        if bad.any():
            at = tuple(int(i) for i in np.argwhere(bad)[0])
            raise S2CError(
                f"the input holds {x[at]:.6g}",
                where=f"input, index {(at[0] + first, *at[1:])}",
                why=f"this program takes whole numbers from {low} to {high} (spikes)",
                fix="give spikes, or quantize with calibration data of the kind you want to run",
            )
        return x.astype(dtype), 0
    integers = np.rint(x.astype(np.float64) / form.scale)
    clipped = int(np.count_nonzero((integers < low) | (integers > high)))
    return np.clip(integers, low, high).astype(dtype), clipped
