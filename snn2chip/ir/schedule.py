"""The machine's clock: at which depth a layer lives, and how many machine steps an edge takes.

Lava and Loihi delay every synapse by one step, so a layer at depth d computes sample step t at machine step t + d.
"""

from __future__ import annotations

from snn2chip.ir.graph import Edge, Network, Node


def delays_by_one(node: Node) -> bool:
    """Whether the node is a synapse on the chip, whose output arrives in the next machine step."""
    return node.layer.synaptic and node.placement == "chip"


def depths(network: Network) -> dict[str, int]:
    """Machine steps every node lags behind the input; recurrent edges don't add to it."""
    depth: dict[str, int] = {}
    for node in network:
        before = [depth[edge.source] for edge in node.inputs if not edge.recurrent]
        depth[node.name] = max(before) + int(delays_by_one(node)) if before else 0
    for node in network:
        if node.inputs and all(edge.recurrent for edge in node.inputs):
            # A recurrent synapse feeds the population it comes from: what it delivers is due at that depth.
            depth[node.name] = max(depth[edge.source] for edge in node.inputs)
    return depth


def machine_delay(edge: Edge, node: Node, depth: dict[str, int]) -> int:
    """Machine steps between the source's value and the step in which ``node`` uses it."""
    return edge.delay + depth[node.name] - depth[edge.source]
