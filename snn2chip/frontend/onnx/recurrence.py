"""The recurrence of one population, read off the operators around its state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from snn2chip.errors import S2CError
from snn2chip.frontend.onnx.affine import Affine, Algebra, Gate, Piecewise, fixed, variable
from snn2chip.frontend.onnx.step import ELEMENTWISE, Op, Step
from snn2chip.ir.layers import Array, Shape
from snn2chip.neurons.base import Fire, Reset, ResetTiming

# Constants are float32, and some were computed by the exporter: coefficients within this of each other are the same.
NEAR = 1e-5
_COMPARISONS = ("Greater", "GreaterOrEqual", "Less", "LessOrEqual")
# What a spike may be made of where it is no comparison itself: v < 1 negated, or a step with a value at zero.
_OF_COMPARISONS = ("Not", "Where")


@dataclass
class Cones:
    """Which states a tensor depends on through elementwise operators alone."""

    step: Step
    _known: dict[str, frozenset[str]] = field(default_factory=dict)

    def states(self, tensor: str) -> frozenset[str]:
        """Names of the state inputs; empty behind any other operator."""
        if tensor not in self._known:
            op = self.step.producers.get(tensor)
            if tensor in self.step.states:
                found = frozenset([tensor])
            elif op is None or op.kind not in ELEMENTWISE or self.step.constant(tensor) is not None:
                found = frozenset()
            else:
                found = frozenset().union(*(self.states(name) for name in op.inputs if name))
            self._known[tensor] = found
        return self._known[tensor]

    def before(self, state: str) -> frozenset[str]:
        """The states that a state's next value depends on, directly or through others."""
        found: frozenset[str] = frozenset()
        pending = [state]
        while pending:
            new = self.states(self.step.states[pending.pop()].out) - found
            found |= new
            pending += new
        return found


def groups(cones: Cones) -> list[frozenset[str]]:
    """States that depend on each other, the first ones first; a state that only passes a value on is in none."""
    before = {state: cones.before(state) for state in cones.step.states}
    found = {frozenset(t for t in before if t in before[s] and s in before[t]) for s in before if s in before[s]}
    return sorted(found, key=lambda group: (len(before[min(group)]), min(group)))


@dataclass(frozen=True)
class Recurrence:
    """One population in numbers; arrays broadcast against its shape.

    ``h = decay · v + Σ gains · inputs + bias``; ``threshold`` None: it never fires.

    Args:
        state: name of the membrane's state input.
        remembered: states that hold the spike of the step before.
        fires: the comparison whose outcome is the spike, None where nothing reads one.
    """

    state: str
    shape: Shape
    decay: Array
    gains: Mapping[str, Array]
    bias: Array
    threshold: Array | None
    fire: Fire
    reset: Reset
    timing: ResetTiming
    v_reset: Array
    remembered: tuple[str, ...]
    fires: str | None


