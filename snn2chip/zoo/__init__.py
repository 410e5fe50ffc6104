"""The papers' neurons as trainable torch modules; the tracer knows each by name."""

from snn2chip.zoo.neurons import (
    ALIF,
    LNM,
    PLIF,
    QIF,
    TPP,
    MixedLIF,
    SoftResetIF,
    SpikingNeuron,
    TernaryLIF,
    on_path,
    reestimate_batchnorm,
    reset,
)
from snn2chip.zoo.surrogate import Rectangle, Triangle

__all__ = [
    "ALIF",
    "LNM",
    "PLIF",
    "QIF",
    "TPP",
    "MixedLIF",
    "SoftResetIF",
    "SpikingNeuron",
    "TernaryLIF",
    "Rectangle",
    "Triangle",
    "on_path",
    "reestimate_batchnorm",
    "reset",
]
