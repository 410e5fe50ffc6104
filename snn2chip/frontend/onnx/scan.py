"""A time loop written as ``Scan`` (what torch exports for ``torch._higher_order_ops.scan``): its body is the step.

What surrounds the loop may only reorder axes and repeat the input in front of it, and reduce over time behind it: that
says the coding of the input, T and the read-out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from snn2chip.errors import S2CError
from snn2chip.frontend.onnx.step import Op, State, Step, evaluator, initializers
from snn2chip.ir.graph import Coding
from snn2chip.ir.layers import Array

# Size of an axis of any size in the run that shows shapes: told apart from axes of length 1.
_ANY = 3
_SAME = ("Identity", "Cast")
# Stands for time in a list of axes.
_TIME = -1
_REDUCTIONS = {"ReduceMean": "mean", "ReduceSum": "sum", "ReduceMax": "max"}


@dataclass(frozen=True)
class TimeLoop:
    """The step inside a Scan, and what the file says about time.

    Args:
        output: the tensor of the step that the model returns.
        time_steps: T, None where the file leaves it open.
        readout: what becomes of the outputs over T; "none": all are returned.
    """

    step: Step
    output: str
    time_steps: int | None
    coding: Coding
    readout: str


def has_loop(model: Any) -> bool:
    """Whether the model holds a Scan."""
    return any(node.op_type == "Scan" for node in model.graph.node)


def time_loop(
    model: Any, shapes: Mapping[str, tuple[int | None, ...]], output: str, start: Callable[[str, Any], Array]
) -> TimeLoop:
    """The time loop of a model.

    Args:
        shapes: of the inputs.
        output: which of the model's outputs is deployed.
        start: gives the start value of a state that the model takes as an input, from its name and shape.

    Raises:
        S2CError: something around the loop is no reordering and no read-out, or there are several loops.
    """
    return _Outer(model, shapes).loop(output, start)


class _Outer:
    def __init__(self, model: Any, shapes: Mapping[str, tuple[int | None, ...]]) -> None:
        self.opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
        self.ops = [Op.of(proto) for proto in model.graph.node]
        self.producers = {name: op for op in self.ops for name in op.outputs if name}
        self.initializers = initializers(model.graph)
        self.shapes = shapes
        scans = [op for op in self.ops if op.kind == "Scan"]
        if len(scans) != 1 or self.opset < 9:
            raise S2CError(
                f"the model has {len(scans)} Scan operators" if self.opset >= 9 else f"Scan of opset {self.opset}",
                where=", ".join(op.where for op in scans),
                why="one time loop around the whole network is read, in opset 9 or later",
                fix="put all layers into one loop",
            )
        (self.scan,) = scans
        self.body = self.scan.attributes["body"]
        self.inputs = self.scan.attributes["num_scan_inputs"]
        self.state_count = len(self.scan.inputs) - self.inputs
        directions = [*self.scan.attributes.get("scan_input_directions", ())]
        directions += self.scan.attributes.get("scan_output_directions", ())
        if any(directions):
            raise S2CError(
                "the loop runs backwards in time", where=self.scan.where, fix="export a loop that goes forward in time"
            )
        if self.inputs != 1:
            raise S2CError(
                f"the loop takes {self.inputs} sequences",
                where=self.scan.where,
                why="a network has one input; what is the same in every step should be no sequence",
                fix="join the sequences along their features before the loop",
            )
        feeds = {n: np.zeros([_ANY if s is None else s for s in shape], np.float32) for n, shape in shapes.items()}
        names = [name for op in self.ops for name in op.outputs if name]
        protos = [op.proto for op in self.ops]
        run = evaluator(protos, self.initializers, self.opset, names, feeds)
        self.values = {**feeds, **self.initializers, **dict(zip(names, run(feeds), strict=True))}
        self.fixed = set(self.initializers)
        for op in self.ops:
            if op.kind == "Shape" or (op.kind != "Scan" and all(not n or n in self.fixed for n in op.inputs)):
                self.fixed |= set(op.outputs)

    def loop(self, output: str, start: Callable[[str, Any], Array]) -> TimeLoop:
        """The time loop; see :func:`time_loop`."""
        sequence = self.scan.inputs[-1]
        axis = self.scan.attributes.get("scan_input_axes", [0])[0] % self.values[sequence].ndim
        coding, steps = self._entry(sequence, axis)
        names_in = [value.name for value in self.body.input]
        names_out = [value.name for value in self.body.output]
        states = {}
        for name, out, begins in zip(names_in, names_out, self.scan.inputs[: self.state_count], strict=False):
            states[name] = State(out, self._start(begins, start))
        constants = {name: self.values[name] for name in self.fixed if name in self.values}
        constants |= initializers(self.body)
        inside = np.delete(np.asarray(self.values[sequence].shape), axis)
        data = names_in[-1]
        shapes: dict[str, tuple[int | None, ...]] = {data: tuple(int(n) for n in inside)}
        shapes |= {name: (shapes[data][0], *state.start.shape) for name, state in states.items()}
        read, readout = self._exit(output, names_out)
        step = Step(list(self.body.node), constants, self.opset, data, shapes, states, (read,))
        return TimeLoop(step, read, steps, coding, readout)

    def _start(self, tensor: str, start: Callable[[str, Any], Array]) -> Array:
        """The value of a state at the start of a sample."""
        if tensor in self.shapes:
            return start(tensor, self.values[tensor].shape[1:])
        value = self.values[tensor]
        if tensor not in self.fixed:
            raise S2CError(
                "the start value of a state is computed from the data",
                where=tensor,
                fix="start from a constant",
            )
        if value.ndim < 1 or (value != value[:1]).any():
            raise S2CError(
                "the start value of a state differs from sample to sample",
                where=tensor,
                fix="start every sample from the same state",
            )
        return np.asarray(value[0])

    def _entry(self, tensor: str, axis: int) -> tuple[Coding, int | None]:
        """How the data becomes the sequence: walked back from the Scan, keeping track of the time axis."""
        order = [i for i in range(self.values[tensor].ndim) if i != axis]
        while tensor not in self.shapes:
            op = self.producers.get(tensor)
            if op is None or tensor in self.fixed:
                raise S2CError(
                    "the loop reads a constant instead of the data",
                    where=self.scan.where,
                    fix="export a model whose loop reads its input",
                )
            before = self.values[op.inputs[0]].shape
            if op.kind in _SAME:
                pass
            elif op.kind == "Transpose":
                moved = op.attributes.get("perm", list(reversed(range(len(before)))))
                axis, order = moved[axis], [moved[i] for i in order]
            elif op.kind == "Expand" and self._repeats(op, axis, order):
                return "direct", int(self.values[tensor].shape[axis])
            else:
                raise S2CError(
                    f"{op.kind} works on the data of all time steps at once",
                    where=op.where,
                    fix="move it into the loop",
                )
            tensor = op.inputs[0]
        if order != sorted(order):
            raise S2CError("the axes of the data are reordered in front of the loop", fix="reorder them in the loop")
        return "steps", self.shapes[tensor][axis]

    def _repeats(self, op: Op, axis: int, order: list[int]) -> bool:
        """Whether an Expand repeats one sample along time and nothing else."""
        tensor, out = op.inputs[0], self.values[op.outputs[0]].shape
        while (before := self.producers.get(tensor)) is not None and before.kind in (*_SAME, "Unsqueeze", "Reshape"):
            tensor = before.inputs[0]
        shape = self.values[tensor].shape
        return tensor in self.shapes and axis == 0 and order == sorted(order) and shape == out[1:]

    def _exit(self, output: str, names_out: list[str]) -> tuple[str, str]:
        """The step's tensor and the read-out: what happens to the axes between the Scan and the model's output."""
        way, tensor = [], output
        while (op := self.producers.get(tensor)) is not None and op is not self.scan:
            way.append(op)
            tensor = op.inputs[0]
        if op is None:
            raise S2CError(
                "the output does not come from the loop",
                where=output,
                fix="name an output of the loop: output=... (--output-node)",
            )
        position = op.outputs.index(tensor)
        rank = self.values[tensor].ndim
        if position < self.state_count:
            axes, readout = list(range(rank)), "last"
        else:
            given = self.scan.attributes.get("scan_output_axes", ())
            time = (given[position - self.state_count] if given else 0) % rank
            axes = list(range(rank - 1))
            axes.insert(time, _TIME)
            readout = "none"
        for op in reversed(way):
            axes, readout = self._behind(op, axes, readout)
        kept = [axis for axis in axes if axis != _TIME]
        if kept != sorted(kept):
            raise S2CError("the axes of the output are reordered behind the loop", fix="reorder them in the loop")
        return names_out[position], readout

    def _behind(self, op: Op, axes: list[int], readout: str) -> tuple[list[int], str]:
        """What an operator behind the loop makes of the axes (``_TIME`` marks time) and of the read-out."""
        without = [axis for axis in axes if axis != _TIME]
        if op.kind in _SAME:
            return axes, readout
        if op.kind == "Transpose":
            order = op.attributes.get("perm", list(reversed(range(len(axes)))))
            return [axes[i] for i in order], readout
        if op.kind in _REDUCTIONS and readout == "none":
            reduced = self._numbers(op, 1, "axes")
            if len(reduced) == 1 and axes[reduced[0]] == _TIME and not op.attributes.get("keepdims", 1):
                return without, _REDUCTIONS[op.kind]
        if op.kind in ("Gather", "Slice") and readout == "none" and self._takes_last(op, axes):
            dropped = op.kind == "Gather" and self.values[op.inputs[1]].ndim == 0
            return (without if dropped else axes), "last"
        if op.kind == "Squeeze" and readout == "last" and [axes[i] for i in self._numbers(op, 1, "axes")] == [_TIME]:
            return without, readout
        raise S2CError(
            f"{op.kind} works on the outputs of all time steps",
            where=op.where,
            why="behind the loop come only a mean, sum or maximum over time, or the last step",
            fix="move it into the loop; a linear layer may as well come before the mean",
        )

    def _takes_last(self, op: Op, axes: list[int]) -> bool:
        """Whether a selection takes the last step and nothing else."""
        gathers = op.kind == "Gather"
        axis = int(op.attributes.get("axis", 0)) if gathers else (self._numbers(op, 3, "axes") or [0])[0]
        size = self.values[op.inputs[0]].shape[axis]
        first = self._numbers(op, 1, "starts")
        last = first in ([-1], [size - 1])
        return axes[axis] == _TIME and last and (gathers or self._numbers(op, 2, "ends")[0] >= size)

    def _numbers(self, op: Op, position: int, attribute: str) -> list[int]:
        if len(op.inputs) > position and op.inputs[position] in self.fixed:
            return [int(v) for v in np.ravel(self.values[op.inputs[position]])]
        return [int(v) for v in op.attributes.get(attribute, ())]
