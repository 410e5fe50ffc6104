"""Values that a model puts into a larger tensor and takes out again: reading the tensor becomes reading the value.

``V[t + 1] = v`` followed by ``V[t]`` at the next step, ``torch.stack([v, s])`` followed by ``unbind``: such states are
those of a plain time loop, once what is taken out is known to be what was put in. Elements are numbered for this, and
the numbers are moved about as the data was.
"""

from __future__ import annotations

import bisect
from collections import Counter

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from snn2chip.frontend.torch.nests import mapped
from snn2chip.frontend.torch.opnames import MOVES
from snn2chip.frontend.torch.recording import Call, Recording, Ref, names

_PUT = names("stack cat concat concatenate vstack hstack __setitem__ copy_")
_TAKE = names("__getitem__ select narrow unbind chunk split tensor_split split_with_sizes index_select")


def forwarded(recording: Recording) -> Recording:
    """The recording with values that are taken out of larger tensors replaced by the values that were put in."""
    wanted = _wanted(recording)
    if not wanted:
        return recording
    numbers = _Numbers(wanted)
    found: dict[tuple[Call, int], Ref] = {}

    def led(ref: Ref) -> Ref:
        return found.get((ref.call, ref.out), ref)

    calls = []
    for call in recording.calls:
        call.args, call.kwargs = mapped((call.args, call.kwargs), Ref, led)
        if call in wanted:
            numbers.move(call)
            if call.name in _TAKE:
                taken = {i: ref for i in range(len(call.values)) if (ref := numbers.source(call, i)) is not None}
                found.update({(call, i): ref for i, ref in taken.items()})
                if len(taken) == len(call.values):
                    continue
        calls.append(call)
    return Recording(calls, recording.input, mapped(recording.output, Ref, led))


def _wanted(recording: Recording) -> set[Call]:
    """What is taken out of tensors that values of the data were put into, and the operations between the two."""
    holds: set[Call] = set()
    for call in recording.calls:
        if call.name in MOVES and call.depends_on_data and not call.modified and call.func is not None:
            put = call.name in _PUT
            if put or any(ref.call in holds for ref in call.refs()):
                holds.add(call)
    wanted: set[Call] = set()
    for call in reversed(recording.calls):
        if call in holds and (call in wanted or (call.name in _TAKE and any(r.call in holds for r in call.refs()))):
            wanted.add(call)
            wanted |= {ref.call for ref in call.refs() if ref.call in holds}
    return wanted


class _Numbers:
    """Numbers of elements: every tensor that was computed has its own, and moving a tensor moves them.

    Args:
        moved: the operations that move.
    """

    def __init__(self, moved: set[Call]) -> None:
        self._bases: list[int] = []
        self._sources: list[Ref] = []
        self._next = 0
        self._known: dict[tuple[Call, int], Tensor] = {}
        self._readers = Counter(ref.call for call in moved for ref in call.refs())

    def move(self, call: Call) -> None:
        """Do to the numbers what was done to the data."""

        def numbered(ref: Ref) -> Tensor:
            value = ref.call.values[ref.out]
            return self._of(ref) if value.is_floating_point() else value

        args, kwargs = mapped((call.args, call.kwargs), Ref, numbered)
        written = {"__setitem__": 2, "copy_": 1}.get(call.name)
        if written is not None:
            args = (args[0].clone(), *args[1:])
            if not isinstance(args[written], Tensor):
                args = (*args[:written], -1, *args[written + 1 :])
        assert call.func is not None
        out = call.func(*args, **kwargs)
        made = pytree.tree_leaves(args[0] if call.name == "__setitem__" else out)
        self._known.update({(call, i): x for i, x in enumerate(made)})
        for ref in call.refs():
            self._readers[ref.call] -= 1
            if not self._readers[ref.call]:
                self._known.pop((ref.call, ref.out), None)

    def source(self, call: Call, out: int) -> Ref | None:
        """The tensor that an output is, as a whole; None if it is a part of one, or made of several."""
        found = self._known[call, out]
        first = int(found.flatten()[0]) if found.numel() else -1
        if first < 0:
            return None
        at = bisect.bisect_right(self._bases, first) - 1
        source = self._sources[at]
        value, taken = source.call.values[source.out], call.values[out]
        whole = torch.arange(value.numel()).reshape(value.shape) + self._bases[at]
        same = value.dtype == taken.dtype and whole.shape == found.shape and bool((whole == found).all())
        return source if same else None

    def _of(self, ref: Ref) -> Tensor:
        known = self._known.get((ref.call, ref.out))
        if known is None:
            value = ref.call.values[ref.out]
            known = torch.arange(value.numel()).reshape(value.shape) + self._next
            self._known[ref.call, ref.out] = known
            self._bases.append(self._next)
            self._sources.append(ref)
            self._next += value.numel()
        return known
