"""How much memory a simulation takes, stated before it runs: the reference engine's share, and what every Result holds.

The fast engine's share is in ``fast/explain.py``, because it depends on the kernels chosen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from snn2chip.ir.graph import Network, Node
from snn2chip.ir.layers import Conv, Linear, Neuron, Pool, Shape
from snn2chip.ir.schedule import depths

# Every value of the reference engine is a 64-bit integer, or a float of at most that width.
_WORD = 8
# Values an integer neuron step holds at once per neuron: its input, its states before and after, the comparisons,
# shifts and selections between them (the widest neuron, the two-phase one, holds this many).
_STEP_VALUES = 24


@dataclass(frozen=True)
class Memory:
    """Bytes beyond what the process held before: ``workers`` chunks at once, and the Result."""

    chunk: int
    workers: int
    result: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.chunk * self.workers + self.result


def reference_memory(network: Network, samples: int, steps: int, batch_size: int, *, machine: bool = False) -> Memory:
    """What :mod:`snn2chip.simulate.reference` holds at most when nothing is recorded.

    Args:
        network: a Graph or a Program.
        samples, steps, batch_size: of the run.
        machine: whether it runs in the machine's clock, where every edge keeps past steps.
    """
    shapes = network.shapes()
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    deep = depths(network) if machine else {}
    past = sum(
        sizes[edge.source] * (edge.delay + _own_delay(node) + abs(deep.get(node.name, 0) - deep.get(edge.source, 0)))
        for node in network
        for edge in node.inputs
    )
    step = sum(sizes.values()) + max(_temporary(node, shapes) for node in network)
    states = 4 * sum(sizes[node.name] for node in network.neurons)
    data = 3 * sizes[network.input.name] * (1 if network.coding == "direct" else steps)
    outputs = 3 * sizes[network.output.name] * steps
    chunk = _WORD * min(samples, batch_size) * (step + past + states + data + outputs)
    # Results of batches are joined: all of them and the whole are there at once.
    return Memory(chunk, 1, 2 * result_bytes(network, samples, steps))


def result_bytes(network: Network, samples: int, steps: int) -> int:
    """Bytes of a Result without recordings: four counts per layer and step, and the outputs twice."""
    outputs = 2 * math.prod(network.shapes()[network.output.name])
    return _WORD * samples * steps * (4 * len(network.nodes) + outputs)


def _own_delay(node: Node) -> int:
    if isinstance(node.layer, Linear) and node.layer.delay is not None:
        return int(node.layer.delay.max(initial=0))
    return int(getattr(node.layer, "steps", 0) or 0)


def _temporary(node: Node, shapes: dict[str, Shape]) -> int:
    """Values per sample held only while a node is computed."""
    size = math.prod(shapes[node.name])
    given = sum(math.prod(shapes[edge.source]) for edge in node.inputs)
    if isinstance(node.layer, Neuron):
        return _STEP_VALUES * size
    if isinstance(node.layer, Conv):
        # The unfolded windows as integers and as floats, the product as both, the padded input.
        windows = size // shapes[node.name][0] * math.prod(node.layer.kernel) * shapes[node.inputs[0].source][0]
        return 2 * windows + 4 * size + 4 * given
    if isinstance(node.layer, Pool):
        return size * math.prod(node.layer.kernel) + 4 * given
    return 4 * (size + given)
