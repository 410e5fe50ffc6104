"""A population and the synapses before it as one kernel, which looks up what binary spikes add up to.

For four channels at a time: sums of all steps from the words of the sources (``lookup.py``), the neuron's own step over
them, and its spikes as words for whoever reads them (``lanes.py``). Sums are never stored as a whole, and nothing
returns to Python until the population is done.

A synapse becomes a list of *parts*. Each part says how far from a place the words lie that it reads, and with which
weights; words without a weight are left out, so that depthwise and grouped convolutions, shortcuts and dense layers are
all the same thing. A part ends where one more word could take a sum beyond 16 bits.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from snn2chip.ir.layers import Array, Conv, Linear
from snn2chip.simulate.fast import compiled
from snn2chip.simulate.fast.codegen import BLOCK, DoesNotFitError, Source, fused_source
from snn2chip.simulate.fast.lanes import BITS, GAP, OUTPUTS, REGISTER, Grid, Lanes, Words, registers
from snn2chip.simulate.fast.population import Population
from snn2chip.simulate.ranges import Range, common_power, magnitude

_SPIKES = Range(0, 1)
# Sums of 16 bits.
_LARGEST = 2**15 - 1
# Registers of one band of places: its words and sums stay in a second-level cache, and it repays the tables.
_BAND = 256


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
        grouped = layer.weight.reshape(layer.groups, out // layer.groups, per_group, *ones, *kernel)
        dense = np.zeros((out, per_group * layer.groups, *ones, *kernel), np.int64)
        for group, (to, weight) in enumerate(zip(np.split(dense, layer.groups), grouped, strict=True)):
            to[:, group * per_group : (group + 1) * per_group] = weight
        return cls(dense, (*ones, *layer.stride), (*zeros, *layer.padding), (*ones, *layer.dilation))  # type: ignore[arg-type]

    def reach(self, space: tuple[int, int], outputs: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
        """How far windows reach beyond the places, before and after, along both axes."""
        after = []
        for size, n, kernel, stride, padding, dilation in zip(
            space, outputs, self.weight.shape[2:], self.stride, self.padding, self.dilation, strict=True
        ):
            after.append(max(0, (n - 1) * stride - padding + dilation * (kernel - 1) + 1 - size))
        return self.padding, (after[0], after[1])


@dataclass(frozen=True)
class _Part:
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


def _parts(taps: Taps, source: int, grid: Grid, outputs: tuple[int, int]) -> list[_Part]:
    factor = min(common_power(taps.weight), 1 << 30)
    if magnitude(taps.weight) // factor * BITS > _LARGEST:
        raise DoesNotFitError("five weights together may exceed 16 bits")
    out, channels, *kernel = taps.weight.shape
    blocks, row = -(-out // OUTPUTS), grid.row
    padded = np.zeros((blocks * OUTPUTS, row * BITS, *kernel), np.int64)
    padded[:out, :channels] = taps.weight // factor
    # [window · words, blocks, outputs, bits], in the order in which words lie.
    by_word = padded.reshape(blocks, OUTPUTS, row, BITS, -1).transpose(4, 2, 0, 1, 3).reshape(-1, blocks, OUTPUTS, BITS)
    rows, columns = (np.arange(k) * d for k, d in zip(kernel, taps.dilation, strict=True))
    window = (rows[:, None] * grid.outer[1] + columns).ravel()
    distances = (window[:, None] * row + np.arange(row)).ravel()
    firsts = [np.arange(n) * s - p for n, s, p in zip(outputs, taps.stride, taps.padding, strict=True)]
    places = grid.places(*firsts)
    cuts = _cuts(by_word)
    return [
        _Part(source, factor, places, *_listed(by_word[lo:hi], distances[lo:hi])) for lo, hi in itertools.pairwise(cuts)
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


@dataclass(frozen=True)
class States:
    """Room for the live states; ``carried`` from one call to the next, else for one block within a call."""

    arrays: list[Array]
    carried: bool


class Fused:
    """A prepared population with its synapses; calls share nothing, so that chunks can run in threads.

    Args:
        population: as it runs alone; what it reads is spikes.
        sources: the grid of everything it reads, and how.
        grid: of its own spikes.

    Raises:
        DoesNotFitError: it cannot be computed so.
    """

    def __init__(self, population: Population, sources: Sequence[tuple[Grid, Taps]], grid: Grid) -> None:
        if population.dtype != np.int32 or population.recurrent is not None or population.record:
            raise DoesNotFitError("the population has no kernel of 32 bits for spikes alone")
        if not population.ranges["out"].within(_SPIKES):
            raise DoesNotFitError("the population sends more than spikes")
        if any((p != _first(p)).any() for p in population.constants()):
            raise DoesNotFitError("the population's parameters differ from place to place")
        self._grid = grid
        found = [p for i, (of, taps) in enumerate(sources) for p in _parts(taps, i, of, grid.space)]
        self._sources = [p.source for p in found]
        self._rows = [sources[p.source][0].row for p in found]
        self._factors = [p.factor for p in found]
        self._places = np.stack([p.places for p in found])
        begins = np.cumsum([0, *(len(p.distances) for p in found)])
        self._starts = np.stack([p.starts + begin for p, begin in zip(found, begins, strict=False)])
        self._distances = np.concatenate([p.distances for p in found])
        self._weights = np.concatenate([p.weights for p in found])
        self._longest = int(np.diff(self._starts, axis=1).max())
        self._source: Source = fused_source(*population.proved)
        self._scalars = [_first(p).astype(np.int32).ravel() for p in population.constants()]
        lanes = Lanes(1, 1)
        empty = self._arguments([], grid.words(lanes), lanes, self.start(lanes, True), True)
        self._compiled = compiled.from_source(self._source.text, *empty)

    def macs(self) -> int:
        """Products that a step of one sample looks up, unused bits included."""
        return int(self._places.shape[1] * self._weights.size)

    def start(self, lanes: Lanes, carried: bool) -> States:
        """For the samples of some lanes."""
        shape = (self._grid.shape[0], len(self._grid.inner) * lanes.batch) if carried else (1, BLOCK)
        return States([np.empty(shape, np.int32) for _ in self._source.live], carried)

    def _room(self, lanes: Lanes) -> tuple[int, int]:
        """Places of a band, and the numbers that a channel has there."""
        band = min(len(self._grid.inner), max(1, _BAND * REGISTER // lanes.total))
        return band, band * lanes.total + lanes.total // lanes.batch * GAP

    def scratch_bytes(self, lanes: Lanes) -> int:
        """Held while it runs, beside words and states."""
        _, room = self._room(lanes)
        return self._longest * (2 * OUTPUTS * REGISTER + 8) + room * (OUTPUTS * (2 + 4) + 2)

    def run(self, sources: Sequence[Words], lanes: Lanes, states: States, first: bool) -> Words:
        """The spikes of some steps; ``states`` change in place. ``first``: whether these are the samples' first."""
        found = self._grid.words(lanes)
        self._compiled(*self._arguments(sources, found, lanes, states, first))
        return found

    def _arguments(
        self, sources: Sequence[Words], found: Words, lanes: Lanes, states: States, first: bool
    ) -> list[object]:
        channels = self._grid.shape[0]
        band, room = self._room(lanes)
        at = [sources[i].bits.ctypes.data for i in self._sources] if sources else []
        table = zip(at, self._rows, self._factors, [channels] * len(at), strict=False)
        parts = np.array(list(table), np.int64).reshape(-1, 4)
        tables, offsets = registers(OUTPUTS * self._longest * REGISTER), np.empty(self._longest, np.int64)
        sums, total = registers(OUTPUTS * room).view(np.int16), np.empty(OUTPUTS * room, np.int32)
        when = (first, states.carried, lanes.total, lanes.batch, lanes.steps)
        synapses = (parts, self._places, self._starts, self._distances, self._weights)
        scratch = (tables.view(np.int16), offsets, sums, total, registers(room))
        to = (found.bits.ctypes.data, self._grid.row, self._grid.inner if sources else self._grid.inner[:0])
        return [*when, *synapses, *scratch, *to, band, *states.arrays, *self._scalars]


@dataclass(frozen=True)
class Fusion:
    """The populations of a plan that run fused.

    Args:
        populations: how, by name. reads: of each, the names of what it reads.
        grids: of everything that is read or sent as words.
        why: of each that was tried, what came of it, for people.
    """

    populations: Mapping[str, Fused] = field(default_factory=dict)
    reads: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    grids: Mapping[str, Grid] = field(default_factory=dict)
    why: Mapping[str, str] = field(default_factory=dict)


def _first(constant: Array) -> Array:
    """Of every channel, at its first place."""
    return constant.reshape(len(constant), -1)[:, 0].reshape(-1, *(1,) * (constant.ndim - 1))
