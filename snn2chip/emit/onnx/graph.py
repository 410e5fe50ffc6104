"""The ONNX graph of a program while it is built."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from snn2chip.errors import S2CError
from snn2chip.ir import layers as L
from snn2chip.ir.graph import Edge, Node
from snn2chip.ir.layers import Array, Shape
from snn2chip.ir.program import Program
from snn2chip.version import __version__

# Operators used are those of opset 18 (BitwiseAnd, ReduceMax with axes as an input); IR 8 goes with it.
OPSET, _IR = 18, 8
DOMAIN = "snn2chip"


class Writer:
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
        """The ``ModelProto`` of what was added."""
        helper = self.onnx.helper
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
            opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)],
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


def summed(w: Writer, name: str, parts: list[str], bias: Array | None) -> None:
    """``name`` as the sum of the parts and a bias."""
    if bias is not None:
        parts = [*parts, w.constant(f"{name}.bias", bias)]
    total = parts[0]
    for i, part in enumerate(parts[1:], 1):
        total = w.op("Add", [total, part], name if i == len(parts) - 1 else f"{name}.sum{i}")
    if len(parts) == 1:
        w.op("Identity", [total], name)
