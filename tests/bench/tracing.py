"""Tracing and folding a ResNet-34 beside exporting the same model to ONNX, both ways torch has."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

import snn2chip as s2c
from bench.measure import Variant
from bench.networks import Net
from snn2chip.passes import run_passes

OURS = "snn2chip: trace and fold"
DYNAMO, TORCHSCRIPT = "torch.onnx.export", "torch.onnx.export(dynamo=False)"


def variants(net: Net, steps: int) -> tuple[dict[str, Variant], dict[str, str]]:
    """What turns the model into a graph, and what cannot be run here and why; two samples at once."""
    model = net.model(time_steps=steps)
    x = net.data(2, steps)

    def ours() -> Any:
        graph, _ = run_passes(s2c.trace(model, x), x, "prune,fold_batchnorm")
        return graph

    def export(**options: Any) -> Callable[[], Any]:
        def run() -> Any:
            with _quiet():
                return torch.onnx.export(_OneResult(model).eval(), (x,), io.BytesIO(), **options)

        return run

    found, skipped = {OURS: Variant(ours, 1)}, {}
    for name, needs, options in (
        (DYNAMO, "onnxscript", {"dynamo": True}),
        (TORCHSCRIPT, "onnx", {"dynamo": False}),
    ):
        if importlib.util.find_spec(needs) is None:
            skipped[name] = f"it needs {needs}, which is not installed"
        else:
            found[name] = Variant(export(**options), 1)
    return found, skipped


class _OneResult(nn.Module):
    """A module of its own around the model, so that exporting leaves the model's training flags as they are."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.model(x)
        return out


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Progress and deprecation notes of the exporters."""
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.getLogger("torch.onnx").setLevel(level)
