"""Norms that differ from step to step, on request: factors and offsets of a neuron's input, one for each step.

The layers in front of a neuron are another chain of batch norms and scales at every step. What they have in common, one
factor and one offset per channel, stays a batch norm, so that it can go into the weights; the rest, near 1 and 0, goes
into the neuron.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from snn2chip.errors import S2CError
from snn2chip.ir.graph import Edge, Node
from snn2chip.ir.layers import Array, BatchNorm, Neuron, Scale, Shape
from snn2chip.neurons.lif import LIF
from snn2chip.neurons.per_step import PerStepLIF

PER_STEP = "or ask for factors per step in front of the neurons: trace(..., per_step=True), --per-step-norm"


class NormsDifferError(S2CError):
    """Norms differ from step to step, which was not asked for."""


def origin(nodes: Mapping[str, Node], names: Sequence[str]) -> str | None:
    """The node from which all of these come through batch norms and scales alone; None where there is none."""
    chains = [_chain(nodes, name) for name in names]
    return next((name for name in chains[0] if all(name in chain for chain in chains)), None)


def _chain(nodes: Mapping[str, Node], name: str) -> list[str]:
    """The node, and those before it, as long as they are batch norms and scales, and the one before them."""
    found = [name]
    while isinstance(nodes[name].layer, BatchNorm | Scale):
        (edge,) = nodes[name].inputs
        if edge.port != "out" or edge.delay:
            break
        name = edge.source
        found.append(name)
    return found


def joined(nodes: dict[str, Node], population: str, feeds: Sequence[str], shape: Shape) -> None:
    """Give a population, fed by another node at every step, one input and a factor and an offset for every step.

    Args:
        nodes: of the graph; changed.
        feeds: what feeds it, one name per step.
        shape: of the population.

    Raises:
        S2CError: something other than a LIF is fed so.
    """
    node = nodes[population]
    source = origin(nodes, feeds)
    assert isinstance(node.layer, Neuron)
    assert source is not None
    model = node.layer.model
    if not isinstance(model, LIF):
        raise S2CError(
            f"a {model.kind} neuron is fed through norms that differ from step to step",
            where=node.where(),
            why="factors per step are known in front of LIF neurons only",
            fix="use a LIF, or norms shared by all steps",
        )
    factors, offsets = zip(*(_composed(nodes, source, name, shape) for name in feeds), strict=True)
    factor, offset = _common(factors, shape), np.zeros(shape[0])
    if factor is None:
        entry = source
    else:
        wide = factor.reshape(-1, *[1] * (len(shape) - 1))
        offset = np.mean([_channels(o, shape) for o in offsets], axis=0) if _by_channel(offsets, shape) else offset
        factors = tuple(f / wide for f in factors)
        offsets = tuple(o - f * offset.reshape(wide.shape) for f, o in zip(factors, offsets, strict=True))
        entry = feeds[0]
        one, zero = np.ones(shape[0], np.float32), np.zeros(shape[0], np.float32)
        layer = BatchNorm(factor.astype(np.float32), offset.astype(np.float32), zero, one, 0.0)
        nodes[entry] = replace(nodes[entry], layer=layer, inputs=(Edge(source),))
    inputs = tuple(replace(edge, source=entry) if edge.source == feeds[0] else edge for edge in node.inputs)
    nodes[population] = replace(node, layer=Neuron(PerStepLIF(model, factors, offsets)), inputs=inputs)


def _composed(nodes: Mapping[str, Node], source: str, name: str, shape: Shape) -> tuple[Array, Array]:
    """Factor and offset between two nodes, float64."""
    factor, offset = np.ones(()), np.zeros(())
    chain = _chain(nodes, name)
    for layer in (nodes[n].layer for n in reversed(chain[: chain.index(source)])):
        if isinstance(layer, BatchNorm):
            f, o = (x.reshape(-1, *[1] * (len(shape) - 1)) for x in layer.affine())
        else:
            assert isinstance(layer, Scale)
            f, o = layer.scale.astype(np.float64), np.zeros(())
        factor, offset = factor * f, offset * f + o
    return factor, offset


def _by_channel(arrays: Sequence[Array], shape: Shape) -> bool:
    return all(a.ndim == 0 or (a.ndim == len(shape) and a.size == a.shape[0]) for a in arrays)


def _channels(array: Array, shape: Shape) -> Array:
    return np.broadcast_to(array.reshape(-1), (shape[0],))


def _common(factors: Sequence[Array], shape: Shape) -> Array | None:
    """The mean magnitude of each channel's factors (C,); None where factors vary within a channel."""
    if not _by_channel(factors, shape):
        return None
    mean = np.mean([np.abs(_channels(f, shape)) for f in factors], axis=0)
    common: Array = np.where(mean > 0, mean, 1.0).astype(np.float32).astype(np.float64)
    return common
