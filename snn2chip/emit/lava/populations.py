"""Populations as Lava processes: the native neuron where it computes the same, else one that runs the integer step."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from snn2chip.emit.lava.axes import in_lava_order, lava_shape
from snn2chip.emit.lava.native import native_parameters
from snn2chip.emit.lava.windows import Windows
from snn2chip.errors import S2CError
from snn2chip.ir.graph import Node
from snn2chip.ir.layers import Array, Shape
from snn2chip.ir.program import Program
from snn2chip.ir.schedule import depths
from snn2chip.neurons.base import IntegerNeuron, Range
from snn2chip.neurons.lif import IntegerLIF

_MESSAGE_REACH = 1 << 31  # every channel carries int32


def program_name(model: IntegerNeuron) -> str:
    """What a project calls the file that holds a neuron's program: the module it comes from."""
    return model.program[-1].__module__.rsplit(".", 1)[-1]


class Populations:
    """Describes one population after the other.

    Args:
        program: what they belong to.
        windows: when they compute.
        ports: (population, port) that another population reads.
        arrays: where their arrays go.
    """

    def __init__(
        self, program: Program, windows: Windows, ports: Collection[tuple[str, str]], arrays: dict[str, Array]
    ) -> None:
        self.program, self.windows, self.ports, self.arrays = program, windows, ports, arrays
        self.shapes, self.depth = program.shapes(), depths(program)

    def described(self, node: Node, arriving: Range) -> dict[str, Any]:
        """The process of a population, and its parameters.

        Args:
            node: the population.
            arriving: smallest and largest sum that can reach it in one step.

        Raises:
            S2CError: no process is known for it, or its sums do not fit a message.
        """
        model = node.layer.model  # type: ignore[attr-defined]
        if not isinstance(model, IntegerNeuron):
            raise S2CError(
                f"no Lava process is known for a {node.layer.kind} neuron",
                where=node.where(),
                fix="quantize the Graph first: only integer neurons run on Lava",
            )
        largest = max(-arriving[0], arriving[1])
        if largest >= _MESSAGE_REACH:
            raise S2CError(
                f"its summed input may reach {largest}",
                where=node.where(),
                why="Lava carries 32-bit messages",
                fix="quantize with fewer weight bits or a coarser input",
            )
        shape, first = self.shapes[node.name], self.depth[node.name] + 1
        native, why = None, self._beyond_native(node)
        if not isinstance(model, IntegerLIF):
            why = f"Lava has no {model.kind} neuron"
        elif not why:
            native, why = native_parameters(model, self.program.target.arithmetic, arriving, self.windows.steps)
        if native is not None:
            process = {"reset_interval": self.windows.interval, "reset_offset": first % self.windows.interval}
            kind, values = "LIFReset", native
        else:
            process = {"reset_interval": self.windows.interval, "first_step": first, "window": self.windows.steps}
            start = {name: value[0] for name, value in model.start((1, *shape)).items()}
            given = model.parameters(self.program.target.arithmetic)
            kind, values = "IntegerNeuron", {"program": program_name(model), "start": start, "values": given}
        stored = {key: self._parameter(f"{node.name}/{key}", value, shape) for key, value in values.items()}
        return {
            "process": kind,
            "reason": why,
            "depth": self.depth[node.name],
            "shape": list(shape),
            "integrates_only": model.v_threshold is None,
            "parameters": {"shape": list(lava_shape(shape)), **process, **stored},
        }

    def _beyond_native(self, node: Node) -> str:
        """Why the native neuron, whose only message is the spike and which never rests, won't do; or nothing."""
        if node.name in self.windows.silent:
            return "its spikes arrive later than one step on: it has to be silent between samples"
        sent = {port for name, port in self.ports if name == node.name}
        if sent - {"out"} or (sent and node.layer.model.v_threshold is None):  # type: ignore[attr-defined]
            return "it sends its membrane or current to another population"
        return ""

    def _parameter(self, name: str, value: Any, shape: Shape) -> Any:
        if value is None or isinstance(value, str | int):
            return value
        if isinstance(value, tuple):
            return [self._parameter(f"{name}/{i}", item, shape) for i, item in enumerate(value)]
        if isinstance(value, dict):
            return {key: self._parameter(f"{name}/{key}", item, shape) for key, item in value.items()}
        array = np.asarray(value)
        if array.size == 1 or (array == array.flat[0]).all():
            return int(array.flat[0])
        self.arrays[name] = in_lava_order(np.broadcast_to(array, shape))
        return {"array": name}
