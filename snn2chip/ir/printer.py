"""A network as text: one line a node, for terminals, tests and error reports."""

from __future__ import annotations

from snn2chip.ir.graph import Network


def to_text(network: Network) -> str:
    """Name, layer, shape, what it reads and where it runs, aligned."""
    shapes = network.shapes()
    rows = [
        (
            node.name,
            node.layer.kind,
            "×".join(map(str, shapes[node.name])),
            node.layer.describe(),
            ("← " + ", ".join(map(str, node.inputs))) if node.inputs else "",
            "host" if node.placement == "host" else "",
        )
        for node in network
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    head = f"{type(network).__name__} T={network.time_steps or 'any'} input={network.coding}"
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([head, *lines])
