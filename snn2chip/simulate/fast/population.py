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
from snn2chip.simulate.fast.codegen import BLOCK, DoesNotFitError, Source, population_source
from snn2chip.simulate.fast.ranges import UNBOUNDED, Range
from snn2chip.simulate.fast.symbolic import NotSymbolicError, Ranges, Step, invariant, start_of, trace_step

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


@dataclass
class Run:
    """One call of a population: its output [T, M] and, where asked for, every state after every step [T, M]."""

    out: Array
    histories: dict[str, Array]


def port_ranges(model: IntegerNeuron, shape: Shape, arithmetic: Arithmetic, a: Range | None) -> dict[str, Range]:
    """What "out" and the states of a population can be after any step, with inputs in ``a`` (None: anything)."""
    proof = _proof(model, shape, arithmetic, _ANYTHING if a is None else a)
    if isinstance(proof, str):
        return _Unbounded()
    step, ranges = proof
    if ranges is None:
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


def _span(x: Array) -> Range:
    return Range(int(x.min()), int(x.max()))


class Population:
    """A prepared population; calls share nothing, so that chunks can run in threads.

    Args:
        model, arithmetic: the neuron and the chip's arithmetic.
        layout: of its inputs and outputs in memory.
        inputs: the range of every tensor that is summed on the way in.
        record: whether the states after every step are wanted.

    Attributes:
        kernel, why: what was chosen, for people.
        input_dtype: what ``run`` takes.
        ranges: of its ports.
    """

    def __init__(
        self, model: IntegerNeuron, arithmetic: Arithmetic, layout: Layout, inputs: Sequence[Range], record: bool
    ) -> None:
        self.model, self.arithmetic, self.layout, self.record = model, arithmetic, layout, record
        a = Range(sum(r.low for r in inputs), sum(r.high for r in inputs))
        self.ranges = port_ranges(model, layout.shape, arithmetic, a)
        self.kernel, self.why = "numpy", ""
        self.input_dtype: np.dtype[Any] = np.dtype(np.int64)
        self.dtype: np.dtype[Any] = np.dtype(np.int64)
        self._source: Source | None = None
        proof = _proof(model, layout.shape, arithmetic, a)
        if missing := compiled.missing():
            self.why = missing
        elif isinstance(proof, str):
            self.why = f"its step cannot be compiled: {proof}"
        else:
            self._prepare(*proof, inputs)

    def _prepare(self, step: Step, ranges: Ranges | None, inputs: Sequence[Range]) -> None:
        try:
            if not all(r.mantissa < 2**24 and r.magnitude < 2**31 for r in inputs):
                raise DoesNotFitError("an input is wider than a float's mantissa")
            source = population_source(step, ranges, len(inputs), self.record, 32)
            self.dtype, self.input_dtype = np.dtype(np.int32), np.dtype(np.float32)
            self.why = "every value is proved to fit 32 bits"
        except DoesNotFitError as error:
            self.why = f"64 bits: {error}"
            try:
                source = population_source(step, ranges, len(inputs), self.record, 64)
            except DoesNotFitError:
                # Wrap-around as in numpy, and no branch left out on the strength of a range.
                source = population_source(step, None, len(inputs), self.record, 64)
        self._source, self.kernel = source, f"compiled int{source.bits}"
        first = start_of(self.model, self.layout.shape)
        self._rest = [(name, self.layout.to_memory(first[name]).reshape(-1).astype(self.dtype)) for name in source.live]
        self._params, self._period, self._block = self._tiled([step.trace.params[i] for i in source.params])
        nothing = self._arguments(0, [np.empty((1, 0), self.input_dtype)] * len(inputs), self.start(0), 0)
        self._compiled: Callable[..., None] = compiled.from_source(source.text, *nothing[0])

    def _tiled(self, params: list[Array]) -> tuple[list[Array], int, int]:
        """Parameters over one period of memory, that period, and the block a kernel handles at a time."""
        size, channels = self.layout.size, self.layout.memory_shape[-1]
        full = [self.layout.to_memory(np.broadcast_to(p, self.layout.shape)).ravel() for p in params]
        repeats = next(
            (c for c in (1, channels) if size % c == 0 and all((p.reshape(-1, c) == p[:c]).all() for p in full)), size
        )
        period = repeats * max(1, BLOCK // repeats)
        tiles = [np.resize(p[:repeats], period).astype(self.dtype) for p in full]
        return tiles, period, min(BLOCK, period) if repeats > BLOCK else period

    def start(self, n: int) -> dict[str, Array]:
        """The states of n samples before the first step."""
        if self._source is None:
            return self.model.start((n, *self.layout.shape))
        return {name: np.tile(row, n) if row.any() else np.zeros(n * len(row), self.dtype) for name, row in self._rest}

    def run(self, states: dict[str, Array], inputs: list[Array], steps: int, n: int) -> Run:
        """``steps`` steps of n samples.

        Args:
            states: of :meth:`start`, changed in place.
            inputs: each [steps, n·size] in memory order, or [1, …] where it is the same at every step.
        """
        if self._source is None:
            return self._stepped(states, inputs, steps, n)
        arguments, run = self._arguments(steps, inputs, states, n)
        self._compiled(*arguments)
        return run

    def _arguments(self, steps: int, inputs: list[Array], states: dict[str, Array], n: int) -> tuple[list[Any], Run]:
        assert self._source is not None
        m = n * self.layout.size
        out = np.empty((steps, m), self.out_dtype)
        histories = {name: np.empty((steps, m), self.dtype) for name in self._source.recorded}
        pairs = [part for x in inputs for part in (x, int(len(x) > 1))]
        live = [states[name] for name in self._source.live]
        head = [steps, m, self._period, self._block]
        return [*head, *pairs, out, *live, *histories.values(), *self._params], Run(out, histories)

    @property
    def out_dtype(self) -> np.dtype[Any]:
        """Of the output: a byte for spikes, the registers' type for membranes."""
        spikes = self._source is not None and self.ranges["out"].within(Range(0, 255))
        return np.dtype(np.uint8) if spikes else self.dtype

    def _stepped(self, states: dict[str, Array], inputs: list[Array], steps: int, n: int) -> Run:
        """The definition itself, one step after another."""
        shape = (n, *self.layout.memory_shape)
        outs: list[Array] = []
        histories: dict[str, list[Array]] = {name: [] for name in states if self.record}
        for t in range(steps):
            rows = [x[t if len(x) > 1 else 0].reshape(shape).astype(np.int64) for x in inputs]
            a = self.layout.from_memory(functools.reduce(np.add, rows))
            new, out = self.model.step(dict(states), a, self.arithmetic)
            states.update(new)
            outs.append(self.layout.to_memory(out).reshape(-1))
            for name, history in histories.items():
                history.append(self.layout.to_memory(states[name]).reshape(-1))
        return Run(np.stack(outs), {name: np.stack(h) for name, h in histories.items()})
