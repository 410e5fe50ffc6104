"""What reaches a population: one path per way from an input or a population through stateless layers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from snn2chip.emit.lava.matrices import Matrix, matrix_of
from snn2chip.errors import S2CError
from snn2chip.ir.graph import Edge, Node, Port
from snn2chip.ir.layers import Conv, Delay, Input, Linear, MatMul, MaxPool, Mul, Neuron, Shape
from snn2chip.ir.program import Program


@dataclass(frozen=True)
class Hop:
    """A stateless layer on a path, and by which of its inputs the path enters it."""

    node: Node
    position: int


@dataclass(frozen=True)
class Path:
    """One summand of a population's input.

    Args:
        source: the input, a layer on the host, or a population.
        delay: whole steps in the sample's clock, delays of single synapses not counted.
    """

    source: Node
    port: Port
    delay: int
    hops: tuple[Hop, ...]
    target: Node

    @property
    def synapse(self) -> Node | None:
        """The layer that takes a machine step."""
        return next((hop.node for hop in self.hops if hop.node.layer.synaptic), None)

    @property
    def longest_synaptic_delay(self) -> int:
        """Of the single synapses, in steps."""
        layers = (hop.node.layer for hop in self.hops)
        delays = [x.delay for x in layers if isinstance(x, Linear) and x.delay is not None]
        return max((int(delay.max(initial=0)) for delay in delays), default=0)

    def only_conv(self) -> Conv | None:
        """The convolution, if the path holds nothing else that computes or moves anything."""
        layers = [hop.node.layer for hop in self.hops if not isinstance(hop.node.layer, Delay)]
        return layers[0] if len(layers) == 1 and isinstance(layers[0], Conv) else None

    def matrix(self, program: Program, shapes: dict[str, Shape]) -> Matrix:
        """The linear map of all hops together."""
        size = 1
        for n in shapes[self.source.name]:
            size *= n
        total = Matrix.identity(size)
        for hop in self.hops:
            inputs = tuple(shapes[edge.source] for edge in hop.node.inputs)
            step = matrix_of(hop.node.layer, inputs, hop.position)
            if step is None:
                raise S2CError(
                    f"Lava has no process for a {hop.node.layer.kind} layer between populations",
                    where=hop.node.where(),
                    why="only layers that are linear in their input become synapses",
                    fix="rewrite it before quantizing (for max pooling of spikes: the pass lower_maxpool)",
                )
            total = step.after(total)
        return total


def paths_into(program: Program, target: Node) -> list[Path]:
    """Every path into a population, in the order of its inputs.

    Raises:
        S2CError: two synapses follow each other without a population, a bias sits in a synapse on the chip, or the host
            computes on the way.
    """
    paths = [path for edge in target.inputs for path in _back(program, edge, (), 0, target)]
    for path in paths:
        _check_host(program, path)
        synapses = [hop.node for hop in path.hops if hop.node.layer.synaptic]
        if len(synapses) > 1:
            raise S2CError(
                f"{synapses[0].name} feeds {synapses[1].name} without a population between them",
                where=synapses[0].where(),
                why="a synapse of Lava, as of the chip, ends in a neuron",
                fix="merge the two layers into one before quantizing",
            )
        for node in synapses:
            bias = getattr(node.layer, "bias", None)
            if bias is not None and bias.any():
                raise S2CError(
                    "a synapse on the chip has no bias of its own",
                    where=node.where(),
                    fix="a Program keeps it in the bias of the population it feeds",
                )
    return paths


def _check_host(program: Program, path: Path) -> None:
    """The host of a project hands over what it knows before the run; no population may be behind it."""
    behind, pending = {}, [path.source]
    while pending:
        node = pending.pop()
        if node.name not in behind:
            behind[node.name] = node
            pending += [] if isinstance(node.layer, Neuron) else [program[edge.source] for edge in node.inputs]
    if isinstance(path.source.layer, Neuron) or not any(isinstance(node.layer, Neuron) for node in behind.values()):
        return
    kinds = (MatMul, Mul, MaxPool)
    named = [node for node in program if node.name in behind and isinstance(node.layer, kinds)] or [path.source]
    raise S2CError(
        "the host computes between populations",
        where=named[0].where(),
        why=f"{', '.join(node.name for node in named)} ({named[0].layer.kind}) on the host answers spikes of the same "
        f"step for {path.target.name}; what the host of a Lava project hands over is computed before it runs",
        fix="the .nir file holds the program in full; simulate runs it exactly, and verify --against fast compares the "
        "two engines",
    )


def on_host(program: Program, node: Node) -> bool:
    """Whether the host computes the node before the first population."""
    return isinstance(node.layer, Input) or node.placement == "host"


def _back(program: Program, edge: Edge, after: tuple[Hop, ...], delay: int, target: Node) -> Iterator[Path]:
    node = program[edge.source]
    delay += edge.delay
    if isinstance(node.layer, Neuron) or on_host(program, node):
        yield Path(node, edge.port, delay, after, target)
        return
    own = node.layer.steps if isinstance(node.layer, Delay) else 0
    for position, before in enumerate(node.inputs):
        yield from _back(program, before, (Hop(node, position), *after), delay + own, target)
