"""Neurons as local functions, made of the operations their integer steps run on symbols."""

from __future__ import annotations

from typing import Any

import numpy as np

from snn2chip.emit.onnx.graph import DOMAIN, OPSET, Writer, summed
from snn2chip.ir import layers as L
from snn2chip.ir.graph import Node
from snn2chip.simulate.fast.populations.symbolic import Expr, NotSymbolicError, Step, reachable, state_names, trace_step


def neuron(w: Writer, node: Node, layer: L.Neuron) -> None:
    """A population: its states in and out, and a call of its function."""
    name, shape = node.name, w.shapes[node.name]
    try:
        step = trace_step(layer.model, w.program.target.arithmetic)
    except NotSymbolicError as error:
        raise w.refuse(node, f"its neuron, {layer.kind}, is not made of integer operations alone: {error}") from None
    begin = layer.model.start((1, *shape))
    entered = [w.source(edge) for edge in node.inputs]
    summed(w, f"{name}.input", entered, None)
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
        w.onnx.helper.make_node(_function(w, layer.kind, step), given, [*results, name], name=name, domain=DOMAIN)
    )
    w.outputs += [(result, shape) for result in results]
    w.outputs.append((w.op("Identity", [name], f"{name}.out"), shape))


def _function(w: Writer, kind: str, step: Step) -> str:
    """The name of the local function that computes a neuron's step; equal steps share one."""
    body = _Body(w.onnx, step)
    key = b"".join(node.SerializeToString(deterministic=True) for node in body.nodes)
    if key not in w.functions:
        taken = sum(f.name == kind or f.name.startswith(f"{kind}_") for f in w.functions.values())
        w.functions[key] = w.onnx.helper.make_function(
            DOMAIN,
            kind if not taken else f"{kind}_{taken + 1}",
            body.inputs,
            body.outputs,
            body.nodes,
            [w.onnx.helper.make_opsetid("", OPSET)],
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
