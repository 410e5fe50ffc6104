"""Reading ``.nir`` files: graphs of other tools into a float Graph, programs snn2chip wrote back into a Program.

NIR describes a network in continuous time. What it cannot say is asked for: the time step, the kind of reset and when
it acts, the fire test. The time step enters by forward Euler, as in the NIR paper and its exporters:

    I[t] = (1 − dt/τ_syn)·I[t−1] + (w_in·dt/τ_syn)·x[t]
    v[t] = (1 − dt/τ_mem)·v[t−1] + (dt/τ_mem)·(v_leak + r·I[t])

with the new current in the membrane's equation (snnTorch, Lava). States start at zero. A loop is closed one time step
late: the recurrent synapse reads the spikes of the step before.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from snn2chip.errors import S2CError, UsageError
from snn2chip.frontend.ending import with_readout
from snn2chip.frontend.hdf5 import Tree, located, opened, read_tree, refuse_format
from snn2chip.frontend.nir.choices import (
    Choices,
    InputGain,
    Integration,
    IntegratorGain,
    ReadoutKind,
    ResetKind,
    Start,
    check_choices,
)
from snn2chip.frontend.nir.fields import Fields, noted_dt
from snn2chip.frontend.nir.layers import conv, delay, flatten, linear, pool, scale
from snn2chip.frontend.nir.neurons import PARAMETERS, POPULATIONS, neuron, threshold
from snn2chip.frontend.nir.structure import Links, cut_loops, inlined, reaching
from snn2chip.ir import layers as L
from snn2chip.ir.graph import Coding, Edge, Graph, Node, Source, in_order
from snn2chip.ir.layers import Shape
from snn2chip.ir.program import Program
from snn2chip.ir.program_file import digest, unpack
from snn2chip.neurons.base import Fire, ResetTiming
from snn2chip.neurons.lif import LIF


def read_graph(
    path: str | os.PathLike[str],
    *,
    dt: float | None = None,
    reset: ResetKind | Mapping[str, ResetKind] | None = None,
    time_steps: int | None = None,
    fire: Fire | Mapping[str, Fire] = ">",
    reset_timing: ResetTiming | Mapping[str, ResetTiming] = "same",
    integration: Integration = "euler",
    integrator_gain: IntegratorGain | Mapping[str, IntegratorGain] | None = None,
    input_gain: InputGain | Mapping[str, InputGain] = "equation",
    start: Start | Mapping[str, Start] | None = None,
    readout: ReadoutKind = "sum",
    output: str | None = None,
    coding: Coding = "steps",
) -> Graph:
    """Read a NIR graph of another tool.

    Args:
        path: the ``.nir`` file.
        dt: seconds per time step; needed as soon as the file holds a neuron with a time constant or a delay.
        reset: what a spike does to the membrane: "zero", "v_reset" (to the file's value), "subtract" (the threshold),
            "none". Needed where the file holds firing neurons with v_reset 0, because exporters write that for every
            kind of reset. This and the options of populations below: for all, or a dict by node name.
        time_steps: T of a sample; None takes it from the data.
        fire: the fire test; NIR and snnTorch ">", SpikingJelly ">=".
        reset_timing: "same" (NIR; SpikingJelly; snnTorch's Leaky "zero" gives the same spikes), "next" (snnTorch
            "subtract", and "zero" of its other neurons), "gate"; see ``snn2chip/neurons/lif.py``.
        integration: "euler"; "exponential": decays exp(−dt/τ) and gains 1 − exp(−dt/τ) in place of dt/τ; "rockpool":
            Rockpool's LIFTorch and ExpSynTorch, whose files state other gains than they run with.
        integrator_gain: what an input of 1 adds to an I or IF membrane in one step: "r*dt" (the equation, SpikingJelly)
            or "r" (inputs are impulses: sinabs, snnTorch). Asked for where r is 1 and the two differ.
        input_gain: "equation", or "impulse": an input of 1 adds r to the membrane of LI and LIF (sinabs without
            norm_input), and w_in to the current of CubaLI and CubaLIF (Norse).
        start: the membrane at the start of every sample: "zero", "v_reset" (SpikingJelly) or "v_leak" (Norse). Left
            out, it is zero, and a warning says so where the file's v_reset or v_leak is not.
        readout: what becomes of the T outputs; "none" returns them all.
        output: the node whose output is read; needed where the file has several Output nodes.
        coding: "steps": a sample is [T, ...]; "direct": [...], the same at every step.

    Returns:
        The checked Graph; nodes keep their NIR names, those of subgraphs as ``subgraph.node``.

    Raises:
        UsageError: an option is missing, unknown, or contradicts the file.
        S2CError: the file cannot be read, holds an unknown node or a number that is none, or its shapes do not fit.
    """
    given = dict(locals())
    check_choices(given)
    with opened(path) as file:
        refuse_format(file, path, "nir")
        tree = read_tree(file["node"])
    with located(path):
        nodes, edges = inlined(tree)
        choices = Choices.of(given, noted_dt(tree))
        last = _output(nodes, edges, output)
        used = reaching(nodes, edges, last)
        _check_types({name: nodes[name] for edge in used for name in edge})
        # Before any question: a name that is misspelt would be asked about as if it had not been given.
        choices.check_names([name for name, fields in nodes.items() if fields["type"] in POPULATIONS])
        links = cut_loops(nodes, used, last)
        with _batch_axis_suspected(nodes):
            graph = _build(nodes, links, choices, readout, time_steps, coding)
            _check_sizes(graph, nodes)
        _tell_starts(graph, choices)
        return _with_origin(graph, dt, path).verify()


def read_program(path: str | os.PathLike[str]) -> Program:
    """Read a program that :func:`snn2chip.emit.nir.write_program` wrote; equal to what was written.

    Raises:
        S2CError: the file cannot be read, was changed after it was written, or is no program.
    """
    with opened(path) as file:
        refuse_format(file, path, "program")
        tree = read_tree(file["node"])
    with located(path):
        packed = tree["metadata"]["snn2chip"]
        written = packed.pop("sha256", "")
        if digest(tree) != written:
            raise S2CError(
                "the program was changed after it was written",
                why="its contents do not match the checksum stored beside them",
                fix="compile the network again; to run an edited graph, delete metadata/snn2chip and use load_graph",
            )
        return unpack(packed)


def _output(nodes: Mapping[str, Tree], edges: Iterable[tuple[str, str]], asked: str | None) -> str:
    outputs = [name for name, fields in nodes.items() if fields["type"] == "Output"]
    if asked is not None:
        if asked not in nodes:
            raise UsageError(f"there is no node {asked!r} to read", fix=f"nodes: {', '.join(nodes)}")
        return asked
    if len(outputs) != 1:
        last = (outputs or list(nodes))[-1]
        raise UsageError(
            f"the graph has {len(outputs)} Output nodes",
            why=", ".join(outputs),
            fix=f"name the node to read: output={last!r} (--output-node {last})",
        )
    if all(target != outputs[0] for _, target in edges):
        raise S2CError(
            "nothing reaches the output",
            where=f"{outputs[0]} (Output)",
            fix="connect it, or name the node to read: output=... (--output-node)",
        )
    return outputs[0]


def _check_types(nodes: Mapping[str, Tree]) -> None:
    for name, fields in nodes.items():
        if fields["type"] not in _KNOWN:
            raise S2CError(
                f"the file holds a node of type {fields['type']!r}",
                where=name,
                why=f"known are {', '.join(sorted([*_KNOWN, 'NIRGraph']))}",
                fix="replace it in the exporting tool, or pick an earlier node with output=",
            )


@contextmanager
def _batch_axis_suspected(nodes: Mapping[str, Tree]) -> Iterator[None]:
    """Say so where shapes do not fit and the Input begins with an axis of 1."""
    try:
        yield
    except UsageError:
        raise
    except S2CError as error:
        inputs = [Fields(name, fields) for name, fields in nodes.items() if fields["type"] == "Input"]
        shapes = [shape for node in inputs if len(shape := node.shape("shape")) > 1 and shape[0] == 1]
        if shapes and not error.fix:
            error.fix = f"if the first axis of the Input's {shapes[0]} is the batch, export the network without it"
        raise


def _check_sizes(graph: Graph, nodes: Mapping[str, Tree]) -> None:
    """Parameters of nodes in a loop, whose shape was not known when they were read."""
    shapes = graph.shapes()
    for node in graph.neurons:
        fields = Fields(node.name, nodes[node.name])
        for name in PARAMETERS:
            if fields.has(name):
                fields.parameter(name, shapes[node.name])


def _build(
    nodes: Mapping[str, Tree], links: Links, choices: Choices, readout: str, time_steps: int | None, coding: Coding
) -> Graph:
    built: dict[str, Node] = {}
    shapes: dict[str, Shape | None] = {}
    for name in links.order:
        node = Fields(name, nodes[name])
        inputs = links.inputs[name]
        known = [shape for edge in inputs if (shape := shapes.get(edge.source)) is not None]
        shape = known[0] if known else None
        kind = nodes[name]["type"]
        if kind == "Input":
            layer: L.Layer = L.Input(node.shape("shape"))
        elif kind == "Output":
            layer = L.Output()
        elif kind == "Flatten":
            layer = flatten(node, shape, [Fields(n, nodes[n]) for n in links.consumers(name)])
        elif kind == "Delay":
            layer = L.Delay(delay(node, choices) - links.advanced.get(name, 0))
        else:
            layer = _READERS[kind](node, shape, choices)
        if layer.inputs_allowed[1] == 1 and len(inputs) > 1:
            total = Node(f"{name}.sum", L.Add(), inputs, Source(name))
            built[total.name] = total
            inputs = (Edge(total.name),)
        built[name] = Node(name, layer, inputs, Source(name), "host" if kind == "Output" else "chip")
        shapes[name] = _output_shape(built[name], known)
    finished = _finished(list(built.values()), links.output, readout)
    return Graph(in_order(finished), time_steps, coding)


def _output_shape(node: Node, known: list[Shape]) -> Shape | None:
    if isinstance(node.layer, L.Input):
        return node.layer.shape
    if not known:
        # Inside a loop: only what the layer itself says.
        return node.layer.weight.shape[:1] if isinstance(node.layer, L.Linear) else None
    try:
        return node.layer.output_shape(known[0])
    except S2CError as error:
        raise S2CError(error.what, where=node.where(), why=error.why, fix=error.fix) from None


def _finished(nodes: list[Node], last: str, readout: str) -> list[Node]:
    """The nodes with one read-out and one Output at the end."""
    end = next(node for node in nodes if node.name == last)
    if not isinstance(end.layer, L.Output):
        return with_readout(nodes, Edge(last), readout)
    (edge,) = end.inputs
    return with_readout([node for node in nodes if node.name != last], edge, readout, last)


def _tell_starts(graph: Graph, choices: Choices) -> None:
    guessed = [
        node.name
        for node in graph.neurons
        if isinstance(model := node.layer.model, LIF)  # type: ignore[attr-defined]
        and (model.v_rest.any() or model.v_reset.any())
        and choices("start", node.name) is None
    ]
    if guessed:
        warnings.warn(
            f"the membrane of {', '.join(guessed)} starts every sample at zero; NIR does not say where "
            '(start="v_reset" in SpikingJelly, "v_leak" in Norse)',
            stacklevel=4,
        )


def _with_origin(graph: Graph, dt: float | None, path: str | os.PathLike[str]) -> Graph:
    return Graph(graph.nodes, graph.time_steps, graph.coding, dt, f"nir file {Path(path).name}")


_READERS: dict[str, Callable[[Fields, Shape | None, Choices], L.Layer]] = {
    "Linear": linear,
    "Affine": linear,
    "Scale": scale,
    "Conv1d": conv,
    "Conv2d": conv,
    "SumPool2d": pool,
    "AvgPool2d": pool,
    "Threshold": threshold,
    **dict.fromkeys(("I", "LI", "IF", "LIF", "CubaLI", "CubaLIF"), neuron),
}

_KNOWN = ("Input", "Output", "Flatten", "Delay", *_READERS)
