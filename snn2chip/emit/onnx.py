"""A Program as an ``.onnx`` file: one time step in int64, which any ONNX runtime computes to the same integers.

Inputs are the data of one step and the states; outputs the states after it, the spikes of every population, and what
the read-out reads. Convolutions and pooling gather their windows and multiply int64 matrices, because ONNX has no wide
integer convolution; shifts are divisions of exact multiples, because ``Div`` rounds negative numbers in no common way.
Every neuron is a local function made of the operations its integer step runs on symbols.

What lies outside a step is in the file's metadata: T, coding, read-out, scales, the pairs of states, and start values
that are not zero.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from snn2chip.atomic import atomic_file
from snn2chip.errors import S2CError
from snn2chip.ir import layers as L
from snn2chip.ir.graph import Edge, Node
from snn2chip.ir.layers import Array, Shape, windows
from snn2chip.ir.program import Program
from snn2chip.simulate.fast.symbolic import Expr, NotSymbolicError, Step, reachable, state_names, trace_step
from snn2chip.version import __version__

# Operators used are those of opset 18 (BitwiseAnd, ReduceMax with axes as an input); IR 8 goes with it.
_OPSET, _IR = 18, 8
_DOMAIN = "snn2chip"
# Protocol buffers hold no message larger than this.
_LARGEST = 2**31 - 1


def write_onnx(program: Program, path: str | os.PathLike[str]) -> None:
    """Write one time step of ``program`` to ``path``; the same program gives the same bytes.

    The states named in the metadata ``snn2chip.states`` ({input: output}) are fed back from step to step; they start at
    zero, or at the values in ``snn2chip.start``. Data and outputs are the integers of :func:`snn2chip.simulate`.

    Raises:
        S2CError: ``onnx`` is missing, a layer or neuron has no integer operations in ONNX, or the file cannot be
            written.
    """
    if importlib.util.find_spec("onnx") is None:
        raise S2CError(
            "writing .onnx needs onnx", where=str(path), why="it is not installed", fix="pip install 'snn2chip[onnx]'"
        )
    model = _Writer(program).model()
    if model.ByteSize() > _LARGEST:
        raise S2CError("the program is too large for one .onnx file", where=str(path), why="it exceeds 2 GiB")
    with atomic_file(path) as temporary:
        temporary.write_bytes(model.SerializeToString(deterministic=True))


class _Writer:
    """The ONNX graph of a program while it is built."""

    def __init__(self, program: Program) -> None:
        import onnx

        self.onnx, self.program = onnx, program
        self.shapes = program.shapes()
        self.nodes: list[Any] = []
        self.constants: dict[str, Array] = {}
        self.functions: dict[bytes, Any] = {}
        self.inputs: list[tuple[str, Shape]] = []
        self.outputs: list[tuple[str, Shape]] = []
        self.states: dict[str, str] = {}
        self.start: dict[str, Any] = {}
        self._late: dict[tuple[str, str], int] = {}

    def model(self) -> Any:
        """The ``ModelProto``."""
        helper = self.onnx.helper
        for node in self.program:
            self._add(node)
        self._delay_lines()
        graph = helper.make_graph(
            self.nodes,
            "one time step",
            [self._value(name, shape) for name, shape in self.inputs],
            [self._value(name, shape) for name, shape in self.outputs],
            [self.onnx.numpy_helper.from_array(array, name) for name, array in self.constants.items()],
        )
        model = helper.make_model(
            graph,
            functions=list(self.functions.values()),
            opset_imports=[helper.make_opsetid("", _OPSET), helper.make_opsetid(_DOMAIN, 1)],
            ir_version=_IR,
            producer_name="snn2chip",
            producer_version=__version__,
        )
        helper.set_model_props(model, self._metadata())
        return model

    def op(self, kind: str, inputs: Sequence[str], output: str, domain: str = "", **attributes: Any) -> str:
        """Add an operator; its output."""
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, [output], name=output, domain=domain, **attributes))
        return output

    def constant(self, name: str, value: Any) -> str:
        """Add an int64 constant; its name."""
        self.constants[name] = np.ascontiguousarray(np.asarray(value, dtype=np.int64))
        return name

    def source(self, edge: Edge, steps: int = 0) -> str:
        """The tensor an edge delivers, ``steps`` later still."""
        key = (edge.source, edge.port)
        late = edge.delay + steps
        self._late[key] = max(self._late.get(key, 0), late)
        return _port(*key) if late == 0 else f"{_port(*key)}[t-{late}]"

    def refuse(self, node: Node, why: str) -> S2CError:
        return S2CError(
            "the program cannot be written as .onnx",
            where=node.where(),
            why=why,
            fix="write it as .nir, which holds every program",
        )

    def _add(self, node: Node) -> None:
        writer = next((_WRITERS[cls] for cls in type(node.layer).__mro__ if cls in _WRITERS), None)
        if writer is None:
            raise self.refuse(node, f"{node.layer.kind} has no exact integer operator in ONNX")
        writer(self, node, node.layer)

    def _delay_lines(self) -> None:
        """Values of earlier steps, as states that move on by one in every step."""
        for key, steps in self._late.items():
            now, shape = _port(*key), self.shapes[key[0]]
            for late in range(1, steps + 1):
                self._state(f"{now}[t-{late}]", now if late == 1 else f"{now}[t-{late - 1}]", shape)

    def _state(self, name: str, value: str, shape: Shape) -> None:
        following = self.op("Identity", [value], f"{name}.next")
        self.inputs.append((name, shape))
        self.outputs.append((following, shape))
        self.states[name] = following

    def _value(self, name: str, shape: Shape) -> Any:
        return self.onnx.helper.make_tensor_value_info(name, self.onnx.TensorProto.INT64, ["N", *shape])

    def _metadata(self) -> dict[str, str]:
        program = self.program
        (edge,) = program.output.inputs
        layer = program[edge.source].layer
        said = {
            "time_steps": program.time_steps,
            "coding": program.coding,
            "readout": layer.how if isinstance(layer, L.Readout) else "none",
            "input_scale": program.formats[program.input.name].scale,
            "output_scale": program.output_scale.tolist(),
            "states": self.states,
            "start": self.start,
        }
        return {f"snn2chip.{key}": json.dumps(value) for key, value in said.items()}


def _port(name: str, port: str) -> str:
    return name if port == "out" else f"{name}.{port}.next"


def _input(w: _Writer, node: Node, layer: L.Input) -> None:
    w.inputs.append((node.name, layer.shape))


def _linear(w: _Writer, node: Node, layer: L.Linear) -> None:
    name, (edge,) = node.name, node.inputs
    if layer.delay is None:
        parts = [(0, layer.weight)]
    else:
        parts = [(int(steps), layer.weight * (layer.delay == steps)) for steps in np.unique(layer.delay)]
    products = []
    for steps, weight in parts:
        label = f"{name}.weight" if len(parts) == 1 else f"{name}.weight[t-{steps}]"
        w.constant(label, weight.T)
        products.append(w.op("MatMul", [w.source(edge, steps), label], f"{label}.product"))
    _summed(w, name, products, layer.bias)


def _summed(w: _Writer, name: str, parts: list[str], bias: Array | None) -> None:
    """``name`` as the sum of the parts and a bias."""
    if bias is not None:
        parts = [*parts, w.constant(f"{name}.bias", bias)]
    total = parts[0]
    for i, part in enumerate(parts[1:], 1):
        total = w.op("Add", [total, part], name if i == len(parts) - 1 else f"{name}.sum{i}")
    if len(parts) == 1:
        w.op("Identity", [total], name)


def _windows(w: _Writer, node: Node, size: Shape, spans: Sequence[tuple[int, int, int, int]], fill: int) -> str:
    """Windows of the input [N, C, P, K]: P positions in row-major order, K entries of one channel each.

    Args:
        size: spatial shape of the output.
        spans: (kernel, stride, padding, dilation) per axis.
        fill: what the padding holds.
    """
    name, (edge,) = node.name, node.inputs
    channels, *space = w.shapes[edge.source]
    # On the far side the padding goes as far as windows reach, as in the reference engine.
    after = [
        max(p, (o - 1) * s + d * (k - 1) + 1 - n - p) for n, o, (k, s, p, d) in zip(space, size, spans, strict=True)
    ]
    before = [p for _, _, p, _ in spans]
    x = w.source(edge)
    if any(before) or any(after):
        pads = w.constant(f"{name}.pads", [0, 0, *before, 0, 0, *after])
        x = w.op("Pad", [x, pads, w.constant(f"{name}.fill", fill)], f"{name}.padded")
    padded = [b + n + a for b, n, a in zip(before, space, after, strict=True)]
    strides = [math.prod(padded[i + 1 :]) for i in range(len(padded))]
    grids = zip(size, spans, strides, strict=True)
    starts, offsets = np.zeros((), np.int64), np.zeros((), np.int64)
    for count, (k, s, _, d), stride in grids:
        starts = starts[..., None] + np.arange(count) * s * stride
        offsets = offsets[..., None] + np.arange(k) * d * stride
    flat = w.op("Reshape", [x, w.constant(f"{name}.flat", [0, channels, -1])], f"{name}.rows")
    places = w.constant(f"{name}.places", starts.reshape(-1, 1))
    index = w.op("Add", [places, w.constant(f"{name}.offsets", offsets.reshape(1, -1))], f"{name}.index")
    return w.op("Gather", [flat, index], f"{name}.windows", axis=2)


def _conv(w: _Writer, node: Node, layer: L.Conv) -> None:
    name, groups = node.name, layer.groups
    out, each = layer.weight.shape[:2]
    size = windows(w.shapes[node.inputs[0].source][1:], layer.kernel, layer.stride, layer.padding, layer.dilation)
    spans = list(zip(layer.kernel, layer.stride, layer.padding, layer.dilation, strict=True))
    gathered = _windows(w, node, size, spans, 0)
    places, entries = math.prod(size), math.prod(layer.kernel)
    # [N, C, P, K] → [N, groups, P, C/groups · K]
    split = w.op(
        "Reshape", [gathered, w.constant(f"{name}.split", [0, groups, each, places, entries])], f"{name}.split5"
    )
    moved = w.op("Transpose", [split], f"{name}.moved", perm=[0, 1, 3, 2, 4])
    rows = w.op("Reshape", [moved, w.constant(f"{name}.rowed", [0, groups, places, each * entries])], f"{name}.patches")
    weight = layer.weight.reshape(groups, out // groups, each * entries).transpose(0, 2, 1)
    product = w.op("MatMul", [rows, w.constant(f"{name}.weight", weight)], f"{name}.product")
    back = w.op("Transpose", [product], f"{name}.back", perm=[0, 1, 3, 2])
    total = w.op("Reshape", [back, w.constant(f"{name}.shape", [0, out, *size])], f"{name}.convolved")
    bias = None if layer.bias is None else layer.bias.reshape(-1, *(1,) * len(size))
    _summed(w, name, [total], bias)


def _pool(w: _Writer, node: Node, layer: L.Pool) -> None:
    name = node.name
    maximum = isinstance(layer, L.MaxPool)
    _, *size = w.shapes[name]
    spans = [(k, s, p, 1) for k, s, p in zip(layer.kernel, layer.stride, layer.padding, strict=True)]
    gathered = _windows(w, node, tuple(size), spans, np.iinfo(np.int64).min if maximum else 0)
    axes = w.constant(f"{name}.axes", [3])
    reduced = w.op("ReduceMax" if maximum else "ReduceSum", [gathered, axes], f"{name}.pooled", keepdims=0)
    w.op("Reshape", [reduced, w.constant(f"{name}.shape", [0, *w.shapes[name]])], name)


def _view(w: _Writer, node: Node, layer: L.Layer) -> None:
    shape = w.constant(f"{node.name}.shape", [0, *w.shapes[node.name]])
    w.op("Reshape", [w.source(node.inputs[0]), shape], node.name)


def _permute(w: _Writer, node: Node, layer: L.Permute) -> None:
    w.op("Transpose", [w.source(node.inputs[0])], node.name, perm=[0, *(d + 1 for d in layer.dims)])


def _concat(w: _Writer, node: Node, layer: L.Concat) -> None:
    axis = layer.axis % len(w.shapes[node.name]) + 1
    w.op("Concat", [w.source(edge) for edge in node.inputs], node.name, axis=axis)


def _gather(w: _Writer, node: Node, layer: L.Gather) -> None:
    name, (edge,) = node.name, node.inputs
    flat = w.op("Reshape", [w.source(edge), w.constant(f"{name}.flat", [0, -1])], f"{name}.row")
    if (layer.index < 0).any():
        # Index −1 finds the zero behind the elements.
        flat = w.op(
            "Pad", [flat, w.constant(f"{name}.pads", [0, 0, 0, 1]), w.constant(f"{name}.fill", 0)], f"{name}.padded"
        )
    w.op("Gather", [flat, w.constant(f"{name}.index", layer.index)], name, axis=1)


def _add(w: _Writer, node: Node, layer: L.Add) -> None:
    _summed(w, node.name, [w.source(edge) for edge in node.inputs], None)


def _product(kind: str) -> Callable[[_Writer, Node, Any], None]:
    def write(w: _Writer, node: Node, layer: Any) -> None:
        w.op(kind, [w.source(edge) for edge in node.inputs], node.name)

    return write


def _scale(w: _Writer, node: Node, layer: L.Scale) -> None:
    w.op("Mul", [w.source(node.inputs[0]), w.constant(f"{node.name}.scale", layer.scale)], node.name)


def _delay(w: _Writer, node: Node, layer: L.Delay) -> None:
    w.op("Identity", [w.source(node.inputs[0], layer.steps)], node.name)


def _rescale(w: _Writer, node: Node, layer: L.Rescale) -> None:
    name, divisor = node.name, w.constant(f"{node.name}.divisor", 1 << layer.shift)
    half = w.constant(f"{name}.half", (1 << layer.shift) >> 1)
    raised = w.op("Add", [w.source(node.inputs[0]), half], f"{name}.raised")
    rest = w.op("Mod", [raised, divisor], f"{name}.rest")
    w.op("Div", [w.op("Sub", [raised, rest], f"{name}.multiple"), divisor], name)


def _readout(w: _Writer, node: Node, layer: L.Readout) -> None:
    """Over T, so no part of a step: its input is the step's output."""
    w.op("Identity", [w.source(node.inputs[0])], node.name)


