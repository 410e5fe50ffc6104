"""``Network``: a checked, printable graph of layers for one time step; ``Graph``: the float one.

State lives in the neurons. The graph is acyclic except through edges marked ``recurrent``, which carry the value of an
earlier time step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeVar

import numpy as np

from snn2chip.errors import S2CError
from snn2chip.ir.layers import Add, Array, Input, Layer, Neuron, Output, Readout, Shape
from snn2chip.ir.structure import Struct

Placement = Literal["chip", "host"]
Coding = Literal["direct", "steps"]
Port = Literal["out", "v", "u"]


@dataclass(frozen=True, eq=False)
class Source(Struct):
    """Where a layer came from, for messages: the module's path in the user's model, and the line that called it."""

    module: str = ""
    file: str = ""
    line: int = 0

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.file else ""
        return " at ".join(part for part in (self.module, place) if part)


@dataclass(frozen=True, eq=False)
class Edge(Struct):
    """Where an input comes from.

    ``delay`` counts whole time steps; a ``recurrent`` edge closes a cycle and has a delay of at least one.
    ``port`` picks the neuron's output: its spikes ("out"), its membrane "v" or its current "u".
    """

    source: str
    delay: int = 0
    recurrent: bool = False
    port: Port = "out"

    def __str__(self) -> str:
        text = self.source + ("" if self.port == "out" else f".{self.port}")
        return text + (f"[t-{self.delay}]" if self.delay else "")


@dataclass(frozen=True, eq=False)
class Node(Struct):
    """A named layer with its inputs, its origin, and whether the chip or the host computes it."""

    name: str
    layer: Layer
    inputs: tuple[Edge, ...] = ()
    source: Source = field(default_factory=Source, compare=False)
    placement: Placement = "chip"

    def where(self) -> str:
        """The node for an error message: name, kind and the user's own module path or source line."""
        origin = str(self.source)
        return f"{self.name} ({self.layer.kind})" + (f", from {origin}" if origin and origin != self.name else "")


Self = TypeVar("Self", bound="Network")


@dataclass(frozen=True, eq=False)
class Network(Struct):
    """Named layers in order of execution, and what one sample means.

    Args:
        nodes: name → node, in topological order (recurrent edges aside), ending in one ``Output``.
        time_steps: T, the number of steps of a sample; None: any, taken from the data ("steps" coding only).
        coding: "direct": a sample is ``[...]`` and enters at every step; "steps": ``[T, ...]``.
    """

    nodes: Mapping[str, Node]
    time_steps: int | None
    coding: Coding

    def __getitem__(self, name: str) -> Node:
        return self.nodes[name]

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes.values())

    @property
    def input(self) -> Node:
        """The node the data enters at."""
        return next(node for node in self if isinstance(node.layer, Input))

    @property
    def output(self) -> Node:
        """The node whose value is returned."""
        return next(node for node in self if isinstance(node.layer, Output))

    @property
    def neurons(self) -> tuple[Node, ...]:
        """The populations, in order of execution."""
        return tuple(node for node in self if isinstance(node.layer, Neuron))

    @property
    def sample_shape(self) -> Shape:
        """The shape of one sample as the user gives it; -1 stands for any number of time steps."""
        shape = self.input.layer.output_shape()
        return shape if self.coding == "direct" else (self.time_steps or -1, *shape)

    def consumers(self, name: str) -> tuple[Node, ...]:
        """The nodes that read ``name``, in order of execution."""
        return tuple(node for node in self if any(edge.source == name for edge in node.inputs))

    def shapes(self) -> dict[str, Shape]:
        """The output shape of every node.

        Raises:
            S2CError: two layers do not fit; the message names the node and where the user wrote it.
        """
        shapes: dict[str, Shape] = {}
        pending = list(self)
        while pending:
            waiting = []
            for node in pending:
                if all(e.source in shapes for e in node.inputs):
                    shapes[node.name] = _shape_of(node, [shapes[e.source] for e in node.inputs])
                else:
                    waiting.append(node)
            if len(waiting) == len(pending):
                # Only cycles are left: sums keep the shape of whatever feeds them from outside the cycle.
                fed = [n for n in waiting if any(e.source in shapes for e in n.inputs)]
                summing = next((n for n in fed if isinstance(n.layer, (Neuron, Add))), None)
                if summing is None:
                    names = ", ".join(node.name for node in waiting)
                    raise S2CError("the shapes of a cycle cannot be worked out", where=names)
                first = next(shapes[e.source] for e in summing.inputs if e.source in shapes)
                shapes[summing.name] = _shape_of(summing, [shapes.get(e.source, first) for e in summing.inputs])
                waiting = [node for node in waiting if node is not summing]
            pending = waiting
        for node in self:
            _shape_of(node, [shapes[e.source] for e in node.inputs])
        return {name: shapes[name] for name in self.nodes}

    def static(self) -> frozenset[str]:
        """The nodes whose value is the same at every step of a sample: a direct-coded input and what only it feeds."""
        names: set[str] = set()
        for node in self:
            if isinstance(node.layer, Input):
                constant = self.coding == "direct"
            else:
                plain = not isinstance(node.layer, Neuron) and getattr(node.layer, "steps", None) is None
                plain = plain and getattr(node.layer, "delay", None) is None
                constant = plain and all(e.source in names and e.delay == 0 for e in node.inputs)
            if constant:
                names.add(node.name)
        return frozenset(names)

    def with_nodes(self: Self, nodes: Iterable[Node]) -> Self:
        """The same network over other nodes, put into topological order."""
        return dataclasses.replace(self, nodes=in_order(nodes))

    def verify(self: Self) -> Self:
        """Check names, order, cycles, shapes and numbers; returns itself.

        Raises:
            S2CError: the first thing wrong, with the node and where it came from.
        """
        if self.time_steps is None and self.coding == "direct":
            raise S2CError("time_steps is missing", fix="give the number of time steps of one sample, T >= 1")
        if self.time_steps is not None and self.time_steps < 1:
            raise S2CError(
                f"time_steps is {self.time_steps}", fix="give the number of time steps of one sample, T >= 1"
            )
        for kind, count in ((Input, 1), (Output, 1)):
            found = [n.name for n in self if isinstance(n.layer, kind)]
            if len(found) != count:
                raise S2CError(f"a network has one {kind.__name__}; this one has {len(found)}", where=", ".join(found))
        seen: set[str] = set()
        for name, node in self.nodes.items():
            _verify_node(name, node, seen, self.nodes)
            seen.add(name)
        self.shapes()
        return self

    def __str__(self) -> str:
        """One line a node: name, layer, shape, what it reads and where it runs, aligned."""
        shapes = self.shapes()
        rows = [
            (
                node.name,
                node.layer.kind,
                "×".join(map(str, shapes[node.name])),
                node.layer.describe(),
                ("← " + ", ".join(map(str, node.inputs))) if node.inputs else "",
                "host" if node.placement == "host" else "",
            )
            for node in self
        ]
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        head = f"{type(self).__name__} T={self.time_steps or 'any'} input={self.coding}"
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        return "\n".join([head, *(line.rstrip() for line in lines)])


