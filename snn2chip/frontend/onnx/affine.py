"""Elementwise arithmetic followed symbolically: every value as an affine function per outcome of the comparisons.

A neuron of the integrate-and-fire family is affine in its states and inputs once it is known which comparisons hold.
Coefficients are carried in float64; nothing is estimated.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from snn2chip.errors import S2CError
from snn2chip.frontend.onnx.step import Op
from snn2chip.ir.layers import Array

# More comparisons than any neuron of the family makes.
_MOST_GATES = 4

Case = tuple[bool, ...]


@dataclass(frozen=True)
class Affine:
    """Σ coefficient · variable + constant; arrays broadcast against the population, batch axis included."""

    terms: Mapping[str, Array]
    constant: Array

    @property
    def fixed(self) -> bool:
        """Whether no variable is in it."""
        return not self.terms

    def same(self, other: Affine) -> bool:
        """Equality of every coefficient."""
        return (
            self.terms.keys() == other.terms.keys()
            and all(_equal(a, other.terms[name]) for name, a in self.terms.items())
            and _equal(self.constant, other.constant)
        )


def _equal(a: Array, b: Array) -> bool:
    return bool(np.all(a == b))


def fixed(value: Any) -> Affine:
    """A constant."""
    return Affine({}, np.asarray(value, dtype=np.float64))


def variable(name: str) -> Affine:
    """A state or an input."""
    return Affine({name: np.ones(())}, np.zeros(()))


def plus(a: Affine, b: Affine, factor: float = 1.0) -> Affine:
    """``a + factor · b``."""
    terms = {n: a.terms.get(n, np.zeros(())) + factor * b.terms.get(n, np.zeros(())) for n in {**a.terms, **b.terms}}
    return Affine({n: c for n, c in terms.items() if np.any(c != 0)}, a.constant + factor * b.constant)


def times(a: Affine, factor: Array) -> Affine:
    """``a · factor``."""
    terms = {n: c * factor for n, c in a.terms.items()}
    return Affine({n: c for n, c in terms.items() if np.any(c != 0)}, a.constant * factor)


@dataclass(frozen=True)
class Gate:
    """A comparison of something with zero: ``test > 0``, or ``test >= 0``.

    ``test`` is None for a state that remembers the spike of the step before.
    """

    strict: bool
    test: Piecewise | None

    def same(self, other: Gate) -> bool:
        """Whether both always have the same outcome, as far as the comparisons tell."""
        both = self.test is not None and other.test is not None
        return both and self.strict == other.strict and self.test.same(other.test)  # type: ignore[union-attr, arg-type]


@dataclass(frozen=True)
class Piecewise:
    """An affine function for every outcome of ``gates`` (indices into a list of gates)."""

    gates: tuple[int, ...]
    cases: Mapping[Case, Affine]

    @classmethod
    def of(cls, value: Affine) -> Piecewise:
        """The same in every case."""
        return cls((), {(): value})

    def at(self, outcome: Mapping[int, bool]) -> Affine:
        """The function for an outcome of at least its gates."""
        return self.cases[tuple(outcome[g] for g in self.gates)]

    def same(self, other: Piecewise) -> bool:
        """Equality in every case."""
        return self.gates == other.gates and all(value.same(other.cases[case]) for case, value in self.cases.items())


def combine(
    function: Callable[..., Affine], parts: Sequence[Piecewise], implied: Sequence[tuple[int, int]] = ()
) -> Piecewise:
    """``function`` of the parts in every case; gates it turns out not to depend on are dropped.

    Args:
        implied: pairs of gates of which the second is open whenever the first is; other cases do not occur.
    """
    gates = tuple(sorted({g for part in parts for g in part.gates}))
    if len(gates) > _MOST_GATES:
        raise S2CError(f"a value depends on {len(gates)} comparisons")
    cases = {}
    for case in itertools.product((False, True), repeat=len(gates)):
        outcome = dict(zip(gates, case, strict=True))
        if not any(outcome.get(one) and not outcome.get(other, True) for one, other in implied):
            cases[case] = function(*(part.at(outcome) for part in parts))
    for position in reversed(range(len(gates))):
        without: dict[Case, Affine] = {}
        for case, value in cases.items():
            rest = (*case[:position], *case[position + 1 :])
            if not without.setdefault(rest, value).same(value):
                break
        else:
            cases, gates = without, (*gates[:position], *gates[position + 1 :])
    return Piecewise(gates, cases)


@dataclass
class Algebra:
    """Applies operators to piecewise affine values, and collects the comparisons it meets.

    Args:
        gates: the comparisons, each turned so that a larger state opens it: ``v < 1`` is ``v >= 1`` negated.
        states: the states of the population.
    """

    gates: list[Gate] = field(default_factory=list)
    states: frozenset[str] = frozenset()
    _implied: list[tuple[int, int]] = field(default_factory=list)

    def apply(self, op: Op, parts: Sequence[Piecewise | None]) -> Piecewise:
        """The output of an elementwise operator; ``parts`` has None for inputs left out.

        Raises:
            S2CError: the result is not affine in every case; the message names the operator.
        """
        given = [part for part in parts if part is not None]
        if op.kind in _COMPARISONS:
            return self._comparison(op, given)
        if op.kind == "Equal" and not all(value.fixed for part in given for value in part.cases.values()):
            test = self._combined(lambda a, b: plus(a, b, -1.0), given)
            both = (self._asked(False, test), self._asked(True, test))
            return self._combined(lambda at_least, above: fixed(at_least.constant * (1 - above.constant)), both)
        if op.kind not in _FUNCTIONS:
            return self._combined(lambda *values: _evaluated(op, values), given)
        try:
            return self._combined(lambda *values: _FUNCTIONS[op.kind](op, values), given)
        except S2CError as error:
            raise S2CError(error.what, where=op.where, why=error.why, fix=error.fix) from None

    def gate(self, gate: Gate) -> Piecewise:
        """1 where the gate is open, else 0; a gate met before is the same gate."""
        index = next((i for i, known in enumerate(self.gates) if known.same(gate)), len(self.gates))
        if index == len(self.gates):
            for i, known in enumerate(self.gates):
                if gate.test is not None and replace(known, strict=gate.strict).same(gate):
                    self._implied.append((index, i) if gate.strict else (i, index))
            self.gates.append(gate)
        return Piecewise((index,), {(False,): fixed(0.0), (True,): fixed(1.0)})

    def _comparison(self, op: Op, parts: Sequence[Piecewise]) -> Piecewise:
        strict, swapped = _COMPARISONS[op.kind]
        left, right = (parts[1], parts[0]) if swapped else (parts[0], parts[1])
        test = self._combined(lambda a, b: plus(a, b, -1.0), (left, right))
        if all(value.fixed for value in test.cases.values()):
            return self._combined(lambda d: fixed(d.constant > 0 if strict else d.constant >= 0), (test,))
        return self._asked(strict, test)

    def _asked(self, strict: bool, test: Piecewise) -> Piecewise:
        """Whether ``test`` is above (or at) zero, by a gate that a larger state opens."""
        own = [factor for value in test.cases.values() for name, factor in value.terms.items() if name in self.states]
        if not own or not all((factor <= 0).all() for factor in own):
            return self.gate(Gate(strict, test))
        turned = self._combined(lambda value: times(value, np.asarray(-1.0)), (test,))
        return self._combined(lambda opened: fixed(1 - opened.constant), (self.gate(Gate(not strict, turned)),))

    def _combined(self, function: Callable[..., Affine], parts: Sequence[Piecewise]) -> Piecewise:
        return combine(function, parts, self._implied)


# comparison → (strict, operands swapped so that "left > right" or "left >= right" is asked)
_COMPARISONS = {
    "Greater": (True, False),
    "GreaterOrEqual": (False, False),
    "Less": (True, True),
    "LessOrEqual": (False, True),
}


def _product(op: Op, values: Sequence[Affine]) -> Affine:
    a, b = values
    if b.fixed:
        return times(a, b.constant)
    if a.fixed:
        return times(b, a.constant)
    raise S2CError(
        "two values that change from step to step are multiplied",
        why=f"{_names(a)} by {_names(b)}; a neuron of the integrate-and-fire family multiplies by constants",
    )


def _quotient(op: Op, values: Sequence[Affine]) -> Affine:
    a, b = values
    if not b.fixed or np.any(b.constant == 0):
        raise S2CError("a division by something that is no constant", why=_names(b))
    # Divided, not multiplied by the reciprocal: 1/10 is then the float64 nearest to it.
    return Affine({n: c / b.constant for n, c in a.terms.items()}, a.constant / b.constant)


def _where(op: Op, values: Sequence[Affine]) -> Affine:
    condition, a, b = values
    if not condition.fixed:
        raise S2CError("a choice by something that is no comparison", why=_names(condition))
    holds = condition.constant != 0
    if holds.all():
        return a
    if not holds.any():
        return b
    return plus(times(a, holds.astype(np.float64)), times(b, (~holds).astype(np.float64)))


def _cast(op: Op, values: Sequence[Affine]) -> Affine:
    import onnx

    (value, *_) = values
    to = op.attributes.get("to", onnx.TensorProto.FLOAT)
    if to in (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE):
        return value
    if not value.fixed:
        raise S2CError(f"{_names(value)} is cast to {onnx.TensorProto.DataType.Name(to)}", why="that rounds it")
    if to == onnx.TensorProto.BOOL:
        return fixed(value.constant != 0)
    return fixed(np.trunc(value.constant))


def _total(op: Op, values: Sequence[Affine]) -> Affine:
    total = values[0]
    for value in values[1:]:
        total = plus(total, value)
    return total


def _evaluated(op: Op, values: Sequence[Affine]) -> Affine:
    """Any other operator, where everything it reads is fixed in this case."""
    moving = [value for value in values if not value.fixed]
    if moving:
        raise S2CError(
            f"{op.kind} is applied to something that changes from step to step",
            where=op.where,
            why=f"{_names(moving[0])}; a neuron of the integrate-and-fire family is made of sums, products with "
            "constants, and comparisons",
        )
    from onnx.reference import ReferenceEvaluator

    truth = op.kind in ("Not", "And", "Or", "Xor")
    arrays = [value.constant.astype(bool if truth else np.float32) for value in values]
    (result,) = ReferenceEvaluator(op.proto).run(None, dict(zip(op.inputs, arrays, strict=False)))
    return fixed(result)


def _names(value: Affine) -> str:
    return " and ".join(value.terms) or "a constant"


_FUNCTIONS: dict[str, Callable[[Op, Sequence[Affine]], Affine]] = {
    "Add": _total,
    "Sum": _total,
    "Sub": lambda op, values: plus(values[0], values[1], -1.0),
    "Neg": lambda op, values: times(values[0], np.asarray(-1.0)),
    "Mul": _product,
    "Div": _quotient,
    "Where": _where,
    "Cast": _cast,
    "CastLike": _cast,
    "Identity": lambda op, values: values[0],
    "Dropout": lambda op, values: values[0],
}
