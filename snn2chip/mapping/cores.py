"""How many cores a Program needs, from the public capacities of its target.

A lower bound, and presented as one: the compilers that place networks on these chips are not public, and they
spend memory on routing tables, microcode and alignment that no public figure describes. A layer here is a
population with the synapses that end in it. Each resource alone asks for a number of cores; the layer takes
the largest:

* neurons: N over the neurons of a core;
* memory: weights, delays and (where the target says that it shares the memory) state and biases, over the memory
  of a core. A convolution stores one kernel per core that holds any of its channels (weight sharing); everything
  else stores one weight per synapse. A bias that all neurons share is part of the program; one that is the same all
  over a channel is stored once a channel; any other, as behind a batch norm in front of zero padding, once a neuron;
* axons in: distinct inputs that reach one core, which is less for a convolution cut into bands of rows;
* axons out: destination cores summed over a core's neurons.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from snn2chip.ir.graph import Node
from snn2chip.ir.layers import Array, Conv, Linear, Neuron, Shape
from snn2chip.ir.program import Program
from snn2chip.ir.target import Cores
from snn2chip.simulate.counting import fan_out

BASIS = (
    "Lower bound from public capacities: cores = max over neurons, memory, axons in, axons out. "
    "Routing tables, microcode and alignment are not public and not counted."
)


@dataclass(frozen=True)
class LayerCores:
    """What one population and the synapses that end in it need.

    Args:
        neurons: neurons of the population.
        synapses: connections that exist (borders, stride and groups respected).
        stored_weights: weights held in memory; fewer than synapses where a convolution shares them.
        weight_bits: width of a stored weight, delay included.
        state_bits: memory taken by one neuron's state; 0 where the target keeps it elsewhere.
        bias_bits: memory taken by all biases; 0 where the target keeps them with the neurons, elsewhere.
        memory_bits: weights, state and biases together, each kernel once.
        axons_in: distinct inputs of the layer.
        demands: cores that each resource alone asks for.
        cores: their maximum.
        limit: the resource that sets it; empty where one core holds the layer.
    """

    name: str
    neurons: int
    synapses: int
    stored_weights: int
    weight_bits: int
    state_bits: int
    bias_bits: int
    memory_bits: int
    axons_in: int
    demands: Mapping[str, int]
    cores: int
    limit: str


@dataclass(frozen=True)
class CoreEstimate:
    """The whole network: its layers, and the chips they fill."""

    target: str
    basis: str
    layers: tuple[LayerCores, ...]
    cores: int
    cores_per_chip: int
    chips: int
    memory_bits: int
    not_counted: tuple[str, ...]


def estimate(program: Program) -> CoreEstimate:
    """Cores, memory and chips ``program`` needs on its target; layers on the host need none."""
    capacity = program.target.cores
    shapes = program.shapes()
    populations = [node for node in program.neurons if node.placement == "chip"]
    cores: dict[str, int] = {}
    layers = []
    for node in reversed(populations):
        layer = _layer(program, node, shapes, capacity, cores)
        cores[node.name] = layer.cores
        layers.append(layer)
    total = sum(cores.values())
    passive = tuple(
        f"{n.name} ({n.layer.kind})" for n in program if n.placement == "chip" and n.layer.kind in _UNMAPPED
    )
    return CoreEstimate(
        target=program.target.name,
        basis=BASIS,
        layers=tuple(reversed(layers)),
        cores=total,
        cores_per_chip=capacity.per_chip,
        chips=math.ceil(total / capacity.per_chip),
        memory_bits=sum(layer.memory_bits for layer in layers),
        not_counted=passive,
    )


_UNMAPPED = ("MaxPool", "Delay", "Mul", "MatMul")


def synapses_into(program: Program, population: str) -> tuple[Node, ...]:
    """The synaptic layers on the chip whose output reaches ``population`` before any other."""
    found: dict[str, Node] = {}
    pending = [edge.source for edge in program[population].inputs]
    while pending:
        node = program[pending.pop()]
        if node.name in found or isinstance(node.layer, Neuron):
            continue
        if node.layer.synaptic and node.placement == "chip":
            found[node.name] = node
        else:
            pending += [edge.source for edge in node.inputs]
    return tuple(node for node in program if node.name in found)


def _layer(
    program: Program, node: Node, shapes: Mapping[str, Shape], capacity: Cores, placed: Mapping[str, int]
) -> LayerCores:
    arithmetic = program.target.arithmetic
    neurons = math.prod(shapes[node.name])
    synapses = synapses_into(program, node.name)
    state = arithmetic.current_bits + arithmetic.voltage_bits if capacity.state_in_memory else 0
    biases = _bias_bits(program, node, shapes[node.name]) if capacity.state_in_memory else 0
    bits = {s.name: _synapse_bits(program, s) for s in synapses}
    shared = sum(s.layer.weight.size * bits[s.name] for s in synapses if isinstance(s.layer, Conv))
    private = sum(s.layer.weight.size * bits[s.name] for s in synapses if isinstance(s.layer, Linear))
    memory = shared + private + neurons * state + biases
    demands = {
        "neurons": math.ceil(neurons / capacity.neurons),
        "memory": _memory_cores(memory, shared, shapes[node.name][0], capacity.synaptic_memory_bits),
    }
    if capacity.axons_in is not None:
        demands["axons in"] = _axons_in_cores(synapses, shapes, capacity.axons_in, neurons)
    if capacity.axons_out is not None:
        here = max(demands.values())
        reach = sum(_destinations(program, s, shapes, placed, here) for s in _synapses_from(program, node.name))
        demands["axons out"] = math.ceil(neurons * reach / capacity.axons_out)
    limit = max(demands, key=lambda name: demands[name])
    return LayerCores(
        name=node.name,
        neurons=neurons,
        synapses=sum(int(fan_out(s.layer, shapes[s.inputs[0].source]).sum()) for s in synapses),
        stored_weights=sum(s.layer.weight.size for s in synapses if isinstance(s.layer, Conv | Linear)),
        weight_bits=max(bits.values(), default=0),
        state_bits=state,
        bias_bits=biases,
        memory_bits=memory,
        axons_in=sum(math.prod(shapes[s.inputs[0].source]) for s in synapses),
        demands=demands,
        cores=demands[limit],
        limit=limit if demands[limit] > 1 else "",
    )


def _synapse_bits(program: Program, synapse: Node) -> int:
    form = program.formats.get(f"{synapse.name}.weight")
    delay = getattr(synapse.layer, "delay", None)
    width = program.target.weights.bits if form is None else min(form.bits, program.target.weights.bits)
    return width + (0 if delay is None else program.target.limits.delay_max.bit_length())


def _bias_bits(program: Program, population: Node, shape: Shape) -> int:
    """What the biases of the membrane, one exponent for all, and of the current take."""
    target, model = program.target, population.layer.model  # type: ignore[attr-defined]
    widths = {"bias": target.limits.bias_max.bit_length() + 1, "bias_u": target.arithmetic.current_bits}
    return sum(
        bits * _stored(value, shape)
        for name, bits in widths.items()
        if (value := getattr(model, name, None)) is not None
    )


def _stored(value: Array, shape: Shape) -> int:
    """How many numbers a parameter is: none where all neurons share it, one a channel, or one a neuron."""
    by_channel = np.broadcast_to(value, shape).reshape(shape[0], -1)
    if (by_channel == by_channel.flat[0]).all():
        return 0
    return len(by_channel) if (by_channel == by_channel[:, :1]).all() else by_channel.size


def _memory_cores(memory: int, shared: int, channels: int, capacity: int) -> int:
    """Cut by channels, every kernel lies on one core; beyond one core a channel, every core holds the whole kernel."""
    by_channel = math.ceil(memory / capacity)
    if by_channel <= channels or shared >= capacity:
        return by_channel
    return math.ceil((memory - shared) / (capacity - shared))


def _axons_in_cores(synapses: tuple[Node, ...], shapes: Mapping[str, Shape], limit: int, neurons: int) -> int:
    """Smallest number of cores whose inputs fit; where none does, one a neuron (``check`` says that it cannot work)."""
    for cores in range(1, neurons + 1):
        if sum(axons_into_core(s, shapes, cores) for s in synapses) <= limit:
            return cores
        if not any(isinstance(s.layer, Conv) and cores < shapes[s.name][1] for s in synapses):
            break
    return neurons


def axons_into_core(synapse: Node, shapes: Mapping[str, Shape], cores: int) -> int:
    """Distinct inputs of ``synapse`` that reach one of ``cores``: all, or for a convolution those of a band of rows."""
    shape = shapes[synapse.inputs[0].source]
    layer = synapse.layer
    if not isinstance(layer, Conv):
        return math.prod(shape)
    rows = math.ceil(shapes[synapse.name][1] / cores)
    covered = min(shape[1], (rows - 1) * layer.stride[0] + _extent(layer))
    return shape[0] * covered * math.prod(shape[2:])


def _extent(layer: Conv) -> int:
    return layer.dilation[0] * (layer.kernel[0] - 1) + 1


def _synapses_from(program: Program, population: str) -> Iterator[Node]:
    pending = list(program.consumers(population))
    while pending:
        node = pending.pop()
        if isinstance(node.layer, Neuron):
            continue
        if node.layer.synaptic:
            if node.placement == "chip":
                yield node
        else:
            pending += program.consumers(node.name)


def _destinations(
    program: Program, synapse: Node, shapes: Mapping[str, Shape], placed: Mapping[str, int], here: int
) -> int:
    """Cores that one neuron reaches through ``synapse``: all of the next population, or the bands its rows fall into.

    A recurrent synapse reaches the population it leaves, whose cores ``here`` are not final yet.
    """
    targets = [n.name for n in program.neurons if any(s.name == synapse.name for s in synapses_into(program, n.name))]
    cores = sum(placed.get(name, here) for name in targets)
    layer = synapse.layer
    if not isinstance(layer, Conv):
        return cores
    rows = math.ceil(shapes[synapse.name][1] / cores) if cores else 1
    touched = math.ceil(_extent(layer) / layer.stride[0])
    return min(cores, (touched - 2) // rows + 2 if touched > 1 else 1)
