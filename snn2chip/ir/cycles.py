"""Cycles of a directed graph."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import TypeVar

T = TypeVar("T", bound=Hashable)


def components(reads: Mapping[T, Iterable[T]]) -> list[frozenset[T]]:
    """Strongly connected components, each behind all it reads (Tarjan 1972, without recursion).

    Args:
        reads: of every node, the nodes it reads; these are keys too.
    """
    index: dict[T, int] = {}
    low: dict[T, int] = {}
    stack: list[T] = []
    on_stack: set[T] = set()
    found: list[frozenset[T]] = []
    for root in reads:
        work: list[tuple[T, Iterator[T] | None]] = [(root, None)] if root not in index else []
        while work:
            node, rest = work[-1]
            if rest is None:
                index[node] = low[node] = len(index)
                stack.append(node)
                on_stack.add(node)
                work[-1] = (node, rest := iter(reads[node]))
            for before in rest:
                if before not in index:
                    work.append((before, None))
                    break
                if before in on_stack:
                    low[node] = min(low[node], low[before])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == index[node]:
                    component = []
                    while True:
                        component.append(stack.pop())
                        on_stack.discard(component[-1])
                        if component[-1] == node:
                            break
                    found.append(frozenset(component))
    return found
