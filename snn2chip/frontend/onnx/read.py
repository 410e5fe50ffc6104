"""Reading ``.onnx`` files into a float Graph.

ONNX has no word for a spiking neuron: a file holds the arithmetic of one time step, and states as tensors that go in
and come out, or a ``Scan`` over such a step. The neurons are found in it: the elementwise operators around a state are
followed symbolically, the recurrence they compute is matched with the integrate-and-fire family, and the neuron is
confirmed by running both, bit for bit where the operations are the same. What the file cannot say is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np

from snn2chip.errors import S2CError, UsageError
from snn2chip.frontend.ending import with_readout
from snn2chip.frontend.hdf5 import located
from snn2chip.frontend.onnx.builder import Builder
from snn2chip.frontend.onnx.file import opened
from snn2chip.frontend.onnx.gate import check_equal
from snn2chip.frontend.onnx.populations import populations
from snn2chip.frontend.onnx.scan import TimeLoop, has_loop, time_loop
from snn2chip.frontend.onnx.states import Tensor, paired
from snn2chip.frontend.onnx.step import State, Step, initializers
from snn2chip.frontend.options import check_dt, check_time_steps, one_of
from snn2chip.ir.graph import Coding, Graph, in_order
from snn2chip.ir.layers import Array, Shape

_READOUTS = ("sum", "mean", "last", "max", "none")
Start = float | Mapping[str, Any]


def read_graph(
    path: str | os.PathLike[str],
    *,
    states: Mapping[str, str] | None = None,
    start: Start | None = None,
    time_steps: int | None = None,
    readout: str | None = None,
    output: str | None = None,
    coding: Coding | None = None,
    dt: float | None = None,
) -> Graph:
    """Read an ONNX model: of one time step with its states as inputs and outputs, or with a Scan over time.

    Args:
        path: the ``.onnx`` file, float32.
        states: state input → the output with its next value. Left out, names and shapes decide where only one answer
            is possible, and a warning tells it.
        start: the states at the start of every sample: one number, or input name → number or array without batch
            axis. A Scan says it itself, unless its start values are inputs.
        time_steps: T of a sample; None takes it from the data ("steps" coding only).
        readout: what becomes of the T outputs: "sum", "mean", "last", "max", or "none", which returns them all. A Scan
            says it itself.
        output: the output that is deployed, where several are no states.
        coding: "steps": a sample is [T, ...]; "direct": [...], the same at every step. "steps" if left out.
        dt: seconds per step, kept in the Graph.

    Returns:
        The checked Graph. Layers are named as the modules the exporter noted, else as operators and states.

    Raises:
        UsageError: something the file does not say is missing, or an option contradicts it.
        S2CError: the file cannot be read, a state belongs to no neuron of the integrate-and-fire family, an operator
            has no layer, or the graph does not do what the file does.
    """
    _check_choices(readout, coding, time_steps, dt)
    model = opened(path)
    with located(path):
        inputs, outputs = _tensors(model)
        if has_loop(model):
            loop = _loop(model, inputs, outputs, states, start, output)
            loop = _reconciled(loop, readout, coding, time_steps)
        else:
            loop = _single_step(model, inputs, outputs, states, start, output)
            if readout is None:
                raise UsageError(
                    "the read-out is missing",
                    why="a model of one time step does not say what becomes of its outputs",
                    fix='give readout="sum", "mean", "last" or "max" over the steps, or "none" for all of them',
                )
            check_time_steps(time_steps, coding)
            loop = TimeLoop(loop.step, loop.output, time_steps, coding or "steps", readout)
        found = populations(loop.step)
        builder = Builder(loop.step, found)
        edge = builder.build(loop.output)
        nodes = with_readout(builder.nodes.values(), edge, loop.readout)
        graph = Graph(in_order(nodes), loop.time_steps, loop.coding, dt, f"onnx file {Path(path).name}").verify()
        check_equal(graph, loop.step, builder.populations, Path(path).name)
    return graph


def _check_choices(readout: str | None, coding: str | None, time_steps: int | None, dt: float | None) -> None:
    one_of("readout", readout, (None, *_READOUTS))
    one_of("coding", coding, (None, *get_args(Coding)))
    check_time_steps(time_steps)
    check_dt(dt)


def _tensors(model: Any) -> tuple[list[Tensor], list[Tensor]]:
    """Names and shapes of the model's inputs and outputs; None for an axis of any size."""
    import onnx

    constants = {i.name for i in model.graph.initializer}
    sides: list[list[Tensor]] = [[], []]
    for side, values in zip(sides, (model.graph.input, model.graph.output), strict=True):
        for value in values:
            tensor = value.type.tensor_type
            if value.name in constants:
                continue
            if tensor.elem_type != onnx.TensorProto.FLOAT:
                kind = onnx.TensorProto.DataType.Name(tensor.elem_type)
                raise S2CError(
                    f"{value.name} holds {kind}",
                    why="a float Graph is computed in float32",
                    fix="export the model in float32; a compiled program is read from its model.nir",
                )
            shape = tuple(d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim)
            side.append((value.name, shape))
    if not sides[0] or not sides[1]:
        raise S2CError(
            "the model has no input or no output",
            fix="export the model with its data as an input and its result as an output",
        )
    return sides[0], sides[1]


