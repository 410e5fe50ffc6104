"""Spikes with a surrogate gradient: a step forward, a window backward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

Surrogate = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Rectangle:
    """``1/width`` where the membrane's distance from θ lies within width/2 of ``centre`` (S000 Eq. 2, S002 Eq. 8).

    ``height`` replaces 1/width (S003 Eq. 16 takes 1).
    """

    width: float = 1.0
    centre: float = 0.0
    height: float | None = None

    def __call__(self, distance: Tensor) -> Tensor:
        height = 1 / self.width if self.height is None else self.height
        return ((distance - self.centre).abs() <= self.width / 2).to(distance.dtype) * height


@dataclass(frozen=True)
class Triangle:
    """``max(0, 1 − |distance| / width) · height`` (Bellec et al. 2018; S002's on event data)."""

    width: float = 1.0
    height: float = 1.0

    def __call__(self, distance: Tensor) -> Tensor:
        return (1 - distance.abs() / self.width).clamp(min=0) * self.height


class _Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, distance: Tensor, surrogate: Surrogate, strict: bool) -> Tensor:
        ctx.save_for_backward(distance)
        ctx.surrogate = surrogate
        return (distance > 0 if strict else distance >= 0).to(distance.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (distance,) = ctx.saved_tensors
        return grads[0] * ctx.surrogate(distance), None, None


def spike(distance: Tensor, surrogate: Surrogate, strict: bool = False) -> Tensor:
    """1 where the membrane is ``distance`` ≥ 0 (> 0 if ``strict``) above its threshold, else 0."""
    return cast(Tensor, _Spike.apply(distance, surrogate, strict))  # type: ignore[no-untyped-call]
