"""A Program as Lava processes: which, with which parameters, how connected, and when their windows open.

The result is the content of ``network.json`` and ``weights.npz``; nothing here needs Lava.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from snn2chip.emit.lava.host_side import host_side
from snn2chip.emit.lava.paths import on_host, paths_into
from snn2chip.emit.lava.populations import Populations
from snn2chip.emit.lava.windows import Windows
from snn2chip.emit.lava.wiring import Wiring
from snn2chip.errors import S2CError
from snn2chip.ir.layers import Array
from snn2chip.ir.program import Program


@dataclass(frozen=True)
class Description:
    """``network`` is JSON-able; ``arrays`` holds what it refers to by name."""

    network: dict[str, Any]
    arrays: dict[str, Array]


def describe(program: Program, *, time_steps: int | None = None, power_of_two: bool = False) -> Description:
    """Lay out ``program`` as Lava processes.

    Args:
        program: what to lay out.
        time_steps: T of a sample, where the program leaves it open.
        power_of_two: round the interval between samples up to a power of two, as resets on hardware need it.

    Raises:
        S2CError: a layer that Lava cannot compute exactly; the message names it. Or T is not known.
    """
    steps = program.time_steps or time_steps
    if steps is None:
        raise S2CError(
            "the network does not say how many steps a sample has",
            why="in Lava the states are reset at fixed steps",
            fix="give time_steps",
        )
    paths = {node.name: paths_into(program, node) for node in program.neurons}
    every = [path for into in paths.values() for path in into]
    windows = Windows.of(program, every, steps, power_of_two)
    ports = {(path.source.name, path.port) for path in every if not on_host(program, path.source)}
    arrays: dict[str, Array] = {}
    wiring, processes = Wiring(program, arrays), Populations(program, windows, ports, arrays)
    populations = {}
    for node in program.neurons:
        low, high = zip(*map(wiring.connect, paths[node.name]), strict=True)
        populations[node.name] = processes.described(node, (sum(low), sum(high)))
    network = {
        "time_steps": steps,
        "interval": windows.interval,
        "coding": program.coding,
        "input": dataclasses.asdict(program.formats[program.input.name]),
        "streams": wiring.streams,
        "populations": populations,
        "synapses": wiring.synapses,
        "host": host_side(program, [stream["source"] for stream in wiring.streams.values()], arrays),
    }
    return Description(network, arrays)
