"""Grow the graph backwards from the output: layers for operators, populations for recurrences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from snn2chip.errors import S2CError
from snn2chip.frontend.onnx.layers import convert, shifted, unbatched, with_constant
from snn2chip.frontend.onnx.populations import Population
from snn2chip.frontend.onnx.recurrence import Cones
from snn2chip.frontend.onnx.states import stem
from snn2chip.frontend.onnx.step import ELEMENTWISE, Op, Step
from snn2chip.ir import layers as L
from snn2chip.ir.graph import Edge, Node, Source
from snn2chip.ir.layers import Array
from snn2chip.neurons.lif import LIF

_SAME = ("Identity", "Cast", "CastLike", "Dropout")


class Builder:
    """Nodes of one step's graph, made when something reads them."""

    def __init__(self, step: Step, found: Sequence[Population]) -> None:
        self.step, self._cones = step, Cones(step)
        self.nodes: dict[str, Node] = {}
        self._edges: dict[str, Edge] = {}
        self._pending: list[Population] = []
        self._open: list[str] = []
        self._shared = Counter(op.source.module for op in step.ops if op.source.module)
        self._taken: set[str] = set()
        self._input = self._free(stem(step.data) or step.data)
        self.nodes[self._input] = Node(self._input, L.Input(step.shape(step.data)), (), Source(step.data))
        self.populations = [replace(p, name=self._free(p.name)) for p in found]

    def build(self, output: str) -> Edge:
        """The edge that carries ``output``; all nodes it needs are in :attr:`nodes` afterwards, in no order."""
        edge = self.edge(output)
        while self._pending:
            population = self._pending.pop()
            inputs = tuple(self._scaled(self.edge(name), factor, population) for name, factor in population.inputs)
            self.nodes[population.name] = Node(population.name, L.Neuron(population.model), inputs, population.source)
        self._mark_recurrent()
        return edge

    def edge(self, tensor: str) -> Edge:
        """Where a tensor comes from.

        Raises:
            S2CError: no layer computes it.
        """
        if tensor not in self._edges:
            if tensor in self._open:
                loop = [*self._open[self._open.index(tensor) :], tensor]
                states = [name for name in dict.fromkeys(loop) if name in self.step.states]
                raise S2CError(
                    "a loop has no neuron in it",
                    where=" → ".join(loop),
                    why=f"the next value of {', '.join(states)} is put together by other than elementwise operators",
                    fix="give every membrane and every current a state of its own, not one tensor for several",
                )
            self._open.append(tensor)
            self._edges[tensor] = self._found(tensor)
            self._open.pop()
        return self._edges[tensor]

    def _found(self, tensor: str) -> Edge:
        if tensor == self.step.data:
            return Edge(self._input)
        edge = self._of_population(tensor)
        if edge is not None:
            return edge
        if tensor in self.step.states:
            return self._late(tensor)
        op = self.step.producers.get(tensor)
        if op is None or self.step.constant(tensor) is not None:
            raise S2CError(
                "a constant is used where the data should be",
                where=tensor,
                fix="export a model whose output depends on its input alone",
            )
        if op.kind in ELEMENTWISE:
            return self._elementwise(op)
        converted = convert(op, self.step, tensor)
        return self._chain([self.edge(name) for name in converted.inputs], converted.layers, op)

    def _of_population(self, tensor: str) -> Edge | None:
        """The port of the last population that a tensor sees, if it is one."""
        seen = self._cones.states(tensor)
        for population in reversed(self.populations):
            if seen & population.states:
                try:
                    found = population.reads(tensor)
                except S2CError:
                    return None
                if found is None:
                    return None
                if population.name not in self.nodes and population not in self._pending:
                    self._pending.append(population)
                return Edge(population.name, found[1], port=found[0])
        return None

    def _late(self, tensor: str) -> Edge:
        """A state that only passes on a value of the step before."""
        state = self.step.states[tensor]
        if state.start.any():
            raise S2CError(
                "a value of the step before is not zero at the start of a sample",
                where=tensor,
                why="a delayed connection delivers zeros before the first step",
                fix="start it from zeros",
            )
        before = self.edge(state.out)
        return replace(before, delay=before.delay + 1)

    def _elementwise(self, op: Op) -> Edge:
        constants = [self.step.constant(name) if name else None for name in op.inputs]
        moving = [name for name, value in zip(op.inputs, constants, strict=True) if name and value is None]
        if op.kind in _SAME:
            self._refuse_training(op)
            return self.edge(op.inputs[0])
        if op.kind == "Neg":
            return self._scaled_by(op, np.asarray(-1.0, np.float32))
        if op.kind in ("Add", "Sum", "Sub"):
            return self._sum(op, constants, moving)
        if op.kind == "Mul" and len(moving) == 2:
            return self._chain([self.edge(name) for name in moving], (L.Mul(),), op)
        if op.kind == "Mul":
            return self._scaled_by(op, next(value for value in constants if value is not None))
        if op.kind == "Div" and constants[1] is not None:
            return self._scaled_by(op, (1 / constants[1].astype(np.float64)).astype(np.float32))
        if op.kind in ("Greater", "GreaterOrEqual") and constants[1] is not None:
            return self._fire_test(op, constants[1])
        raise S2CError(
            f"{op.kind} is applied to a value that is no neuron's",
            where=op.where,
            why="between neurons a network has linear layers, pooling, sums and products",
            fix="use spiking neurons in place of other activations",
        )

    def _refuse_training(self, op: Op) -> None:
        training = self.step.constant(op.inputs[2]) if len(op.inputs) > 2 and op.inputs[2] else None
        if op.kind == "Dropout" and training is not None and training.any():
            raise S2CError("a dropout in training mode", where=op.where, fix="call model.eval() and export again")

    def _sum(self, op: Op, constants: list[Array | None], moving: list[str]) -> Edge:
        negative = op.inputs[1] if op.kind == "Sub" else None
        added = [-c if name == negative else c for name, c in zip(op.inputs, constants, strict=True) if c is not None]
        if added and len(moving) == 1 and moving[0] != negative:
            return self._plus_constant(op, moving[0], np.asarray(sum(added[1:], start=added[0])))
        edges = [self.edge(name) for name in moving]
        minus = np.asarray(-1.0, np.float32)
        if negative in moving:
            edges[-1] = self._chain([edges[-1]], (L.Scale(minus),), op)
        if not added:
            return self._chain(edges, (L.Add(),), op)
        layer = shifted(added[0], self.step.shape(op.outputs[0]))
        if layer is None:
            raise self._no_constant(op)
        return self._chain(edges, (*((L.Add(),) if len(edges) > 1 else ()), layer), op)

    def _plus_constant(self, op: Op, moving: str, constant: Array) -> Edge:
        shape = self.step.shape(op.outputs[0])
        base = self.step.producers.get(moving)
        if base is not None and base.kind not in ELEMENTWISE and self.step.readers(moving) == 1:
            converted = convert(base, self.step, moving)
            if len(converted.layers) == 1 and (layer := with_constant(converted.layers[0], constant, shape)):
                return self._chain([self.edge(name) for name in converted.inputs], (layer,), base)
        added = shifted(constant, shape)
        if added is None:
            raise self._no_constant(op)
        return self._chain([self.edge(moving)], (added,), op)

    def _no_constant(self, op: Op) -> S2CError:
        return S2CError(
            "a constant is added that is not the same for a whole channel",
            where=op.where,
            fix="put it into the bias of the layer before",
        )

    def _scaled_by(self, op: Op, factor: Array) -> Edge:
        shape = self.step.shape(op.outputs[0])
        moving = next(name for name in op.inputs if self.step.constant(name) is None)
        plain = unbatched(factor, shape)
        edge = self.edge(moving)
        return edge if (plain == 1).all() else self._chain([edge], (L.Scale(plain),), op)

    def _fire_test(self, op: Op, threshold: Array) -> Edge:
        """A comparison without a state: neurons that forget everything."""
        model = LIF(
            unbatched(threshold, self.step.shape(op.outputs[0])),
            np.zeros(()),
            fire=">" if op.kind == "Greater" else ">=",
            reset="none",
        )
        return self._chain([self.edge(op.inputs[0])], (L.Neuron(model),), op)

    def _scaled(self, edge: Edge, factor: Array | None, population: Population) -> Edge:
        if factor is None:
            return edge
        name = self._free(f"{population.name}.scale")
        self.nodes[name] = Node(name, L.Scale(np.asarray(factor, np.float32)), (edge,), population.source)
        return Edge(name)

    def _chain(self, edges: list[Edge], layers: tuple[L.Layer, ...], op: Op) -> Edge:
        for layer in layers:
            name = self._free(self._name(op, layer))
            self.nodes[name] = Node(name, layer, tuple(edges), op.source)
            edges = [Edge(name)]
        (edge,) = edges
        return edge

    def _name(self, op: Op, layer: L.Layer) -> str:
        """The module's path where an operator is all it does, else the path and the layer."""
        weights = [name for name in op.inputs if name.endswith(".weight") and name in self.step.initializers]
        if weights and layer.synaptic:
            return weights[0].removesuffix(".weight")
        module, kind = op.source.module, layer.kind.lower()
        if module:
            return module if self._shared[module] == 1 else f"{module}.{kind}"
        return op.name.strip("/").removeprefix("node_").replace("/", ".") or kind

    def _free(self, name: str) -> str:
        free = (
            name
            if name not in self._taken
            else next(f"{name}_{i}" for i in range(2, len(self._taken) + 3) if f"{name}_{i}" not in self._taken)
        )
        self._taken.add(free)
        return free

    def _mark_recurrent(self) -> None:
        """A delayed edge that closes a loop is recurrent."""
        before = {name: {edge.source for edge in node.inputs} for name, node in self.nodes.items()}
        for name, node in list(self.nodes.items()):
            edges = tuple(
                replace(edge, recurrent=edge.delay > 0 and name in _reached(before, edge.source))
                for edge in node.inputs
            )
            self.nodes[name] = replace(node, inputs=edges)


def _reached(before: dict[str, set[str]], start: str) -> set[str]:
    found, pending = {start}, [start]
    while pending:
        new = before[pending.pop()] - found
        found |= new
        pending += new
    return found
