"""The machine's clock: at which depth a layer lives, and how many machine steps an edge takes.

Lava and Loihi delay every synapse by one step, so a layer at depth d computes sample step t at machine step t + d.
"""

from __future__ import annotations

from snn2chip.errors import S2CError
from snn2chip.ir.graph import Edge, Network, Node


def delays_by_one(node: Node) -> bool:
    """Whether the node is a synapse on the chip, whose output arrives in the next machine step."""
    return node.layer.synaptic and node.placement == "chip"


def depths(network: Network) -> dict[str, int]:
    """Machine steps every node lags behind the input; what only recurrent edges feed lags as what it is due at."""
    depth: dict[str, int] = {}
    late: list[Node] = []
    for node in network:
        before = [depth[edge.source] for edge in node.inputs if not edge.recurrent and edge.source in depth]
        if before or not node.inputs:
            depth[node.name] = max(before) + int(delays_by_one(node)) if before else 0
        else:
            late.append(node)
    # The machine step of a recurrent synapse is taken from the delay of the edge that comes back.
    for node in reversed(late):
        depth[node.name] = min((depth[r.name] for r in network.consumers(node.name) if r.name in depth), default=0)
    return {node.name: depth[node.name] for node in network}


def machine_delay(edge: Edge, node: Node, depth: dict[str, int]) -> int:
    """Machine steps between the source's value and the step in which ``node`` uses it.

    Raises:
        S2CError: a loop through more populations than it has steps of delay: the machine is not there yet.
    """
    steps = edge.delay + depth[node.name] - depth[edge.source]
    if steps < int(edge.recurrent):
        raise S2CError(
            f"{edge.source} fires too late for {node.name}",
            where=node.where(),
            why="every synapse takes a machine step, and the loop they are in has fewer steps of delay than synapses",
            fix="feed back the spikes of an earlier step; in the sample's clock the network can be simulated as it is",
        )
    return steps