class Group:
    """The operators around one population's state, followed symbolically."""

    def __init__(self, cones: Cones, states: frozenset[str]) -> None:
        """``states``: those that depend on each other.

        Raises:
            S2CError: what they compute is no neuron of the integrate-and-fire family; the message says what it is.
        """
        self.cones, self.step, self.states = cones, cones.step, states
        self._algebra = Algebra(states=states)
        self._values: dict[str, Piecewise] = {}
        self._remembered: dict[str, int] = {}
        self._comparisons: dict[int, str] = {}
        truths = [s for s in sorted(states) if _is_truth(self.step, self.step.states[s].out)]
        kept = sorted(states - set(truths))
        if len(kept) != 1:
            raise S2CError(
                f"{len(kept)} states depend on each other",
                why=", ".join(kept or truths),
                fix="a neuron of the integrate-and-fire family has one membrane, and a current that does not see it",
            )
        (self.state,) = kept
        for name in truths:
            self._values[name] = self._algebra.gate(Gate(True, None))
            self._remembered[name] = self._values[name].gates[0]
        self.new = self.value(self.step.states[self.state].out)
        self.operators = [op for op in self.step.ops if self._is_own(op)]
        for op in self.operators:
            if op.kind in (*_COMPARISONS, *_OF_COMPARISONS) and (opened := self._opened(op.outputs[0])) is not None:
                self._comparisons.setdefault(opened, op.outputs[0])
        self.recurrence = self._read()

    def value(self, tensor: str) -> Piecewise:
        """A tensor as a function of this population's state and of what enters it from outside."""
        if tensor not in self._values:
            op = self.step.producers.get(tensor)
            constant = self.step.constant(tensor)
            if constant is not None:
                found = Piecewise.of(fixed(constant))
            elif tensor in self.states or not self.cones.states(tensor) & self.states:
                found = Piecewise.of(variable(tensor))
            else:
                assert op is not None
                found = self._algebra.apply(op, [self.value(name) if name else None for name in op.inputs])
            self._values[tensor] = found
        return self._values[tensor]

    def reads(self, tensor: str) -> tuple[str, int] | None:
        """What of the population a tensor is: (port, steps ago), or None."""
        value = self.value(tensor)
        silent = self.recurrence.threshold is None
        if value.same(self.new):
            return ("out" if silent else "v"), 0
        if value.same(Piecewise.of(variable(self.state))):
            return ("out" if silent else "v"), 1
        opened = self._opened(tensor)
        return None if opened is None else ("out", int(opened in self._stored))

    def _opened(self, tensor: str) -> int | None:
        """The gate whose outcome, 1 or 0, a tensor is."""
        value = self.value(tensor)
        if len(value.gates) != 1:
            return None
        is_outcome = all(value.at({value.gates[0]: open_}).same(fixed(float(open_))) for open_ in (True, False))
        return value.gates[0] if is_outcome else None

    def numbers(self) -> Iterator[Array]:
        """The constants the operators read, as they can stand in a neuron's parameters."""
        for op in self.operators:
            for name in op.inputs:
                constant = self.step.constant(name) if name else None
                if constant is not None and constant.dtype.kind == "f":
                    yield self._parameter(constant.astype(np.float64))

    def _is_own(self, op: Op) -> bool:
        """Whether an operator sees this population's state and none of a later one."""
        if op.kind not in ELEMENTWISE or not op.outputs:
            return False
        seen = self.cones.states(op.outputs[0])
        return bool(seen & self.states) and seen <= self.states | self.cones.before(self.state)

    @property
    def _stored(self) -> list[int]:
        """The gates that only look at the state as it was stored."""
        return [i for i, gate in enumerate(self._algebra.gates) if gate.test is None or self._on_state(gate.test)]

    def _on_state(self, test: Piecewise) -> bool:
        return all(set(value.terms) == {self.state} for value in test.cases.values())

    def _read(self) -> Recurrence:
        stored = self._stored
        # Steps may be made of more comparisons than decide anything: torch.heaviside also asks whether it is zero.
        asked = {i for i, name in self._comparisons.items() if self.step.producers[name].kind != "Where"}
        firing = sorted((asked | set(self.new.gates)).difference(stored))
        if len(firing) > 1 or len(stored) > 1 or len(self.new.gates) > 1:
            raise S2CError(
                "its next state or its spike depends on several comparisons",
                why=f"{len(firing)} of the new membrane, {len(stored)} of the stored one",
                fix="a neuron of the integrate-and-fire family compares its membrane with one threshold",
            )
        gate = self.new.gates[0] if self.new.gates else None
        h = self.new.at({gate: False} if gate is not None else {})
        threshold = self._fire_threshold(firing[0], h, gate) if firing else None
        strict = self._algebra.gates[firing[0]].strict if firing else True
        for index in stored:
            stored_gate = self._algebra.gates[index]
            if stored_gate.test is None:
                continue
            resets_at, same_test = self._stored_threshold(stored_gate.test), stored_gate.strict
            if threshold is not None and not (close(resets_at, threshold) and same_test == strict):
                raise S2CError(
                    "it is reset by another comparison than the one that makes it fire",
                    why=f"fires at h {_sign(strict)} {_shown(threshold)}, "
                    f"is reset at v {_sign(same_test)} {_shown(resets_at)}",
                )
            threshold, strict = resets_at, same_test
        if threshold is None and self._remembered:
            raise S2CError("it remembers a spike that no comparison of its membrane makes")
        reset, timing, goal = self._reset(h, gate, threshold)
        inputs = {name: c for name, c in h.terms.items() if name != self.state}
        shape = self.step.shape(self.step.states[self.state].out)
        for name in inputs:
            if self.step.shape(name) != shape:
                raise S2CError(
                    f"an input of shape {self.step.shape(name)} enters {shape} neurons",
                    where=name,
                    fix="repeat it by a layer, so that every neuron has an input of its own",
                )
        return Recurrence(
            self.state,
            shape,
            self._parameter(h.terms.get(self.state, np.zeros(()))),
            {name: self._parameter(c) for name, c in inputs.items()},
            self._parameter(h.constant),
            None if threshold is None else self._parameter(threshold),
            ">" if strict else ">=",
            reset,
            timing,
            self._parameter(goal),
            tuple(self._remembered),
            self._comparisons.get(firing[0]) if firing else None,
        )

    def _fire_threshold(self, firing: int, h: Affine, gate: int | None) -> Array:
        """The membrane at which it fires."""
        test = self._algebra.gates[firing].test
        assert test is not None
        thresholds = []
        for case, tested in test.cases.items():
            outcome = dict(zip(test.gates, case, strict=True))
            membrane = h if gate == firing or gate is None else self.new.at({gate: False, **outcome})
            if not membrane.terms and not tested.terms:
                continue
            name = next((n for n in membrane.terms if n in tested.terms), None)
            factor = np.zeros(()) if name is None else tested.terms[name] / membrane.terms[name]
            aligned = tested.terms.keys() == membrane.terms.keys() and all(
                close(c, factor * membrane.terms[n]) for n, c in tested.terms.items()
            )
            if not aligned or (factor <= 0).any():
                raise S2CError(
                    "it fires by a comparison of something else than its membrane",
                    why=f"compared with 0: {written(tested)}; membrane: {written(membrane)}",
                )
            thresholds.append(membrane.constant - tested.constant / factor)
        if not all(close(thresholds[0], other) for other in thresholds):
            raise S2CError("its threshold differs after a spike", why=", ".join(map(_shown, thresholds)))
        return np.asarray(thresholds[0])

    def _stored_threshold(self, test: Piecewise) -> Array:
        if test.gates:
            raise S2CError("its reset depends on several comparisons")
        (tested,) = test.cases.values()
        factor = tested.terms[self.state]
        if (factor <= 0).any():
            raise S2CError("it is reset where its membrane is low", why=f"compared with 0: {written(tested)}")
        return np.asarray(-tested.constant / factor)

    def _reset(self, h: Affine, gate: int | None, threshold: Array | None) -> tuple[Reset, ResetTiming, Array]:
        zero = np.zeros(())
        if gate is None:
            return "none", "same", zero
        assert threshold is not None
        after = self.new.at({gate: True})
        delayed = gate in self._stored
        decay = h.terms.get(self.state, zero)
        inputs, inputs_after = ({n: c for n, c in a.terms.items() if n != self.state} for a in (h, after))
        kept = inputs.keys() == inputs_after.keys() and all(close(inputs[n], inputs_after[n]) for n in inputs)
        taken = h.constant - after.constant
        if not after.terms:
            return "hard", ("next" if delayed else "same"), after.constant
        if kept and close(after.terms.get(self.state, zero), decay):
            if close(taken, threshold):
                return "soft", ("next" if delayed else "same"), zero
            if delayed and close(taken, decay * threshold):
                return "soft", "gate", zero
        if kept and delayed and self.state not in after.terms and (decay != 0).all():
            return "hard", "gate", -taken / decay
        raise S2CError(
            "what a spike does to its membrane is no reset that is known",
            why=f"without a spike it becomes {written(h)}; after one {written(after)}",
            fix="known are: set to a constant, or the threshold taken off, at once or one step later",
        )

    def _parameter(self, value: Array) -> Array:
        """A number, or an array that broadcasts against the population without its batch axis."""
        value = np.asarray(value, dtype=np.float64)
        if value.size == 1 or (value == value.flat[0]).all():
            return np.asarray(value.reshape(-1)[0])
        dimensions = len(self.step.shape(self.step.states[self.state].out))
        if value.ndim > dimensions:
            if (value != value[:1]).any():
                raise S2CError("a parameter differs from sample to sample", why=f"it has shape {value.shape}")
            value = np.asarray(value[0])
        return value


