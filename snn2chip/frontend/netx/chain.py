"""The program of a NetX file while it is built: NetX networks are chains of synapses and populations."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from snn2chip.errors import S2CError, UsageError
from snn2chip.frontend.netx.fields import Fields
from snn2chip.ir import layers as L
from snn2chip.ir.graph import Edge, Node, Source, in_order
from snn2chip.ir.layers import Shape
from snn2chip.ir.program import Format, Program
from snn2chip.ir.target import Target
from snn2chip.neurons.lif import IntegerLIF

NetReadout = Literal["spikes", "v"]

# v saturates at 2**23 - 1, so that it never exceeds this mantissa << 6.
UNREACHABLE = 1 << 17


@dataclass
class Chain:
    """The program so far: NetX networks are chains."""

    target: Target
    nodes: list[Node] = field(default_factory=list)
    formats: dict[str, Format] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    shape: Shape | None = None
    last: str = "input"
    flattened: bool = False

    def begin(self, shape: Shape) -> None:
        """Put the input in front."""
        self.shape = shape
        self.nodes.append(Node("input", L.Input(shape)))
        # One bit each, and nothing else accepted.
        self.formats["input"] = Format(1, False, 1.0, overflow="error")

    def synapse(self, layer: Fields, name: str, synapse: L.Linear | L.Conv, source: Edge) -> None:
        """Append a synapse and the format of its weights."""
        self.nodes.append(Node(name, synapse, (source,), Source(layer.where)))
        reach = int(np.abs(synapse.weight).max(initial=0))
        bits = max(self.target.weights.bits + 1, reach.bit_length() + 1)
        self.formats[f"{name}.weight"] = Format(bits, True, 1.0)
        legal = self.target.weights
        if (
            reach
            and (synapse.weight.min() < 0 < synapse.weight.max())
            and (synapse.weight % legal.step(legal.bits)).any()
        ):
            self.notes.append(f"{name}: weights of both signs that are odd; Lava runs them, the chip has even ones")
        if isinstance(synapse, L.Conv) and (synapse.weight.min(initial=0) < legal.minimum or reach > -legal.minimum):
            self.notes.append(
                f"{name}: weights beyond {legal.minimum}…{legal.maximum}; Lava runs them, the chip cannot"
            )

    def population(self, layer: Fields, name: str, model: IntegerLIF, inputs: tuple[Edge, ...], shape: Shape) -> None:
        """Append a population and the formats of its states."""
        a = self.target.arithmetic
        self.nodes.append(Node(name, L.Neuron(model), inputs, Source(layer.where)))
        unit = 2.0**-a.input_shift
        self.formats[f"{name}.u"] = Format(
            a.current_bits, True, unit, overflow=a.current_overflow, rounding=a.decay_rounding
        )
        self.formats[f"{name}.v"] = Format(
            a.voltage_bits, True, unit, overflow=a.voltage_overflow, rounding=a.decay_rounding
        )
        if int(np.abs(model.bias).max(initial=0)) > self.target.limits.bias_max:
            self.notes.append(f"{name}: biases beyond ±{self.target.limits.bias_max}; Lava runs them, the chip cannot")
        self.shape, self.last, self.flattened = shape, name, False

    def program(self, time_steps: int | None, readout: NetReadout | None, origin: str) -> Program:
        """The finished program."""
        populations = [node for node in self.nodes if isinstance(node.layer, L.Neuron)]
        if not populations:
            raise S2CError(
                "the file holds no layer with synapses",
                where="layer",
                why="there is nothing to run",
                fix="export the whole network: dense or conv layers with their neurons",
            )
        end = populations[-1]
        model: IntegerLIF = end.layer.model  # type: ignore[attr-defined]
        assert model.v_threshold is not None
        silent = bool((model.v_threshold >= UNREACHABLE).all())
        if readout is None:
            readout = "v" if (model.v_threshold >= self.target.limits.threshold_max).all() else "spikes"
            if readout == "v":
                self.notes.append(
                    f"{end.name}: its threshold is the largest there is, so its membrane is read, not its spikes"
                )
        if silent:
            integrator = IntegerLIF(None, model.decay_v, model.decay_u, model.bias)
            self.nodes[self.nodes.index(end)] = Node(end.name, L.Neuron(integrator), end.inputs, end.source)
        edge = Edge(self.last) if readout == "spikes" else Edge(end.name, port="v")
        how: Literal["sum", "last"] = "sum" if readout == "spikes" else "last"
        if readout == "spikes" and silent:
            raise UsageError(
                "the last layer never fires",
                where=end.name,
                why="its threshold cannot be reached",
                fix='give readout="v"',
            )
        self.nodes += [
            Node("readout", L.Readout(how), (edge,), placement="host"),
            Node("output", L.Output(), (Edge("readout"),), placement="host"),
        ]
        scale = 1.0 if readout == "spikes" else self.formats[f"{end.name}.v"].scale
        return Program(
            in_order(self.nodes),
            time_steps,
            "steps",
            self.target,
            self.formats,
            np.asarray(scale),
            notes=tuple(self.notes),
            origin=origin,
        ).verify()
