"""The structure of a NIR graph: subgraphs inlined, what reaches the output, and loops opened by one time step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from snn2chip.errors import S2CError
from snn2chip.frontend.hdf5 import Tree
from snn2chip.ir.graph import Edge

Connection = tuple[str, str]

# Nodes that keep a state and fire: where a loop may be opened by a time step.
_FIRING = ("IF", "LIF", "CubaLIF", "I", "LI", "CubaLI", "Threshold")


@dataclass(frozen=True)
class Links:
    """What feeds what, without loops.

    Args:
        order: nodes, every one after those it reads in the same step.
        inputs: node → its input edges; those that close a loop are recurrent, one step late.
        output: the node that is read.
        advanced: Delay node → steps the recurrent edge of its loop has already taken.
    """

    order: tuple[str, ...]
    inputs: Mapping[str, tuple[Edge, ...]]
    output: str
    advanced: Mapping[str, int]

    def consumers(self, name: str) -> list[str]:
        """The nodes that read ``name``."""
        return [node for node, edges in self.inputs.items() if any(edge.source == name for edge in edges)]


def inlined(tree: Tree) -> tuple[dict[str, Tree], list[Connection]]:
    """The nodes and connections of a graph, subgraphs flattened; the Input and Output of a subgraph vanish.

    Raises:
        S2CError: a connection names no node or is there twice, or a subgraph has not one Input and one Output.
    """
    nodes, edges, ports = _collected(tree, "")
    for port in ports:
        before = [a for a, b in edges if b == port]
        after = [b for a, b in edges if a == port]
        edges = [e for e in edges if port not in e] + [(a, b) for a in before for b in after]
        del nodes[port]
    twice = sorted({e for e in edges if edges.count(e) > 1})
    if twice:
        raise S2CError(
            "a connection is there twice",
            where=" → ".join(twice[0]),
            why="NIR adds what arrives at a node, so it would count double; some exporters repeat edges by mistake",
            fix="remove the repeated edge from the graph",
        )
    return nodes, edges


def _collected(tree: Tree, prefix: str) -> tuple[dict[str, Tree], list[Connection], list[str]]:
    if not isinstance(tree.get("nodes"), dict) or "edges" not in tree:
        raise S2CError("the graph has no nodes or no edges", where=prefix.rstrip("."), fix="export the network again")
    nodes: dict[str, Tree] = {}
    edges = _edges(tree["edges"], tree["nodes"], prefix)
    ports: list[str] = []
    for name, fields in tree["nodes"].items():
        full = prefix + name
        kind = fields.get("type") if isinstance(fields, dict) else None
        if not isinstance(kind, str):
            raise S2CError("the node has no type", where=full, fix="export the network again")
        if kind != "NIRGraph":
            _add(nodes, full, fields)
            continue
        inner, inner_edges, inner_ports = _collected(fields, full + ".")
        own = [n for n in inner if n not in inner_ports]
        entry, exit_ = (_only(inner, own, wanted, full) for wanted in ("Input", "Output"))
        for inner_name, inner_fields in inner.items():
            _add(nodes, inner_name, inner_fields)
        edges = [(exit_ if a == full else a, entry if b == full else b) for a, b in edges] + inner_edges
        ports += [*inner_ports, entry, exit_]
    return nodes, edges, ports


def _add(nodes: dict[str, Tree], name: str, fields: Tree) -> None:
    if name in nodes:
        raise S2CError("two nodes share a name once subgraphs are opened", where=name, fix="rename one of them")
    nodes[name] = fields


def _edges(stored: object, nodes: Mapping[str, Tree], prefix: str) -> list[Connection]:
    pairs = np.asarray(stored, dtype=object)
    if pairs.size and (pairs.ndim != 2 or pairs.shape[1] != 2):
        raise S2CError("the edges are no pairs of node names", where=prefix.rstrip("."), fix="export the network again")
    edges = [(str(a), str(b)) for a, b in pairs] if pairs.size else []
    for a, b in edges:
        for end in (a, b):
            if end not in nodes:
                raise S2CError(
                    f"an edge names {end!r}, which is no node",
                    where=f"{prefix}{a} → {prefix}{b}",
                    fix=f"nodes: {', '.join(nodes)}",
                )
    return [(prefix + a, prefix + b) for a, b in edges]


def _only(nodes: Mapping[str, Tree], own: list[str], kind: str, graph: str) -> str:
    found = [name for name in own if nodes[name]["type"] == kind]
    if len(found) != 1:
        raise S2CError(
            f"a subgraph has one {kind}; this one has {len(found)}",
            where=graph,
            fix="give the subgraph one Input and one Output, or inline it",
        )
    return found[0]


def reaching(nodes: Mapping[str, Tree], edges: list[Connection], output: str) -> list[Connection]:
    """The connections on a way to ``output``.

    Raises:
        S2CError: nodes on the way read nothing, or there is not one Input among them.
    """
    needed, pending = {output}, [output]
    while pending:
        name = pending.pop()
        new = {a for a, b in edges if b == name} - needed
        needed |= new
        pending += new
    kept = [(a, b) for a, b in edges if a in needed and b in needed]
    inputs = [name for name in nodes if name in needed and nodes[name]["type"] == "Input"]
    if len(inputs) != 1:
        raise S2CError(
            f"a network has one Input; {len(inputs)} lead to {output}",
            where=", ".join(inputs),
            fix="join what enters in one Input, or name an output that one Input leads to: output=...",
        )
    fed = {b for _, b in kept}
    starved = [name for name in nodes if name in needed and name not in fed and name != inputs[0]]
    if starved:
        raise S2CError(
            "a node reads nothing", where=f"{starved[0]} ({nodes[starved[0]]['type']})", fix="connect it, or remove it"
        )
    return kept


def cut_loops(nodes: Mapping[str, Tree], edges: list[Connection], output: str) -> Links:
    """Open every loop at the edge that leaves its last neuron, seen from the input: that edge carries the step before.

    Raises:
        S2CError: a loop has no neuron, or a node of a loop also feeds the rest of the network.
    """
    late: set[Connection] = set()
    advanced: dict[str, int] = {}
    while loop := _loop(nodes, [e for e in edges if e not in late]):
        neurons = [i for i, name in enumerate(loop) if nodes[name]["type"] in _FIRING]
        if not neurons:
            raise S2CError(
                "a loop has no neuron in it",
                where=" → ".join([*loop, loop[0]]),
                why="its value would not end",
                fix="put a neuron into the loop",
            )
        way = [*loop[neurons[-1] :], loop[0]]
        for name in way[1:-1]:
            others = [b for a, b in edges if a == name and b not in way]
            if others:
                raise S2CError(
                    f"a node of a loop also feeds {others[0]}",
                    where=f"{name} ({nodes[name]['type']})",
                    why="the loop reads the step before, the other branch the present one",
                    fix="give each branch its own copy of the node",
                )
        late.add((way[0], way[1]))
        delay = next((name for name in way[1:-1] if nodes[name]["type"] == "Delay"), None)
        if delay is not None:
            advanced[delay] = 1
    inputs = {
        name: tuple(Edge(a, int((a, b) in late), (a, b) in late) for a, b in edges if b == name)
        for name in nodes
        if name == output or any(name in e for e in edges)
    }
    return Links(_sorted(inputs), inputs, output, advanced)


def _loop(nodes: Mapping[str, Tree], edges: list[Connection]) -> list[str]:
    """The first loop that a walk from the input meets, beginning at the node it returns to; empty without loops."""
    after: dict[str, list[str]] = {}
    for a, b in edges:
        after.setdefault(a, []).append(b)
    done: set[str] = set()
    starts = sorted(after, key=lambda name: nodes[name]["type"] != "Input")
    for start in starts:
        path, rest = [start], [iter(after.get(start, ()))]
        while path:
            step = next(rest[-1], None) if path[-1] not in done else None
            if step is None:
                done.add(path.pop())
                rest.pop()
            elif step in path:
                return path[path.index(step) :]
            elif step not in done:
                path.append(step)
                rest.append(iter(after.get(step, ())))
    return []


def _sorted(inputs: Mapping[str, tuple[Edge, ...]]) -> tuple[str, ...]:
    order: list[str] = []
    pending = dict(inputs)
    while pending:
        ready = [n for n, es in pending.items() if not any(e.source in pending and not e.recurrent for e in es)]
        order += ready
        for name in ready:
            del pending[name]
    return tuple(order)
