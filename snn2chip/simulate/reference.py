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


def _run(
    plan: _Plan,
    samples: Array,
    first: int,
    wanted: frozenset[str],
    kernels_for: KernelsFor,
) -> Result:
    """One batch, whose first sample is number ``first`` of the data."""
    network, n = plan.network, len(samples)
    kernels = kernels_for(network, samples, first)
    counts = {node.name: Counts.zeros(n, plan.steps) for node in network}
    recordings = {node.name: Recording() for node in network}
    past: dict[tuple[str, str], list[Any]] = {key: [] for key, depth in plan.history.items() if depth}
    states: dict[str, dict[str, Any]] = {}
    kept: dict[str, Any] = {}
    outputs: list[Any] = []
    last_depth = plan.depth[network.output.name] if plan.machine else 0

    for t in range(plan.steps):
        now: dict[tuple[str, str], Any] = {}

        def value(edge: Edge, delay: int, now: dict[tuple[str, str], Any] = now) -> Any:
            key = (edge.source, edge.port)
            if delay == 0:
                return now[key]
            before = past[key]
            return before[-delay] if delay <= len(before) else kernels.zeros((n, *plan.shapes[edge.source]))

        for node in network:
            if node.name in kept:
                now[node.name, "out"] = kept[node.name]
                continue
            if isinstance(node.layer, Input):
                out = kernels.samples if network.coding == "direct" else kernels.samples[:, t]
            elif isinstance(node.layer, Readout | Output):
                out = value(*plan.edges[node.name][0])
            elif isinstance(node.layer, Neuron):
                a = sum(
                    (value(e, d) for e, d in plan.edges[node.name][1:]),
                    start=value(*plan.edges[node.name][0]),
                )
                if node.name not in states or plan.resets(node.name, t):
                    states[node.name] = kernels.start(node, a)
                state, out = kernels.step(node, states[node.name], a)
                states[node.name] = state
                for port in ("u", "v"):
                    if port in state:
                        now[node.name, port] = state[port]
                _count_population(counts[node.name], t, out, node, kernels)
                _record_population(recordings[node.name], wanted, plan, t, state, out, a, kernels)
            else:
                out = _stateless(node, plan, kernels, value)
                # What never changes is computed once; on the chip its events still arrive at every step.
                steps = slice(t, None if node.name in plan.static else t + 1)
                counts[node.name].macs[:, t] = plan.host_macs.get(node.name, 0)
                if node.layer.synaptic and node.placement == "chip":
                    arriving = value(*plan.edges[node.name][0])
                    counts[node.name].synops[:, steps] = kernels.events(arriving, plan.fan_out[node.name])[:, None]
                if "out" in wanted:
                    _store(recordings[node.name], "out", kernels.to_numpy(out), steps, plan.steps)
            now[node.name, "out"] = out
            if node.name in plan.static:
                kept[node.name] = out
        if t >= last_depth:
            outputs.append(now[network.output.name, "out"])
        for key, before in past.items():
            before.append(now[key])
            del before[: -plan.history[key]]

    result = read_out(network, [kernels.to_numpy(o) for o in outputs])
    integers = result if isinstance(network, Program) else None
    real = result * network.output_scale if isinstance(network, Program) else result
    kept_recordings = {name: r for name, r in recordings.items() if any(v is not None for v in vars(r).values())}
    return Result(real, integers, counts, tuple(network.nodes), network, kept_recordings, kernels.clipped)


def _stateless(node: Node, plan: _Plan, kernels: Kernels, value: Callable[[Edge, int], Any]) -> Any:
    edges = plan.edges[node.name]
    if isinstance(node.layer, Delay):
        return value(edges[0][0], edges[0][1] + node.layer.steps)
    if node.name in plan.parts:
        edge, delay = edges[0]
        found = [apply(part, [value(edge, delay + late)], kernels.ops) for late, part in plan.parts[node.name]]
        return sum(found[1:], start=found[0])
    return apply(node.layer, [value(edge, delay) for edge, delay in edges], kernels.ops)


def _count_population(counts: Counts, t: int, out: Any, node: Node, kernels: Kernels) -> None:
    counts.neuron_updates[:, t] = math.prod(out.shape[1:])
    if not silent(node):
        counts.spikes[:, t] = kernels.events(out, None)


def _record_population(
    recording: Recording,
    wanted: frozenset[str],
    plan: _Plan,
    t: int,
    state: dict[str, Any],
    out: Any,
    a: Any,
    kernels: Kernels,
) -> None:
    available = {"u": state.get("u"), "v": state["v"], "h": state.get("h"), "spikes": out, "a": a}
    for name in wanted & set(available):
        if available[name] is None:
            continue
        array = kernels.to_numpy(available[name])
        if name == "v" and plan.register:
            array = np.where(kernels.to_numpy(out) != 0, plan.register, array)
        _store(recording, name, array, slice(t, t + 1), plan.steps)


def _store(recording: Recording, name: str, array: Array, at: slice, steps: int) -> None:
    held = getattr(recording, name)
    if held is None:
        dtype = np.int64 if array.dtype.kind in "iu" else array.dtype
        held = np.empty(
            (len(array), steps, *array.shape[1:]),
            dtype=np.int32 if name == "spikes" and dtype == np.int64 else dtype,
        )
        setattr(recording, name, held)
    held[:, at] = array[:, None]
