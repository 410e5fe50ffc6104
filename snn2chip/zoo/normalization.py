"""Batch norms of the papers. Networks of the zoo call them on [T·N, C, ...]: statistics run over space, batch and time.

Each is made by ``norm(features, branches)``: ``branches`` is the number of normalized tensors that are summed before
the next neuron (two where a residual branch meets a projected shortcut), which only tdBN looks at.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import Parameter

from snn2chip.errors import S2CError


class BatchNorm(_BatchNorm):
    """Batch norm of [N, C], [N, C, L] or [N, C, H, W]; foldable."""

    def __init__(self, features: int, branches: int = 1, eps: float = 1e-5) -> None:
        super().__init__(features, eps=eps)

    def _check_input_dim(self, x: Tensor) -> None:
        if x.ndim < 2 or x.shape[1] != self.num_features:
            raise S2CError(f"batch norm over {self.num_features} channels is fed a tensor of shape {tuple(x.shape)}")


class TDBatchNorm(BatchNorm):
    """Threshold-dependent batch norm: γ·η·θ·(x − E)/√(Var + ε) + ξ; foldable (S003 Eq. 6–7).

    Args:
        features: C.
        branches: tensors summed before the next neuron; η = 1/√branches keeps the variance of their sum
            (Zheng et al. 2021, the tdBN paper).
        v_threshold: θ of the neuron that follows.
    """

    def __init__(self, features: int, branches: int = 1, v_threshold: float = 1.0, eps: float = 1e-5) -> None:
        super().__init__(features, branches, eps)
        self.v_threshold, self.eta = v_threshold, 1 / math.sqrt(branches)

    def forward(self, x: Tensor) -> Tensor:
        # γ is applied behind η·θ, so weight decay and learning rate act on γ alone; the bias ξ is not scaled.
        self._check_input_dim(x)
        gain = self.weight * (self.eta * self.v_threshold)
        share = self.momentum
        if self.training:
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
            # As in torch: without a momentum the running statistics are the plain mean of all batches.
            share = 1 / float(self.num_batches_tracked) if share is None else share
        return F.batch_norm(
            x, self.running_mean, self.running_var, gain, self.bias, self.training, share or 0.0, self.eps
        )

    def extra_repr(self) -> str:
        return f"{self.num_features}, v_threshold={self.v_threshold}, eta={self.eta:.4g}"


class TEBN(nn.Module):
    """Temporal effective batch norm: batch norm, then a learned factor per time step (Duan et al. 2022).

    One step is not like the next: the tracer refuses it by name, and takes it into the neurons on request
    (``per_step=True``).

    Args:
        features: C.
        branches: not used.
        time_steps: T.
    """

    def __init__(self, features: int, branches: int = 1, *, time_steps: int) -> None:
        super().__init__()
        self.norm = BatchNorm(features, branches)
        self.p = Parameter(self.norm.weight.new_ones(time_steps))

    def forward(self, x: Tensor) -> Tensor:
        """[T·N, C, ...], steps outermost → the same shape."""
        y: Tensor = self.norm(x)
        factor = self.p.repeat_interleave(len(y) // len(self.p))
        return y * factor.reshape(-1, *(1,) * (y.ndim - 1))


class PerStepBatchNorm(nn.Module):
    """A batch norm for every time step (BNTT, Kim & Panda 2021); to the tracer, the same as TEBN.

    Args:
        features: C.
        branches: not used.
        time_steps: T.
    """

    def __init__(self, features: int, branches: int = 1, *, time_steps: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(BatchNorm(features, branches) for _ in range(time_steps))

    def forward(self, x: Tensor) -> Tensor:
        """[T·N, C, ...], steps outermost → the same shape."""
        return torch.cat([norm(step) for norm, step in zip(self.norms, x.chunk(len(self.norms)), strict=True)])
