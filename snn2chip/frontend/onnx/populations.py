"""The populations of a step: each recurrence as a neuron model whose float operations are those of the file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, cast, get_args

import numpy as np

from snn2chip.errors import S2CError
from snn2chip.frontend.onnx.recurrence import Cones, Group, Recurrence, close, groups
from snn2chip.frontend.onnx.states import stem
from snn2chip.frontend.onnx.step import Step
from snn2chip.ir.graph import Port, Source
from snn2chip.ir.layers import Array
from snn2chip.neurons.lif import LIF, DecayForm
from snn2chip.simulate.ops import NumpyOps

_RANDOM_STEPS = 32
# Stands in a population until its neuron is found.
_ANY = LIF(np.ones(()), np.ones(()))
# How far from the threshold, relative to it, two ways of rounding may disagree about a spike.
ROUNDING = 1e-5


@dataclass(frozen=True)
class Population:
    """A neuron layer as found.

    Args:
        group: the operators it was read from.
        current: those of its synaptic current, where it has one.
        inputs: tensors that enter it, each with a factor beside the neuron's own gain (None: 1).
    """

    name: str
    model: LIF
    source: Source
    group: Group
    current: Group | None
    inputs: tuple[tuple[str, Array | None], ...]

    def reads(self, tensor: str) -> tuple[Port, int] | None:
        """What of the population a tensor is, (port, steps ago), or None."""
        if self.current is not None and self.current.cones.states(tensor) & self.current.states:
            found = self.current.reads(tensor) if self._of_current(tensor) else None
            if found is not None:
                return "u", found[1]
        found = self.group.reads(tensor)
        return None if found is None else (cast(Port, found[0]), found[1])

    def _of_current(self, tensor: str) -> bool:
        assert self.current is not None
        return not self.group.cones.states(tensor) & self.group.states

    @property
    def states(self) -> frozenset[str]:
        """The states it keeps."""
        return self.group.states | (self.current.states if self.current else frozenset())


def populations(step: Step) -> list[Population]:
    """All neuron layers of a step, those that see no other first.

    Raises:
        S2CError: a state belongs to no neuron of the integrate-and-fire family; the message says what was found.
    """
    cones = Cones(step)
    found: list[Group] = []
    for states in groups(cones):
        try:
            found.append(Group(cones, states))
        except S2CError as error:
            place = f"the neuron of state {', '.join(sorted(states))}"
            raise S2CError(
                error.what,
                where=", ".join(filter(None, (place, error.where))),
                why=error.why,
                fix=error.fix
                or "write it as a leaky integrate-and-fire neuron: one membrane, one threshold, one reset",
            ) from None
    currents = _currents(found)
    merged = {id(current) for current in currents.values()}
    return [_population(group, currents.get(group.state)) for group in found if id(group) not in merged]


def _currents(found: list[Group]) -> dict[str, Group]:
    """Membrane → the leaky integrator that is its synaptic current: its only input, and no other population's."""
    integrators = {
        _origin(group.step, group.step.states[group.state].out): group
        for group in found
        if group.recurrence.threshold is None
        and all((gain == 1).all() for gain in group.recurrence.gains.values())
        and not group.recurrence.bias.any()
        and not group.step.states[group.state].start.any()
    }
    readers = {out: [g.state for g in found if _enters(g, out)] for out in integrators}
    return {
        states[0]: integrators[out]
        for out, states in readers.items()
        if len(states) == 1 and _only_input(_by_state(found, states[0]), out)
    }


def _by_state(found: list[Group], state: str) -> Group:
    return next(group for group in found if group.state == state)


def _enters(group: Group, tensor: str) -> bool:
    return any(_origin(group.step, name) == tensor for name in group.recurrence.gains)


def _only_input(group: Group, tensor: str) -> bool:
    return [_origin(group.step, name) for name in group.recurrence.gains] == [tensor]


