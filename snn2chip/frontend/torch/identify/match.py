"""The best of several neurons for a module: each run on random input, and held against what the module shows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from snn2chip.errors import S2CError
from snn2chip.frontend.torch.cells import Cell
from snn2chip.frontend.torch.identify.confirm import ROUNDING, agrees
from snn2chip.frontend.torch.identify.probe import Probe
from snn2chip.frontend.torch.identify.questions import Trial
from snn2chip.frontend.torch.identify.shown import moving, ports
from snn2chip.neurons.base import FloatNeuron

# How many more are tried for exact agreement once one agrees up to rounding.
_PATIENCE = 60


@dataclass
class _Match:
    """A neuron that does what the module does.

    Args:
        rank: 0 is best: its membrane is shown, or nothing is; then, every spike agrees without excuse.
    """

    rank: tuple[bool, bool]
    cell: Cell


def best(probe: Probe, candidates: Iterable[FloatNeuron], trials: list[Trial], ends: list[Trial]) -> Cell | None:
    """The first candidate that agrees on every spike and has the membrane the module shows; else the next best.

    Args:
        ends: runs whose input is at the edge of firing, where only the exact numbers agree.
    """
    found: _Match | None = None
    tried = 0
    for model in candidates:
        found = _better(probe, model, trials, ends, found)
        tried += found is not None
        if found is not None and (found.rank == (False, False) or tried > _PATIENCE):
            break
    return found.cell if found is not None else None


def _better(
    probe: Probe, model: FloatNeuron, trials: list[Trial], ends: list[Trial], found: _Match | None
) -> _Match | None:
    """The match of a neuron with the module, if it is one and better than the one found so far; else that one."""
    try:
        model.check(probe.shape[1:])
    except S2CError:
        return found
    if not all(agrees(model, trial, ROUNDING) for trial in trials):
        return found
    exact = all(agrees(model, trial, None) for trial in (*trials, *ends))
    # Spikes are as cheap to delay behind a population as before it; the membrane of an integrator is not.
    for input_delay in range(probe.late if model.integrates_only else 0, probe.late + 1):
        states = ports(model, trials, input_delay)
        if states is None:
            continue
        rank = (bool(moving(trials)) and "v" not in states.values(), not exact)
        if found is None or rank < found.rank:
            found = _Match(rank, _cell(probe, model, states, trials, input_delay))
    return found


def _cell(probe: Probe, model: FloatNeuron, states: dict[str, str], trials: list[Trial], input_delay: int) -> Cell:
    # What it hands on but no graph can read has a name of its own.
    returns = tuple(states.get(str(i), f"state {i}" if i < len(probe.args) else None) for i in range(1, 8))
    attributes = {name[5:]: port for name, port in states.items() if name.startswith("attr:")}
    return Cell(
        model,
        time_axis=probe.time_axis,
        returns=("out", *returns),
        states=tuple(str(name) for name in returns[: len(probe.args) - 1]),
        attributes=attributes,
        carries=probe.remembers(trials[0].xs),
        delay=probe.late - input_delay,
        input_delay=input_delay,
    )
