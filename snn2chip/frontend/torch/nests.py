"""Nests of tuples, lists and dictionaries, as operations and modules take and return them: what is in them, by kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch.utils._pytree as pytree

_Leaf = TypeVar("_Leaf")


def all_of(nest: Any, kind: type[_Leaf]) -> list[_Leaf]:
    """Everything of a kind, in order."""
    return [leaf for leaf in pytree.tree_leaves(nest) if isinstance(leaf, kind)]


def mapped(nest: Any, kind: type[_Leaf], by: Callable[[_Leaf], Any]) -> Any:
    """The same nest with everything of a kind replaced."""
    return pytree.tree_map(lambda leaf: by(leaf) if isinstance(leaf, kind) else leaf, nest)
