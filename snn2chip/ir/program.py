"""``Program``: what the chip runs, bit for bit: the layers with int64 tensors, and the format of every number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from snn2chip.errors import S2CError
from snn2chip.ir.graph import Network, parameters
from snn2chip.ir.layers import Array, BatchNorm, Neuron
from snn2chip.ir.structure import Struct
from snn2chip.ir.target import Target


@dataclass(frozen=True, eq=False)
class Format(Struct):
    """The fixed-point format of an edge, a weight or a state.

    Args:
        bits: width, sign included.
        signed: whether it has a sign.
        scale: float value of one LSB; what is stored times ``scale`` is what the trained network had.
        exponent: the stored value is mantissa << exponent.
        overflow: what happens beyond the width: "wrap", "wrap_once", "saturate", or "error" where it was proved not to.
        rounding: how shifts round: "zero", "floor", "nearest", or "" where nothing is shifted.
    """

    bits: int
    signed: bool
    scale: float
    exponent: int = 0
    overflow: str = "saturate"
    rounding: str = ""

    @property
    def range(self) -> tuple[int, int]:
        """Smallest and largest representable integer."""
        return (-(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1) if self.signed else (0, (1 << self.bits) - 1)


@dataclass(frozen=True, eq=False)
class PassRecord(Struct):
    """What one pass did, measured by running the network before and after it on the same data.

    Args:
        name: the pass with its options, as it can be typed.
        changed: nodes removed, added or altered.
        exact: whether the pass promises equality up to float rounding.
        max_deviation: largest absolute difference of the outputs.
        spikes: number of spike slots compared.
        differing: how many of them differ.
        explained: how many of those sit within float rounding of the threshold.
    """

    name: str
    changed: tuple[str, ...]
    exact: bool
    max_deviation: float
    spikes: int
    differing: int
    explained: int


@dataclass(frozen=True, eq=False)
class LayerQuantization(Struct):
    """What was rounded in one population and its synapses, and what is proved about its registers.

    All ``*_error`` are relative to the float threshold (or the largest weight where there is none).
    """

    name: str
    scale: float
    synapses: Mapping[str, Mapping[str, float]]
    threshold: int | None
    threshold_error: float
    bias_error: float
    decay_error: float
    spikes_differing: float
    worst_case: Mapping[str, float]
    observed: Mapping[str, float]
    register: Mapping[str, float]
    proved: bool
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Program(Network):
    """The integer network. ``nodes`` hold int64 arrays; the meaning is the zero-delay one of the trained network.

    Args:
        target: the chip it is for, its arithmetic included.
        formats: format of ``"<node>"`` (output), ``"<node>.weight"``, ``"<node>.u"``, ``"<node>.v"``.
        output_scale: outputs = outputs_int · output_scale.
        passes, quantization: what was done on the way and measured while doing it.
        notes: what was approximated under a named option, for people.
        options: the options it was made with.
        origin: what was read.
    """

    target: Target
    formats: Mapping[str, Format]
    output_scale: Array
    passes: tuple[PassRecord, ...] = ()
    quantization: tuple[LayerQuantization, ...] = ()
    notes: tuple[str, ...] = ()
    options: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    origin: str = ""

    def verify(self) -> Program:
        """As :meth:`Network.verify`, and every array is int64 and keeps the format stated for it."""
        super().verify()
        for node in self:
            if isinstance(node.layer, BatchNorm):
                raise S2CError(
                    "a Program holds no batch norm",
                    where=node.where(),
                    fix="run the pass fold_batchnorm first",
                )
            for name, array in parameters(node.layer).items():
                if array.dtype != np.int64:
                    raise S2CError(f"{name} is {array.dtype}, not int64", where=node.where())
                form = self.formats.get(f"{node.name}.{name}")
                if form is not None and array.size and not isinstance(node.layer, Neuron):
                    low, high = (bound << form.exponent for bound in form.range)
                    if array.min() < low or array.max() > high:
                        raise S2CError(
                            f"{name} spans {array.min()}…{array.max()}",
                            where=node.where(),
                            why=f"its format holds {low}…{high}",
                        )
        return self
