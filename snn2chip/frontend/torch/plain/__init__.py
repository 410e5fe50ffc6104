"""Neurons written as plain code: find the update in the recording and make a neuron call of it.

Every operation has a site: the line of code, with the lines that called it. A site that runs T times is part of the
time loop, and its k-th run is step k. Rolled by site (``rolled``, ``first_step``), the recording has cycles: values of
step t−1 read at step t. A cycle of elementwise operations is a neuron if it compares, and an integrator if it only
leaks (``recurrences``). It is cut out (``cutting``), made callable (``region``), and identified like any other
(``extract``). A layer that feeds spikes back is no part of the cycle, but one of its inputs.
"""

from snn2chip.frontend.torch.plain.extract import extract, thresholds

__all__ = ["extract", "thresholds"]