def _origin(step: Step, tensor: str) -> str:
    """The tensor itself, seen through Identity, and through a zero that is taken off."""
    op = step.producers.get(tensor)
    if op is None or op.kind not in ("Identity", "Sub"):
        return tensor
    taken = step.constant(op.inputs[1]) if op.kind == "Sub" else np.zeros(())
    return tensor if taken is None or taken.any() else _origin(step, op.inputs[0])


def _population(group: Group, current: Group | None) -> Population:
    recurrence = group.recurrence
    entering = recurrence if current is None else current.recurrence
    names = list(entering.gains)
    if not names:
        raise S2CError("nothing enters the population", where=f"the neuron of state {group.state}")
    common = entering.gains[names[0]]
    inputs = tuple((n, None if close(g, common) else g / common) for n, g in entering.gains.items())
    operators = [*group.operators, *(current.operators if current else [])]
    sources = [op.source for op in operators if op.source.module]
    modules = Counter(source.module for source in sources)
    name = modules.most_common(1)[0][0] if modules else stem(group.state)
    source = next((op.source for op in operators if op.source.line), sources[0] if sources else Source(name))
    unconfirmed = Population(name, _ANY, source, group, current, inputs)
    return replace(unconfirmed, model=_confirmed(unconfirmed))


def _candidates(population: Population) -> Iterator[LIF]:
    """Neurons with the coefficients of the recurrence, the likeliest way of computing them first."""
    group, current = population.group, population.current
    r = group.recurrence
    numbers = _distinct([np.zeros(()), np.ones(()), *group.numbers(), *(current.numbers() if current else ())])
    gain = r.gains[next(iter(r.gains))]
    start = group.step.states[group.state].start
    remaining: dict[str, Any] = {
        "fire": r.fire,
        "reset": r.reset if r.threshold is not None else "none",
        "reset_timing": r.timing,
        "v_start": start.flat[0] if (start == start.flat[0]).all() else start,
    }
    if current is not None:
        remaining["current_decay"] = _exact(current.recurrence.decay, numbers)[0]
    thresholds = [np.asarray(np.inf)] if r.threshold is None else _exact(r.threshold, numbers)
    for form, decay, own_gain, rest in _forms(r, gain, numbers):
        for threshold in thresholds:
            for goal in _exact(r.v_reset, numbers):
                yield LIF(threshold, decay, form, rest, own_gain, v_reset=goal, **remaining)


def _forms(r: Recurrence, gain: Array, numbers: list[Array]) -> Iterator[tuple[DecayForm, Array, Array, Array]]:
    """Decay form, decay, further gain and resting value that give the coefficients; those without a gain first."""
    with np.errstate(divide="ignore", invalid="ignore"):
        values = _distinct([*numbers, r.decay, 1 - r.decay, 1 / (1 - r.decay)])
        rest = np.where(r.bias == 0, 0.0, r.bias / (1 - r.decay))
    found = []
    for form in get_args(DecayForm):
        for value in values:
            with np.errstate(divide="ignore", invalid="ignore"):
                trial = LIF(np.ones(()), value, form)
                factor, implied = trial.decay_factor, trial.input_gain
            if not (np.isfinite(factor).all() and np.isfinite(implied).all() and close(factor, r.decay)):
                continue
            if (form == "factor" and r.bias.any()) or not np.isfinite(rest).all() or not (implied != 0).all():
                continue
            further = gain / implied
            for own in [np.ones(())] if close(further, np.ones(())) else _exact(further, numbers):
                for target in _exact(np.asarray(rest), numbers):
                    found.append((form, value, own, target))
    return iter(sorted(found, key=lambda f: bool((f[2] != 1).any())))


def _exact(estimate: Array, numbers: list[Array]) -> list[Array]:
    """Numbers of the file that equal a computed coefficient up to rounding, then the coefficient itself."""
    matching = [number for number in numbers if _fits(number, estimate)]
    return _distinct([*matching, np.asarray(estimate)])


def _fits(number: Array, estimate: Array) -> bool:
    try:
        np.broadcast_shapes(number.shape, np.shape(estimate))
    except ValueError:
        return False
    return close(number, estimate)


