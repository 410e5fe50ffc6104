"""Read torch models: SpikingJelly, snnTorch, Norse, Sinabs and hand-written ones, without edits."""

from snn2chip.frontend.torch.cells import Cell, register_neuron
from snn2chip.frontend.torch.observe import record_model
from snn2chip.frontend.torch.trace import trace

__all__ = ["Cell", "record_model", "register_neuron", "trace"]
