"""One time step of an ONNX model: its operators, constants, shapes and states, and how to run any part of it.

Shapes and constants are those of a run: the step is evaluated once, on zeros, by ONNX's own reference evaluator. What
then depends on nothing but initialisers and shapes is constant.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from snn2chip.errors import S2CError
from snn2chip.ir.graph import Source
from snn2chip.ir.layers import Array, Shape

# Samples in a run of a model whose batch axis has no size: told apart from axes of length 1.
_ANY_BATCH = 3

_SUMS = ("Add", "Sub", "Mul", "Div", "Neg", "Sum", "Identity", "Cast", "CastLike", "Dropout")
_CHOICES = ("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal", "Not", "And", "Or", "Xor", "Where")
_BENDS = ("Clip", "Min", "Max", "Abs", "Sign", "Relu", "LeakyRelu", "Sigmoid", "Tanh", "Exp", "Log", "Sqrt", "Pow")
_OTHERS = ("Reciprocal", "Floor", "Ceil", "Round", "Mod", "Erf", "Softplus", "HardSigmoid", "Elu", "Gelu", "Softsign")
# Neurons are made of these. Everything else separates neurons.
ELEMENTWISE = frozenset((*_SUMS, *_CHOICES, *_BENDS, *_OTHERS))
_ONE = np.ones(())
_RANDOM = re.compile("Random|Bernoulli|Multinomial")


Run = Callable[[Mapping[str, Array]], list[Array]]


@dataclass(frozen=True)
class Op:
    """One operator: its kind, tensors, attributes as plain values, and where the exporter says it came from."""

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    source: Source
    proto: Any

    @property
    def where(self) -> str:
        """The operator for an error message."""
        origin = str(self.source)
        return f"{self.name or self.outputs[0]} ({self.kind})" + (f", from {origin}" if origin else "")

    @classmethod
    def of(cls, proto: Any) -> Op:
        """An operator from its ``NodeProto``."""
        import onnx

        domain = "" if proto.domain in ("", "ai.onnx") else f"{proto.domain}."
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in proto.attribute}
        attributes = {k: v.decode() if isinstance(v, bytes) else v for k, v in attributes.items()}
        return cls(
            domain + proto.op_type,
            proto.name,
            tuple(proto.input),
            tuple(proto.output),
            attributes,
            _source(proto),
            proto,
        )


def _literal(text: str) -> Any:
    """A list as it was printed; None where the text is none, because nothing checks what tools note."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return None


def _source(proto: Any) -> Source:
    """Module path and source line, as torch's exporters note them: in metadata, or in the operator's name."""
    noted = {p.key: p.value for p in getattr(proto, "metadata_props", ())}
    module, file, line = "", "", 0
    scopes = _literal(noted.get("pkg.torch.onnx.name_scopes", ""))
    if isinstance(scopes, list):
        module = next((str(scope) for scope in reversed(scopes[:-1]) if scope), "")
    elif proto.name.startswith("/"):
        # An entry of a list of modules carries the path of the list: "/b.0/b.0.1/Conv" is in b.0.1.
        for scope in proto.name.strip("/").split("/")[:-1]:
            module = scope if scope.startswith(f"{module}.") else ".".join(filter(None, (module, scope)))
    places = re.findall(r'File "([^"]+)", line (\d+)', noted.get("pkg.torch.onnx.stack_trace", ""))
    if places:
        file, line = places[0][0], int(places[0][1])
    return Source(module, file, line)


@dataclass(frozen=True)
class State:
    """A tensor that is carried from one step to the next.

    Args:
        out: the tensor whose value is the state of the next step.
        start: its value at the start of a sample, without batch axis.
    """

    out: str
    start: Array


