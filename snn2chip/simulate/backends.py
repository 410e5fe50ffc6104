"""What computes a batch in the reference engine's loop: numpy on integers; numpy or torch on floats."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from snn2chip.ir.graph import Network, Node
from snn2chip.ir.layers import Array, Shape
from snn2chip.ir.program import Program
from snn2chip.simulate.data import to_integers
from snn2chip.simulate.ops import NumpyOps, Ops

Backend = Literal["auto", "numpy", "torch"]


@dataclass(frozen=True)
class Kernels:
    """How one batch is computed.

    Args:
        ops: tensor operations of the layers without state.
        start: (population, summed input [N, ...]) → its states before the first step.
        step: (population, states, summed input) → (states, output).
        to_numpy: a tensor as an array.
        zeros: a tensor of this shape.
        events: (tensor [N, ...], fan-out of its elements or None) → nonzero values of every sample [N], each counted
            as often as the fan-out says.
        samples: the batch as a tensor.
        clipped: input values that lay outside the input format.
    """

    ops: Ops
    start: Callable[[Node, Any], dict[str, Any]]
    step: Callable[[Node, dict[str, Any], Any], tuple[dict[str, Any], Any]]
    to_numpy: Callable[[Any], Array]
    zeros: Callable[[Shape], Any]
    events: Callable[[Any, Array | None], Array]
    samples: Any
    clipped: int = 0


# (network, samples, number of the first one) → kernels
KernelsFor = Callable[[Network, Array, int], Kernels]


def integer_kernels(network: Network, samples: Array, first: int) -> Kernels:
    """A Program's batch, in numpy's int64."""
    assert isinstance(network, Program)
    arithmetic = network.target.arithmetic
    integers, clipped = to_integers(network, samples, first)
    return Kernels(
        NumpyOps(),
        lambda node, a: node.layer.model.start(a.shape),  # type: ignore[attr-defined]
        lambda node, state, a: node.layer.model.step(state, a, arithmetic),  # type: ignore[attr-defined]
        lambda a: a,
        lambda shape: np.zeros(shape, dtype=np.int64),
        _events,
        integers,
        clipped,
    )


def float_kernels(backend: Backend) -> KernelsFor:
    """A Graph's batch, in float32; "auto": torch where it is installed."""
    if backend == "auto":
        try:
            import torch  # noqa: F401
        except ImportError:
            return _with_numpy
        return _with_torch
    return _with_numpy if backend == "numpy" else _with_torch


def _with_numpy(network: Network, samples: Array, first: int) -> Kernels:
    return _float(NumpyOps(), lambda a: a, lambda shape: np.zeros(shape, dtype=np.float32), samples.astype(np.float32))


def _with_torch(network: Network, samples: Array, first: int) -> Kernels:
    import torch

    from snn2chip.simulate.torch_ops import TorchOps

    return _float(
        TorchOps(),
        lambda a: a.numpy(),
        lambda shape: torch.zeros(shape, dtype=torch.float32),
        torch.from_numpy(samples.astype(np.float32)),
    )


def _float(ops: Any, to_numpy: Callable[[Any], Array], zeros: Callable[[Shape], Any], samples: Any) -> Kernels:
    return Kernels(
        ops,
        lambda node, a: node.layer.model.start(a, ops),  # type: ignore[attr-defined]
        lambda node, state, a: node.layer.model.step(state, a, ops),  # type: ignore[attr-defined]
        to_numpy,
        zeros,
        _events,
        samples,
    )


def _events(x: Any, fan: Array | None) -> Array:
    nonzero = np.asarray(x).reshape(len(x), -1) != 0
    return np.asarray(nonzero.sum(axis=1) if fan is None else nonzero @ fan.ravel())
