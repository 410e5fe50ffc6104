"""The reference engine: one time step after another, one layer after another. It is the definition of what a Program
means, and runs a float Graph through the same loop.

Two clocks. In the sample's clock every layer computes step t from step t of the layers before it. In the machine's
clock every edge takes the steps it takes on the chip (``ir/schedule.py``), layers run before their window opens, and
states are reset by interval and phase: that is how vendors record.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from snn2chip.errors import UsageError
from snn2chip.ir.graph import Edge, Network, Node
from snn2chip.ir.layers import Array, Delay, Input, Linear, Neuron, Output, Readout
from snn2chip.ir.program import Program
from snn2chip.ir.schedule import depths, machine_delay
from snn2chip.simulate.backends import Backend, Kernels, KernelsFor, float_kernels, integer_kernels
from snn2chip.simulate.counting import fan_out, host_macs, silent
from snn2chip.simulate.ops import apply
from snn2chip.simulate.readout import read_out
from snn2chip.simulate.result import Counts, Recording, Result, joined

Clock = Literal["sample", "machine"]


@dataclass(frozen=True)
class MachineClock:
    """How a vendor's recording was made.

    Args:
        reset_interval: states are cleared every so many machine steps; None: never.
        reset_phase: the layer at depth d is cleared at machine steps (counted from 0) d + reset_phase + k·interval.
        registers: name of a register convention of the target (what v reads in the step of a spike), or None.
    """

    reset_interval: int | None = None
    reset_phase: int = 0
    registers: str | None = None


def run(
    network: Network,
    samples: Array,
    steps: int,
    wanted: frozenset[str],
    *,
    machine: MachineClock | None,
    backend: Backend,
    batch_size: int,
    first: int = 0,
    progress: Callable[[int], None] | None,
    kernels: KernelsFor | None = None,
) -> Result:
    """Run checked samples; see :func:`snn2chip.simulate.engine.simulate`.

    Args:
        network: a Graph or a Program.
        samples: as ``simulate.data.as_samples`` returns them.
        steps: machine steps, or T.
        wanted: what to record.
        machine: how the machine's clock runs; None: the sample's clock.
        first: number of the first sample, for messages.
        backend, batch_size, progress: as there.
        kernels: how a batch is computed, where not by numpy (a Program) or the backend (a Graph).
    """
    plan = _Plan(network, machine, steps)
    compute = kernels or (integer_kernels if isinstance(network, Program) else float_kernels(backend))
    parts = []
    for start in range(0, len(samples), batch_size):
        parts.append(_run(plan, samples[start : start + batch_size], first + start, wanted, compute))
        if progress is not None:
            progress(min(start + batch_size, len(samples)))
    return joined(parts)


class _Plan:
    """What is known of a run before the data: delays, what never changes, what the counts need."""

    def __init__(self, network: Network, machine: MachineClock | None, steps: int) -> None:
        self.network, self.machine, self.steps = network, machine, steps
        self.shapes = network.shapes()
        self.depth = depths(network)
        # On the machine a value that never changes still arrives some steps late.
        self.static = network.static() if machine is None else frozenset()
        self.edges = {node.name: [(edge, self._delay(edge, node)) for edge in node.inputs] for node in network}
        self.history: dict[tuple[str, str], int] = {}
        for node in network:
            own = node.layer.steps if isinstance(node.layer, Delay) else 0
            if isinstance(node.layer, Linear) and node.layer.delay is not None:
                own = int(node.layer.delay.max(initial=0))
            for edge, delay in self.edges[node.name]:
                key = (edge.source, edge.port)
                self.history[key] = max(self.history.get(key, 0), delay + own)
        self.fan_out = {n.name: fan_out(n.layer, self.shapes[n.inputs[0].source]) for n in network if n.layer.synaptic}
        self.host_macs = host_macs(network)
        layers = {node.name: node.layer for node in network}
        self.parts = {name: x.by_delay() for name, x in layers.items() if isinstance(x, Linear)}
        self.register = self._register()

    def _delay(self, edge: Edge, node: Node) -> int:
        return edge.delay if self.machine is None else machine_delay(edge, node, self.depth)

    def _register(self) -> int:
        name = None if self.machine is None else self.machine.registers
        if name is None:
            return 0
        conventions = self.network.target.registers if isinstance(self.network, Program) else {}
        if name not in conventions:
            raise UsageError(
                f"the target has no register convention {name!r}",
                fix=f"use one of {', '.join(conventions) or 'none'}",
            )
        return conventions[name]["v_after_spike"]

    def resets(self, name: str, step: int) -> bool:
        """Whether the population's state is cleared before this machine step."""
        if self.machine is None or self.machine.reset_interval is None:
            return False
        return (step - self.depth[name] - self.machine.reset_phase) % self.machine.reset_interval == 0


