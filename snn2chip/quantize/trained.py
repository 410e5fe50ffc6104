"""Populations that were trained in the chip's own integers: there is nothing to choose, only to check."""

from __future__ import annotations

import numpy as np

from snn2chip.errors import S2CError
from snn2chip.ir.layers import Array
from snn2chip.ir.target import Weights
from snn2chip.quantize.search import NoScaleError, Problem, Quantized, evaluated


def as_trained(problem: Problem) -> list[Quantized]:
    """The one way to quantize a population whose ``trained_unit`` is known.

    Raises:
        S2CError: a weight, the threshold or a bias is no integer the chip holds, or the chip computes otherwise.
    """
    unit = problem.model.trained_unit
    assert unit is not None
    integers: dict[str, Array] = {}
    exponents: dict[str, int] = {}
    for branch in problem.branches:
        mantissas = branch.layer.weight / unit
        integers[branch.name] = np.rint(mantissas).astype(np.int64)
        if (mantissas != integers[branch.name]).any():
            raise S2CError(
                f"{branch.name} reads what the training did not hold as integers",
                why="a weight times the value of one input unit is "
                f"{mantissas[mantissas != integers[branch.name]][0]:.6g} weight mantissas",
                fix="give the network spikes (0 and 1), as its layers send them",
            )
        exponents[branch.name] = _exponent(branch.name, integers[branch.name], problem.target.weights, problem.bits)
    found = evaluated(problem, unit, integers, exponents, problem.bias)
    if found is None:
        raise NoScaleError(
            "the population does not fit the chip's registers with the integers it was trained with",
            why=problem.model.quantized(
                problem.bias, unit, problem.target.limits, problem.target.arithmetic
            ).describe(),
            fix="train it with a lower threshold and lower weights",
        )
    return [found]


def _exponent(name: str, weights: Array, legal: Weights, bits: int) -> int:
    """The smallest exponent at which every weight is a legal mantissa times a power of two."""
    step = legal.step(bits)
    for exponent in range(legal.exponent_max + 1):
        if (
            not (weights % (step << exponent)).any()
            and weights.min() >= legal.minimum << exponent
            and (weights.max() <= legal.maximum << exponent)
        ):
            return exponent
    raise S2CError(
        f"{name} has weights the chip cannot hold as they were trained",
        why=f"they span {weights.min()}…{weights.max()}; with {bits} bits the chip holds multiples of {step} "
        f"in {legal.minimum}…{legal.maximum}, times a power of two",
        fix="use --weight-bits 8, and train with the quantization of lava-dl's blocks (pre_hook_fx left out)",
    )
