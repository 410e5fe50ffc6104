"""Neuron models: one file each, equations once, float step, integer step, operation counts.

Importing the package imports every file of it: a saved program names its neurons, and reading it back must know them.
"""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__, f"{__name__}."):
    importlib.import_module(_module.name)
