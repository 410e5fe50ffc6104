"""Which output of a model is deployed: part of what it returns, or what one of its modules gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from snn2chip.errors import UsageError
from snn2chip.frontend.torch.cells import library_of
from snn2chip.frontend.torch.nests import all_of

Select = int | str | Callable[[Any], Any] | None


@dataclass
class Deployed:
    """The choice for one model.

    Args:
        select: index, key or attribute of what the model returns, path of a module, or a function of what it returns.
        chosen: what was taken where nothing was said, for a warning.
    """

    model: nn.Module
    select: Select
    chosen: str = field(default="", init=False)

    def output(self, run: Callable[[nn.Module, Any], Any], model: nn.Module, x: Any) -> Any:
        """The deployed output of one run."""
        with self.watched() as given:
            return self.of(run(model, x), given)

    @contextmanager
    def watched(self) -> Iterator[list[Any]]:
        """What the module that ``select`` names gives, call by call."""
        given: list[Any] = []
        module = dict(self.model.named_modules()).get(self.select) if isinstance(self.select, str) else None
        if module is None or module is self.model:
            yield given
            return
        hook = module.register_forward_hook(lambda module, args, out: given.append(out))
        try:
            yield given
        finally:
            hook.remove()

    def of(self, out: Any, given: list[Any]) -> Any:
        """The deployed output of what the model returned, and the watched module gave."""
        if callable(self.select):
            return self.select(out)
        if given and not (isinstance(out, Mapping) and self.select in out):
            tensors = [_first(call) for call in given]
            return tensors[0] if len(tensors) == 1 else torch.stack(tensors)
        if self.select is not None:
            try:
                return self._part(out)
            except (KeyError, IndexError, TypeError, AttributeError) as error:
                raise UsageError(
                    f"the model's output has no {self.select!r}",
                    why=f"it returns {_shape_of(out)}, and calls no module of this name",
                    fix="correct output=",
                ) from error
        out = _fields(out)
        if state_to_hand_back(self.model, out):
            out = out[0]
        tensors = all_of(out, Tensor)
        if len(tensors) > 1:
            name = type(self.model).__name__
            self.chosen = f"{name} returns {len(tensors)} tensors: the first is deployed; output= selects another"
        return tensors[0] if tensors else out

    def _part(self, out: Any) -> Any:
        if isinstance(self.select, str) and not isinstance(out, Mapping):
            if isinstance(out, Tensor):
                raise KeyError(self.select)
            return getattr(out, self.select)
        return out[self.select]


def _fields(out: Any) -> Any:
    """What an object of the model's own holds, a dataclass say, as a dictionary; anything else as it is."""
    known = isinstance(out, (Tensor, tuple, list, Mapping, str)) or not hasattr(out, "__dict__")
    return out if known else dict(vars(out))


def state_to_hand_back(model: nn.Module, out: Any) -> tuple[Any, ...]:
    """The state in what a module of Norse returns, (output, state): its modules keep none themselves."""
    threaded = library_of(model, "norse") is not None and isinstance(out, tuple) and len(out) == 2
    return (out[1],) if threaded else ()


def _first(out: Any) -> Any:
    return next(iter(all_of(out, Tensor)), out)


def _shape_of(out: Any) -> str:
    if isinstance(out, Mapping):
        return f"a dict with {', '.join(map(repr, out))}"
    return f"{len(out)} values" if isinstance(out, (tuple, list)) else f"a {type(out).__name__}"
