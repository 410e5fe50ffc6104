"""Some samples through a plan: spans of steps, and within a span one layer after another."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from snn2chip.ir.graph import Edge, Node
from snn2chip.ir.layers import Array, Delay, Input, Neuron, Output, Readout
from snn2chip.simulate.counting import silent
from snn2chip.simulate.data import to_integers
from snn2chip.simulate.fast import stateless
from snn2chip.simulate.fast.components import Component
from snn2chip.simulate.fast.cutting import piece_of
from snn2chip.simulate.fast.fused.lanes import Lanes
from snn2chip.simulate.fast.fused.words import Words, packed
from snn2chip.simulate.fast.plan import Chunk, Key, Plan
from snn2chip.simulate.fast.populations.population import Layout, Piece
from snn2chip.simulate.fast.sink import Sink
from snn2chip.simulate.readout import read_out


class ChunkRun:
    """Some samples through the whole network, span of steps by span of steps, states and histories carried.

    ``threads``: that share a fused population.
    """

    def __init__(self, plan: Plan, sink: Sink, start: int, n: int, steps: int, chunk: Chunk, threads: int = 1) -> None:
        self.plan, self.sink, self.start, self.n, self.steps, self.chunk = plan, sink, start, n, steps, chunk
        self.threads = threads
        whole = [c for c in plan.components if not c.stepped] if chunk.steps >= steps else []
        at_once = {node.name for component in whole for node in component.nodes}
        lanes, fused = Lanes(chunk.steps, n), plan.fused_in(Chunk(n, chunk.steps))
        self.fused = {name: run.start(lanes, carried=name not in at_once) for name, run in fused.items()}
        apart = {name: p for name, p in plan.populations.items() if name not in self.fused}
        at_once -= {name for name in apart if piece_of(plan, name, n, chunk.steps).steps < steps}
        self.states = {name: p.start(n, carried=name not in at_once) for name, p in apart.items()}
        self.past: dict[Key, torch.Tensor] = {}
        self.constant: dict[Key, torch.Tensor] = {}
        self.outputs: list[Array] = []

    def data(self, samples: Array) -> torch.Tensor:
        """The integers of the samples, [T, N, ...] or [1, N, ...]."""
        program = self.plan.program
        integers, clipped = to_integers(program, samples, self.sink.first + self.start, self.plan.input_dtype)
        self.sink.clip(clipped)
        data = torch.from_numpy(integers)
        return data.unsqueeze(0) if program.coding == "direct" else data.transpose(0, 1)

    def run(self, samples: Array) -> None:
        """All steps of the samples."""
        program, data = self.plan.program, self.data(samples)
        for t in range(0, self.steps, self.chunk.steps):
            Span(self, t, min(self.chunk.steps, self.steps - t)).run(data)
        outputs = np.concatenate(self.outputs)
        self.sink.output(self.start, read_out(program, list(outputs)))


class Span:
    """Consecutive steps of a chunk.

    Values are tensors [S, n, ...]; S is 1 where nothing changes over time. Spikes of fused populations are words, and
    unpacked when somebody else reads them.
    """

    def __init__(self, run: ChunkRun, t: int, length: int) -> None:
        self.chunk, self.plan, self.t, self.length = run, run.plan, t, length
        self.lanes = Lanes(length, run.n)
        self.values: dict[Key, torch.Tensor] = dict(run.constant)
        self.words: dict[Key, Words] = {}
        self.nonzero: dict[Key, Array] = {}

    def run(self, data: torch.Tensor) -> None:
        """Every component in order; what nobody reads any more is let go."""
        for i, component in enumerate(self.plan.components):
            self.compute(component, data)
            for node in component.nodes:
                self._count(node)
            for name in self.plan.done[i]:
                self._release(name)

    def compute(self, component: Component, data: torch.Tensor) -> None:
        """The values of a component's nodes."""
        if component.stepped:
            self._stepped(component)
        else:
            for node in component.nodes:
                self._whole(node, data)

    def _whole(self, node: Node, data: torch.Tensor) -> None:
        key = (node.name, "out")
        if key in self.values and not isinstance(node.layer, Output):  # which is added to the outputs of every span
            return
        if isinstance(node.layer, Input):
            static = self.plan.program.coding == "direct"
            found = {key: data if static else data[self.t : self.t + self.length]}
        else:
            found = self._evaluate(node, 0, self.length)
        self.values.update(found)
        if node.name in self.plan.static and found:
            self.chunk.constant[key] = found[key]

    def _stepped(self, component: Component) -> None:
        """A cycle: one step of all its nodes, then the next."""
        for t in range(self.length):
            for node in component.nodes:
                for key, value in self._evaluate(node, t, t + 1).items():
                    if t == 0:
                        self.values[key] = self._empty(node, value)
                    self.values[key][t] = value[0]

    def _empty(self, node: Node, like: torch.Tensor) -> torch.Tensor:
        """Room for all steps of a node, in the memory order of its kind."""
        n, *shape = like.shape[1:]
        if self.plan.channels_last[node.name]:
            order = (self.length, n, *shape[1:], shape[0])
            return torch.empty(order, dtype=like.dtype).movedim(-1, 2)
        return torch.empty((self.length, n, *shape), dtype=like.dtype)

    def _release(self, name: str) -> None:
        """Keep of a node's values what later spans read, and let the rest go."""
        for key in [key for key in {**self.values, **self.words} if key[0] == name]:
            depth = self.plan.history.get(key, 0)
            if depth and self.t + self.length < self.chunk.steps:
                recent = self._window(key, self.length - depth, self.length)
                self.chunk.past[key] = recent.clone()
            self.values.pop(key, None)
            self.words.pop(key, None)
            self.nonzero.pop(key, None)

    # --- values over time ---

    def _read(self, edge: Edge, lo: int, hi: int, delay: int = 0) -> torch.Tensor:
        """What arrives on an edge in steps ``lo`` to ``hi`` of the span; one step where nothing ever changes."""
        key = (edge.source, edge.port)
        if edge.delay + delay == 0 and key in self.chunk.constant:
            return self.values[key]
        return self._window(key, lo - edge.delay - delay, hi - edge.delay - delay)

    def value(self, key: Key) -> torch.Tensor | None:
        """Of all steps of the span, where it is computed."""
        if key not in self.values and key in self.words:
            self.values[key] = self.words[key].unpacked()
        return self.values.get(key)

    def _words(self, key: Key) -> Words:
        """The spikes of all steps of the span."""
        if key not in self.words:
            self.words[key] = packed(self.values[key], self.plan.fusion.grids[key[0]], self.lanes)
        return self.words[key]

    def _window(self, key: Key, first: int, end: int) -> torch.Tensor:
        """The values of steps ``first`` to ``end``, counted from the span's start; zeros before the sample began."""
        value = self.value(key)
        if value is not None and key in self.chunk.constant:
            value = value.expand(self.length, *value.shape[1:])
        if first >= 0:
            assert value is not None
            return value if (first, end) == (0, value.shape[0]) else value[first:end]
        before = self._before(key, first, min(end, 0))
        if end <= 0:
            return before
        assert value is not None
        return torch.cat([before, value[:end]])

    def _before(self, key: Key, first: int, end: int) -> torch.Tensor:
        """Steps ``first`` to ``end``, both counted from this span's start and not positive."""
        past = self.chunk.past.get(key)
        if past is None:
            depth = self.plan.history[key]
            shape = (depth, self.chunk.n, *self.plan.shapes[key[0]])
            past = self.chunk.past[key] = torch.zeros(shape, dtype=self.plan.dtype(key))
        return past[len(past) + first : len(past) + end]

    # --- one node ---

    def _evaluate(self, node: Node, lo: int, hi: int) -> dict[Key, torch.Tensor]:
        """The values of a node's ports over some steps of the span, recorded on the way.

        None of a synapse that is computed on the way into the population it feeds.
        """
        layer, key = node.layer, (node.name, "out")
        if isinstance(layer, Neuron):
            return self._population(node, lo, hi)
        if isinstance(layer, Readout | Output):
            out = self._read(node.inputs[0], lo, hi)
            if isinstance(layer, Output):
                steps = out.to(torch.int64).expand(hi - lo, *out.shape[1:])
                self.chunk.outputs.append(steps.numpy().copy())
            return {key: out}
        if isinstance(layer, Delay):
            out = self._read(node.inputs[0], lo, hi, layer.steps)
        elif node.name in self.plan.absorbed.synapses or node.name in self.plan.absorbed.streamed:
            return {}
        elif node.name in self.plan.synapses:
            out = self._synapse(node, lo, hi, slice(0, self.chunk.n))
        else:
            xs = [self._read(e, lo, hi) for e in node.inputs]
            steps_of = max(len(x) for x in xs)
            rows = [x.expand(steps_of, *x.shape[1:]).flatten(0, 1) for x in xs]
            out = self._split(self.plan.operations[node.name](rows))
        if "out" in self.chunk.sink.wanted:
            self._store(node, "out", out, lo, hi)
        return {key: out}

    def _synapse(self, node: Node, lo: int, hi: int, samples: slice) -> torch.Tensor:
        """The sums of some steps and samples."""
        synapse, (edge,) = self.plan.synapses[node.name], node.inputs
        total: torch.Tensor | None = None
        for delay, chosen in synapse.parts:
            x = self._read(edge, lo, hi, delay)[:, samples]
            rows = _in_memory_order(x, self.plan.channels_last[edge.source]).flatten(0, 1)
            y = chosen.run(rows.movedim(-1, 1) if self.plan.channels_last[edge.source] else rows)
            y = y.view(len(x), -1, *y.shape[1:]).to(synapse.dtype)
            total = y if total is None else total + y
        assert total is not None
        return total

    def _split(self, rows: torch.Tensor) -> torch.Tensor:
        """[S·n, ...] → [S, n, ...], whatever the order in memory."""
        return rows.view(-1, self.chunk.n, *rows.shape[1:])

    def _population(self, node: Node, lo: int, hi: int) -> dict[Key, torch.Tensor]:
        if node.name in self.plan.maxima:
            return self._maximum(node, lo, hi)
        if node.name in self.chunk.fused:
            sources = [self._words((source, "out")) for source in self.plan.fusion.reads[node.name]]
            fused, states = self.plan.fusion.populations[node.name], self.chunk.fused[node.name]
            return self._as_words(node, fused.run(sources, self.lanes, states, self.t == 0, self.chunk.threads))
        population, layout = self.plan.populations[node.name], self.plan.populations[node.name].layout
        steps, n, key = hi - lo, self.chunk.n, (node.name, "out")
        past = None
        if population.recurrent is not None:
            past = self._before(key, -self.plan.history[key], 0).reshape(-1, n * layout.size).contiguous().numpy()
        run = population.room(steps, n)
        for piece in self._pieces(node, steps):
            inputs = self._way_in(node, lo, piece)
            if "a" in self.chunk.sink.wanted:
                total = sum((x.to(torch.int64) for x in inputs[1:]), start=inputs[0].to(torch.int64))
                self._store(node, "a", total, lo, hi)
            rows = [_in_memory_order(x, layout.channels_last).reshape(len(x), -1).numpy() for x in inputs]
            first = self.t + lo + piece.step == 0
            population.run(run, piece, self.chunk.states[node.name], rows, first, past)
        if steps == self.length:
            self.nonzero[key] = run.fired
        else:
            self.nonzero.setdefault(key, np.empty((self.length, n), np.int64))[lo:hi] = run.fired
        out = self._from_memory(run.out, layout)
        if "spikes" in self.chunk.sink.wanted:
            self._store(node, "spikes", out, lo, hi)
        found = {key: out}
        for name, history in run.histories.items():
            values = self._from_memory(history, layout)
            if name in self.chunk.sink.wanted:
                self._store(node, name, values, lo, hi)
            if (node.name, name) in self.plan.ports:
                found[node.name, name] = values.to(self.plan.dtype((node.name, name)))
        return found

    def _maximum(self, node: Node, lo: int, hi: int) -> dict[Key, torch.Tensor]:
        """A population that sends the maxima of what its synapse reads."""
        synapse, key = self.plan.program[node.inputs[0].source], (node.name, "out")
        (edge,), maximum = synapse.inputs, self.plan.maxima[node.name]
        if (edge.source, edge.port) in self.words and not edge.delay and hi - lo == self.length:
            words = self.words[edge.source, edge.port]
            return self._as_words(node, words.widest(maximum.windows, self.plan.fusion.grids[node.name]))
        x = self._read(edge, lo, hi).flatten(0, 1)
        rows = maximum.run([x])
        self.nonzero[key] = self.plan.nonzeros(rows).reshape(-1, self.chunk.n)
        out = self._split(rows)
        if "spikes" in self.chunk.sink.wanted:
            self._store(node, "spikes", out, lo, hi)
        return {key: out}

    def _as_words(self, node: Node, words: Words) -> dict[Key, torch.Tensor]:
        """Nothing but words is there of what a population sends, until somebody reads it."""
        key = (node.name, "out")
        self.words[key] = words
        self.nonzero[key] = words.counted(1)
        if "spikes" in self.chunk.sink.wanted:
            self._store(node, "spikes", words.unpacked(), 0, self.length)
        return {}

    def _pieces(self, node: Node, steps: int) -> Iterator[Piece]:
        """What of a population is computed at once, in turn; a sample's steps one behind the other."""
        n = self.chunk.n
        size = piece_of(self.plan, node.name, n, steps)
        for sample in range(0, n, size.samples):
            for step in range(0, steps, size.steps):
                yield Piece(step, min(size.steps, steps - step), sample, min(size.samples, n - sample))

    def _way_in(self, node: Node, lo: int, piece: Piece) -> list[torch.Tensor]:
        """What a population reads in a piece of the steps from ``lo``, streamed sums among it: [S, n, ...] each."""
        lo, hi = lo + piece.step, lo + piece.step + piece.steps
        samples = slice(piece.sample, piece.sample + piece.samples)
        return [
            self._synapse(self.plan.program[read.edge.source], lo, hi, samples)
            if read.edge.source in self.plan.absorbed.streamed
            else self._read(read.edge, lo, hi)[:, samples]
            for read in self.plan.absorbed.reads[node.name]
        ]

    def _from_memory(self, rows: Array, layout: Layout) -> torch.Tensor:
        values = torch.from_numpy(rows).reshape(len(rows), self.chunk.n, *layout.memory_shape)
        return values.movedim(-1, 2) if layout.channels_last else values

    # --- what is reported ---

    def _count(self, node: Node) -> None:
        """The operations of a node in all steps of the span."""
        counts, steps = self.chunk.sink.counts[node.name], slice(self.t, self.t + self.length)
        if isinstance(node.layer, Neuron) and not silent(node):
            counts.spikes[self._samples, steps] = self.nonzero[node.name, "out"].T
        static = node.name in self.plan.static
        if macs := self.plan.host_macs.get(node.name):
            counts.macs[self._samples, 0 if static else steps] = macs
        synapse = self.plan.synapses.get(node.name)
        if synapse is not None and synapse.events is not None:
            events = self._events(node.inputs[0], synapse.events)
            counts.synops[self._samples, slice(None) if static else steps] = events.T

    def _events(self, edge: Edge, events: stateless.Events) -> Array:
        """[S, n] synaptic events of what arrives on an edge."""
        key = (edge.source, edge.port)
        found = None if edge.delay else self.nonzero.get(key)
        if found is not None and key in self.words:
            elsewhere = self.words[key].counted(events.corrections) if events.elsewhere is not None else 0
            return found * events.fan + elsewhere
        x = self._read(edge, 0, self.length)
        if found is None:
            found = self.plan.nonzeros(x.flatten(0, 1)).reshape(-1, self.chunk.n)
            if not edge.delay:
                self.nonzero[key] = found
        total = found * events.fan
        if events.elsewhere is not None:
            total += events.elsewhere(x.flatten(0, 1)).reshape(total.shape)
        return total

    @property
    def _samples(self) -> slice:
        return slice(self.chunk.start, self.chunk.start + self.chunk.n)

    def _store(self, node: Node, what: str, values: torch.Tensor, lo: int, hi: int) -> None:
        if node.name in self.plan.static:
            self.chunk.sink.store(node.name, what, self.chunk.start, 0, values, self.chunk.steps)
        else:
            self.chunk.sink.store(node.name, what, self.chunk.start, self.t + lo, values, hi - lo)


def _in_memory_order(x: torch.Tensor, channels_last: bool) -> torch.Tensor:
    """[S, n, C, ...] → contiguous [S, n, ..., C] where channels lie last, else contiguous as it is."""
    return (x.movedim(2, -1) if channels_last else x).contiguous()
