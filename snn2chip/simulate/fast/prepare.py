"""A Program becomes a plan: every kernel chosen and tested."""

from __future__ import annotations

from dataclasses import replace

from snn2chip.errors import S2CError
from snn2chip.ir.graph import Node
from snn2chip.ir.layers import Conv, Delay, Input, Linear, Neuron, Output, Pool, Readout, Shape
from snn2chip.ir.program import Program
from snn2chip.neurons.base import IntegerNeuron
from snn2chip.simulate.counting import fan_out, host_macs
from snn2chip.simulate.fast import stateless
from snn2chip.simulate.fast.absorbed import absorb
from snn2chip.simulate.fast.components import components_of
from snn2chip.simulate.fast.cutting import chunk_of, piece_of
from snn2chip.simulate.fast.maxima import maxima
from snn2chip.simulate.fast.plan import Key, Plan, SynapseRun, last_reader
from snn2chip.simulate.fast.populations.population import Inflow, Layout, Population, port_ranges
from snn2chip.simulate.fast.synapses import linear
from snn2chip.simulate.fast.synapses.choice import choose
from snn2chip.simulate.ranges import NetworkRanges, Range


def refusal(program: Program) -> str:
    """Why this engine does not run a Program; empty where it does."""
    for node in program:
        layer = node.layer
        if isinstance(layer, Readout):
            if layer.how not in ("sum", "last", "max"):
                return f"{node.where()}: the {layer.how} read-out is not of whole numbers"
        elif isinstance(layer, Neuron):
            if not isinstance(layer.model, IntegerNeuron):
                return f"{node.where()}: the neuron has no integer step"
        elif not isinstance(layer, (Input, Output, Linear, Conv, Delay, *stateless.COVERED)):
            return f"{node.where()}: no exact kernel for this layer"
    return ""


def prepare(program: Program, wanted: frozenset[str], samples: int, steps: int, like: Plan | None = None) -> Plan:
    """Choose and test every kernel, for a run of about ``samples`` samples of ``steps`` steps recording ``wanted``.

    Args:
        like: the plan of a Program for the same target and the same kind of run; what the two share is taken over.
    """
    if why := refusal(program):
        raise S2CError("the fast engine cannot run this program", why=why, fix='use engine="reference"')
    arithmetic = program.target.arithmetic
    shapes = program.shapes()
    ranges = NetworkRanges(
        program,
        Range(*program.formats[program.input.name].range),
        lambda node, a: port_ranges(node.layer.model, shapes[node.name], arithmetic, a and a()),  # type: ignore[attr-defined]
        None if like is None else like.ranges,
    )
    ports = frozenset((e.source, e.port) for node in program for e in node.inputs if e.port != "out")
    components = components_of(program)
    # What is to be recorded of a synapse has to exist.
    absorbed = absorb(program, components, ranges, samples, alone=bool(wanted & {"a", "out"}))
    plan = Plan(
        program,
        bool(wanted & {"u", "v"}),
        shapes,
        ranges,
        program.static(),
        tuple(replace(c, stepped=c.stepped and not absorbed.runs(c)) for c in components),
        _history(program),
        ports,
        _layouts(program, shapes),
        absorbed,
        host_macs(program),
    )
    plan.maxima = {name: run for name, run in maxima(program, absorbed, ranges).items() if not plan.keeps_states(name)}
    last = last_reader(plan)
    plan.done = tuple(tuple(name for name, end in last.items() if end == i) for i in range(len(plan.components)))
    with linear.exact_floats(), linear.one_thread():
        for node in program:
            if like is not None and _stands_alike(plan, like, node):
                _take_over(plan, like, node.name)
            else:
                _prepare_node(plan, node, samples, steps)
    return plan


def _stands_alike(plan: Plan, like: Plan, node: Node) -> bool:
    """Whether a node is prepared in the same way in both plans.

    A population may compute what the synapses before it do, so that these have to be the same too.
    """
    before = [edge.source for edge in node.inputs] if isinstance(node.layer, Neuron) else []
    return (
        plan.ranges.same_in(like.ranges, node)
        and plan.channels_last[node.name] == like.channels_last[node.name]
        and plan.keeps_states(node.name) == like.keeps_states(node.name)
        and all((name in plan.without_kernel) == (name in like.without_kernel) for name in (node.name, *before))
        and all(plan.program[name] == like.program.nodes.get(name) for name in before)
    )