def _output(w: _Writer, node: Node, layer: L.Output) -> None:
    w.op("Identity", [w.source(node.inputs[0])], node.name)
    w.outputs.append((node.name, w.shapes[node.name]))


def _neuron(w: _Writer, node: Node, layer: L.Neuron) -> None:
    name, shape = node.name, w.shapes[node.name]
    try:
        step = trace_step(layer.model, w.program.target.arithmetic)
    except NotSymbolicError as error:
        raise w.refuse(node, f"its neuron, {layer.kind}, is not made of integer operations alone: {error}") from None
    begin = layer.model.start((1, *shape))
    entered = [w.source(edge) for edge in node.inputs]
    _summed(w, f"{name}.input", entered, None)
    given = [f"{name}.input"]
    for state in step.live:
        w.inputs.append((f"{name}.{state}", shape))
        w.states[f"{name}.{state}"] = f"{name}.{state}.next"
        given.append(f"{name}.{state}")
        if begin[state].any():
            w.start[f"{name}.{state}"] = begin[state][0].tolist()
    given += [w.constant(f"{name}.parameter{i}", array) for i, array in enumerate(step.trace.params)]
    results = [f"{name}.{state}.next" for state in state_names(layer.model)]
    w.nodes.append(
        w.onnx.helper.make_node(_function(w, layer.kind, step), given, [*results, name], name=name, domain=_DOMAIN)
    )
    w.outputs += [(result, shape) for result in results]
    w.outputs.append((w.op("Identity", [name], f"{name}.out"), shape))