def _distinct(values: list[Array]) -> list[Array]:
    found: list[Array] = []
    for value in values:
        if not any(v.shape == value.shape and np.array_equal(v, value) for v in found):
            found.append(value)
    return found


@dataclass(frozen=True)
class _Run:
    """The operators themselves on random input: what enters, and the state and spikes of every step."""

    inputs: list[Array]
    membranes: list[Array]
    spikes: list[Array] | None


def _confirmed(population: Population) -> LIF:
    """The first candidate that computes what the operators compute, bit for bit; else up to rounding."""
    candidates = list(_candidates(population))
    run = _random_run(population)
    ops = NumpyOps()
    for model in candidates:
        if _equal(model, run, ops):
            return model
    for model in candidates:
        if _equal_up_to_rounding(model, run, ops):
            return model
    r = population.group.recurrence
    raise S2CError(
        "its membrane gets a constant at every step, which no decay form has"
        if r.bias.any()
        else "no neuron of the integrate-and-fire family has its coefficients",
        where=f"the neuron of state {r.state}",
        why=f"h = {_range(r.decay)}·v + {_range(next(iter(r.gains.values())))}·x + {_range(r.bias)}",
        fix="move the constant into the bias of the layer before, and keep the decay factor between 0 and 1",
    )


def _range(value: Array) -> str:
    low, high = float(np.min(value)), float(np.max(value))
    return f"{low:.6g}" if low == high else f"({low:.4g} to {high:.4g})"


def _random_run(population: Population) -> _Run:
    group, step = population.group, population.group.step
    r = group.recurrence
    rng = np.random.default_rng(0)
    shape = (step.batch, *r.shape)
    gain = r.gains[next(iter(r.gains))]
    threshold = np.ones(()) if r.threshold is None else np.where(r.threshold == 0, 1.0, r.threshold)
    states = {name: step.states[name] for name in sorted(population.states)}
    values = {n: np.broadcast_to(s.start, (step.batch, *s.start.shape)).astype(np.float32) for n, s in states.items()}
    wanted = [state.out for state in states.values()] + ([] if r.fires is None else [r.fires])
    names = [name for name, _ in population.inputs]
    run = step.evaluator(wanted, [*states, *names])
    inputs, membranes, spikes = [], [], []
    for _ in range(_RANDOM_STEPS):
        drawn = {
            name: (np.abs(threshold) / gain * (0.4 + rng.normal(size=shape)) / len(names)).astype(np.float32)
            for name in names
        }
        values = dict(zip([*states, "spike"], run({**values, **drawn}), strict=False))
        total = [drawn[n] if f is None else drawn[n] * np.asarray(f, np.float32) for n, f in population.inputs]
        inputs.append(cast(Array, sum(total[1:], start=total[0])))
        membranes.append(values[r.state])
        spikes.append(np.asarray(values.pop("spike", 0), dtype=np.float32))
    return _Run(inputs, membranes, None if r.fires is None else spikes)


def _equal(model: LIF, run: _Run, ops: NumpyOps) -> bool:
    state = model.start(run.inputs[0], ops)
    for t, x in enumerate(run.inputs):
        state, out = model.step(state, x, ops)
        if not np.array_equal(state["v"], run.membranes[t]):
            return False
        if run.spikes is not None and not np.array_equal(out, run.spikes[t]):
            return False
    return True


def _equal_up_to_rounding(model: LIF, run: _Run, ops: NumpyOps) -> bool:
    """Every step from the operators' own membrane: no difference is carried on."""
    state = model.start(run.inputs[0], ops)
    scale = max(float(np.abs(np.stack(run.membranes)).max()), 1e-30)
    for t, x in enumerate(run.inputs):
        state, out = model.step(state, x, ops)
        agree = np.ones(np.shape(state["v"]), dtype=bool)
        if run.spikes is not None:
            agree = out == run.spikes[t]
            if (np.abs(state["h"] - model.v_threshold)[~agree] > ROUNDING * scale).any():
                return False
        if (np.abs(state["v"] - run.membranes[t])[agree] > ROUNDING * scale).any():
            return False
        state["v"] = run.membranes[t]
    return True
