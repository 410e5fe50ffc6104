"""What one forward pass did: its operations and neuron calls, in order, each reading the values of earlier ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch.utils._pytree as pytree
from torch import Tensor

from snn2chip.frontend.torch.nests import all_of
from snn2chip.ir.graph import Source


@dataclass(frozen=True)
class Ref:
    """The ``out``-th tensor of a call."""

    call: Call
    out: int = 0


@dataclass(eq=False)
class Call:
    """One operation, neuron call, constant or input, as it was recorded.

    Args:
        kind: "input", "const", "op", "neuron", or "late": values of earlier steps, which no recording has at first.
        name: the operation's name without decoration ("conv2d", "add"); a neuron's class name.
        args, kwargs: as called, tensors replaced by :class:`Ref`.
        values: the tensors it returned (of a neuron: copies).
        module: path of the innermost module that was running.
        site: where in the program it was called: one key per line of user code on the stack.
        index: for a neuron, which call of this module it is, from 0.
        ports: for a neuron, the name of each value: "0", "1", … as returned, "attr:v" for attributes it left.
        modified: whether a value was overwritten, through another view of its memory, after it was made.
    """

    kind: str
    name: str
    func: Callable[..., Any] | None
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    values: list[Tensor]
    module: str
    source: Source
    site: tuple[Any, ...] = ()
    index: int = 0
    ports: tuple[str, ...] = ()
    depends_on_data: bool = False
    modified: bool = False

    def refs(self) -> list[Ref]:
        """The tensors it read."""
        return all_of((self.args, self.kwargs), Ref)

    def operands(self) -> list[Any]:
        """What it was called with, one after another."""
        return pytree.tree_leaves((self.args, self.kwargs))

    def read(self, others: Mapping[int, Any]) -> None:
        """Put others in the place of some operands, by their number in :meth:`operands`."""
        operands, structure = pytree.tree_flatten((self.args, self.kwargs))
        operands = [others.get(i, operand) for i, operand in enumerate(operands)]
        self.args, self.kwargs = pytree.tree_unflatten(operands, structure)


@dataclass
class Recording:
    """What one forward pass did, in order; ``output`` is what the model returned, tensors replaced by :class:`Ref`."""

    calls: list[Call]
    input: Call
    output: Any


def drawn(ref: Ref) -> Call | None:
    """The random draw a constant was made from, if it was."""
    pending, seen = [ref.call], set()
    while pending:
        call = pending.pop()
        if call.name == "random":
            return call
        if id(call) not in seen and not call.depends_on_data:
            seen.add(id(call))
            pending += [before.call for before in call.refs()]
    return None


def names(text: str) -> frozenset[str]:
    """A set of operation names, given as one text."""
    return frozenset(text.split())
