"""What the chunks of a run fill, in any order."""

from __future__ import annotations

import threading

import numpy as np
import torch

from snn2chip.ir.layers import Array
from snn2chip.simulate.fast.plan import Plan
from snn2chip.simulate.result import Counts, Recording, Result


class Sink:
    """The arrays of the Result, filled by chunks in any order."""

    def __init__(self, plan: Plan, n: int, steps: int, wanted: frozenset[str], first: int) -> None:
        self.plan, self.n, self.steps, self.wanted, self.first = plan, n, steps, wanted, first
        program = plan.program
        self.counts = {node.name: Counts.zeros(n, steps) for node in program}
        for node in program.neurons:
            self.counts[node.name].neuron_updates[:] = int(np.prod(plan.shapes[node.name]))
        self.recordings = {node.name: Recording() for node in program}
        self.outputs: Array | None = None
        self.clipped = 0
        self._lock = threading.Lock()

    def store(self, name: str, what: str, start: int, t: int, values: torch.Tensor, steps: int) -> None:
        """Record ``values`` [S, n, ...] of samples from ``start`` and steps from ``t`` (S = 1: all of ``steps``)."""
        recording = self.recordings[name]
        with self._lock:
            held = getattr(recording, what)
            if held is None:
                dtype = np.int32 if what == "spikes" else np.int64
                held = np.empty((self.n, self.steps, *values.shape[2:]), dtype)
                setattr(recording, what, held)
        held[start : start + values.shape[1], t : t + steps] = values.transpose(0, 1).numpy()

    def output(self, start: int, values: Array) -> None:
        """The read-out of the samples from ``start``."""
        with self._lock:
            if self.outputs is None:
                self.outputs = np.empty((self.n, *values.shape[1:]), values.dtype)
        self.outputs[start : start + len(values)] = values

    def clip(self, count: int) -> None:
        """Count clipped input values."""
        with self._lock:
            self.clipped += count

    def result(self) -> Result:
        """Everything, as the reference engine returns it."""
        program = self.plan.program
        kept = {name: r for name, r in self.recordings.items() if any(v is not None for v in vars(r).values())}
        integers = self.outputs
        assert integers is not None
        real = integers * program.output_scale
        return Result(real, integers, self.counts, tuple(program.nodes), program, kept, self.clipped)
