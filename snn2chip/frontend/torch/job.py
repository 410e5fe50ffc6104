"""One model to trace: the arguments of ``trace``, checked before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import InitVar, dataclass, field
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from snn2chip.errors import S2CError, UsageError
from snn2chip.frontend.torch.deployed import Deployed, Select
from snn2chip.frontend.torch.layout import TimeAxis
from snn2chip.frontend.torch.readout import How

Run = Callable[[nn.Module, Any], Any]


@dataclass
class Job:
    """One model to trace, and how to run it. The arguments are those of :func:`snn2chip.frontend.torch.trace`.

    Args:
        model: what ``torch.compile`` wraps is unwrapped: the same network, under the user's own names.
        example: becomes ``x``, float32 on the CPU.
        output: becomes ``deployed``.

    Raises:
        S2CError: an argument that makes no sense, or weights that are not finite.
    """

    model: nn.Module
    example: InitVar[Any]
    time_steps: int | None = None
    run: Run | None = None
    output: InitVar[Select] = None
    readout: How | None = None
    input_time_axis: TimeAxis = ...
    dt: float | None = None
    per_step: bool = False
    x: Tensor = field(init=False)
    deployed: Deployed = field(init=False)

    def __post_init__(self, example: Any, output: Select) -> None:
        if not isinstance(self.model, nn.Module):
            raise UsageError(f"{type(self.model).__name__} is no torch model", fix="give an nn.Module")
        steps = self.time_steps
        if steps is not None and (not isinstance(steps, int) or isinstance(steps, bool) or steps < 1):
            raise UsageError(f"time_steps is {steps!r}", fix="give the number of time steps of one sample, T >= 1")
        if self.readout is not None and self.readout not in get_args(How):
            raise UsageError(f"there is no read-out {self.readout!r}", fix=f"choose from {', '.join(get_args(How))}")
        if self.dt is not None and not self.dt > 0:
            raise UsageError(f"dt is {self.dt!r}", fix="give seconds per step")
        self.model = getattr(self.model, "_orig_mod", self.model)
        _check_weights(self.model)
        self.x = _as_tensor(example)
        self.deployed = Deployed(self.model, output)

    @property
    def name(self) -> str:
        """The model's class, for messages."""
        return type(self.model).__name__


def _check_weights(model: nn.Module) -> None:
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(value):
            raise S2CError(
                "the model has weights without a shape yet",
                where=name,
                why="lazy layers make them at the first batch, so that nothing was trained",
                fix="run the model once, then load its weights: model(x); model.load_state_dict(...)",
            )
        if value.device.type != "cpu":
            raise UsageError(f"the model is on {value.device}", where=name, fix="trace it on the CPU: model.cpu()")
        if value.is_floating_point() and bool(torch.isnan(value).any()):
            raise S2CError(
                "the model holds NaN weights",
                where=name,
                why=f"{int(torch.isnan(value).sum())} of {value.numel()} values",
                fix="the training diverged, or the checkpoint is damaged: load weights that are finite",
            )


def _as_tensor(example: Any) -> Tensor:
    if isinstance(example, (tuple, list, Mapping)):
        raise UsageError(
            f"the example is a {type(example).__name__}",
            why="a graph has one input",
            fix="give one batch as a tensor or array",
        )
    x = example.detach().cpu() if isinstance(example, Tensor) else torch.from_numpy(np.array(example))
    if x.ndim < 2 or x.dtype.is_complex or not x.numel():
        raise UsageError(
            f"the example has shape {tuple(x.shape)}", fix="give one batch of samples, [N, ...] or [T, N, ...]"
        )
    x = x.to(torch.float32)
    if not bool(torch.isfinite(x).all()):
        raise S2CError("the example holds NaN or infinite values", fix="give samples as the model sees them in use")
    return x