def _run(plan: _Plan, samples: Array, first: int, wanted: frozenset[str], kernels_for: KernelsFor) -> Result:
    """One batch, whose first sample is number ``first`` of the data."""
    network = plan.network
    batch = _Batch(plan, kernels_for(network, samples, first), len(samples), wanted)
    begins = plan.depth[network.output.name] if plan.machine else 0
    outputs = []
    for t in range(plan.steps):
        batch.step(t)
        if t >= begins:
            outputs.append(batch.now[network.output.name, "out"])
    result = read_out(network, [batch.kernels.to_numpy(o) for o in outputs])
    integers = result if isinstance(network, Program) else None
    real = result * network.output_scale if isinstance(network, Program) else result
    recorded = {name: r for name, r in batch.recordings.items() if any(v is not None for v in vars(r).values())}
    return Result(real, integers, batch.counts, tuple(network.nodes), network, recorded, batch.kernels.clipped)


class _Batch:
    """A batch on its way through the network: what every layer holds, and what was counted and recorded of it.

    ``now`` is (layer, port) → value [N, ...] of the step under way.
    """

    def __init__(self, plan: _Plan, kernels: Kernels, n: int, wanted: frozenset[str]) -> None:
        self.plan, self.kernels, self.n, self.wanted = plan, kernels, n, wanted
        self.now: dict[tuple[str, str], Any] = {}
        self.counts = {node.name: Counts.zeros(n, plan.steps) for node in plan.network}
        self.recordings = {node.name: Recording() for node in plan.network}
        self._past: dict[tuple[str, str], list[Any]] = {key: [] for key, depth in plan.history.items() if depth}
        self._states: dict[str, dict[str, Any]] = {}
        self._static: dict[str, Any] = {}

    def step(self, t: int) -> None:
        """Compute step ``t`` of every layer."""
        self.now = {}
        for node in self.plan.network:
            out = self._static[node.name] if node.name in self._static else self._output(node, t)
            self.now[node.name, "out"] = out
            if node.name in self.plan.static:
                self._static[node.name] = out
        for key, before in self._past.items():
            before.append(self.now[key])
            del before[: -self.plan.history[key]]

    def _output(self, node: Node, t: int) -> Any:
        if isinstance(node.layer, Input):
            return self.kernels.samples if self.plan.network.coding == "direct" else self.kernels.samples[:, t]
        if isinstance(node.layer, Readout | Output):
            return self._value(*self.plan.edges[node.name][0])
        return self._population(node, t) if isinstance(node.layer, Neuron) else self._stateless(node, t)

    def _value(self, edge: Edge, delay: int) -> Any:
        """What an edge delivers; zeros before there was anything."""
        key = (edge.source, edge.port)
        if delay == 0:
            return self.now[key]
        before = self._past[key]
        return before[-delay] if delay <= len(before) else self.kernels.zeros((self.n, *self.plan.shapes[edge.source]))

    def _population(self, node: Node, t: int) -> Any:
        name, counts = node.name, self.counts[node.name]
        first, *others = self.plan.edges[name]
        a = sum((self._value(*edge) for edge in others), start=self._value(*first))
        if name not in self._states or self.plan.resets(name, t):
            self._states[name] = self.kernels.start(node, a)
        state, out = self.kernels.step(node, self._states[name], a)
        self._states[name] = state
        self.now |= {(name, port): state[port] for port in ("u", "v") if port in state}
        counts.neuron_updates[:, t] = math.prod(out.shape[1:])
        if not silent(node):
            counts.spikes[:, t] = self.kernels.events(out, None)
        for kind, value in {**state, "spikes": out, "a": a}.items():
            if kind in self.wanted:
                array = self.kernels.to_numpy(value)
                if kind == "v" and self.plan.register:
                    array = np.where(self.kernels.to_numpy(out) != 0, self.plan.register, array)
                self._store(name, kind, array, slice(t, t + 1))
        return out

    def _stateless(self, node: Node, t: int) -> Any:
        plan, counts = self.plan, self.counts[node.name]
        out = self._applied(node)
        # What never changes is computed once; on the chip its events still arrive at every step.
        steps = slice(t, None if node.name in plan.static else t + 1)
        counts.macs[:, t] = plan.host_macs.get(node.name, 0)
        if node.layer.synaptic and node.placement == "chip":
            arriving = self._value(*plan.edges[node.name][0])
            counts.synops[:, steps] = self.kernels.events(arriving, plan.fan_out[node.name])[:, None]
        if "out" in self.wanted:
            self._store(node.name, "out", self.kernels.to_numpy(out), steps)
        return out

    def _applied(self, node: Node) -> Any:
        edges = self.plan.edges[node.name]
        edge, delay = edges[0]
        if isinstance(node.layer, Delay):
            return self._value(edge, delay + node.layer.steps)
        if node.name in self.plan.parts:
            parts = self.plan.parts[node.name]
            found = [apply(part, [self._value(edge, delay + late)], self.kernels.ops) for late, part in parts]
            return sum(found[1:], start=found[0])
        return apply(node.layer, [self._value(*edge) for edge in edges], self.kernels.ops)

    def _store(self, name: str, kind: str, array: Array, at: slice) -> None:
        recording = self.recordings[name]
        held = getattr(recording, kind)
        if held is None:
            dtype = np.int64 if array.dtype.kind in "iu" else array.dtype
            held = np.empty(
                (len(array), self.plan.steps, *array.shape[1:]),
                dtype=np.int32 if kind == "spikes" and dtype == np.int64 else dtype,
            )
            setattr(recording, kind, held)
        held[:, at] = array[:, None]
