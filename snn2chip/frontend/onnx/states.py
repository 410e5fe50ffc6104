"""Which input of a per-step model is a state, and which output is its next value."""

from __future__ import annotations

import itertools
import re
import warnings
from collections.abc import Mapping, Sequence

from snn2chip.errors import S2CError, UsageError

# (name, shape)
Tensor = tuple[str, tuple[int | None, ...]]

# Parts of a name that only say which side of the step a tensor is on.
_SIDES = frozenset(("in", "out", "input", "output", "next", "prev", "previous", "new", "old", "init", "initial"))
# What torch's exporter appends to the inputs of a Scan's body.
_SCAN = re.compile(r"_scan_combine_graph_\d+__subgraph_in$")
# Beyond this many states the orders of assigning them are not tried.
_MOST_TRIED = 6


def paired(inputs: Sequence[Tensor], outputs: Sequence[Tensor], given: Mapping[str, str] | None) -> dict[str, str]:
    """State input → output that is its next value.

    Args:
        given: what the user said; None lets names and shapes decide, where only one answer is possible.

    Raises:
        UsageError: the names given do not exist, or nothing decides.
        S2CError: the model has no states.
    """
    if given is not None:
        return _checked(inputs, outputs, given)
    if len(inputs) < 2:
        raise S2CError(
            "the model has no states",
            why="it has one input and no Scan: its time loop was unrolled by the exporter, or it is no spiking network",
            fix="export one time step with the states as inputs and outputs, or use snn2chip.trace on the model itself",
        )
    found = _by_name(inputs, outputs)
    if len(found) != len(inputs) - 1:
        found = _by_shape(inputs, outputs)
    text = ", ".join(f"{a!r}: {b!r}" for a, b in found.items())
    warnings.warn(f"taken for states by their names and shapes: {{{text}}} (states= says otherwise)", stacklevel=5)
    return found


def _checked(inputs: Sequence[Tensor], outputs: Sequence[Tensor], given: Mapping[str, str]) -> dict[str, str]:
    for what, names, known in (
        ("input", list(given), [name for name, _ in inputs]),
        ("output", list(given.values()), [name for name, _ in outputs]),
    ):
        for name in names:
            if name not in known:
                raise UsageError(
                    f"states names the {what} {name!r}, which the model does not have",
                    fix=f"its {what}s: {', '.join(known)}",
                )
    if len(inputs) - len(given) != 1:
        rest = ", ".join(name for name, _ in inputs if name not in given) or "none"
        raise UsageError(
            "one input must be left for the data",
            why=f"inputs that states does not name: {rest}",
            fix='states={"state input": "output with its next value", …}, for all inputs but the data',
        )
    return dict(given)


def stem(name: str) -> str:
    """A name without what only says which side of the step it is on."""
    name = _SCAN.sub("", name)
    return ".".join(part for part in re.split(r"[^a-z0-9]+", name.lower()) if part and part not in _SIDES)


def _by_name(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> dict[str, str]:
    stems = {stem(name): (name, shape) for name, shape in outputs}
    if len(stems) != len(outputs):
        return {}
    return {
        name: stems[stem(name)][0]
        for name, shape in inputs
        if stem(name) and stem(name) in stems and stems[stem(name)][1][1:] == shape[1:]
    }


def _by_shape(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> dict[str, str]:
    """The only way to give all inputs but one an output of their shape, with an output left over."""
    ways = []
    count = len(inputs) - 1
    if count <= min(_MOST_TRIED, len(outputs) - 1):
        for data in range(len(inputs)):
            states = [tensor for i, tensor in enumerate(inputs) if i != data]
            for order in itertools.permutations(outputs, count):
                if all(a[1][1:] == b[1][1:] for a, b in zip(states, order, strict=True)):
                    ways.append({a[0]: b[0] for a, b in zip(states, order, strict=True)})
    if len(ways) != 1:
        shown = [", ".join(f"{name} {list(shape)}" for name, shape in side) for side in (inputs, outputs)]
        example = _likely(ways, inputs) or dict.fromkeys((name for name, _ in inputs[1:]), "…")
        text = ", ".join(f"{a!r}: {b!r}" for a, b in example.items())
        raise UsageError(
            "which inputs are states, and which outputs their next values, is not clear",
            why=f"inputs: {shown[0]}\noutputs: {shown[1]}",
            fix=f"say it: states={{{text}}}",
        )
    return ways[0]


def _likely(ways: Sequence[dict[str, str]], inputs: Sequence[Tensor]) -> dict[str, str]:
    """The usual order: data first, outputs before the new states, states in the same order on both sides."""
    usual = [way for way in ways if inputs[0][0] not in way]
    return max(usual, key=lambda way: [list(way.values()) == sorted(way.values()), *way.values()], default={})