@dataclass(frozen=True, eq=False)
class Graph(Network):
    """The float network: what the trained model computes at every step.

    Args:
        dt: seconds per step where the source says so, else None.
        origin: what was read, for the report ("torch model Net", "nir file …").
    """

    dt: float | None = None
    origin: str = field(default="", compare=False)


def in_order(nodes: Iterable[Node]) -> dict[str, Node]:
    """Nodes in topological order, recurrent edges aside; ties keep the order given.

    Raises:
        S2CError: two nodes share a name, or a cycle has no recurrent edge.
    """
    given: dict[str, Node] = {}
    for node in nodes:
        if node.name in given:
            raise S2CError("two nodes share a name", where=node.name)
        given[node.name] = node
    place = {name: i for i, name in enumerate(given)}
    before = {n.name: {e.source for e in n.inputs if e.source in given and not e.recurrent} for n in given.values()}
    readers: dict[str, list[str]] = {name: [] for name in given}
    for name, sources in before.items():
        for source in sources:
            readers[source].append(name)
    missing = {name: len(sources) for name, sources in before.items()}
    ordered: dict[str, Node] = {}
    ready = [name for name, count in missing.items() if count == 0]
    while ready:
        freed = []
        for name in ready:
            ordered[name] = given[name]
            for reader in readers[name]:
                missing[reader] -= 1
                if missing[reader] == 0:
                    freed.append(reader)
        ready = sorted(freed, key=place.__getitem__)
    if len(ordered) < len(given):
        raise S2CError(
            "the network has a cycle without a delay",
            where=", ".join(name for name in given if name not in ordered),
            fix="a recurrent connection must reach back at least one time step",
        )
    return ordered


def parameters(layer: Layer) -> dict[str, Array]:
    """The arrays a layer holds, those of its neuron model included, by field name."""
    holders = [layer, *([layer.model] if isinstance(layer, Neuron) else [])]
    return {
        f.name: value
        for holder in holders
        for f in dataclasses.fields(holder)
        if isinstance(value := getattr(holder, f.name), np.ndarray)
    }


def _shape_of(node: Node, inputs: list[Shape]) -> Shape:
    low, high = node.layer.inputs_allowed
    if len(inputs) < low or (high is not None and len(inputs) > high):
        raise S2CError(
            f"{node.layer.kind} takes {low} to {high or 'any number of'} inputs, not {len(inputs)}",
            where=node.where(),
        )
    try:
        return node.layer.output_shape(*inputs)
    except S2CError as error:
        if error.where:
            raise
        raise S2CError(error.what, where=node.where(), why=error.why, fix=error.fix) from None


def _verify_node(name: str, node: Node, seen: set[str], nodes: Mapping[str, Node]) -> None:
    if name != node.name:
        raise S2CError(f"the node filed under {name!r} calls itself {node.name!r}")
    for edge in node.inputs:
        if edge.source not in nodes:
            raise S2CError(f"reads {edge.source!r}, which does not exist", where=node.where())
        if edge.recurrent and edge.delay < 1:
            raise S2CError(f"the recurrent edge from {edge.source} has no delay", where=node.where())
        if not edge.recurrent and edge.source not in seen:
            raise S2CError(f"reads {edge.source} before it is computed", where=node.where())
        if isinstance(nodes[edge.source].layer, Readout) and not isinstance(node.layer, Output):
            raise S2CError(
                f"reads the read-out {edge.source}, which exists once per sample, not per step",
                where=node.where(),
            )
    for field_name, array in parameters(node.layer).items():
        # An infinite threshold is how a leaky integrator says that it never fires.
        allowed = np.isposinf(array) if field_name == "v_threshold" else False
        if array.dtype.kind == "f" and not (np.isfinite(array) | allowed).all():
            bad = int(np.count_nonzero(~np.isfinite(array)))
            raise S2CError(
                f"{field_name} holds {bad} of {array.size} values that are NaN or infinite",
                where=node.where(),
                fix="the training diverged, or the checkpoint is damaged: load weights that are finite",
            )
