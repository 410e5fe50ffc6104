"""Networks in a row: VGG, VGGSNN, LeNet-5, DVSGestureNet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from snn2chip.errors import UsageError
from snn2chip.zoo.layers import Parts, SpikingNetwork, classifier

Pooling = Literal["max", "avg"]
_POOLS = {"max": nn.MaxPool2d, "avg": nn.AvgPool2d}


@dataclass(frozen=True)
class Sequential:
    """Stages of convolutions, each followed by 2×2 pooling; hidden linear layers; a head.

    Args:
        stages: channels of each convolution.
        pool: kind of pooling.
        hidden: features of the hidden linear layers.
        hidden_norm: whether they have batch norm.
        kernel, paddings: of the convolutions; one padding per stage.
        votes: outputs averaged per class instead of a linear head (Fang et al. 2021, PLIF); the last hidden layer then
            has ``votes`` neurons per class whatever its entry says.
    """

    stages: tuple[tuple[int, ...], ...]
    pool: Pooling
    hidden: tuple[int, ...] = ()
    hidden_norm: bool = False
    kernel: int = 3
    paddings: tuple[int, ...] | None = None
    votes: int = 0

    def build(self, parts: Parts, shape: tuple[int, int, int], classes: int, time_steps: int) -> SpikingNetwork:
        """The network for inputs (C, H, W).

        Raises:
            UsageError: the image is too small.
        """
        channels, *size = shape
        body: list[nn.Module] = []
        waiting: list[nn.Module] = []
        paddings = self.paddings or (self.kernel // 2,) * len(self.stages)
        for stage, padding in zip(self.stages, paddings, strict=True):
            for wide in stage:
                before, channels = channels, parts.scaled(wide)
                body.append(parts.spiking(*waiting, *parts.conv((before, channels), self.kernel, padding=padding)))
                waiting = []
                size = [s + 2 * padding - self.kernel + 1 for s in size]
            waiting = [_POOLS[self.pool](2)]
            size = [s // 2 for s in size]
            if min(size) < 1:
                raise UsageError(
                    f"an image of {shape[1]}×{shape[2]} is too small", fix=f"this network halves it {len(self.stages)}×"
                )
        waiting.append(nn.Flatten())
        features = channels * size[0] * size[1]
        for i, wide in enumerate(self.hidden):
            last = self.votes and i == len(self.hidden) - 1
            before, features = features, classes * self.votes if last else parts.scaled(wide)
            if parts.dropout:
                waiting.append(nn.Dropout(parts.dropout))
            layers = parts.linear((before, features)) if self.hidden_norm else [nn.Linear(before, features)]
            body.append(parts.spiking(*waiting, *layers))
            waiting = []
        head = Vote(self.votes) if self.votes else classifier(features, classes)
        return SpikingNetwork(nn.Sequential(*body), nn.Sequential(*waiting, head), time_steps)


class Vote(nn.Module):
    """The mean of ``votes`` neurons for each class: [N, classes·votes] → [N, classes]."""

    def __init__(self, votes: int) -> None:
        super().__init__()
        self.votes = votes

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return x.reshape(len(x), -1, self.votes).mean(-1)
