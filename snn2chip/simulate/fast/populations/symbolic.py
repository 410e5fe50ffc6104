"""A neuron's integer step as an expression graph, obtained by running it once on symbols, and what its values can be.

The step of a neuron is ordinary code over ``+ - * >> << & where minimum maximum`` and comparisons. Run on :class:`Expr`
instead of arrays it leaves its own arithmetic behind: options are decided by Python as always, arrays among the
parameters become :class:`Param` leaves, and everything else is a node. From the graph come the proof that 32 bits
suffice (:func:`invariant`, :meth:`Ranges.of`) and the source of the compiled kernel (``codegen.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from snn2chip.ir.arithmetic import Arithmetic
from snn2chip.ir.layers import Array, Shape
from snn2chip.neurons.base import IntegerNeuron
from snn2chip.simulate.ranges import UNBOUNDED, Range

COMPARISONS = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}
_UFUNCS: dict[Any, str] = {
    np.add: "add",
    np.subtract: "sub",
    np.multiply: "mul",
    np.left_shift: "shl",
    np.right_shift: "shr",
    np.bitwise_and: "and",
    np.minimum: "min",
    np.maximum: "max",
    np.less: "lt",
    np.less_equal: "le",
    np.greater: "gt",
    np.greater_equal: "ge",
    np.equal: "eq",
    np.not_equal: "ne",
}


class NotSymbolicError(TypeError):
    """The step does something an expression graph does not hold; it is then run as numpy code."""


class Expr:
    """A node: ``op`` with ``args``. Equal nodes of one trace are one object, so identity is equality.

    Ops: "input" (name), "param" (index), "const" (int or bool), the names in the tables above, "neg", "where", and
    "trunc" (x, bits): ``x / 2**bits`` rounded toward zero.
    """

    __slots__ = ("args", "op", "trace")
    __hash__ = object.__hash__

    def __init__(self, trace: Trace, op: str, args: tuple[Any, ...]) -> None:
        self.trace, self.op, self.args = trace, op, args

    @property
    def boolean(self) -> bool:
        """Whether its value is true or false."""
        if self.op == "const":
            return isinstance(self.args[0], bool)
        return self.op in COMPARISONS or (self.op == "and" and all(a.boolean for a in self.args))

    def __bool__(self) -> bool:
        raise NotSymbolicError("the step branches on data")

    def __neg__(self) -> Expr:
        return self.trace.node("neg", self)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        if method != "__call__" or options or ufunc not in _UFUNCS:
            raise NotSymbolicError(f"the step uses numpy.{ufunc.__name__}")
        return self.trace.node(_UFUNCS[ufunc], *inputs)

    def __array_function__(self, function: Any, types: Any, args: tuple[Any, ...], options: Any) -> Any:
        if function is not np.where or len(args) != 3 or options:
            raise NotSymbolicError(f"the step uses numpy.{function.__name__}")
        return self.trace.node("where", *args)


def _operator(op: str, reflected: bool) -> Callable[[Expr, Any], Expr]:
    if reflected:
        return lambda self, other: self.trace.node(op, other, self)
    return lambda self, other: self.trace.node(op, self, other)


for _name, _op in {"add": "add", "sub": "sub", "mul": "mul", "lshift": "shl", "rshift": "shr", "and": "and"}.items():
    setattr(Expr, f"__{_name}__", _operator(_op, False))
    setattr(Expr, f"__r{_name}__", _operator(_op, True))
for _name in COMPARISONS:
    setattr(Expr, f"__{_name}__", _operator(_name, False))


class Trace:
    """The nodes of one step and the arrays it read."""

    def __init__(self) -> None:
        self.params: list[Array] = []
        self._nodes: dict[Any, Expr] = {}

    def node(self, op: str, *args: Any) -> Expr:
        """The node of ``op`` over expressions, arrays and numbers, simplified where that is free."""
        return self._simplified(op, tuple(self._expr(a) for a in args))

    def leaf(self, op: str, value: Any) -> Expr:
        """The leaf holding ``value``."""
        return self._intern(op, (value,))

    def _expr(self, value: Any) -> Expr:
        if isinstance(value, Expr):
            return value
        if isinstance(value, bool | np.bool_):
            return self.leaf("const", bool(value))
        if isinstance(value, int):
            return self.leaf("const", value)
        if isinstance(value, np.ndarray | np.integer) and np.asarray(value).dtype.kind in "iu":
            array = np.asarray(value, dtype=np.int64)
            return self.leaf("const", 0) if not array.any() else self._param(array)
        raise NotSymbolicError(f"the step uses a {type(value).__name__}")

    def _param(self, array: Array) -> Expr:
        for index, known in enumerate(self.params):
            if known.shape == array.shape and np.array_equal(known, array):
                return self.leaf("param", index)
        self.params.append(array)
        return self.leaf("param", len(self.params) - 1)

    def _simplified(self, op: str, args: tuple[Expr, ...]) -> Expr:
        constants = [a.args[0] if a.op == "const" else None for a in args]
        if op == "where":
            if constants[0] is not None:
                return args[1] if constants[0] else args[2]
            if args[1] is args[2]:
                return args[1]
            shifted = self._truncation(*args)
            return self._intern(op, args) if shifted is None else shifted
        if op == "and" and any(isinstance(c, bool) for c in constants):
            kept = [a for a, c in zip(args, constants, strict=True) if not isinstance(c, bool)]
            if False in [c for c in constants if isinstance(c, bool)]:
                return self.leaf("const", False)
            return kept[0] if kept else self.leaf("const", True)
        if op == "mul":
            if 0 in [c for c in constants if c is not None]:
                return self.leaf("const", 0)
            power = self._power_of_two(args[1])
            if power is not None:
                return self.node("shl", args[0], power)
        if op == "neg" and constants == [0]:
            return args[0]
        if op in ("add", "sub", "shl", "shr") and constants[1] == 0:
            return args[0]
        if op == "add" and constants[0] == 0:
            return args[1]
        if op in ("shl", "shr") and constants[0] == 0:
            return args[0]
        if op in ("shl", "shr") and not (isinstance(constants[1], int) and 0 <= constants[1] < 63):
            raise NotSymbolicError("the step shifts by a number that is not fixed")
        return self._intern(op, args)

    def _power_of_two(self, factor: Expr) -> int | None:
        if factor.op != "param":
            return None
        values = self.params[factor.args[0]]
        value = int(values.flat[0])
        uniform = value > 0 and value & (value - 1) == 0 and bool((values == value).all())
        return value.bit_length() - 1 if uniform else None

    def _truncation(self, condition: Expr, negative: Expr, positive: Expr) -> Expr | None:
        """``where(x < 0, -(-x >> b), x >> b)`` is one operation."""
        if condition.op != "lt" or condition.args[1] is not self.leaf("const", 0):
            return None
        x = condition.args[0]
        if positive.op != "shr" or positive.args[0] is not x:
            return None
        bits = positive.args[1]
        if negative is not self.node("neg", self.node("shr", self.node("neg", x), bits)):
            return None
        return self._intern("trunc", (x, bits))

    def _intern(self, op: str, args: tuple[Any, ...]) -> Expr:
        # By identity: comparing expressions makes an expression.
        key = tuple(id(a) if isinstance(a, Expr) else (type(a), a) for a in args)
        return self._nodes.setdefault((op, key), Expr(self, op, args))


@dataclass(frozen=True)
class Step:
    """One traced step: new states by name and the output, over the inputs "a" and the states' names."""

    trace: Trace
    states: Mapping[str, Expr]
    out: Expr

    @property
    def live(self) -> tuple[str, ...]:
        """The states whose old value the step reads."""
        read = {e.args[0] for e in reachable([*self.states.values(), self.out]) if e.op == "input"}
        return tuple(name for name in self.states if name in read)


