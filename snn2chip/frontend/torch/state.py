"""The model's state: left as it was found, and cleared between samples."""

from __future__ import annotations

import copy
import inspect
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from snn2chip.frontend.torch.adapters import ADAPTERS

_CONTAINERS = (dict, list, set, deque)
_RESETS = ("reset", "reset_state", "reset_states", "reset_mem")


@contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Run the model in eval mode and put back every attribute, tensor value and training flag afterwards.

    The model itself is run, not a copy: libraries keep lists of their instances, and a user's ``run`` may hold on to
    it.
    """
    modules = list(model.modules())
    training = [(m, m.training) for m in modules]
    attributes = [(vars(m), dict(vars(m))) for m in modules if not isinstance(m, torch.jit.ScriptModule)]
    held = [value for _, values in attributes for value in values.values() if isinstance(value, _CONTAINERS)]
    contents = [(container, copy.copy(container)) for container in held]
    values = [value for _, values in attributes for value in values.values()]
    values += [
        item for container in held for item in (container.values() if isinstance(container, dict) else container)
    ]
    tensors = {id(t): (t, t.detach().clone()) for t in values if isinstance(t, Tensor)}
    model.eval()
    try:
        with _uncompiled(), _no_inference_tensors():
            yield
    finally:
        for tensor, value in tensors.values():
            if tensor.shape != value.shape or not torch.equal(tensor, value):
                tensor.data = value
        # In place: hook handles and optimizers refer to these very objects.
        for namespace, before in (*attributes, *contents):
            _refill(namespace, before)
        for module, flag in training:
            module.training = flag


def _uncompiled() -> AbstractContextManager[None]:
    """Run what ``torch.compile`` made as the Python it was made of; where it was never used, it is not imported."""
    compiling = "torch._dynamo" in sys.modules and hasattr(torch.compiler, "set_stance")
    return torch.compiler.set_stance("force_eager") if compiling else nullcontext()


@contextmanager
def _no_inference_tensors() -> Iterator[None]:
    """Make ``torch.inference_mode`` do nothing: its tensors do not tell when they are overwritten."""
    mode: Any = torch.inference_mode
    entering, leaving = mode.__enter__, mode.__exit__
    with torch.inference_mode(False):
        mode.__enter__ = mode.__exit__ = lambda *args: None
        try:
            yield
        finally:
            mode.__enter__, mode.__exit__ = entering, leaving


def _refill(container: Any, contents: Any) -> None:
    container.clear()
    (container.update if isinstance(container, (dict, set)) else container.extend)(contents)


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
