"""A recording becomes a graph: dead code left out, T recorded steps rolled into one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch
from torch import Tensor, nn

from snn2chip.errors import S2CError
from snn2chip.frontend.torch.builder import Builder
from snn2chip.frontend.torch.cells import Cell
from snn2chip.frontend.torch.context import Context
from snn2chip.frontend.torch.elements import Elements, Signal
from snn2chip.frontend.torch.late import LateInputs
from snn2chip.frontend.torch.layout import Layout
from snn2chip.frontend.torch.operations import translate
from snn2chip.frontend.torch.opnames import only_moves
from snn2chip.frontend.torch.populations import Populations, StepsDifferError
from snn2chip.frontend.torch.readout import WHERE, How, read_out
from snn2chip.frontend.torch.recording import Call, Recording, Ref
from snn2chip.ir.graph import Edge, Graph, Node, Port, Source, in_order
from snn2chip.ir.layers import Array, Input, Output, Readout


@dataclass
class Traced:
    """A graph, and what the model itself computed: ``observed[population, port]`` [N, T, ...] and ``outputs``."""

    graph: Graph
    observed: dict[tuple[str, str], Array]
    outputs: Array


def convert(
    model: nn.Module,
    recording: Recording,
    cells: Mapping[str, Cell],
    layout: Layout,
    steps: int,
    output: Ref,
    readout: How | None,
    dt: float | None,
    per_step: bool = False,
) -> Traced:
    """The graph of a recording.

    Args:
        output: the deployed output.
        readout: how outputs of every step are read out, where the model returns one per step.
        per_step: whether norms may differ from step to step.

    Raises:
        S2CError: something the deployed output depends on is no spiking network; the message says what and where.
    """
    x = recording.input.values[0]
    work = _Conversion(model, recording, cells, layout, steps, x.shape[layout.batch_axis], per_step)
    try:
        work.run(output)
        return work.finish(output, readout, dt)
    except S2CError as error:
        raise ConversionError(error, len(work.context.values)) from None


class ConversionError(Exception):
    """A recording that could not be converted, and how far the conversion came."""

    def __init__(self, error: S2CError, reached: int) -> None:
        super().__init__(str(error))
        self.error, self.reached = error, reached
        self.time_fits = not isinstance(error, StepsDifferError)


class _Conversion:
    def __init__(
        self,
        model: nn.Module,
        recording: Recording,
        cells: Mapping[str, Cell],
        layout: Layout,
        steps: int,
        batch: int,
        per_step: bool,
    ) -> None:
        self.model, self.recording, self.cells, self.layout = model, recording, cells, layout
        self.elements = Elements(steps, batch)
        computing = frozenset(c.module for c in recording.calls if c.kind == "op" and not only_moves(c))
        self.builder = Builder(model, self.elements, computing)
        self.context = Context(self.builder, self.elements, {}, per_step)
        self.populations = Populations(self.context, recording, cells)
        self.late = LateInputs(self.context)

    def run(self, output: Ref) -> None:
        """Translate every recorded call the output depends on, in order."""
        values = self.context.values
        values[self.recording.input, 0] = self._input()
        needed = _needed(self.recording, output, self.cells)
        self.populations.check_loops(needed)
        for call in needed:
            if call.kind == "neuron":
                made = self.populations.ids(call)
            elif call.kind == "late":
                made = self.late.ids(call)
            elif call.kind == "op" and call.depends_on_data:
                made = translate(self.context, call)
            else:
                continue
            for i, value in enumerate(made):
                values[call, i] = value

    def _input(self) -> Tensor:
        x = self.recording.input.values[0]
        samples = self.layout.to_samples(torch.empty(x.shape, device="meta"))
        shape = tuple(samples.shape[1:] if self.layout.time_axis is None else samples.shape[2:])
        taken = {path for path, _ in self.model.named_modules()}
        name = next(n for n in ("input", "data", "input_data") if n not in taken)
        self.builder.nodes[name] = Node(name, Input(shape), (), Source("input"))
        signal = self.elements.add(Signal(name, shape, self.layout.time_axis is not None))
        n = torch.arange(self.elements.batch)
        if self.layout.time_axis is None:
            return self.layout.from_samples(self.elements.ids(signal, torch.zeros_like(n), n)).contiguous()
        steps = [self.elements.ids(signal, torch.full_like(n, t), n) for t in range(self.elements.steps)]
        return self.layout.from_samples(torch.stack(steps, 1)).contiguous()

    def finish(self, output: Ref, readout: How | None, dt: float | None) -> Traced:
        """The graph, with its read-out and output."""
        self.late.connect()
        read = read_out(self.context, output, readout)
        self.populations.join_norms()
        nodes = list(self.builder.nodes.values())
        edge = Edge(read.signal.name, port=read.signal.port)  # type: ignore[arg-type]
        taken = {node.name for node in nodes} | {"readout", "output"} & {p for p, _ in self.model.named_modules()}
        if read.how is not None:
            name = "readout" if "readout" not in taken else "readout_"
            nodes.append(Node(name, Readout(read.how), (edge,), Source(WHERE), "host"))
            edge = Edge(name)
        nodes.append(Node("output" if "output" not in taken else "output_", Output(), (edge,), Source(WHERE), "host"))
        origin = f"torch model {type(self.model).__name__}"
        reached = _reaching(nodes)
        ordered = in_order(node for node in nodes if node.name in reached)
        graph = Graph(ordered, self.elements.steps, self.layout.coding, dt, origin).verify()
        if not graph.neurons:
            raise S2CError(
                "no spiking neuron reaches the deployed output",
                where=origin,
                fix="select another output with output=, or train a spiking network first",
            )
        return Traced(graph, _observed(self.context, graph), read.outputs)


def _observed(context: Context, graph: Graph) -> dict[tuple[str, str], Array]:
    """What the model's own neurons did: (population, port) → [N, T, ...], NaN where they did not show it."""
    elements = context.elements
    populations = {node.name for node in graph.neurons}
    found: dict[tuple[str, str], Array] = {}
    for (call, i), ids in context.values.items():
        if ids is None or call.kind != "neuron":
            continue
        whole = elements.whole(ids)
        which, t, n, position = (x.reshape(-1) for x in (whole[1:] if whole else elements.read(ids.contiguous())))
        signal = elements.signals[int(which[0])]
        if signal.name not in populations or signal.port not in get_args(Port):
            continue
        shape = (elements.batch, elements.steps, signal.size)
        values = found.setdefault((signal.name, signal.port), np.full(shape, np.nan, dtype=np.float32))
        data = call.values[i].detach().reshape(-1).to(torch.float32)
        if whole:
            values[n.numpy(), t.numpy()] = data.reshape(len(n), -1).numpy()
        else:
            values[n.numpy(), t.numpy(), position.numpy()] = data.numpy()
    shapes = graph.shapes()
    return {key: a.reshape(*a.shape[:2], *shapes[key[0]]) for key, a in found.items()}


def _needed(recording: Recording, output: Ref, cells: Mapping[str, Cell]) -> list[Call]:
    """The calls the output depends on, in order; a neuron that remembers needs all calls of its module."""
    by_module: dict[str, list[Call]] = {}
    for call in recording.calls:
        if call.kind == "neuron":
            by_module.setdefault(call.module, []).append(call)
    live: set[int] = set()
    pending = [output.call]
    while pending:
        call = pending.pop()
        if id(call) in live:
            continue
        live.add(id(call))
        pending += [ref.call for ref in call.refs()]
        if call.kind == "neuron" and cells[call.module].carries:
            pending += by_module[call.module]
    return [call for call in recording.calls if id(call) in live]


def _reaching(nodes: list[Node]) -> set[str]:
    by_name = {node.name: node for node in nodes}
    reached: set[str] = set()
    pending = [nodes[-1].name, nodes[0].name]
    while pending:
        name = pending.pop()
        if name not in reached:
            reached.add(name)
            pending += [edge.source for edge in by_name[name].inputs]
    return reached