@dataclass
class Step:
    """One time step.

    Args:
        protos: the operators, in order of execution.
        initializers: constants by name.
        opset: version of the operators.
        data: name of the input that is no state.
        shapes: shapes of the inputs, batch axis first; None for an axis of any size.
        states: input name → the state.
        outputs: what the step returns.
    """

    protos: list[Any]
    initializers: Mapping[str, Array]
    opset: int
    data: str
    shapes: dict[str, tuple[int | None, ...]]
    states: Mapping[str, State]
    outputs: tuple[str, ...]
    ops: tuple[Op, ...] = field(init=False)
    producers: dict[str, Op] = field(init=False)
    constants: dict[str, Array] = field(init=False)
    batch: int = field(init=False)

    def __post_init__(self) -> None:
        named = {*self.outputs, *(state.out for state in self.states.values())}
        self.protos = _without_repetition(self.protos, named)
        self.ops = tuple(Op.of(proto) for proto in self.protos)
        self.producers = {name: op for op in self.ops for name in op.outputs if name}
        self.batch = self.shapes[self.data][0] or _ANY_BATCH
        feeds = {name: np.zeros(_sized(name, shape, self.batch), np.float32) for name, shape in self.shapes.items()}
        names = [name for op in self.ops for name in op.outputs if name]
        values = {**feeds, **dict(zip(names, self.evaluator(names, feeds)(feeds), strict=True))}
        self._shapes = {name: np.shape(value) for name, value in values.items()}
        self.constants = dict(self.initializers)
        for op in self.ops:
            fixed = op.kind in ("Shape", "Size") or all(not name or name in self.constants for name in op.inputs)
            if fixed and not _RANDOM.search(op.kind):
                self.constants |= {name: np.array(values[name]) for name in op.outputs if name}
        self._drop_products_with_zero(named)

    def _drop_products_with_zero(self, named: set[str]) -> None:
        """Make constants of what is multiplied by zero: snnTorch's Synaptic takes "reset · 0" off its current."""
        zeros = {
            op.outputs[0]: np.zeros(self._shapes[op.outputs[0]], np.float32)
            for op in self.ops
            if op.kind == "Mul" and not all(self.constants.get(name, _ONE).any() for name in op.inputs)
        }
        dropped = zeros.keys() - named
        self.constants |= zeros
        self.initializers = {**self.initializers, **{name: zeros[name] for name in dropped}}
        kept = [i for i, op in enumerate(self.ops) if not dropped.intersection(op.outputs)]
        self.protos, self.ops = [self.protos[i] for i in kept], tuple(self.ops[i] for i in kept)
        self.producers = {name: op for op in self.ops for name in op.outputs if name}

    def shape(self, tensor: str) -> Shape:
        """Shape of one sample.

        Raises:
            S2CError: the first axis is not that of the samples.
        """
        shape = self._shapes[tensor]
        if not shape or shape[0] != self.batch:
            op = self.producers.get(tensor)
            raise S2CError(
                f"the first axis of a tensor of shape {shape} is not the batch",
                where=op.where if op else tensor,
                why=f"the input has {self.batch} samples on its first axis, and every layer must keep them there",
                fix="export the model with the batch as first axis throughout",
            )
        return tuple(int(n) for n in shape[1:])

    def constant(self, tensor: str) -> Array | None:
        """The value of a tensor that is the same in every step and for all samples, else None."""
        return self.constants.get(tensor)

    def readers(self, tensor: str) -> int:
        """How many operators and outputs read a tensor."""
        states = [state.out for state in self.states.values()]
        return sum(op.inputs.count(tensor) for op in self.ops) + [*self.outputs, *states].count(tensor)

    def evaluator(self, outputs: Iterable[str], given: Iterable[str]) -> Run:
        """A function from the values of the tensors ``given`` to those of ``outputs``."""
        return evaluator(self.protos, self.initializers, self.opset, outputs, given)


