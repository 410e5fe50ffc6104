"""A synapse as sums are looked up: which words an output reads, how far from its place they lie, and their weights.

Words without a weight are left out, so that depthwise and grouped convolutions, shortcuts and dense layers are all the
same thing. A synapse is cut into *parts* where one more word could take a sum beyond 16 bits.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from snn2chip.ir.layers import Array, Conv, Linear
from snn2chip.simulate.fast.fused.lanes import BITS, OUTPUTS, Grid
from snn2chip.simulate.fast.populations.codegen import DoesNotFitError
from snn2chip.simulate.ranges import common_power, magnitude

# Sums of 16 bits.
_LARGEST = 2**15 - 1


@dataclass(frozen=True)
class Part:
    """Some words of a source and their weights.

    Args:
        source: which. factor: of all weights. places: of the grid, for each place of the output, before the window.
        starts: of each block of four outputs, into the next two: [blocks + 1].
        distances: from a place to words, counted in words. weights: [distances, 4, 5].
    """

    source: int
    factor: int
    places: Array
    starts: Array
    distances: Array
    weights: Array


@dataclass(frozen=True)
class Taps:
    """What a synapse reads: the weights of a window, and where the window of each output lies.

    Args:
        weight: (C_out, C_in, kernel rows, kernel columns), every group written out.
        stride, padding, dilation: along both axes.
    """

    weight: Array
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]

    @classmethod
    def of(cls, layer: Linear | Conv | Array) -> Taps | None:
        """Of a layer without bias, or of a gain for each channel; None where it is neither."""
        one, none = (1, 1), (0, 0)
        if isinstance(layer, np.ndarray):
            return cls(np.diag(layer.ravel())[:, :, None, None], one, none, one)
        if layer.bias is not None:
            return None
        if isinstance(layer, Linear):
            return cls(layer.weight[:, :, None, None], one, none, one) if layer.delay is None else None
        if layer.axes > 2:
            return None
        ones, zeros = (1,) * (2 - layer.axes), (0,) * (2 - layer.axes)
        out, per_group, *kernel = layer.weight.shape
        where = ((*ones, *layer.stride), (*zeros, *layer.padding), (*ones, *layer.dilation))
        if layer.groups == 1:
            return cls(layer.weight.reshape(out, per_group, *ones, *kernel), *where)  # type: ignore[arg-type]
        grouped = layer.weight.reshape(layer.groups, out // layer.groups, per_group, *ones, *kernel)
        dense = np.zeros((out, per_group * layer.groups, *ones, *kernel), np.int64)
        for group, (to, weight) in enumerate(zip(np.split(dense, layer.groups), grouped, strict=True)):
            to[:, group * per_group : (group + 1) * per_group] = weight
        return cls(dense, *where)  # type: ignore[arg-type]

    def reach(self, space: tuple[int, int], outputs: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
        """How far windows reach beyond the places, before and after, along both axes."""
        after = []
        for size, n, kernel, stride, padding, dilation in zip(
            space, outputs, self.weight.shape[2:], self.stride, self.padding, self.dilation, strict=True
        ):
            after.append(max(0, (n - 1) * stride - padding + dilation * (kernel - 1) + 1 - size))
        return self.padding, (after[0], after[1])

    def parts(self, source: int, grid: Grid, outputs: tuple[int, int]) -> list[Part]:
        """Of what this reads from a source with that grid, for a population of so many rows and columns.

        Raises:
            DoesNotFitError: the weights are too wide.
        """
        factor = min(common_power(self.weight), 1 << 30)
        if magnitude(self.weight) // factor * BITS > _LARGEST:
            raise DoesNotFitError("five weights together may exceed 16 bits")
        out, channels, *kernel = self.weight.shape
        blocks, row = -(-out // OUTPUTS), grid.row
        padded = np.zeros((blocks * OUTPUTS, row * BITS, *kernel), np.int64)
        padded[:out, :channels] = self.weight // factor
        # [window · words, blocks, outputs, bits], in the order in which words lie.
        by_axis = padded.reshape(blocks, OUTPUTS, row, BITS, -1).transpose(4, 2, 0, 1, 3)
        by_word = by_axis.reshape(-1, blocks, OUTPUTS, BITS)
        rows, columns = (np.arange(k) * d for k, d in zip(kernel, self.dilation, strict=True))
        window = (rows[:, None] * grid.outer[1] + columns).ravel()
        distances = (window[:, None] * row + np.arange(row)).ravel()
        firsts = [np.arange(n) * s - p for n, s, p in zip(outputs, self.stride, self.padding, strict=True)]
        places = grid.places(*firsts)
        cuts = _cuts(by_word)
        return [
            Part(source, factor, places, *_listed(by_word[lo:hi], distances[lo:hi]))
            for lo, hi in itertools.pairwise(cuts)
        ]


def _cuts(by_word: Array) -> list[int]:
    """Where a part ends because one more word could take some output's sum beyond 16 bits."""
    up, down = np.maximum(by_word, 0).sum(axis=3), np.minimum(by_word, 0).sum(axis=3)
    cuts, high, low = [0], np.zeros(up.shape[1:], np.int64), np.zeros(up.shape[1:], np.int64)
    for i in range(len(by_word)):
        high, low = high + up[i], low + down[i]
        if high.max(initial=0) > _LARGEST or low.min(initial=0) < -_LARGEST:
            cuts.append(i)
            high, low = up[i], down[i]
    return [*cuts, len(by_word)]


def _listed(by_word: Array, distances: Array) -> tuple[Array, Array, Array]:
    """The words that have a weight, block after block; every block has at least one word."""
    used: Array = np.any(by_word, axis=(2, 3)).T
    used[:, 0] |= ~used.any(axis=1)
    block, word = np.nonzero(used)
    starts = np.concatenate([[0], np.cumsum(used.sum(axis=1))])
    return starts, distances[word], by_word[word, block].astype(np.int16)
