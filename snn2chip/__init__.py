"""snn2chip: a trained PyTorch spiking neural network, on a neuromorphic chip, with proof of what happened on the way."""

__version__ = "0.1.0"
