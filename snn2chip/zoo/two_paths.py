"""Training on two paths (S000): the spiking one that is deployed, and beside it one with a clipped ReLU to learn by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from snn2chip.neurons.lif import LIF
from snn2chip.zoo.neurons import SpikingNeuron, reset
from snn2chip.zoo.surrogate import Rectangle, spike

Path = Literal["spiking", "surrogate"]


class MixedLIF(SpikingNeuron):
    """S000's two-path neuron: a LIF, and beside it in training a clipped ReLU with a membrane of its own (Eq. 1 to 6).

    The spiking path is the network that is deployed; the surrogate path exists to train it, see :func:`on_path`.

    Args:
        decay: τ of Eq. 1, which multiplies the membrane; the paper gives no number.
        v_threshold: V_th.
        alpha: width of the window, α.
        v_reset: where both paths reset to.
    """

    def __init__(self, decay: float, v_threshold: float = 1.0, alpha: float = 1.0, v_reset: float = 0.0) -> None:
        super().__init__(v_threshold, Rectangle(alpha))
        self.decay, self.alpha, self.v_reset = float(decay), float(alpha), float(v_reset)
        self.path: Path = "spiking"
        self.v_surrogate: Tensor | None = None

    def reset(self) -> None:
        """Forget the sample, on both paths."""
        self.v = self.v_surrogate = None

    def neuron(self) -> LIF:
        """The spiking path."""
        return LIF(np.asarray(self.v_threshold), np.asarray(self.decay), v_reset=np.asarray(self.v_reset))

    def forward(self, x: Tensor) -> Tensor:
        """One step on the path in use."""
        return self.forward_spiking(x) if self.path == "spiking" else self.forward_surrogate(x)

    def forward_spiking(self, x: Tensor) -> Tensor:
        """Path A: Eq. 1, 4, 5."""
        h = self.decay * self.membrane(x) + x
        out = spike(h - self.v_threshold, self.surrogate)
        self.v = (1 - out) * h + self.v_reset * out
        return out

    def forward_surrogate(self, x: Tensor) -> Tensor:
        """Path B: Eq. 3, 4, 6; a graded output in [0, 1]."""
        before = torch.zeros_like(x) if self.v_surrogate is None else self.v_surrogate
        h = self.decay * before + x
        out = ((h - self.v_threshold) / self.alpha + 0.5).clamp(0, 1)
        fired = (out.detach() >= 0.5).to(x.dtype)
        self.v_surrogate = (1 - fired) * h + self.v_reset * fired
        return out


@contextmanager
def on_path(model: nn.Module, path: Path) -> Iterator[nn.Module]:
    """Within it every MixedLIF of the model takes this path (S000 Alg. 2: one forward pass on each)."""
    layers = [(m, m.path) for m in model.modules() if isinstance(m, MixedLIF)]
    for layer, _ in layers:
        layer.path = path
    try:
        yield model
    finally:
        for layer, before in layers:
            layer.path = before


def reestimate_batchnorm(
    model: nn.Module, loader: Iterable[Any], run: Callable[[nn.Module, Any], Any] | None = None
) -> int:
    """Estimate the running statistics of every batch norm anew, on the spiking path that is deployed.

    S000 does not say which path its statistics come from; folding them needs those of the path that stays. They become
    the average over all batches of ``loader`` (over time steps, where a layer is called once per step). Weights, the
    training flags and the momentum are left as they were.

    Args:
        loader: batches; of tuples and lists the first entry is taken.
        run: ``run(model, x)``, where a sample is not one ``model(x)``.

    Returns:
        The number of batch norms estimated.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    training = {m: m.training for m in model.modules()}
    momentum = {norm: norm.momentum for norm in norms}
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    try:
        with torch.no_grad(), on_path(model, "spiking"):
            for batch in loader:
                reset(model)
                x = batch[0] if isinstance(batch, (tuple, list)) else batch
                model(x) if run is None else run(model, x)
        reset(model)
    finally:
        for norm in norms:
            norm.momentum = momentum[norm]
        for module, flag in training.items():
            module.training = flag
    return len(norms)
