"""Ids that stand as they were handed out are read at once: the rows found are those of reading every id."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from snn2chip.errors import S2CError  # noqa: E402
from snn2chip.frontend.torch.elements import Elements, Rows, Signal, rows  # noqa: E402

# What a model does to [T, N, C, H] before an operation reads it.
LAYOUTS = {
    "as it is": lambda x: x,
    "batch first": lambda x: x.transpose(0, 1),
    "folded": lambda x: x.flatten(0, 1),
    "one step": lambda x: x[0],
    "features flat": lambda x: x.flatten(2),
    "all flat": lambda x: x.flatten(0, 2),
    "channels last": lambda x: x.movedim(2, -1),
    "one channel": lambda x: x[:, :, :1],
    "an axis more": lambda x: x.unsqueeze(2),
    "repeated": lambda x: x.unsqueeze(2).expand(-1, -1, 3, -1, -1),
    "backwards": lambda x: x.flip(-1),
}


def found(elements: Elements, tensors: list[Any], k: int) -> Any:
    try:
        made: Rows = rows(elements, tensors, k, "here")
    except S2CError as error:
        return type(error), error.what
    back = [made.put_back(x.reshape(-1, *(1,) * len(made.lead)).expand(-1, *made.lead)) for x in (made.t, made.n)]
    patterns = [part.tolist() for p in made.patterns for part in (p.which, p.position)]
    return made.lead, made.t.tolist(), made.n.tolist(), patterns, [x.tolist() for x in back]


@given(
    steps=st.integers(1, 3),
    batch=st.integers(1, 3),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    names=st.lists(st.sampled_from(sorted(LAYOUTS)), min_size=1, max_size=2),
    timed=st.lists(st.booleans(), min_size=2, max_size=2),
    k=st.integers(0, 2),
)
def test_rows_are_those_of_reading_every_id(
    steps: int, batch: int, shape: tuple[int, int], names: list[str], timed: list[bool], k: int
) -> None:
    elements, tensors = Elements(steps, batch), []
    t, n = torch.arange(steps).repeat_interleave(batch), torch.arange(batch).repeat(steps)
    for i, name in enumerate(names):
        signal = elements.add(Signal(f"s{i}", shape, timed[i]))
        tensors.append(LAYOUTS[name](elements.ids(signal, t, n).reshape(steps, batch, *shape)))
    if tensors[0].shape != tensors[-1].shape or k >= tensors[0].ndim:
        tensors, k = tensors[:1], min(k, tensors[0].ndim - 1)
    at_once = found(elements, tensors, k)
    with mock.patch.object(Elements, "whole", return_value=None):
        assert at_once == found(elements, tensors, k)
