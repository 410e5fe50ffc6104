"""Train a conv–BN–LIF network on scikit-learn's handwritten digits, then compile it for Loihi 2 and look at the report.

The network is written as research code usually is: a neuron module with its own surrogate gradient and a Python loop
over time in ``forward``. Nothing in it knows about snn2chip.

    python examples/digits.py                  # trains (some ten seconds), compiles, writes out/digits
    snn2chip compile examples/digits.py:network --weights out/digits.safetensors \
        --data examples/digits.py:test_data --calibration examples/digits.py:calibration_data --time-steps 8
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

TIME_STEPS = 8


class Spike(torch.autograd.Function):
    """Heaviside forward, triangle backward."""

    @staticmethod
    def forward(ctx: Any, distance: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(distance)
        return (distance > 0).float()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        (distance,) = ctx.saved_tensors
        return gradient * (1 - distance.abs()).clamp(min=0)


class LIF(nn.Module):
    """v = decay·v + x, a spike above the threshold, back to zero."""

    def __init__(self, decay: float = 0.75, v_threshold: float = 1.0) -> None:
        super().__init__()
        self.decay, self.v_threshold = decay, v_threshold
        self.v: torch.Tensor | float = 0.0

    def reset(self) -> None:
        self.v = 0.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.v = self.decay * self.v + x
        spike = Spike.apply(self.v - self.v_threshold)
        self.v = self.v * (1 - spike)
        return spike


class Digits(nn.Module):
    """8×8 images in, the mean of ten outputs over the time steps out."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.lif1 = LIF()
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(32)
        self.lif2 = LIF()
        self.pool = nn.AvgPool2d(2)
        self.fc1 = nn.Linear(32 * 4 * 4, 64)
        self.lif3 = LIF()
        self.fc2 = nn.Linear(64, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        for module in self.modules():
            if isinstance(module, LIF):
                module.reset()
        total = torch.zeros(len(images), 10)
        for _ in range(TIME_STEPS):
            x = self.lif1(self.bn1(self.conv1(images)))
            x = self.lif2(self.bn2(self.conv2(x)))
            x = self.pool(x).flatten(1)
            total = total + self.fc2(self.lif3(self.fc1(x)))
        return total / TIME_STEPS


def network() -> Digits:
    """The model, untrained."""
    return Digits()


def _split() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = (digits.images / 16.0).astype(np.float32)[:, None]
    return tuple(train_test_split(images, digits.target, test_size=0.3, random_state=0, stratify=digits.target))


def test_data() -> tuple[np.ndarray, np.ndarray]:
    """540 images [N, 1, 8, 8] in [0, 1] and their labels; none was trained on."""
    _, images, _, labels = _split()
    return images, labels


def calibration_data() -> np.ndarray:
    """128 training images: they choose the scales of the fixed point."""
    return _split()[0][:128]


def train(epochs: int = 20, seed: int = 0) -> Digits:
    """A trained model; the same seed gives the same weights on the same machine."""
    torch.manual_seed(seed)
    images, _, labels, _ = (torch.from_numpy(part) for part in _split())
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(4 * model(images[batch]), labels[batch]).backward()
            optimizer.step()
        schedule.step()
    return model.eval()


def main() -> None:
    import snn2chip as s2c

    out = Path(sys.argv[1] if len(sys.argv) > 1 else "out/digits")
    model = train()
    images, labels = test_data()
    build = s2c.compile(
        model,
        images[:1],
        time_steps=TIME_STEPS,
        target="loihi2",
        calibration=calibration_data(),
        data=images,
        labels=labels,
        out=out,
    )
    print(build.summary())


if __name__ == "__main__":
    main()