def trace_step(model: IntegerNeuron, arithmetic: Arithmetic) -> Step:
    """Run the model's integer step on symbols.

    Raises:
        NotSymbolicError: the step does more than the operations of this module.
    """
    trace = Trace()
    state = {name: trace.leaf("input", name) for name in state_names(model)}
    try:
        new, out = model.step(dict(state), trace.leaf("input", "a"), arithmetic)  # type: ignore[arg-type]
    except NotSymbolicError:
        raise
    except (TypeError, ValueError, AttributeError) as error:
        raise NotSymbolicError(str(error)) from error
    results = {name: trace._expr(value) for name, value in new.items()}
    if set(results) != set(state):
        raise NotSymbolicError("the step returns other states than it takes")
    return Step(trace, results, trace._expr(out))


def state_names(model: IntegerNeuron) -> tuple[str, ...]:
    """The names of the model's states; they are the same for a population of any shape."""
    arrays = [value.shape for value in vars(model).values() if isinstance(value, np.ndarray)]
    return tuple(model.start((1, *np.broadcast_shapes((1,), *arrays))))


def start_of(model: IntegerNeuron, shape: Shape) -> dict[str, Array]:
    """The states of one sample of a population before the first step, by name."""
    return {name: value[0] for name, value in model.start((1, *shape)).items()}


def reachable(roots: list[Expr]) -> Iterator[Expr]:
    """Every node below ``roots``, once, operands first."""
    seen: set[int] = set()

    def walk(e: Expr) -> Iterator[Expr]:
        if id(e) in seen:
            return
        seen.add(id(e))
        for argument in e.args:
            if isinstance(argument, Expr):
                yield from walk(argument)
        yield e

    for root in roots:
        yield from walk(root)


