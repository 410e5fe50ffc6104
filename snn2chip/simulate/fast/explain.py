"""What the fast engine will do with a program, and the memory it will take, for people."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from snn2chip.ir.graph import Node
from snn2chip.ir.layers import Conv, Flatten, Linear, Neuron, Permute, Reshape
from snn2chip.simulate.fast.cutting import chunk_of, piece_of
from snn2chip.simulate.fast.fused.lanes import Lanes
from snn2chip.simulate.fast.plan import Chunk, Plan, last_reader
from snn2chip.simulate.fast.synapses.methods import METHODS
from snn2chip.simulate.footprint import Memory, result_bytes


@dataclass(frozen=True)
class Row:
    """One layer: what computes it, why that, and the range its values were proved to keep."""

    layer: str
    kind: str
    kernel: str
    why: str
    proved: str


def rows(plan: Plan) -> tuple[Row, ...]:
    """Every layer of a plan, in order of execution."""
    return tuple(_row(plan, node) for node in plan.program)


def _row(plan: Plan, node: Node) -> Row:
    proved = str(plan.ranges.of(node.name))
    if node.name in plan.maxima:
        return Row(node.name, node.layer.kind, "maximum", "it fires if any input of a window does", proved)
    if node.name in plan.fusion.populations:
        return Row(node.name, node.layer.kind, "fused", f"with its synapses: {plan.fusion.why[node.name]}", proved)
    if plan.absorbed.streamed.get(node.name) in plan.fusion.populations:
        return Row(node.name, node.layer.kind, "looked up", "fused with its population", proved)
    if node.name in plan.without_kernel:
        return Row(node.name, node.layer.kind, "in its population", "its sums are never stored", proved)
    if node.name in plan.synapses:
        chosen = [choice for _, choice in plan.synapses[node.name].parts]
        kernels = ", ".join(dict.fromkeys(choice.kernel for choice in chosen))
        first = chosen[0]
        reasons = [first.why, *(f"not {name}: {why}" for name, why in first.rejected.items())]
        if first.milliseconds:
            reasons.append(", ".join(f"{name} {ms:.2f} ms" for name, ms in first.milliseconds.items()))
        return Row(node.name, node.layer.kind, kernels, "; ".join(reasons), proved)
    if node.name in plan.populations:
        population, apart = plan.populations[node.name], plan.fusion.why.get(node.name)
        why = population.why + (f"; not fused with its synapses: {apart}" if apart else "")
        return Row(node.name, node.layer.kind, population.kernel, why, proved)
    dtype = str(plan.dtype((node.name, "out"))).removeprefix("torch.")
    once = "once per sample" if node.name in plan.static else ""
    return Row(node.name, node.layer.kind, dtype, once, proved)


def peak_memory(
    plan: Plan,
    samples: int,
    steps: int,
    wanted: frozenset[str],
    batch_size: int = 128,
    threads: int | None = None,
) -> Memory:
    """What a run holds at most: every value until its last reader is done, and the temporary copies of each layer.

    ``threads``: of the process that will run it; left out, this one's.
    """
    threads = threads or torch.get_num_threads()
    chunk = chunk_of(plan, samples, steps, batch_size, threads)
    workers = min(threads, math.ceil(samples / chunk.samples))
    # Threads that have no chunk of their own share the only one.
    return Memory(
        _chunk_bytes(plan, chunk, steps, wanted, threads if workers == 1 else 1),
        workers,
        _result_bytes(plan, samples, steps, wanted),
    )


def _chunk_bytes(plan: Plan, chunk: Chunk, steps: int, wanted: frozenset[str], threads: int) -> int:
    fused, lanes, ends = plan.fused_in(chunk), Lanes(chunk.steps, chunk.samples), last_reader(plan)
    sizes = plan.fused_bytes if fused else plan.step_bytes

    def span(name: str) -> int:
        if fused and name in plan.fusion.grids:
            return lanes.total
        return chunk.samples * (1 if name in plan.static else chunk.steps)

    def held(node: Node) -> int:
        """Bytes of a layer that are gone once it is computed; of streamed sums, what one piece of them takes."""
        if node.name in plan.absorbed.streamed:
            return 0
        if node.name in fused:
            return threads * fused[node.name].scratch_bytes(lanes)
        own = _temporary(plan, node, wanted) * span(node.name)
        for source in plan.streamed_into(node.name) if node.name not in plan.maxima else ():
            piece = piece_of(plan, node.name, chunk.samples, chunk.steps)
            own += (sizes[source] + _temporary(plan, plan.program[source], wanted)) * piece.samples * piece.steps
        return own

    live: dict[str, int] = {}
    peak = 0
    for i, component in enumerate(plan.components):
        for node in component.nodes:
            live[node.name] = sizes[node.name] * span(node.name) * (node.name not in plan.absorbed.streamed)
        temporary = sum(map(held, component.nodes))
        peak = max(peak, sum(live.values()) + temporary)
        live = {name: size for name, size in live.items() if ends[name] != i or name in plan.static}
    neurons = sum(math.prod(plan.shapes[node.name]) for node in plan.program.neurons)
    once = 1 if plan.program.coding == "direct" else steps
    data = math.prod(plan.shapes[plan.program.input.name]) * once
    outputs = math.prod(plan.shapes[plan.program.output.name]) * steps
    history = sum(depth * math.prod(plan.shapes[name]) for (name, _), depth in plan.history.items())
    form = plan.program.formats[plan.program.input.name]
    # Spikes: where they are none, twice, as whole numbers, and as bytes. What is scaled: three times in 64 bits.
    of_data = (12 if form.scale == 1.0 and form.overflow == "error" else 24) * data
    # States: u and v as 64-bit integers.
    return peak + chunk.samples * (8 * (2 * neurons + 2 * outputs + 2 * history) + of_data)


def _temporary(plan: Plan, node: Node, wanted: frozenset[str]) -> int:
    """Bytes per sample and step of what a layer holds only while it is computed."""
    given = sum(math.prod(plan.shapes[edge.source]) for edge in node.inputs)
    size = math.prod(plan.shapes[node.name])
    if node.name in plan.absorbed.synapses:
        return 0
    if isinstance(node.layer, Linear | Conv):
        parts = plan.synapses[node.name].parts
        used = [METHODS[choice.kernel] for _, choice in parts]
        windows = 8 * math.prod(node.layer.weight.shape[1:]) * any(choice.kernel == "int64" for _, choice in parts)
        # Delayed inputs are copied; parts are summed in their own dtype.
        cast: int = max(method.input_bytes for method in used) + windows
        return given * (cast + 8) + size * (8 * (min(2, len(parts)) - 1) + max(method.output_bytes for method in used))
    if isinstance(node.layer, Neuron):
        recorded = 8 * size * len({"u", "v", "a", "spikes"} & wanted)
        whole = (read.edge.source for read in plan.absorbed.reads[node.name])
        given = sum(math.prod(plan.shapes[source]) for source in whole if source not in plan.absorbed.streamed)
        return given * 8 * (2 if "a" in wanted else 1) + recorded
    if isinstance(node.layer, Flatten | Reshape | Permute):
        return 2 * plan.step_bytes[node.name]
    return (given + size) * 16


def _result_bytes(plan: Plan, samples: int, steps: int, wanted: frozenset[str]) -> int:
    neurons = sum(math.prod(plan.shapes[node.name]) for node in plan.program.neurons)
    others = sum(math.prod(plan.shapes[node.name]) for node in plan.program if not isinstance(node.layer, Neuron))
    recorded = neurons * (4 * ("spikes" in wanted) + 8 * len({"u", "v", "a"} & wanted)) + others * 8 * ("out" in wanted)
    return samples * steps * recorded + result_bytes(plan.program, samples, steps)
