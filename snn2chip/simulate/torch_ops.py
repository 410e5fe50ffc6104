"""The same operations as ``ops.NumpyOps`` with torch's own kernels: a float Graph then rounds as the model does."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from snn2chip.ir import layers as L
from snn2chip.ir.layers import Array

_CONV = {1: F.conv1d, 2: F.conv2d}
_AVG = {1: F.avg_pool1d, 2: F.avg_pool2d}
_MAX = {1: F.max_pool1d, 2: F.max_pool2d}


class TorchOps:
    """Float operations on torch tensors [N, ...]; parameters are converted once and kept."""

    def __init__(self) -> None:
        self._kept: dict[tuple[int, Any, Any], tuple[Array, torch.Tensor]] = {}

    def where(self, condition: torch.Tensor, a: Any, b: Any) -> torch.Tensor:
        """Elementwise choice."""
        return torch.where(condition, a, b)

    def full_like(self, x: torch.Tensor, value: float) -> torch.Tensor:
        """A constant of x's shape and dtype."""
        return torch.full_like(x, value)

    def const(self, value: Array, like: torch.Tensor) -> torch.Tensor:
        """A parameter in the dtype and on the device of the data."""
        key = (id(value), like.dtype, like.device)
        if key not in self._kept:
            # The array is kept beside its tensor so that its id cannot be reused.
            tensor = torch.from_numpy(np.array(value, order="C")).to(like.device, like.dtype)
            self._kept[key] = (value, tensor.reshape(value.shape))
        return self._kept[key][1]

    def integers(self, value: Array, like: torch.Tensor) -> torch.Tensor:
        """A parameter as int64, on the device of the data."""
        return torch.as_tensor(value, dtype=torch.int64, device=like.device)

    def truncated(self, x: torch.Tensor) -> torch.Tensor:
        """Rounded toward zero, as int64."""
        return x.to(torch.int64)

    def tanh(self, x: torch.Tensor) -> torch.Tensor:
        """Hyperbolic tangent."""
        return torch.tanh(x)

    def linear(self, x: torch.Tensor, weight: Array, bias: Array | None) -> torch.Tensor:
        """X [N, ..., in], weight (out, in)."""
        return F.linear(x, self.const(weight, x), None if bias is None else self.const(bias, x))

    def conv(self, x: torch.Tensor, layer: L.Conv) -> torch.Tensor:
        """X [N, C, *space]."""
        bias = None if layer.bias is None or layer.per_place else self.const(layer.bias, x)
        y = _CONV[layer.axes](
            x, self.const(layer.weight, x), bias, layer.stride, layer.padding, layer.dilation, layer.groups
        )
        return y + self.const(layer.bias, x) if layer.per_place else y  # type: ignore[arg-type]

    def pool(self, x: torch.Tensor, layer: L.Pool, how: str) -> torch.Tensor:
        """Windows of x [N, C, *space] reduced by "sum", "mean" or "max"."""
        axes = len(layer.kernel)
        if how == "max":
            return _MAX[axes](x, layer.kernel, layer.stride, layer.padding, ceil_mode=layer.ceil_mode)
        include = bool(getattr(layer, "count_include_pad", True))
        if how == "mean":
            return _AVG[axes](x, layer.kernel, layer.stride, layer.padding, layer.ceil_mode, include)
        lead = 2 - axes
        kernel, stride, padding = (1,) * lead + layer.kernel, (1,) * lead + layer.stride, (0,) * lead + layer.padding
        images = x.unsqueeze(2) if lead else x
        y = F.avg_pool2d(images, kernel, stride, padding, layer.ceil_mode, divisor_override=1)
        return y.squeeze(2) if lead else y

    def batch_norm(self, x: torch.Tensor, layer: L.BatchNorm) -> torch.Tensor:
        """Per channel on axis 1, running statistics."""
        mean, var, weight, bias = (self.const(a, x) for a in (layer.mean, layer.var, layer.weight, layer.bias))
        return F.batch_norm(x, mean, var, weight, bias, False, 0.0, layer.eps)

    def matmul(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Product over the last two axes."""
        return a @ b

    def permute(self, x: torch.Tensor, dims: tuple[int, ...]) -> torch.Tensor:
        """Axes in the order ``dims``, batch included."""
        return x.permute(dims)

    def concat(self, xs: list[torch.Tensor], axis: int) -> torch.Tensor:
        """Joined along ``axis``, batch counted."""
        return torch.cat(xs, dim=axis)

    def gather(self, x: torch.Tensor, index: Array) -> torch.Tensor:
        """The elements of the flattened x; index −1 finds the zero behind them."""
        flat = torch.nn.functional.pad(x.flatten(1), (0, 1))
        return flat[:, torch.from_numpy(index.copy()).to(x.device)]