class Ranges:
    """Intervals of the nodes of a trace, given those of its inputs."""

    def __init__(self, trace: Trace, inputs: Mapping[str, Range]) -> None:
        self._params = [Range(int(p.min()), int(p.max())) for p in trace.params]
        self._inputs = inputs
        self._found: dict[Expr, Range] = {}

    def of(self, e: Expr) -> Range:
        """What ``e`` can be (booleans: 0 to 1)."""
        if e not in self._found:
            self._found[e] = self._range(e, {})
        return self._found[e]

    def decided(self, condition: Expr) -> bool | None:
        """What a condition always is, or None where it can be either."""
        if self._narrowed(condition, True, {}) is None:
            return False
        return True if self._narrowed(condition, False, {}) is None else None

    def _range(self, e: Expr, assumed: dict[Expr, Range]) -> Range:
        """The interval of ``e`` where the nodes in ``assumed`` are known to lie in those intervals."""
        if e in assumed:
            return assumed[e]
        if not assumed and e in self._found:
            return self._found[e]
        if e.op == "const":
            return Range(int(e.args[0]), int(e.args[0]))
        if e.op == "param":
            index: int = e.args[0]
            return self._params[index]
        if e.op == "input":
            return self._inputs[e.args[0]]
        if e.boolean:
            return Range(0, 1)
        if e.op == "where":
            branches = []
            for truth, branch in ((True, e.args[1]), (False, e.args[2])):
                narrowed = self._narrowed(e.args[0], truth, assumed)
                if narrowed is not None:
                    branches.append(self._range(branch, narrowed))
            return branches[0].join(*branches[1:])
        found: Range = _INTERVALS[e.op](*(self._range(a, assumed) for a in e.args))
        return found

    def _narrowed(self, condition: Expr, truth: bool, assumed: dict[Expr, Range]) -> dict[Expr, Range] | None:
        """What is known beside ``assumed`` where ``condition`` has this truth; None where it cannot have it."""
        if condition.op == "and" and truth:
            known: dict[Expr, Range] | None = assumed
            for part in condition.args:
                known = None if known is None else self._narrowed(part, True, known)
            return known
        x, y = condition.args[:2] if condition.op in ("lt", "le", "gt", "ge") else (None, None)
        if x is None or y is None:
            return assumed
        op = condition.op if truth else {"lt": "ge", "le": "gt", "gt": "le", "ge": "lt"}[condition.op]
        if op in ("lt", "le"):
            x, y, op = y, x, {"lt": "gt", "le": "ge"}[op]
        # Now x > y or x >= y.
        gap = 1 if op == "gt" else 0
        of_x, of_y = self._range(x, assumed), self._range(y, assumed)
        low, high = max(of_x.low, of_y.low + gap), min(of_y.high, of_x.high - gap)
        if low > of_x.high or high < of_y.low:
            return None
        return {**assumed, x: Range(low, of_x.high), y: Range(of_y.low, high)}


def _corners(x: Range, y: Range) -> Range:
    products = [a * b for a in (x.low, x.high) for b in (y.low, y.high)]
    return Range(min(products), max(products))


def _mask(x: Range, y: Range) -> Range:
    masks = [r.high for r in (x, y) if r.low >= 0]
    return Range(0, min(masks)) if masks else UNBOUNDED


def _toward_zero(value: int, bits: int) -> int:
    return -(-value >> bits) if value < 0 else value >> bits


_INTERVALS: dict[str, Callable[..., Range]] = {
    "add": lambda x, y: Range(x.low + y.low, x.high + y.high),
    "sub": lambda x, y: Range(x.low - y.high, x.high - y.low),
    "neg": lambda x: Range(-x.high, -x.low),
    "mul": _corners,
    "shl": lambda x, y: Range(x.low << y.low, x.high << y.low),
    "shr": lambda x, y: Range(x.low >> y.low, x.high >> y.low),
    "trunc": lambda x, y: Range(_toward_zero(x.low, y.low), _toward_zero(x.high, y.low)),
    "and": _mask,
    "min": lambda x, y: Range(min(x.low, y.low), min(x.high, y.high)),
    "max": lambda x, y: Range(max(x.low, y.low), max(x.high, y.high)),
}

# Widest register tried for an invariant: beyond it nothing is gained, 64-bit kernels compute as numpy does.
_WIDEST = 40


def invariant(step: Step, start: Mapping[str, Range], a: Range) -> Ranges | None:
    """Intervals that hold at every step when states begin in ``start`` and every input lies in ``a``.

    A box of states that one step does not leave, found by trying registers of growing width; None where there is none.
    """
    for bits in range(8, _WIDEST):
        box = {name: Range(-(1 << bits), 1 << bits).join(start[name]) for name in start}
        ranges = Ranges(step.trace, {**box, "a": a})
        if all(ranges.of(new).within(box[name]) for name, new in step.states.items()):
            # One step from a closed box lands in a smaller one, which is closed too.
            tight = {name: start[name].join(ranges.of(new)) for name, new in step.states.items()}
            return Ranges(step.trace, {**tight, "a": a})
    return None
