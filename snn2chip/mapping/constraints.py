"""Whether a Program keeps every limit of its target: all violations at once, each with the value found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from snn2chip.errors import S2CError
from snn2chip.ir.graph import Node
from snn2chip.ir.layers import Array, Conv, Delay, Linear, Neuron
from snn2chip.ir.program import Program
from snn2chip.mapping.cores import axons_into_core, synapses_into


@dataclass(frozen=True)
class Violation:
    """One limit that is not kept.

    Args:
        layer: name of the layer.
        rule: the limit's dotted name in the target file.
        found, allowed: both sides, for people.
        fix: what to do about it.
    """

    layer: str
    rule: str
    found: str
    allowed: str
    fix: str

    def __str__(self) -> str:
        return f"{self.layer}: {self.found}; {self.rule} allows {self.allowed}"


def check(program: Program) -> list[Violation]:
    """Every limit of the target that ``program`` breaks, in order of layers; empty where it fits.

    Layers on the host are not checked. Registers are not either: quantization proves them
    (``program.quantization``).
    """
    return [
        violation
        for node in program
        if node.placement == "chip"
        for rule in _RULES
        for violation in rule(program, node)
    ]


def require(program: Program) -> None:
    """Raise with every violation in one message.

    Raises:
        S2CError: at least one limit is broken.
    """
    violations = check(program)
    if violations:
        raise S2CError(
            f"the network breaks {_counted(len(violations), 'limit')} of {program.target.title}",
            where=", ".join(dict.fromkeys(v.layer for v in violations)),
            why="\n".join(map(str, violations)),
            fix="\n".join(dict.fromkeys(v.fix for v in violations)),
        )


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _span(values: Array) -> str:
    low, high = int(values.min()), int(values.max())
    return str(low) if low == high else f"{low}…{high}"


def _weights(program: Program, node: Node) -> Iterator[Violation]:
    if not isinstance(node.layer, Linear | Conv) or not node.layer.weight.size:
        return
    rules, form = program.target.weights, program.formats.get(f"{node.name}.weight")
    exponent = 0 if form is None else form.exponent
    if not rules.exponent_min <= exponent <= rules.exponent_max:
        allowed = f"{rules.exponent_min}…{rules.exponent_max}"
        yield Violation(node.name, "weights.exponent", f"weight exponent {exponent}", allowed, "quantize again")
    stored = node.layer.weight
    mantissa = stored >> exponent if exponent >= 0 else stored << -exponent
    if mantissa.min() < rules.minimum or mantissa.max() > rules.maximum + 1:
        allowed = f"{rules.minimum}…{rules.maximum}"
        yield Violation(node.name, "weights.range", f"weight mantissas {_span(mantissa)}", allowed, "quantize again")
    step = rules.step(rules.bits)
    if mantissa.min() < 0 < mantissa.max() and (odd := int(np.count_nonzero(mantissa % step))):
        found = f"{odd} of {mantissa.size} weights off the grid"
        yield Violation(node.name, "weights.step", found, f"multiples of {step} where signs mix", "quantize again")
    if exponent > 0 and (lost := int(np.count_nonzero((mantissa << exponent) != stored))):
        found = f"{lost} weights are no multiple of 2**{exponent}"
        yield Violation(node.name, "weights.exponent", found, "mantissa · 2**exponent", "quantize again")


def _delays(program: Program, node: Node) -> Iterator[Violation]:
    delays = [edge.delay for edge in node.inputs]
    if isinstance(node.layer, Linear) and node.layer.delay is not None and node.layer.delay.size:
        delays.append(int(node.layer.delay.max()))
    if isinstance(node.layer, Delay):
        delays.append(node.layer.steps)
    longest, limit = max(delays, default=0), program.target.limits.delay_max
    if longest > limit:
        fix = "train with shorter delays, or put relay neurons in between"
        yield Violation(node.name, "limits.delay_max", f"a delay of {longest} steps", f"at most {limit}", fix)


def _neuron(program: Program, node: Node) -> Iterator[Violation]:
    if not isinstance(node.layer, Neuron):
        return
    model, limits, unit = node.layer.model, program.target.limits, 1 << program.target.arithmetic.decay_bits
    ranges = (
        ("limits.threshold_max", "v_threshold", 0, limits.threshold_max, "choose a coarser weight scale"),
        ("limits.bias_max", "bias", -limits.bias_max, limits.bias_max, "choose a larger bias exponent"),
        ("limits.bias_exp", "bias_exp", limits.bias_exp_min, limits.bias_exp_max, "quantize again"),
        ("arithmetic.decay_bits", "decay_v", 0, unit, "train with a decay between 0 and 1"),
        ("arithmetic.decay_bits", "decay_u", 0, unit, "train with a decay between 0 and 1"),
    )
    for rule, name, low, high, fix in ranges:
        value = getattr(model, name, None)
        if value is None:
            continue
        array = np.asarray(value)
        if array.size and (array.min() < low or array.max() > high):
            yield Violation(node.name, rule, f"{name} {_span(array)}", f"{low}…{high}", fix)
    if not limits.custom_neurons and not getattr(model, "native", False):
        fix = "train with a hard reset to zero in the step of the spike, or take a programmable target"
        yield Violation(
            node.name,
            "limits.custom_neurons",
            f"a neuron of its own ({model.describe()})",
            "the chip's fixed LIF",
            fix,
        )


def _payload(program: Program, node: Node) -> Iterator[Violation]:
    if not node.layer.synaptic:
        return
    limit = program.target.limits.input_bits
    for edge in node.inputs:
        bits = _payload_bits(program, edge.source) if edge.port == "out" else program.target.arithmetic.voltage_bits
        if bits > limit:
            found = f"input of {bits} bits from {edge.source}"
            fix = "encode the input as spikes on the host, or choose a target with graded spikes"
            yield Violation(node.name, "limits.input_bits", found, _counted(limit, "bit"), fix)


def _payload_bits(program: Program, name: str) -> int:
    """Width of what leaves ``name``: its own format, else a spike for a population that fires, else its inputs'."""
    form = program.formats.get(name)
    if form is not None:
        return form.bits - int(form.signed and form.bits > 1)
    node = program[name]
    if isinstance(node.layer, Neuron):
        return (
            1 if getattr(node.layer.model, "v_threshold", None) is not None else program.target.arithmetic.voltage_bits
        )
    return max((_payload_bits(program, edge.source) for edge in node.inputs if not edge.recurrent), default=1)


def _fan_in(program: Program, node: Node) -> Iterator[Violation]:
    limit = program.target.cores.axons_in
    if limit is None or not isinstance(node.layer, Neuron):
        return
    shapes = program.shapes()
    synapses = synapses_into(program, node.name)
    finest = sum(axons_into_core(s, shapes, shapes[s.name][1] if isinstance(s.layer, Conv) else 1) for s in synapses)
    if finest > limit:
        found = f"{finest} inputs reach one core, cut as finely as whole rows allow"
        yield Violation(node.name, "cores.axons_in", found, f"at most {limit}", "use fewer inputs or a smaller kernel")


_RULES: tuple[Callable[[Program, Node], Iterator[Violation]], ...] = (
    _weights,
    _delays,
    _payload,
    _neuron,
    _fan_in,
)
