"""A population and the synapses before it as one kernel, which looks up what binary spikes add up to.

For four channels at a time: sums of all steps from the words of the sources (``lookup.py``), the neuron's own step over
them, and its spikes as words for whoever reads them (``words.py``). Sums are never stored as a whole, and nothing
returns to Python until the population is done.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from snn2chip.ir.layers import Array
from snn2chip.simulate.fast import compiled
from snn2chip.simulate.fast.fused.lanes import GAP, OUTPUTS, REGISTER, Grid, Lanes
from snn2chip.simulate.fast.fused.source import fused_source
from snn2chip.simulate.fast.fused.taps import Taps
from snn2chip.simulate.fast.fused.words import Words, registers
from snn2chip.simulate.fast.populations.codegen import BLOCK, DoesNotFitError
from snn2chip.simulate.fast.populations.population import Population
from snn2chip.simulate.fast.side_by_side import side_by_side
from snn2chip.simulate.ranges import SPIKES

# Registers of one band of places: its words and sums stay in a second-level cache, and it repays the tables.
_BAND = 256


@dataclass(frozen=True)
class States:
    """Room for the live states; ``carried`` from one call to the next, else for one block within a call."""

    arrays: list[Array]
    carried: bool

    def of_a_thread(self) -> States:
        """The same states where they are carried; else room of the thread's own."""
        return self if self.carried else States([np.empty_like(array) for array in self.arrays], False)


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
        if not population.ranges["out"].within(SPIKES):
            raise DoesNotFitError("the population sends more than spikes")
        constants = population.constants()
        if any((p != _first(p)).any() for p in constants):
            raise DoesNotFitError("the population's parameters differ from place to place")
        self._grid = grid
        found = [p for i, (of, taps) in enumerate(sources) for p in taps.parts(i, of, grid.space)]
        self._sources = [p.source for p in found]
        self._rows = [sources[p.source][0].row for p in found]
        self._factors = [p.factor for p in found]
        self._places = np.stack([p.places for p in found])
        begins = np.cumsum([0, *(len(p.distances) for p in found)])
        self._starts = np.stack([p.starts + begin for p, begin in zip(found, begins, strict=False)])
        self._distances = np.concatenate([p.distances for p in found])
        self._weights = np.concatenate([p.weights for p in found])
        self._longest = int(np.diff(self._starts, axis=1).max())
        source = fused_source(*population.proved)
        self._live = len(source.live)
        self._scalars = [_first(p).astype(np.int32).ravel() for p in constants]
        lanes = Lanes(1, 1)
        nothing = self._arguments([], Words.room(grid, lanes), lanes, self.start(lanes, carried=True), True, 0, 0)
        self._compiled = compiled.from_source(source.text, *nothing)

    def start(self, lanes: Lanes, carried: bool) -> States:
        """For the samples of some lanes."""
        shape = (self._grid.shape[0], len(self._grid.inner) * lanes.batch) if carried else (1, BLOCK)
        return States([np.empty(shape, np.int32) for _ in range(self._live)], carried)

    def _room(self, lanes: Lanes) -> tuple[int, int]:
        """Places of a band, and the numbers that a channel has there."""
        band = min(len(self._grid.inner), max(1, _BAND * REGISTER // lanes.total))
        return band, band * lanes.total + lanes.total // lanes.batch * GAP

    def scratch_bytes(self, lanes: Lanes) -> int:
        """Held while it runs, beside words and states."""
        _, room = self._room(lanes)
        return self._longest * (2 * OUTPUTS * REGISTER + 8) + room * (OUTPUTS * (2 + 4) + 2)

    def run(self, sources: Sequence[Words], lanes: Lanes, states: States, first: bool, threads: int = 1) -> Words:
        """The spikes of some steps.

        Args:
            sources: what is read. lanes: of all words.
            states: of :meth:`start`, changed in place.
            first: whether these are the first steps of the samples.
            threads: that share the places.
        """
        found = Words.room(self._grid, lanes)
        bounds = np.linspace(0, len(self._grid.inner), threads + 1).astype(int).tolist()
        shares = [
            self._arguments(sources, found, lanes, states.of_a_thread(), first, begin, stop)
            for begin, stop in itertools.pairwise(bounds)
        ]
        side_by_side([functools.partial(self._compiled, *arguments) for arguments in shares])
        return found

    def _arguments(
        self, sources: Sequence[Words], found: Words, lanes: Lanes, states: States, first: bool, begin: int, stop: int
    ) -> list[object]:
        band, room = self._room(lanes)
        at = [sources[i].bits.ctypes.data for i in self._sources] if sources else self._sources
        channels = itertools.repeat(self._grid.shape[0], len(at))
        parts = np.array(list(zip(at, self._rows, self._factors, channels, strict=True)), np.int64)
        tables, offsets = registers(OUTPUTS * self._longest * REGISTER), np.empty(self._longest, np.int64)
        sums, total = registers(OUTPUTS * room).view(np.int16), np.empty(OUTPUTS * room, np.int32)
        when = (first, states.carried, lanes.total, lanes.batch, lanes.steps)
        synapses = (parts, self._places, self._starts, self._distances, self._weights)
        scratch = (tables.view(np.int16), offsets, sums, total, registers(room))
        to = (found.bits.ctypes.data, self._grid.row, self._grid.inner, begin, stop, band)
        return [*when, *synapses, *scratch, *to, *states.arrays, *self._scalars]


@dataclass(frozen=True)
class Fusion:
    """The populations of a plan that run fused.

    Args:
        populations: how, by name. reads: of each, the names of what it reads.
        grids: of everything that is read or sent as words.
        why: of each that was tried, what came of it, for people.
        share: of all products of the plan, those that are looked up.
    """

    populations: Mapping[str, Fused] = field(default_factory=dict)
    reads: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    grids: Mapping[str, Grid] = field(default_factory=dict)
    why: Mapping[str, str] = field(default_factory=dict)
    share: float = 0.0


def _first(constant: Array) -> Array:
    """Of every channel, at its first place."""
    return constant.reshape(len(constant), -1)[:, 0].reshape(-1, *(1,) * (constant.ndim - 1))
