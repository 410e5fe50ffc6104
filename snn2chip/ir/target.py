"""A chip as data: what ``targets/<name>.toml`` says, each value with its source."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from snn2chip.errors import S2CError, UsageError
from snn2chip.ir.arithmetic import Arithmetic
from snn2chip.ir.structure import Struct
from snn2chip.resources import targets_dir

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True, eq=False)
class Weights(Struct):
    """The synaptic weight of a chip: mantissa · 2**exponent.

    Args:
        bits: widest mantissa, sign included.
        minimum, maximum: range of the mantissa where signs mix; its step is 2**(9 − bits) at ``bits`` bits.
        exponent_min, exponent_max: the power of two, one per layer.
    """

    bits: int
    minimum: int
    maximum: int
    exponent_min: int
    exponent_max: int

    def step(self, bits: int) -> int:
        """Spacing of the legal mantissas at a width of ``bits``."""
        return (self.maximum - self.minimum + 2) >> bits


@dataclass(frozen=True, eq=False)
class Limits(Struct):
    """Ranges a layer's numbers must keep.

    Args:
        threshold_max: largest threshold mantissa.
        bias_max: largest magnitude of the bias mantissa.
        bias_exp_min, bias_exp_max: exponent of the bias.
        accumulator_bits: register that sums the weights of one step, sign included.
        input_bits: widest spike payload; 1 is a binary spike.
        delay_max: longest synaptic delay in steps.
        custom_neurons: whether neurons other than the fixed LIF can be programmed.
    """

    threshold_max: int
    bias_max: int
    bias_exp_min: int
    bias_exp_max: int
    accumulator_bits: int
    input_bits: int
    delay_max: int
    custom_neurons: bool


@dataclass(frozen=True, eq=False)
class Cores(Struct):
    """Capacities of one neuron core, and how many a chip has; None where no public figure exists.

    ``state_in_memory``: whether the neurons' state takes its room from ``synaptic_memory_bits``.
    """

    per_chip: int
    neurons: int
    synaptic_memory_bits: int
    state_in_memory: bool
    axons_in: int | None
    axons_out: int | None


@dataclass(frozen=True, eq=False)
class EnergyTable(Struct):
    """Energy per operation in pJ under one named model; ``basis`` says what the figures are and are not."""

    name: str
    title: str
    basis: str
    picojoules: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Target(Struct):
    """One chip. ``sources`` maps the dotted name of every value to where it was read."""

    name: str
    title: str
    arithmetic: Arithmetic
    weights: Weights
    limits: Limits
    cores: Cores
    registers: Mapping[str, Mapping[str, int]]
    energy: tuple[EnergyTable, ...]
    sources: Mapping[str, str] = field(default_factory=dict, compare=False)


def available() -> tuple[str, ...]:
    """Names of the targets that ship with snn2chip."""
    return tuple(sorted(path.stem for path in targets_dir().glob("*.toml")))


def load_target(target: str | Path | Target) -> Target:
    """A target by name, by the path of a ``.toml`` file, or as it is.

    Raises:
        UsageError: no target of that name.
        S2CError: the file is not a target; the message names the entry.
    """
    if isinstance(target, Target):
        return target
    path = Path(target) if str(target).endswith(".toml") else targets_dir() / f"{target}.toml"
    if not path.is_file():
        raise UsageError(
            f"there is no target {str(target)!r}",
            fix=f"use one of {', '.join(available())}, or the path of a .toml file of your own",
        )
    try:
        data = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise S2CError(
            "the target file is not valid TOML",
            where=str(path),
            why=str(error),
            fix="correct the file; the targets that ship with snn2chip show the form: snn2chip targets",
        ) from None
    sources: dict[str, str] = {}
    plain = _unwrap(data, "", sources)
    try:
        return Target(
            name=plain["name"],
            title=plain["title"],
            arithmetic=Arithmetic(**plain["arithmetic"]),
            weights=Weights(**plain["weights"]),
            limits=Limits(**plain["limits"]),
            cores=Cores(**{"axons_in": None, "axons_out": None} | plain["cores"]),
            registers=plain["registers"],
            energy=tuple(EnergyTable(**table) for table in plain.get("energy", [])),
            sources=sources,
        )
    except (KeyError, TypeError) as error:
        raise S2CError(
            "the target file lacks an entry or has one too many",
            where=str(path),
            why=str(error),
            fix="give it the entries of a target that ships with snn2chip",
        ) from None


def _unwrap(entry: Any, name: str, sources: dict[str, str]) -> Any:
    """Replace ``{value = …, source = …}`` by the value, noting the source under the entry's dotted name."""
    if isinstance(entry, dict):
        if set(entry) == {"value", "source"}:
            sources[name] = entry["source"]
            return entry["value"]
        return {key: _unwrap(item, f"{name}.{key}".lstrip("."), sources) for key, item in entry.items()}
    if isinstance(entry, list):
        return [
            _unwrap(item, f"{name}.{item.get('name', i) if isinstance(item, dict) else i}", sources)
            for i, item in enumerate(entry)
        ]
    return entry
