"""What a model itself computes, layer by layer, under the names its graph has."""

from __future__ import annotations

from typing import Any

from torch import nn

from snn2chip.frontend.torch.job import Job, Run
from snn2chip.frontend.torch.state import preserved
from snn2chip.frontend.torch.trace import Tracing
from snn2chip.ir.layers import Array


def record_model(model: nn.Module, run: Run | None, x: Any, **options: Any) -> dict[str, dict[str, Array]]:
    """Run the original model on ``x`` and record every population the deployed output depends on.

    Args:
        run: as for :func:`snn2chip.frontend.torch.trace`; None for one ``model(x)`` after a reset.
        x: one batch, as the model takes it.
        options: ``time_steps``, ``output``, ``readout``, ``input_time_axis``, as for ``trace``.

    Returns:
        layer name → {"spikes": [N, T, ...]}, with "v" [N, T, ...] where the framework shows the membrane, NaN at steps
        where it does not (SpikingJelly's multi-step mode shows the last).
    """
    job = Job(model, x, run=run, **options)
    with preserved(job.model):
        tracing = Tracing(job)
        _, layout = tracing.trace()
        traced = tracing.once(job.x, layout)
    names = {node.name for node in traced.graph.neurons}
    found: dict[str, dict[str, Array]] = {}
    for (name, port), values in traced.observed.items():
        if name in names:
            found.setdefault(name, {})["spikes" if port == "out" else port] = values
    return found
