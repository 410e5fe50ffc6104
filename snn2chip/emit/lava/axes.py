"""Lava's order of axes, which is PyTorch's reversed."""

from __future__ import annotations

import math

import numpy as np

from snn2chip.ir.layers import Array, Shape


def lava_shape(shape: Shape) -> Shape:
    """Lava's order of axes, PyTorch's reversed: (W, H, C); (C, L) becomes (L, 1, C) for Lava's Conv."""
    return (shape[1], 1, shape[0]) if len(shape) == 2 else shape[::-1]


def in_lava_order(array: Array) -> Array:
    """An array of one value per neuron as Lava lays the neurons out."""
    return np.ascontiguousarray(array.transpose()).reshape(lava_shape(array.shape))


def lava_place(shape: Shape) -> Array:
    """For every element in PyTorch's order, its place in Lava's."""
    order = np.arange(math.prod(shape)).reshape(shape).transpose().ravel()
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return place