def _single_step(
    model: Any,
    inputs: list[Tensor],
    outputs: list[Tensor],
    states: Mapping[str, str] | None,
    start: Start | None,
    output: str | None,
) -> TimeLoop:
    pairs = paired(inputs, outputs, states)
    read = _deployed([name for name, _ in outputs], set(pairs.values()), output)
    shapes = dict(inputs)
    (data,) = [name for name in shapes if name not in pairs]
    begins = {n: State(out, _start_value(start, n, shapes[n][1:])) for n, out in pairs.items()}
    _check_start_names(start, pairs)
    needed = _needed(model.graph.node, read, pairs)
    used = {name: state for name, state in begins.items() if name in needed}
    step = Step(
        [node for node in model.graph.node if needed & set(node.output)],
        initializers(model.graph),
        next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx")),
        data,
        {name: shapes[name] for name in (data, *used)},
        used,
        (read,),
    )
    return TimeLoop(step, read, None, "steps", "none")


def _needed(nodes: Any, output: str, pairs: Mapping[str, str]) -> set[str]:
    """The tensors the output depends on, in this step or an earlier one."""
    producers = {name: node for node in nodes for name in node.output}
    found, pending = {output}, [output]
    while pending:
        name = pending.pop()
        before = [*producers[name].input] if name in producers else []
        before += [pairs[name]] if name in pairs else []
        new = {tensor for tensor in before if tensor} - found
        found |= new
        pending += new
    return found


def _deployed(outputs: list[str], states: set[str], asked: str | None) -> str:
    if asked is not None:
        if asked not in outputs:
            raise UsageError(f"there is no output {asked!r}", fix=f"outputs: {', '.join(outputs)}")
        return asked
    left = [name for name in outputs if name not in states]
    if len(left) != 1:
        raise UsageError(
            f"{len(left)} outputs are no states" if left else "every output is a state",
            why=f"outputs: {', '.join(outputs)}",
            fix=f"name the one that is deployed: output={(left or outputs)[0]!r} (--output-node)",
        )
    return left[0]


def _start_value(start: Start | None, name: str, shape: tuple[int | None, ...]) -> Array:
    """The state at the start of a sample."""
    value = start.get(name) if isinstance(start, Mapping) else start
    if value is None:
        raise UsageError(
            "the state at the start of a sample is missing",
            where=name,
            why="the file takes it as an input",
            fix="give start=0 where every sample starts from zero, else {state input: number or array}",
        )
    array = np.asarray(value, dtype=np.float32)
    size: Shape = tuple(n or 1 for n in shape)
    try:
        full = np.broadcast_to(array, size).copy()
    except ValueError:
        raise UsageError(
            f"start for {name} has shape {array.shape}",
            why=f"the state of one sample has shape {size}",
            fix="give a number, or an array of this shape",
        ) from None
    if not np.isfinite(full).all():
        raise UsageError(f"start for {name} is NaN or infinite", fix="give finite numbers")
    return full


def _check_start_names(start: Start | None, known: Mapping[str, Any]) -> None:
    for name in start if isinstance(start, Mapping) else ():
        if name not in known:
            raise UsageError(f"start names {name!r}, which is no state", fix=f"states: {', '.join(known) or 'none'}")


def _loop(
    model: Any,
    inputs: list[Tensor],
    outputs: list[Tensor],
    states: Mapping[str, str] | None,
    start: Start | None,
    output: str | None,
) -> TimeLoop:
    if states is not None:
        raise UsageError(
            "states is for models of one step", why="the Scan says which tensors are its states", fix="leave it out"
        )
    read = _deployed([name for name, _ in outputs], set(), output)
    asked: dict[str, Array] = {}

    def begins(name: str, shape: Shape) -> Array:
        asked[name] = _start_value(start, name, shape)
        return asked[name]

    loop = time_loop(model, dict(inputs), read, begins)
    if isinstance(start, Mapping):
        _check_start_names(start, asked)
    elif start is not None and not asked:
        raise UsageError("start is given", why="the Scan holds the start values of its states", fix="leave it out")
    return loop


def _reconciled(loop: TimeLoop, readout: str | None, coding: str | None, time_steps: int | None) -> TimeLoop:
    """The loop with what the file leaves open taken from the options.

    Raises:
        UsageError: an option contradicts the file.
    """
    given = (("coding", coding, loop.coding), ("time_steps", time_steps, loop.time_steps))
    for name, asked, said in given:
        if asked is not None and said is not None and asked != said:
            raise UsageError(
                f"{name}={asked!r} contradicts the file",
                why=f"its Scan has {said!r}",
                fix="leave it out, or give what the file says",
            )
    if readout is not None and loop.readout not in ("none", readout):
        raise UsageError(
            f"readout={readout!r} contradicts the file",
            why=f"it has {loop.readout!r} over time",
            fix="leave it out, or give what the file says",
        )
    return TimeLoop(loop.step, loop.output, time_steps or loop.time_steps, loop.coding, readout or loop.readout)
