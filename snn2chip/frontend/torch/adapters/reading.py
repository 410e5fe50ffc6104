"""What adapters read from a module: parameters, layers inside it, and whether it is the library's own."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from snn2chip.errors import S2CError
from snn2chip.frontend.torch.builder import as_array
from snn2chip.frontend.torch.cells import Synapse, library_class
from snn2chip.ir import layers as L
from snn2chip.ir.layers import Array, Layer, Shape

_NO_CHANGE = ("__init__", "extra_repr", "__repr__")


def array(value: Any) -> Array:
    """A parameter in float64, without its batch axis of one."""
    found = torch.as_tensor(value).detach().cpu().double().numpy()
    return found[0] if found.ndim > 1 and found.shape[0] == 1 else found


def changed(module: nn.Module, *packages: str) -> bool:
    """Whether a subclass changes what the library's class computes."""
    library = library_class(module, *packages)
    own = itertools.takewhile(lambda cls: cls is not library, type(module).__mro__)
    return any(callable(v) and k not in _NO_CHANGE for c in own for k, v in vars(c).items())


def linear(name: str, weight: Tensor) -> Synapse:
    """A dense synapse of the module's, from its weight (out, in)."""
    layer = L.Linear(as_array(weight))
    return Synapse(name, lambda shape: layer)


def inside(name: str, layer: nn.Module, neuron: str) -> Synapse:
    """A torch layer inside a neuron module.

    Raises:
        S2CError: it is no linear or convolutional layer.
    """
    found: Layer | None = None
    bias = getattr(layer, "bias", None)
    bias = as_array(bias) if isinstance(bias, Tensor) else None
    if isinstance(layer, nn.Linear):
        found = L.Linear(as_array(layer.weight), bias)
    elif isinstance(layer, nn.Conv1d | nn.Conv2d) and layer.padding_mode == "zeros":
        kind = L.Conv1d if isinstance(layer, nn.Conv1d) else L.Conv2d
        padding = layer.padding
        if padding == "same" and all(k % 2 for k in layer.kernel_size):
            padding = tuple(d * (k // 2) for d, k in zip(layer.dilation, layer.kernel_size, strict=True))
        elif padding == "valid":
            padding = (0,) * len(layer.kernel_size)
        if not isinstance(padding, str):
            found = kind(as_array(layer.weight), bias, layer.stride, padding, layer.dilation, layer.groups)
    if found is None:
        raise S2CError(
            f"{name} of {neuron} is a {type(layer).__name__}",
            why="only linear and convolutional layers can be synapses inside a neuron module",
            fix="use nn.Linear, nn.Conv1d or nn.Conv2d there, padded with zeros",
        )
    return Synapse(name, lambda shape: found)


def one_to_one(name: str, weight: Any) -> Synapse:
    """Every neuron back to itself, with one weight for all, one per channel or one per neuron."""
    factors = array(weight)

    def layer(shape: Shape) -> Layer:
        try:
            every = np.broadcast_to(factors, shape).astype(np.float32)
        except ValueError:
            raise S2CError(
                f"{name} has shape {factors.shape}, which does not fit {shape} neurons",
                fix="give one weight for all, one per channel, or one per neuron",
            ) from None
        if len(shape) == 1:
            return L.Linear(np.diag(every))
        kind = {2: L.Conv1d, 3: L.Conv2d}.get(len(shape))
        first = every.reshape(shape[0], -1)[:, :1]
        if kind is None or (every.reshape(shape[0], -1) != first).any():
            raise S2CError(
                f"{name} differs within a channel",
                why="a convolution has one weight per channel",
                fix="flatten before the neuron, or share the weight in a channel",
            )
        return kind(first.reshape(-1, 1, *(1,) * (len(shape) - 1)), groups=shape[0])

    return Synapse(name, layer)
