"""A population over all steps of a chunk: the compiled kernel of its neuron, or its numpy step where there is none."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from snn2chip.ir.arithmetic import Arithmetic
from snn2chip.ir.layers import Array, Shape
from snn2chip.neurons.base import IntegerNeuron
from snn2chip.simulate.fast import compiled
from snn2chip.simulate.fast.populations.codegen import BLOCK, DoesNotFitError, Source, WayIn, population_source
from snn2chip.simulate.fast.populations.symbolic import (
    NotSymbolicError,
    Ranges,
    Step,
    invariant,
    reachable,
    start_of,
    state_names,
    trace_step,
)
from snn2chip.simulate.fast.stateless import array_dtype, dtype_of
from snn2chip.simulate.ranges import UNBOUNDED, Range

# What a numpy run is fed when its input is not known: nothing is assumed.
_ANYTHING = Range(-(2**62), 2**62)


@dataclass(frozen=True)
class Layout:
    """How the neurons of one sample lie in memory: row-major as they are, or with axis 0 (channels) last."""

    shape: Shape
    channels_last: bool

    @property
    def memory_shape(self) -> Shape:
        """The axes in memory order."""
        return (*self.shape[1:], self.shape[0]) if self.channels_last else self.shape

    @property
    def size(self) -> int:
        """Neurons per sample."""
        return math.prod(self.shape)

    def to_memory(self, x: Array) -> Array:
        """[..., *shape] → contiguous [..., *memory_shape]."""
        return np.ascontiguousarray(np.moveaxis(x, -len(self.shape), -1) if self.channels_last else x)

    def from_memory(self, x: Array) -> Array:
        """[..., *memory_shape] → [..., *shape], a view."""
        return np.moveaxis(x, -1, -len(self.shape)) if self.channels_last else x


@dataclass(frozen=True)
class Inflow:
    """One tensor that a population sums on its way in: its type in memory, and what it is multiplied by.

    Args:
        range: of what it adds to the sum.
        dtype: of the tensor.
        gain: integers that broadcast against the population's shape; None: it is summed as it is.
    """

    range: Range
    dtype: np.dtype[Any]
    gain: Array | None = None


@dataclass(frozen=True)
class Recurrent:
    """What a population of one axis sends to itself, event by event.

    Args:
        rows: [K, n, n] of K synapses: what a spike of neuron j adds to every neuron is ``rows[k, j]``.
        delays: [K] steps, each at least 1.
        range: of the sum of all. reach: no partial sum, in whatever order, exceeds it.
    """

    rows: Array
    delays: Array
    range: Range
    reach: int


@dataclass(frozen=True)
class Piece:
    """Consecutive steps and samples of a run."""

    step: int
    steps: int
    sample: int
    samples: int


@dataclass
class Run:
    """What a population of M / n neurons gives for n samples, filled piece by piece.

    Args:
        out: [T, M]. fired: [T, n] nonzero outputs. histories: where asked for, every state after every step [T, M].
    """

    out: Array
    fired: Array
    histories: dict[str, Array]


def port_ranges(model: IntegerNeuron, shape: Shape, arithmetic: Arithmetic, a: Range | None) -> dict[str, Range]:
    """What "out" and the states of a population can be after any step, with inputs in ``a`` (None: anything)."""
    proof = _proof(model, shape, arithmetic, _ANYTHING if a is None else a)
    if isinstance(proof, str):
        return _Unbounded()
    step, ranges = proof
    if ranges is None or any(not ranges.of(e).within(UNBOUNDED) for e in reachable([*step.states.values(), step.out])):
        # Where a value may leave 64 bits, it is not what the proof follows.
        ranges = _of_output_alone(step)
    found = {"out": ranges.of(step.out), **{name: ranges.of(new) for name, new in step.states.items()}}
    return {port: r if r.within(UNBOUNDED) else UNBOUNDED for port, r in found.items()}


class _Unbounded(dict[str, Range]):
    """Nothing is known of any port."""

    def __missing__(self, port: str) -> Range:
        return UNBOUNDED


def _of_output_alone(step: Step) -> Ranges:
    """With nothing known of the states: a spike is still 0 or 1, a saturated register still saturated."""
    return Ranges(step.trace, {**dict.fromkeys(step.states, UNBOUNDED), "a": UNBOUNDED})


def _proof(model: IntegerNeuron, shape: Shape, arithmetic: Arithmetic, a: Range) -> tuple[Step, Ranges | None] | str:
    """The traced step with its proved ranges, or why there is none."""
    try:
        step = trace_step(model, arithmetic)
    except NotSymbolicError as error:
        return str(error)
    return step, invariant(step, {name: _span(v) for name, v in start_of(model, shape).items()}, a)


def compilable(model: IntegerNeuron, arithmetic: Arithmetic) -> bool:
    """Whether the population gets a kernel of its own."""
    try:
        trace_step(model, arithmetic)
    except NotSymbolicError:
        return False
    return not compiled.missing()


def _span(x: Array) -> Range:
    return Range(int(x.min()), int(x.max()))


class Population:
    """A prepared population; calls share nothing, so that chunks can run in threads.

    Args:
        model, arithmetic: the neuron and the chip's arithmetic.
        layout: of its inputs and outputs in memory.
        inputs: what is summed on the way in.
        record: whether the states after every step are wanted.
        recurrent: what it sends to itself; only where it is :func:`compilable`.

    Attributes:
        kernel, why: what was chosen, for people.
        ranges: of its ports.
    """

    def __init__(
        self,
        model: IntegerNeuron,
        arithmetic: Arithmetic,
        layout: Layout,
        inputs: Sequence[Inflow],
        record: bool,
        recurrent: Recurrent | None = None,
    ) -> None:
        self.model, self.arithmetic, self.layout, self.record = model, arithmetic, layout, record
        self.inputs, self.recurrent = tuple(inputs), recurrent
        summed = [x.range for x in inputs] + ([] if recurrent is None else [recurrent.range])
        a = Range(sum(r.low for r in summed), sum(r.high for r in summed))
        self.ranges = port_ranges(model, layout.shape, arithmetic, a)
        self._out_dtype = array_dtype(dtype_of(self.ranges["out"]))
        self.kernel, self.why = "numpy", ""
        self.dtype: np.dtype[Any] = np.dtype(np.int64)
        self._source: Source | None = None
        self._proof: tuple[Step, Ranges | None] | None = None
        proof = _proof(model, layout.shape, arithmetic, a)
        if missing := compiled.missing():
            self.why = missing
        elif isinstance(proof, str):
            self.why = f"its step cannot be compiled: {proof}"
        else:
            self._prepare(*proof)

    def _prepare(self, step: Step, ranges: Ranges | None) -> None:
        way_in = WayIn(tuple(x.gain is not None for x in self.inputs), self.recurrent is not None)
        reach = sum(x.range.magnitude for x in self.inputs) + (0 if self.recurrent is None else self.recurrent.reach)
        try:
            if reach >= 2**31:
                raise DoesNotFitError("the summed input is wider than 32 bits")
            source = population_source(step, ranges, way_in, self.record, 32)
            self.dtype = np.dtype(np.int32)
            self.why = "every value is proved to fit 32 bits"
        except DoesNotFitError as error:
            self.why = f"64 bits: {error}"
            try:
                source = population_source(step, ranges, way_in, self.record, 64)
            except DoesNotFitError:
                # Wrap-around as in numpy, and no branch left out on the strength of a range.
                source = population_source(step, None, way_in, self.record, 64)
        self._source, self.kernel = source, f"compiled int{source.bits}"
        self._proof = step, ranges
        gains = [x.gain for x in self.inputs if x.gain is not None]
        per_neuron = [*self.constants(), *gains]
        self._tiles, self._period, self._block = self._tiled(per_neuron)
        self._loop: list[Array] = []
        if self.recurrent is not None:
            self._loop = [np.ascontiguousarray(self.recurrent.rows, dtype=self.dtype), self.recurrent.delays]
        empty = [np.empty((1, 0), x.dtype) for x in self.inputs]
        past = np.empty((0, 0), self._out_dtype)
        nothing = self._arguments(self.room(0, 0), Piece(0, 0, 0, 0), empty, self.start(0, True), True, past)
        self._compiled: Callable[..., None] = compiled.from_source(source.text, *nothing)

    @property
    def proved(self) -> tuple[Step, Ranges]:
        """The step and the ranges of a population whose kernel is of 32 bits."""
        assert self._proof is not None
        step, ranges = self._proof
        assert ranges is not None
        return step, ranges

    def constants(self) -> list[Array]:
        """What the compiled step reads beside inputs and states: where live states start, parameters; each [*shape]."""
        assert self._source is not None
        assert self._proof is not None
        starts, params = start_of(self.model, self.layout.shape), self._proof[0].trace.params
        found = [*(starts[name] for name in self._source.live), *(params[i] for i in self._source.params)]
        return [np.broadcast_to(array, self.layout.shape) for array in found]

    def _tiled(self, params: list[Array]) -> tuple[list[Array], int, int]:
        """Parameters over one period of memory, that period, and the block a kernel handles at a time."""
        size, channels = self.layout.size, self.layout.memory_shape[-1]
        full = [self.layout.to_memory(np.broadcast_to(p, self.layout.shape)).ravel() for p in params]
        repeats = next(
            (c for c in (1, channels) if size % c == 0 and all((p.reshape(-1, c) == p[:c]).all() for p in full)), size
        )
        if self.recurrent is not None:
            # Every neuron may need every other's spike: one block holds them all.
            repeats = size
        period = repeats * max(1, BLOCK // repeats)
        tiles = [np.resize(p[:repeats], period).astype(self.dtype) for p in full]
        return tiles, period, min(BLOCK, period) if repeats > BLOCK and self.recurrent is None else period

    def start(self, n: int, carried: bool) -> dict[str, Array]:
        """Room for the states of n samples; ``carried``: from one call to the next, not within one alone."""
        if self._source is None:
            # Of their own: a model may give one array for several states.
            return {name: state.copy() for name, state in self.model.start((n, *self.layout.shape)).items()}
        size = n * self.layout.size if carried else self._block
        return {name: np.empty(size, self.dtype) for name in self._source.live}

    def room(self, steps: int, n: int) -> Run:
        """For ``steps`` steps of n samples, to be filled by :meth:`run`."""
        m = n * self.layout.size
        names = state_names(self.model) if self._source is None else self._source.recorded
        histories = {name: np.empty((steps, m), self.dtype) for name in names if self.record}
        return Run(np.empty((steps, m), self._out_dtype), np.zeros((steps, n), np.int64), histories)

    def run(
        self,
        room: Run,
        piece: Piece,
        states: dict[str, Array],
        inputs: list[Array],
        first: bool,
        past: Array | None = None,
    ) -> None:
        """Fill a piece of ``room``.

        Args:
            room: of :meth:`room`. piece: the steps and samples of it that are computed.
            states: of :meth:`start` for all samples, changed in place.
            inputs: of the piece, each [steps, samples·size] in memory order, or [1, …] where it is the same at every
                step; without gain.
            first: whether these are the first steps of the samples.
            past: [D, n·size] what a recurrent population sent in the D steps before the room's; D is its longest delay.
        """
        if self._source is None:
            self._stepped(room, piece, states, inputs)
        else:
            self._compiled(*self._arguments(room, piece, inputs, states, first, past))

    def _arguments(
        self, room: Run, piece: Piece, inputs: list[Array], states: dict[str, Array], first: bool, past: Array | None
    ) -> list[Any]:
        assert self._source is not None
        pairs = [part for x in inputs for part in (x, int(len(x) > 1))]
        live = [states[name] for name in self._source.live]
        carried = not live or len(live[0]) == room.out.shape[1]
        where = [piece.step, piece.steps, piece.sample, piece.samples]
        head = [*where, self.layout.size, self._period, self._block, first, carried]
        loop = [] if self.recurrent is None else [past, *self._loop]
        return [*head, *pairs, room.out, room.fired, *live, *room.histories.values(), *self._tiles, *loop]

    def _stepped(self, room: Run, piece: Piece, states: dict[str, Array], inputs: list[Array]) -> None:
        """The definition itself, one step after another."""
        n, size = piece.samples, self.layout.size
        shape = (n, *self.layout.memory_shape)
        columns = slice(piece.sample * size, (piece.sample + n) * size)
        samples = slice(piece.sample, piece.sample + n)
        own = {name: state[samples] for name, state in states.items()}
        for t in range(piece.steps):
            rows = [
                self.layout.from_memory(x[t if len(x) > 1 else 0].reshape(shape).astype(np.int64))
                * (1 if known.gain is None else known.gain)
                for x, known in zip(inputs, self.inputs, strict=True)
            ]
            own, out = self.model.step(own, functools.reduce(np.add, rows), self.arithmetic)
            sent = self.layout.to_memory(out).reshape(n, -1)
            room.out[piece.step + t, columns] = sent.ravel()
            room.fired[piece.step + t, samples] = np.count_nonzero(sent, axis=1)
            for name, history in room.histories.items():
                history[piece.step + t, columns] = self.layout.to_memory(own[name]).ravel()
        for name, state in own.items():
            states[name][samples] = state
