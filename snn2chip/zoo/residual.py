"""Residual networks: ResNet with CIFAR and ImageNet stems, SEW-ResNet, RegNetX."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from snn2chip.zoo.layers import Firing, Parts, Residual, SpikingNetwork, Stateless, classifier


@dataclass(frozen=True)
class Stem:
    """The first convolution; ``pool``: a 3×3 max pooling of stride 2 behind its neurons."""

    channels: int
    kernel: int = 3
    stride: int = 1
    pool: bool = False


@dataclass(frozen=True)
class ResNet:
    """Stages of residual blocks.

    Args:
        stem: the first layer.
        widths, depths, strides: channels, blocks and stride of each stage.
        expansion: None for basic blocks (3×3, 3×3); else bottlenecks (1×1, 3×3, 1×1) that end in ``expansion`` times
            the channels.
        group_width: channels per group of a bottleneck's 3×3 convolution; None: one group.
        sew: neurons on the branch, before the addition of spikes (SEW-ResNet); else behind the sum (S002, S003).
        hidden: features of hidden linear layers before the head.
    """

    stem: Stem
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    strides: tuple[int, ...]
    expansion: int | None = None
    group_width: int | None = None
    sew: bool = False
    hidden: tuple[int, ...] = ()

    def build(self, parts: Parts, shape: tuple[int, int, int], classes: int, time_steps: int) -> SpikingNetwork:
        """The network for inputs (C, H, W)."""
        channels = parts.scaled(self.stem.channels)
        stem = parts.conv((shape[0], channels), self.stem.kernel, self.stem.stride)
        body: list[nn.Module] = [parts.spiking(*stem)]
        if self.stem.pool:
            body.append(Stateless(nn.MaxPool2d(3, 2, 1)))
        for width, depth, stride in zip(self.widths, self.depths, self.strides, strict=True):
            blocks = []
            for i in range(depth):
                block, channels = self._block(parts, channels, width, stride if i == 0 else 1)
                blocks.append(block)
            body.append(nn.Sequential(*blocks))
        waiting: list[nn.Module] = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        for features in self.hidden:
            before, channels = channels, parts.scaled(features)
            body.append(parts.spiking(*waiting, nn.Linear(before, channels)))
            waiting = []
        head = nn.Sequential(*waiting, classifier(channels, classes))
        return SpikingNetwork(nn.Sequential(*body), head, time_steps)

    def _block(self, parts: Parts, before: int, width: int, stride: int) -> tuple[nn.Module, int]:
        """One block, and the channels it returns."""
        group = self.group_width and parts.scaled(self.group_width)
        inner = parts.scaled(width, group or 1)
        out = inner * (self.expansion or 1)
        projected = stride != 1 or before != out
        # Zheng et al. 2021 halve the variance of whatever meets in a sum, an identity beside it or not.
        branches = 1 if self.sew else 2
        if self.expansion is None:
            first = [parts.conv((before, inner), stride=stride)]
            last = parts.conv((inner, out), branches=branches)
        else:
            groups = inner // group if group else 1
            first = [parts.conv((before, inner), 1), parts.conv((inner, inner), stride=stride, groups=groups)]
            last = parts.conv((inner, out), 1, branches=branches)
        shortcut = parts.conv((before, out), 1, stride, branches=branches) if projected else []
        inside = [parts.spiking(*layers) for layers in first]
        if self.sew:
            branch = nn.Sequential(*inside, parts.spiking(*last))
            return Residual(branch, parts.spiking(*shortcut) if projected else None), out
        branch = nn.Sequential(*inside, Stateless(*last))
        return Firing(Residual(branch, Stateless(*shortcut) if projected else None), parts.neuron()), out