def _function(w: _Writer, kind: str, step: Step) -> str:
    """The name of the local function that computes a neuron's step; equal steps share one."""
    body = _Body(w.onnx, step)
    key = b"".join(node.SerializeToString(deterministic=True) for node in body.nodes)
    if key not in w.functions:
        taken = sum(f.name == kind or f.name.startswith(f"{kind}_") for f in w.functions.values())
        w.functions[key] = w.onnx.helper.make_function(
            _DOMAIN,
            kind if not taken else f"{kind}_{taken + 1}",
            body.inputs,
            body.outputs,
            body.nodes,
            [w.onnx.helper.make_opsetid("", _OPSET)],
        )
    return str(w.functions[key].name)


class _Body:
    """The operators of one neuron's step."""

    def __init__(self, onnx: Any, step: Step) -> None:
        self._onnx = onnx
        self.nodes: list[Any] = []
        self.inputs = ["a", *step.live, *(f"p{i}" for i in range(len(step.trace.params)))]
        self.outputs = [f"{name}_next" for name in step.states] + ["out"]
        self._names: dict[Expr, str] = {}
        roots = [*step.states.values(), step.out]
        for expression in reachable(roots):
            self._names[expression] = self._written(expression)
        for root, output in zip(roots, self.outputs, strict=True):
            self._add("Identity", [self._number(root)], output)

    def _add(self, kind: str, inputs: list[str], output: str = "", **attributes: Any) -> str:
        output = output or f"t{len(self.nodes)}"
        self.nodes.append(self._onnx.helper.make_node(kind, inputs, [output], **attributes))
        return output

    def _constant(self, value: int) -> str:
        tensor = self._onnx.numpy_helper.from_array(np.asarray(value, dtype=np.int64))
        return self._add("Constant", [], value=tensor)

    def _number(self, e: Expr) -> str:
        """The value as int64, truth as 0 or 1."""
        name = self._names[e]
        return self._add("Cast", [name], to=self._onnx.TensorProto.INT64) if e.boolean else name

    def _truth(self, e: Expr) -> str:
        name = self._names[e]
        return name if e.boolean else self._add("Cast", [name], to=self._onnx.TensorProto.BOOL)

    def _written(self, e: Expr) -> str:
        if e.op == "input":
            return str(e.args[0])
        if e.op == "param":
            return f"p{e.args[0]}"
        if e.op == "const":
            value = self._constant(int(e.args[0]))
            return self._add("Cast", [value], to=self._onnx.TensorProto.BOOL) if e.boolean else value
        if e.op in _SHIFTS:
            return self._shifted(e)
        if e.op == "where":
            return self._add("Where", [self._truth(e.args[0]), *map(self._number, e.args[1:])])
        if e.op == "and":
            if e.boolean:
                return self._add("And", [self._truth(a) for a in e.args])
            return self._add("BitwiseAnd", [self._number(a) for a in e.args])
        if e.op == "ne":
            return self._add("Not", [self._add("Equal", [self._number(a) for a in e.args])])
        return self._add(_OPERATORS[e.op], [self._number(a) for a in e.args])

    def _shifted(self, e: Expr) -> str:
        """A product, or the quotient of an exact multiple: ``Div`` itself rounds negative numbers as it likes."""
        x, factor = self._number(e.args[0]), self._constant(1 << int(e.args[1].args[0]))
        if e.op == "shl":
            return self._add("Mul", [x, factor])
        # The remainder has the sign of the number (rounding toward zero) or of the divisor (rounding down).
        rest = self._add("Mod", [x, factor], fmod=int(e.op == "trunc"))
        return self._add("Div", [self._add("Sub", [x, rest]), factor])


_SHIFTS = ("shl", "shr", "trunc")
_OPERATORS = {
    "add": "Add",
    "sub": "Sub",
    "mul": "Mul",
    "neg": "Neg",
    "min": "Min",
    "max": "Max",
    "lt": "Less",
    "le": "LessOrEqual",
    "gt": "Greater",
    "ge": "GreaterOrEqual",
    "eq": "Equal",
}

_WRITERS: dict[type[L.Layer], Callable[[_Writer, Node, Any], None]] = {
    L.Input: _input,
    L.Linear: _linear,
    L.Conv: _conv,
    L.SumPool: _pool,
    L.MaxPool: _pool,
    L.Flatten: _view,
    L.Reshape: _view,
    L.Permute: _permute,
    L.Gather: _gather,
    L.Concat: _concat,
    L.Add: _add,
    L.Mul: _product("Mul"),
    L.MatMul: _product("MatMul"),
    L.Scale: _scale,
    L.Delay: _delay,
    L.Rescale: _rescale,
    L.Neuron: _neuron,
    L.Readout: _readout,
    L.Output: _output,
}
