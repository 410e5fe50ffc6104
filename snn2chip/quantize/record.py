"""What quantization did to one population, in figures, for the report."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from snn2chip.ir.layers import Array, Conv
from snn2chip.ir.program import LayerQuantization
from snn2chip.ir.target import Target
from snn2chip.quantize.groups import Group
from snn2chip.quantize.overflow import register_limits
from snn2chip.quantize.search import Quantized


def record(group: Group, bias: Array, best: Quantized, target: Target) -> LayerQuantization:
    """What was rounded, and what is proved of the registers.

    Args:
        group: the float population and its synapses.
        bias: their float bias, broadcasting against the population.
        best: what was chosen.
        target: the chip.
    """
    neuron, model = best.neuron, group.population.layer.model  # type: ignore[attr-defined]
    threshold_error = 0.0
    if neuron.v_threshold is not None:
        real = model.v_threshold / (model.input_gain * best.unit)
        threshold_error = float(np.max(np.abs(neuron.v_threshold - real) / real))
    wanted = bias / (best.unit / (1 << target.arithmetic.input_shift))
    reach = float(np.max(np.abs(wanted), initial=0.0))
    compared = reach and not best.corrected and not model.leak_bias.any()
    register = register_limits(target.arithmetic, target.limits.accumulator_bits)
    remarks = [] if best.proved else [_overflow_remark(best, register)]
    if best.corrected:
        remarks.append("the mean rounding error of each channel's sum is taken back through its bias")
    if any(isinstance(s.layer, Conv) and s.layer.per_place for s in group.synapses):
        remarks.append("its bias differs from place to place: one for every neuron")
    return LayerQuantization(
        name=group.population.name,
        scale=best.unit,
        synapses={s.name: _weight_errors(s.layer.weight, best, s.name) for s in group.synapses},  # type: ignore[attr-defined]
        threshold=None if neuron.v_threshold is None else int(np.max(neuron.v_threshold)),
        threshold_error=threshold_error,
        bias_error=float(np.max(np.abs(neuron.input_bias - wanted))) / reach if compared else 0.0,
        decay_error=model.rounding_error(neuron, best.unit, target.arithmetic),
        spikes_differing=best.differing,
        worst_case=dataclasses.asdict(best.worst),
        observed=dataclasses.asdict(best.observed),
        register=dict(register),
        proved=best.proved,
        remarks=tuple(remarks),
    )


def _overflow_remark(best: Quantized, register: Mapping[str, int]) -> str:
    over = [
        f"{name} could reach {getattr(best.worst, name) / limit:.2f} times its register "
        f"({getattr(best.observed, name) / limit:.0%} on the calibration data)"
        for name, limit in register.items()
        if getattr(best.worst, name) > limit
    ]
    return "not proved against overflow: " + "; ".join(over)


def _weight_errors(real: Array, best: Quantized, name: str) -> dict[str, float]:
    """Signal-to-noise ratio of the weights in dB, and the share that was clipped."""
    integers = best.host.layer.weight if best.host is not None else best.weights[name]
    # The factor between weights and integers that leaves the least error is the scale they were rounded with.
    scale = float((real * integers).sum() / max(float((integers.astype(np.float64) ** 2).sum()), 1e-300))
    error = real - integers * scale
    power, noise = float((real.astype(np.float64) ** 2).sum()), float((error**2).sum())
    largest = np.abs(integers).max(initial=0) * abs(scale)
    step = (best.unit if best.host is None else scale) or 1.0
    return {
        "sqnr_db": 10 * float(np.log10(power / noise)) if power and noise > 1e-12 * power else 120.0,
        "clipped": float(np.mean((np.abs(real) > largest) & (np.abs(error) > abs(step)))),
        "exponent": float(best.exponents.get(name, 0)),
    }
