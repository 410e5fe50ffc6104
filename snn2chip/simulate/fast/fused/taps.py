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
        weight: (C_out, C_in of a group, kernel rows, kernel columns). groups: as of a convolution.
        stride, padding, dilation: along both axes.
    """

    weight: Array
    groups: int = 1
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)

    @classmethod
    def of(cls, layer: Linear | Conv | Array) -> Taps | None:
        """Of a layer without bias, or of a gain for each channel; None where it is neither."""
        if isinstance(layer, np.ndarray):
            return cls(layer.reshape(-1, 1, 1, 1), layer.size)
        if layer.bias is not None:
            return None
        if isinstance(layer, Linear):
            return cls(layer.weight[:, :, None, None]) if layer.delay is None else None
        if layer.axes > 2:
            return None
        ones, zeros = (1,) * (2 - layer.axes), (0,) * (2 - layer.axes)
        out, per_group, *kernel = layer.weight.shape
        where = ((*ones, *layer.stride), (*zeros, *layer.padding), (*ones, *layer.dilation))
        return cls(layer.weight.reshape(out, per_group, *ones, *kernel), layer.groups, *where)  # type: ignore[arg-type]

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
        blocks = [self._block(first, grid.row, factor) for first in range(0, len(self.weight), OUTPUTS)]
        rows, columns = (np.arange(k) * d for k, d in zip(self.weight.shape[2:], self.dilation, strict=True))
        window = (rows[:, None] * grid.outer[1] + columns).ravel()
        distances = (window[:, None] * grid.row + np.arange(grid.row)).ravel()
        firsts = [np.arange(n) * s - p for n, s, p in zip(outputs, self.stride, self.padding, strict=True)]
        places, found = grid.places(*firsts), []
        for lo, hi in itertools.pairwise([*_cuts(blocks), len(distances)]):
            words, weights = zip(*(_between(block, lo, hi) for block in blocks), strict=True)
            starts = np.cumsum([0, *map(len, words)])
            listed = distances[np.concatenate(words)], np.concatenate(weights)
            found.append(Part(source, factor, places, starts, *listed))
        return found

    def _block(self, first: int, row: int, factor: int) -> _Block:
        """Of four outputs: words of a window of ``row`` words a place that have a weight, and the weights."""
        out, per_group, *kernel = self.weight.shape
        dense = np.zeros((OUTPUTS, row * BITS, *kernel), np.int16)
        for i, weight in enumerate(self.weight[first : first + OUTPUTS]):
            channel = (first + i) // (out // self.groups) * per_group
            dense[i, channel : channel + per_group] = weight // factor
        by_word = dense.reshape(OUTPUTS, row, BITS, -1).transpose(3, 1, 0, 2).reshape(-1, OUTPUTS, BITS)
        words = np.flatnonzero(by_word.any(axis=(1, 2)))
        return words, by_word[words]


# The words of four outputs in the order in which they lie, and their weights [words, 4, 5].
_Block = tuple[Array, Array]


def _cuts(blocks: list[_Block]) -> list[int]:
    """Where parts begin: at the first word, and where one more word could take some output's sum beyond 16 bits."""
    words = np.concatenate([words for words, _ in blocks])
    block = np.repeat(np.arange(len(blocks)), [len(words) for words, _ in blocks])
    ways = np.concatenate([_ways(weights) for _, weights in blocks])
    order = np.argsort(words, kind="stable")
    ends = np.flatnonzero(np.diff(words[order])) + 1
    cuts, most = [0], np.zeros((len(blocks), *ways.shape[1:]), np.int64)
    for those in np.split(order, ends) if len(order) else ():
        most[block[those]] += ways[those]
        if most[block[those]].max() > _LARGEST:
            cuts.append(int(words[those[0]]))
            most[:] = 0
            most[block[those]] = ways[those]
    return cuts


def _ways(weights: Array) -> Array:
    """How far words can take a sum up, and how far down: [words, 4, 2]."""
    wide = weights.astype(np.int64)
    return np.stack([np.maximum(wide, 0).sum(axis=2), np.maximum(-wide, 0).sum(axis=2)], axis=2)


def _between(block: _Block, lo: int, hi: int) -> _Block:
    """The words of a block from one to before another; one without a weight where there are none."""
    words, weights = block
    start, stop = np.searchsorted(words, [lo, hi])
    if start == stop:
        return np.array([lo]), np.zeros((1, OUTPUTS, BITS), np.int16)
    return words[start:stop], weights[start:stop]