def _take_over(plan: Plan, like: Plan, name: str) -> None:
    plan.taken.add(name)
    if name in like.synapses:
        plan.synapses[name] = like.synapses[name]
    if name in like.populations:
        plan.populations[name] = like.populations[name]
    if name in like.operations:
        plan.operations[name] = like.operations[name]


def _prepare_node(plan: Plan, node: Node, samples: int, steps: int) -> None:
    if node.name in plan.maxima:
        return
    layer, ranges = node.layer, plan.ranges
    inputs = tuple(plan.shapes[e.source] for e in node.inputs)
    if isinstance(layer, Linear | Conv):
        plan.synapses[node.name] = _synapse(plan, node, samples, steps)
    elif isinstance(layer, Neuron):
        layout = Layout(plan.shapes[node.name], plan.channels_last[node.name])
        inflows = [
            Inflow(read.total, stateless.array_dtype(plan.dtype((read.edge.source, read.edge.port))), read.gain)
            for read in plan.absorbed.reads[node.name]
        ]
        recurrent = plan.absorbed.recurrent.get(node.name)
        plan.populations[node.name] = Population(
            layer.model, plan.program.target.arithmetic, layout, inflows, plan.keeps_states(node.name), recurrent
        )
    elif not isinstance(layer, Input | Delay | Readout | Output):
        site = stateless.Site(layer, inputs, tuple(ranges.inputs(node)), ranges.of(node.name))
        plan.operations[node.name] = stateless.operation(site)


def _synapse(plan: Plan, node: Node, samples: int, steps: int) -> SynapseRun:
    layer, shape = node.layer, plan.shapes[node.inputs[0].source]
    assert isinstance(layer, Linear | Conv)
    (x,) = plan.ranges.inputs(node)
    fan = fan_out(layer, shape)
    events = None if node.placement == "host" else stateless.events_of(layer, fan)
    if node.name in plan.without_kernel:
        return SynapseRun((), events, plan.dtype((node.name, "out")))
    once = node.name in plan.static
    at_once = chunk_of(plan, samples, steps)
    if node.name in plan.absorbed.streamed:
        at_once = piece_of(plan, plan.absorbed.streamed[node.name], at_once.samples, at_once.steps)
    batch = at_once.samples * (1 if once else at_once.steps)
    runs = samples * (1 if once else steps) / batch
    by_delay = layer.by_delay() if isinstance(layer, Linear) else [(0, layer)]
    parts = tuple((delay, choose(linear.Case.of(part, shape, x), batch, runs)) for delay, part in by_delay)
    return SynapseRun(parts, events, plan.dtype((node.name, "out")))


def _history(program: Program) -> dict[Key, int]:
    """How many past steps of a port are still read."""
    found: dict[Key, int] = {}
    for node in program:
        own = node.layer.steps if isinstance(node.layer, Delay) else 0
        if isinstance(node.layer, Linear) and node.layer.delay is not None:
            own = int(node.layer.delay.max(initial=0))
        for edge in node.inputs:
            key = (edge.source, edge.port)
            if edge.delay + own:
                found[key] = max(found.get(key, 0), edge.delay + own)
    return found


def _layouts(program: Program, shapes: dict[str, Shape]) -> dict[str, bool]:
    """Whether a node's values lie channels last: what convolutions and pooling give, and what is fed by them."""
    last: dict[str, bool] = {}
    for node in program:
        if isinstance(node.layer, Conv | Pool):
            last[node.name] = True
        elif isinstance(node.layer, Neuron) or type(node.layer).__name__ in ("Add", "Rescale", "Scale", "Delay"):
            last[node.name] = any(last.get(e.source, False) for e in node.inputs) and len(shapes[node.name]) > 1
        else:
            last[node.name] = False
    return last