def _without_repetition(protos: Iterable[Any], named: Collection[str]) -> list[Any]:
    """The operators without those that compute what another does, unless something outside knows their outputs."""
    kept: list[Any] = []
    first: dict[tuple[Any, ...], Any] = {}
    same: dict[str, str] = {}
    for original in protos:
        proto = type(original)()
        proto.CopyFrom(original)
        proto.input[:] = [same.get(name, name) for name in original.input]
        what = (proto.domain, proto.op_type, *proto.input, *(a.SerializeToString() for a in proto.attribute))
        known = first.setdefault(what, proto)
        if known is proto or _RANDOM.search(proto.op_type) or not set(named).isdisjoint(proto.output):
            kept.append(proto)
        else:
            same |= dict(zip(proto.output, known.output, strict=True))
    return kept


def evaluator(
    protos: Iterable[Any], initializers: Mapping[str, Array], opset: int, outputs: Iterable[str], given: Iterable[str]
) -> Run:
    """A function from the values of the tensors ``given`` to those of ``outputs``, by ONNX's reference evaluator.

    Raises:
        S2CError: the evaluator cannot run an operator (now, or when the function is called).
    """
    import onnx
    from onnx.reference import ReferenceEvaluator

    protos, outputs, known = list(protos), list(outputs), set(given)
    producers = {name: i for i, proto in enumerate(protos) for name in proto.output if name}
    needed: set[int] = set()
    pending = [name for name in outputs if name not in known]
    while pending:
        i = producers.get(pending.pop())
        if i is not None and i not in needed:
            needed.add(i)
            pending += [name for name in _reads(protos[i]) if name not in known]
    kept = [protos[i] for i in sorted(needed)]
    used = {name for proto in kept for name in _reads(proto)}
    computed = [name for name in dict.fromkeys(outputs) if name not in known]
    names = [name for name in known if name in used]
    constants = [n for n in initializers if (n in used or n in computed) and n not in known and n not in producers]
    graph = onnx.helper.make_graph(
        kept,
        "step",
        [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names],
        [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in computed],
        [onnx.numpy_helper.from_array(np.ascontiguousarray(initializers[name]), name) for name in constants],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    try:
        session = ReferenceEvaluator(model) if computed else None
    except Exception as error:
        raise _failed(error) from None

    def run(feeds: Mapping[str, Array]) -> list[Array]:
        values = dict(feeds)
        if session is not None:
            try:
                with np.errstate(all="ignore"):
                    got: Any = session.run(computed, {name: feeds[name] for name in names})
            except Exception as error:
                raise _failed(error) from None
            values |= dict(zip(computed, got, strict=True))
        return [np.asarray(values[name]) for name in outputs]

    return run


def initializers(graph: Any) -> dict[str, Array]:
    """The constants a ``GraphProto`` holds; copies, because those of the file cannot be written to."""
    import onnx

    return {i.name: np.array(onnx.numpy_helper.to_array(i)) for i in graph.initializer}


def _failed(error: Exception) -> S2CError:
    # The evaluator raises whatever numpy or its own operators stumble over.
    return S2CError(
        "ONNX's own reference evaluator cannot run the model",
        why=f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}",
        fix="export the model again, with standard operators and inputs of fixed shape",
    )


def _reads(proto: Any) -> list[str]:
    """The tensors an operator reads, those that graphs inside it take from outside included."""
    inner = [name for attribute in proto.attribute for node in attribute.g.node for name in _reads(node)]
    return [name for name in (*proto.input, *inner) if name]


def _sized(name: str, shape: tuple[int | None, ...], batch: int) -> Shape:
    if not shape or any(n is None for n in shape[1:]):
        shown = ", ".join("?" if n is None else str(n) for n in shape)
        raise S2CError(
            f"the input {name!r} has the shape ({shown})",
            where=name,
            why="only the first axis, the batch, may be of any size",
            fix="export the model with the sizes it is deployed with",
        )
    if shape[0] not in (None, batch):
        raise S2CError(
            f"the input {name!r} has {shape[0]} samples, the data {batch}",
            where=name,
            why="states have the batch as first axis, as the data has",
            fix="export the model with a batch axis in the data and in every state",
        )
    return (batch, *(n for n in shape[1:] if n is not None))
