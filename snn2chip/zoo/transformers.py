"""Spiking transformers: Spikformer, and the blocks of Meta-SpikeFormer.

Tokens are the pixels of an image [N, C, H, W]; a linear layer over tokens is a 1×1 convolution.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn

from snn2chip.errors import UsageError
from snn2chip.zoo.layers import Parts, Residual, SpikingNetwork, Stateless, classifier, fire


class Attention(nn.Module):
    """Spiking self-attention without softmax: the product of three spike matrices, scaled, then neurons.

    Args:
        query, key, value: [T, N, C, H, W] → spikes of that shape.
        neuron: the population behind the products.
        project: layers behind it.
        heads: the channels are split into as many.
        keys_first: Q(KᵀV), cheaper where there are more tokens than channels per head (Meta-SpikeFormer's SDSA-3);
            else (QKᵀ)V (Spikformer's SSA).
        scale: keeps the sums in the neurons' range; 0.125 in both published codes, S000 does not say.
    """

    def __init__(
        self,
        query: nn.Module,
        key: nn.Module,
        value: nn.Module,
        neuron: nn.Module,
        project: nn.Module,
        heads: int,
        keys_first: bool = False,
        scale: float = 0.125,
    ) -> None:
        super().__init__()
        self.query, self.key, self.value = query, key, value
        self.neuron, self.project = neuron, project
        self.heads, self.keys_first, self.scale = heads, keys_first, scale

    def forward(self, x: Tensor) -> Tensor:
        """[T, N, C, H, W] → the same shape."""
        q, k, v = (self._by_head(layer(x)) for layer in (self.query, self.key, self.value))
        mixed = q @ (k.mT @ v) if self.keys_first else (q @ k.mT) @ v
        image = (mixed * self.scale).mT.reshape(x.shape)
        out: Tensor = self.project(fire(self.neuron, image))
        return out

    def _by_head(self, x: Tensor) -> Tensor:
        """[T, N, C, H, W] → [T, N, heads, tokens, C / heads]."""
        steps, samples, channels = x.shape[:3]
        return x.reshape(steps, samples, self.heads, channels // self.heads, -1).mT


@dataclass(frozen=True)
class Spikformer:
    """Spikformer-N-D as S000 names them: N is the patch size, D the embedding.

    Args:
        patch: 4, 8 or 16: how many of the four convolutions that split the image are followed by pooling.
        dim, heads, blocks: of the encoder. S000 states neither heads nor blocks; those of the table are Zhou et al.'s.
        mlp_ratio: hidden features of the MLP per feature.
    """

    patch: int
    dim: int
    heads: int
    blocks: int
    mlp_ratio: int = 4

    def build(self, parts: Parts, shape: tuple[int, int, int], classes: int, time_steps: int) -> SpikingNetwork:
        """The network for inputs (C, H, W).

        Raises:
            UsageError: the image is no multiple of the patch.
        """
        if shape[1] % self.patch or shape[2] % self.patch:
            raise UsageError(
                f"an image of {shape[1]}×{shape[2]} does not split into patches of {self.patch}",
                fix=f"give images whose sides are multiples of {self.patch}",
            )
        dim = parts.scaled(self.dim, math.lcm(8, self.heads))
        body: list[nn.Module] = []
        before, pooled = shape[0], int(math.log2(self.patch))
        for i, part in enumerate((8, 4, 2, 1)):
            channels = dim // part
            body.append(parts.spiking(*parts.conv((before, channels))))
            if i >= 4 - pooled:
                body.append(Stateless(nn.MaxPool2d(3, 2, 1)))
            before = channels
        body.append(Residual(parts.spiking(*parts.conv((dim, dim)))))
        for _ in range(self.blocks):
            body += [Residual(self._attention(parts, dim)), Residual(self._mlp(parts, dim))]
        head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), classifier(dim, classes))
        return SpikingNetwork(nn.Sequential(*body), head, time_steps)

    def _attention(self, parts: Parts, dim: int) -> Attention:
        q, k, v, project = (parts.spiking(*parts.conv((dim, dim), 1)) for _ in range(4))
        return Attention(q, k, v, parts.attention_neuron(), project, self.heads)

    def _mlp(self, parts: Parts, dim: int) -> nn.Module:
        hidden = dim * self.mlp_ratio
        return nn.Sequential(parts.spiking(*parts.conv((dim, hidden), 1)), parts.spiking(*parts.conv((hidden, dim), 1)))


@dataclass(frozen=True)
class MetaSpikeFormer:
    """A stem, convolution blocks, a downsampling, transformer blocks (Yao et al. 2024, Meta-SpikeFormer).

    Membrane shortcuts: the residual stream is a sum, and every branch begins with neurons. The published
    re-parameterised convolutions are written as the one 3×3 convolution they are merged into for inference.

    Args:
        dims: channels of the convolution blocks and of the transformer blocks.
        blocks: number of each.
        heads: of the attention.
        mlp_ratio: hidden channels per channel.
    """

    dims: tuple[int, int]
    blocks: tuple[int, int]
    heads: int
    mlp_ratio: int = 4

    def build(self, parts: Parts, shape: tuple[int, int, int], classes: int, time_steps: int) -> SpikingNetwork:
        """The network for inputs (C, H, W)."""
        narrow, wide = parts.scaled(self.dims[0]), parts.scaled(self.dims[1], self.heads)
        body: list[nn.Module] = [Stateless(*parts.conv((shape[0], narrow), 7, 2))]
        for _ in range(self.blocks[0]):
            body += [Residual(_separable(parts, narrow)), Residual(self._mlp(parts, narrow, 3))]
        body += [parts.spiking(), Stateless(*parts.conv((narrow, wide), 3, 2))]
        for _ in range(self.blocks[1]):
            body += [Residual(self._attention(parts, wide)), Residual(self._mlp(parts, wide, 1))]
        body.append(parts.spiking())
        head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), classifier(wide, classes))
        return SpikingNetwork(nn.Sequential(*body), head, time_steps)

    def _attention(self, parts: Parts, dim: int) -> nn.Module:
        q, k, v = (parts.spiking(*parts.conv((dim, dim))) for _ in range(3))
        project = Stateless(*parts.conv((dim, dim)))
        return nn.Sequential(
            parts.spiking(), Attention(q, k, v, parts.attention_neuron(), project, self.heads, keys_first=True)
        )

    def _mlp(self, parts: Parts, dim: int, kernel: int) -> nn.Module:
        hidden = dim * self.mlp_ratio
        return nn.Sequential(
            parts.spiking(),
            parts.spiking(*parts.conv((dim, hidden), kernel)),
            Stateless(*parts.conv((hidden, dim), kernel)),
        )


def _separable(parts: Parts, dim: int) -> nn.Module:
    """Inverted separable convolution of stride 1: pointwise to twice the channels, depthwise 7×7, pointwise back."""
    depthwise = nn.Conv2d(2 * dim, 2 * dim, 7, padding=3, groups=2 * dim, bias=False)
    return nn.Sequential(
        parts.spiking(),
        parts.spiking(*parts.conv((dim, 2 * dim), 1)),
        Stateless(depthwise, *parts.conv((2 * dim, dim), 1)),
    )
