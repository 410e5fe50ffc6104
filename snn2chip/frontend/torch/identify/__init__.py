"""Which neuron is a module nobody knows? Ask it, form hypotheses, and confirm one on random input.

``probe`` runs the module, ``questions`` asks it. ``linear`` and ``polynomial`` say which neurons explain the answers,
``exact`` with the exact parameters that ``numbers`` finds in what the module computes with. ``confirm`` compares,
``shown`` names the states that the module shows, ``match`` keeps the best, ``findings`` says what was seen of a module
that is none of them. docs/identify-neurons.md tells it to users.
"""

from snn2chip.frontend.torch.identify.confirm import ROUNDING
from snn2chip.frontend.torch.identify.probe import Probe
from snn2chip.frontend.torch.identify.search import identify, identify_integrator

__all__ = ["ROUNDING", "Probe", "identify", "identify_integrator"]
