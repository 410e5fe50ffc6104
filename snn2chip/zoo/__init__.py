"""The papers' neurons, batch norms and networks, to train in torch; the tracer knows each neuron by name."""

from snn2chip.zoo.layers import Parts, SpikingNetwork
from snn2chip.zoo.networks import NETWORKS, network
from snn2chip.zoo.neurons import (
    ALIF,
    LNM,
    PLIF,
    QIF,
    TPP,
    SoftResetIF,
    SpikingNeuron,
    TernaryLIF,
    reset,
)
from snn2chip.zoo.normalization import TEBN, BatchNorm, PerStepBatchNorm, TDBatchNorm
from snn2chip.zoo.surrogate import Rectangle, Triangle
from snn2chip.zoo.two_paths import MixedLIF, on_path, reestimate_batchnorm

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
    "BatchNorm",
    "PerStepBatchNorm",
    "TDBatchNorm",
    "TEBN",
    "NETWORKS",
    "Parts",
    "SpikingNetwork",
    "network",
    "on_path",
    "reestimate_batchnorm",
    "reset",
]
