"""The NIR graph of a program while it is built: its nodes, its scales, and what it says only approximately."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from snn2chip.ir import layers as L
from snn2chip.ir.graph import Edge, Node
from snn2chip.ir.program import Program

# Layers NIR needs no node for: it adds what arrives at a node, and reads out nothing.
PASS_THROUGH = (L.Add, L.Readout)


class NoWordError(Exception):
    """NIR has nothing for a part of the program, not even approximately."""


@dataclass
class View:
    """The NIR graph of a program while it is built.

    ``scale`` is the trained network's value of one LSB of a node's output, where it is known.
    """

    program: Program
    approximate: dict[str, list[str]]
    dt: float
    nodes: dict[str, dict[str, Any]] = field(default_factory=dict)
    edges: list[tuple[str, str]] = field(default_factory=list)
    scale: dict[str, float] = field(default_factory=dict)

    def note(self, node: Node, reason: str) -> None:
        """Say that the NIR graph tells this node only approximately."""
        self.approximate.setdefault(node.name, []).append(reason)

    def sources(self, node: Node) -> list[str]:
        """What feeds the node in the NIR graph: nodes without a NIR word of their own are looked through."""
        found: list[str] = []
        for edge in node.inputs:
            source = self.program[edge.source]
            self._check_edge(node, edge, source)
            found += self.sources(source) if type(source.layer) in PASS_THROUGH else [edge.source]
        if len(set(found)) != len(found):
            raise NoWordError(f"NIR cannot add a node's output twice: {node.where()}")
        return found

    def _check_edge(self, node: Node, edge: Edge, source: Node) -> None:
        integrates = isinstance(source.layer, L.Neuron) and source.layer.model.v_threshold is None
        if edge.port == "u" or (edge.port == "v" and not integrates):
            self.note(node, f"reads the state {edge.port} of {edge.source}; NIR connects outputs only")
        if edge.delay > int(edge.recurrent):
            self.note(node, f"the delay of {edge.delay} steps from {edge.source} is not in the NIR graph")

    def dequantize(self) -> None:
        """Find the trained value of one LSB of every node, from the input onwards."""
        formats, shift = self.program.formats, self.program.target.arithmetic.input_shift
        for node in self.program:
            stated = formats.get(node.name)
            before = [self.scale[edge.source] for edge in node.inputs if edge.source in self.scale]
            if stated is not None:
                own = stated.scale
            elif isinstance(node.layer, L.Neuron):
                own = self.membrane(node, shift) if node.layer.model.v_threshold is None else 1.0
            elif node.layer.synaptic:
                own = self.weight_scale(node) * (before[0] if before else 1.0)
            else:
                own = before[0] if before else 1.0
            if isinstance(node.layer, L.Rescale) and stated is None:
                own *= float(1 << node.layer.shift)
            self.scale[node.name] = own

    def weight_scale(self, node: Node) -> float:
        """The trained value of one LSB of a weight; 1 where the program does not say."""
        stated = self.program.formats.get(f"{node.name}.weight")
        return 1.0 if stated is None else stated.scale

    def drive(self, node: Node) -> float:
        """The trained value of one LSB of what arrives at a population."""
        return next((self.scale[edge.source] for edge in node.inputs if edge.source in self.scale), 1.0)

    def without_memory(self, node: Node) -> bool:
        """Whether the population's current keeps nothing, so that a bias of the membrane equals one of the current."""
        model = node.layer.model  # type: ignore[attr-defined]
        return bool((model.decay_u >= 1 << self.program.target.arithmetic.decay_bits).all())

    def membrane(self, node: Node, shift: int) -> float:
        """The trained value of one LSB of the membrane; that of the input where the program does not say."""
        stated = self.program.formats.get(f"{node.name}.v")
        return self.drive(node) / (1 << shift) if stated is None else stated.scale
