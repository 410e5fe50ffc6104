"""One small file per library: which of its modules are neurons, and exactly which neuron each one is.

Classes are recognised by name; no library is imported here. To add a library: a module with ``cell(module)`` and
``reset(module)`` as in :class:`snn2chip.frontend.torch.cells.Adapter`, and its name below.
"""

from snn2chip.frontend.torch.adapters import lava, norse, sinabs, snntorch, spikingjelly, zoo
from snn2chip.frontend.torch.cells import Adapter

ADAPTERS: tuple[Adapter, ...] = (snntorch, spikingjelly, norse, sinabs, lava, zoo)