def _is_truth(step: Step, tensor: str) -> bool:
    """Whether a tensor can only be 0 or 1, as the operators say."""
    op = step.producers.get(tensor)
    if op is None:
        return False
    if op.kind in (*_COMPARISONS, "Equal", "Not", "And", "Or", "Xor"):
        return True
    if op.kind in ("Identity", "Cast", "CastLike"):
        return _is_truth(step, op.inputs[0])
    if op.kind == "Mul":
        constants = [step.constant(name) for name in op.inputs]
        return all(
            _is_truth(step, name) if value is None else bool((value == 1).all())
            for name, value in zip(op.inputs, constants, strict=True)
        )
    return False


def close(a: Array, b: Array) -> bool:
    """Whether two parameters are the same up to float32 rounding, everywhere."""
    try:
        return bool(np.all(np.abs(a - b) <= NEAR * np.maximum(np.abs(a), np.abs(b)) + 1e-12))
    except ValueError:
        return False


def written(value: Affine) -> str:
    """An affine function for print."""
    parts = [name if (c == 1).all() else f"{_shown(c)}·{name}" for name, c in value.terms.items()]
    if np.any(value.constant != 0) or not parts:
        parts.append(_shown(value.constant))
    return " + ".join(parts).replace("+ -", "− ")


def _shown(value: Array) -> str:
    low, high = float(np.min(value)), float(np.max(value))
    return f"{low:.6g}" if low == high else f"({low:.4g} to {high:.4g})"


def _sign(strict: bool) -> str:
    return ">" if strict else ">="
