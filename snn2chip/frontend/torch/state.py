"""The model's state: left as it was found, and cleared between samples."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from snn2chip.frontend.torch.adapters import ADAPTERS

_RESETS = ("reset", "reset_state", "reset_states", "reset_mem")


@contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Run the model in eval mode and put back every attribute, tensor value and training flag afterwards.

    The model itself is run, not a copy: libraries keep lists of their instances, and a user's ``run`` may hold on to
    it.
    """
    modules = [m for m in model.modules() if not isinstance(m, torch.jit.ScriptModule)]
    training = {m: m.training for m in model.modules()}
    attributes = [(m, _shallow(vars(m))) for m in modules]
    tensors = {id(t): (t, t.detach().clone()) for _, values in attributes for t in _tensors(values)}
    model.eval()
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value in tensors.values():
                if tensor.shape != value.shape or not torch.equal(tensor, value):
                    tensor.data = value
        for module, values in attributes:
            vars(module).clear()
            vars(module).update(values)
        for module, flag in training.items():
            module.training = flag


def _shallow(values: dict[str, Any]) -> dict[str, Any]:
    return {
        k: type(v)(v) if type(v) in (dict, list) else v.copy() if isinstance(v, dict) else v for k, v in values.items()
    }


def _tensors(values: dict[str, Any]) -> Iterator[Tensor]:
    for value in values.values():
        held = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else (value,)
        yield from (v for v in held if isinstance(v, Tensor))


def reset(model: nn.Module) -> None:
    """Clear every state the way its library does, then call what the user's own modules have to offer for it.

    Own modules: a method ``reset``, ``reset_state``, ``reset_states`` or ``reset_mem`` that needs no argument.
    """
    for module in model.modules():
        if any(adapter.reset(module) for adapter in ADAPTERS):
            continue
        method = next((m for name in _RESETS if callable(m := getattr(module, name, None)) and _bare(m)), None)
        if method is not None:
            method()


def _bare(method: Any) -> bool:
    try:
        parameters = inspect.signature(method).parameters.values()
    except (TypeError, ValueError):
        return False
    return all(p.default is not p.empty or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters)
