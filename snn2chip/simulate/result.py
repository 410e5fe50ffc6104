"""What a simulation returns."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from snn2chip.errors import UsageError
from snn2chip.ir.graph import Network
from snn2chip.ir.layers import Array, Neuron
from snn2chip.simulate.data import no_sample


@dataclass
class Counts:
    """Operations of one layer, each [N, T].

    Args:
        spikes: output events of a population (a graded spike is one event).
        synops: one per input event and existing synapse, on the chip (borders, stride and groups respected).
        neuron_updates: neurons stepped.
        macs: multiply-accumulates of a layer on the host.
    """

    spikes: Array
    synops: Array
    neuron_updates: Array
    macs: Array

    @classmethod
    def zeros(cls, samples: int, steps: int) -> Counts:
        """Nothing counted yet."""
        return cls(*(np.zeros((samples, steps), dtype=np.int64) for _ in range(4)))


@dataclass
class Recording:
    """What was recorded of one layer, each [N, T, ...] or None where it was not asked for.

    Args:
        spikes: output of a population.
        u, v: synaptic current and membrane after the step, reset included.
        a: summed input of the population.
        h: membrane that met the fire test, before any reset of this step (float populations).
        out: output of a layer that is no population.
    """

    spikes: Array | None = None
    u: Array | None = None
    v: Array | None = None
    a: Array | None = None
    h: Array | None = None
    out: Array | None = None


@dataclass
class Result:
    """Outputs, operation counts and recordings of a batch of N samples.

    Args:
        outputs: [N, ...] read-out in the units of the trained network.
        outputs_int: the same as integers (None for a float network).
        counts: layer name → :class:`Counts`.
        layers: names in order of execution.
        recordings: layer name → :class:`Recording`.
        saturated_inputs: how many input values lay outside the input format and were clipped.
    """

    outputs: Array
    outputs_int: Array | None
    counts: dict[str, Counts]
    layers: tuple[str, ...]
    network: Network
    recordings: dict[str, Recording] = field(default_factory=dict)
    saturated_inputs: int = 0

    def __getitem__(self, name: str) -> Recording:
        """The recording of a layer; a synaptic layer stands for the population it feeds.

        Raises:
            UsageError: no layer of that name, or nothing was recorded of it.
        """
        if name not in self.layers:
            near = difflib.get_close_matches(name, self.layers, 1)
            raise UsageError(
                f"there is no layer {name!r}",
                fix=f"did you mean {near[0]!r}?" if near else f"layers: {', '.join(self.layers)}",
            )
        found = self.recordings.get(name) or self.recordings.get(population_of(self.network, name) or "")
        if found is None:
            raise UsageError(f"nothing was recorded of {name!r}", fix='simulate with record=("u", "v", "spikes")')
        return found

    def totals(self) -> Mapping[str, int]:
        """Every count summed over layers, samples and steps."""
        names = ("spikes", "synops", "neuron_updates", "macs")
        return {name: sum(int(getattr(c, name).sum()) for c in self.counts.values()) for name in names}


def population_of(network: Network, name: str) -> str | None:
    """The one population a layer's output ends up in; None for the input, or where there are several."""
    node = network[name]
    if not node.inputs:
        return None
    while not isinstance(node.layer, Neuron):
        readers = network.consumers(node.name)
        if len(readers) != 1:
            return None
        (node,) = readers
    return node.name


def joined(parts: list[Result]) -> Result:
    """Results of consecutive batches as one."""
    if not parts:
        raise no_sample()
    first = parts[0]
    if len(parts) == 1:
        return first

    def join(arrays: list[Array | None]) -> Array | None:
        return None if arrays[0] is None else np.concatenate([a for a in arrays if a is not None])

    counts = {
        name: Counts(
            **{f: np.concatenate([getattr(p.counts[name], f) for p in parts]) for f in vars(first.counts[name])}
        )
        for name in first.counts
    }
    recordings = {
        name: Recording(
            **{f: join([getattr(p.recordings[name], f) for p in parts]) for f in vars(first.recordings[name])}
        )
        for name in first.recordings
    }
    outputs_int = join([p.outputs_int for p in parts])
    outputs = np.concatenate([p.outputs for p in parts])
    clipped = sum(p.saturated_inputs for p in parts)
    return Result(outputs, outputs_int, counts, first.layers, first.network, recordings, clipped)
