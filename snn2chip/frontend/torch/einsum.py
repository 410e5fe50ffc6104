"""``torch.einsum`` of one traced tensor with constants: what is summed is a linear layer, what is kept a scale."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from snn2chip.errors import S2CError
from snn2chip.frontend.torch.context import Context, Value, place, weighted
from snn2chip.frontend.torch.elementwise import scaled
from snn2chip.frontend.torch.opnames import einsum_terms
from snn2chip.frontend.torch.recording import Call
from snn2chip.frontend.torch.reductions import reduced
from snn2chip.ir import layers as L


def einsum(context: Context, call: Call) -> list[Value]:
    """Ids of an einsum's result.

    Raises:
        S2CError: two operands depend on the data, or the equation does something that no layer does.
    """
    terms, out = einsum_terms(call)
    operands = [
        leaf for argument in call.args[1:] for leaf in (argument if isinstance(argument, list | tuple) else [argument])
    ]
    data = [i for i, operand in enumerate(operands) if context.traced(operand)]
    if len(data) != 1:
        raise S2CError(
            "einsum multiplies two computed values", where=place(call), fix="write the product with torch.matmul"
        )
    letters = terms[data[0]]
    if "." in call.args[0] or len(set(letters)) != len(letters):
        raise S2CError(
            f"einsum with {call.args[0]!r}", where=place(call), fix="give every axis a letter of its own, without '...'"
        )
    ids = context.value(operands[data[0]], call)
    constants = [context.value(operand, call) for i, operand in enumerate(operands) if i != data[0]]
    others = [term for i, term in enumerate(terms) if i != data[0]]
    ids, letters = _summed(context, call, ids, letters, {*out, *"".join(others)})
    if others:
        held = "".join(sorted({*"".join(others)} & {*letters, *out}))
        weight = torch.einsum(f"{','.join(others)}->{held}", *constants)
        ids, letters = _multiplied(context, call, ids, letters, weight, held, out)
    return [ids.permute(*(letters.index(c) for c in out)).contiguous()]


def _summed(context: Context, call: Call, ids: Tensor, letters: str, wanted: set[str]) -> tuple[Tensor, str]:
    """Sum over the axes that nothing else mentions."""
    gone = [i for i, letter in enumerate(letters) if letter not in wanted]
    for axis in reversed(gone):
        ids = reduced(context, call, ids, [axis], "sum").squeeze(axis)
    return ids, "".join(c for c in letters if c in wanted)


def _multiplied(
    context: Context, call: Call, ids: Tensor, letters: str, weight: Tensor, held: str, out: str
) -> tuple[Tensor, str]:
    """Multiply with a constant whose axes are ``held``; returns the ids and their axes."""
    contracted = [c for c in held if c not in out]
    made = [c for c in held if c not in letters]
    both = [c for c in held if c in letters and c in out]
    if both and (contracted or made):
        raise S2CError(
            f"einsum with another matrix for every {'/'.join(both)} in {call.args[0]!r}",
            where=place(call),
            fix="use a grouped convolution, or one linear layer for each",
        )
    if both:
        shape = [ids.shape[i] if c in both else 1 for i, c in enumerate(letters)]
        aligned = weight.permute(*(held.index(c) for c in letters if c in both)).reshape(shape)
        return scaled(context, call, ids, aligned), letters
    kept = [c for c in letters if c not in contracted]
    ids = ids.permute(*(letters.index(c) for c in (*kept, *contracted)))
    ids = ids.reshape(*ids.shape[: len(kept)], -1).contiguous()
    matrix = weight.permute(*(held.index(c) for c in (*made, *contracted)))
    sizes = matrix.shape[: len(made)]
    matrix = matrix.reshape(math.prod(sizes), -1).contiguous()
    result = weighted(context, call, ids, matrix, None, 1, L.Linear, ())
    return result.reshape(*result.shape[:-1], *sizes), "".join((*kept, *made))
