"""The exact numbers a module computes with, and which of them an estimate could be.

Every operation is watched while the module runs on two inputs: its scalars, and the tensors it reads or makes that are
the same for both, are what the code really multiplies by, however it computed them: ``torch.sigmoid(self.w)``,
``exp(-dt / tau)``, a global, the constant of a helper function.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from snn2chip.frontend.torch.identify.probe import Probe
from snn2chip.ir.layers import Array

# Estimates come from differences of bisected float32 values; some are ratios of small differences.
NEAR = 2e-4
LOOSE = 5e-3
_STEPS = 3
# A short vector of parameters may hold one number for every power of a polynomial.
_ELEMENTS = 16


def numbers(probe: Probe) -> list[Tensor]:
    """Numbers the module computes with, as float64, in the order they are met."""
    generator = torch.Generator().manual_seed(0)
    runs = []
    for _ in range(2):
        xs = [torch.randn(probe.shape, generator=generator) for _ in range(min(_STEPS, probe.longest))]
        with _Operands() as seen:
            probe(xs)
        runs.append(seen)
    found = [torch.tensor(v, dtype=torch.float64) for v in (0.0, 1.0, *dict.fromkeys(runs[0].scalars))]
    for one, other in zip(runs[0].tensors, runs[1].tensors, strict=False):
        # Tensors of zeros are states at rest.
        if one.shape == other.shape and torch.equal(one, other) and (not one.ndim or bool(one.any())):
            found.append(one.double())
    return _distinct(found)


def scalars(known: list[Tensor]) -> list[float]:
    """Single numbers among them, those of short vectors included."""
    short = (x for x in known if x.ndim == 1 and len(x) <= _ELEMENTS)
    return sorted({float(x) for x in (*(x for x in known if not x.ndim), *(y for x in short for y in x)) if float(x)})


class _Operands(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.scalars: list[float] = []
        self.tensors: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in pytree.tree_leaves((args, kwargs, out)):
            if isinstance(leaf, float):
                self.scalars.append(leaf)
            elif isinstance(leaf, Tensor) and leaf.is_floating_point():
                self.tensors.append(leaf.detach().clone())
        return out


def _distinct(values: list[Tensor]) -> list[Tensor]:
    found: list[Tensor] = []
    for value in values:
        finite = bool(torch.isfinite(value).all())
        if finite and not any(v.shape == value.shape and torch.equal(v, value) for v in found):
            found.append(value)
    return found


def decays(known: list[Tensor]) -> Iterator[Tensor]:
    """Decay factors a module may have from its numbers: β, 1 − λ, 1 − 1/τ."""
    yield from known
    yield from (1 - x for x in known)
    yield from (1 - 1 / x for x in known if bool((x != 0).all()))


def broadcasts(x: Tensor, y: Tensor) -> bool:
    """Whether two numbers can be used together, one per neuron or one for all."""
    try:
        torch.broadcast_shapes(x.shape, y.shape)  # type: ignore[no-untyped-call]
    except RuntimeError:
        return False
    return True


def fits(value: Tensor, estimate: Tensor, near: float = NEAR) -> bool:
    """Whether a number could be the estimated one, for every neuron."""
    try:
        spread = value.broadcast_to(estimate.shape)
    except RuntimeError:
        return False
    return bool(((spread - estimate).abs() <= near * estimate.abs() + 1e-6).all())


def held(estimate: Tensor, known: list[Tensor]) -> list[Tensor]:
    """The numbers an estimate could be."""
    return [value for value in known if fits(value, estimate)]


def matching(estimate: Tensor, known: list[Tensor]) -> list[Tensor]:
    """Exact values for an estimate: known numbers, then the nearest short decimal, then the estimate."""
    return _distinct([*held(estimate, known), *held(estimate, [*_decimals(estimate)]), estimate])


def _decimals(estimate: Tensor) -> Iterator[Tensor]:
    middle = estimate.double().median()
    for digits in (1, 2, 3, 4):
        yield torch.tensor(float(f"{float(middle):.{digits}g}"), dtype=torch.float64)
        yield torch.round(estimate.double() * 10**digits) / 10**digits


def array(value: Tensor) -> Array:
    """A parameter without the batch axis of one; one number where all are the same."""
    value = value.detach().double()
    if value.ndim and bool((value == value.flatten()[0]).all()):
        value = value.flatten()[0]
    while value.ndim > 1 and value.shape[0] == 1:
        value = value[0]
    found: Array = value.cpu().numpy()
    return found
