"""Max pooling of sums: what the host does between synapses and the population they feed.

The synapses of such a population are added up on the host, in the integers the chip would use; of every window the host
takes the largest sum and hands it over as a graded spike. A synapse on the chip, its *entry*, brings it in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np

from snn2chip.errors import S2CError
from snn2chip.ir.graph import Graph, Node
from snn2chip.ir.layers import Add, Array, Conv, Linear, MaxPool, Shape
from snn2chip.passes.base import VIEWS, is_sum
from snn2chip.simulate.ops import NumpyOps, apply

_OPS = NumpyOps()
_BETWEEN = (MaxPool, Add, *VIEWS)

Range = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Pooled:
    """Maxima of sums on their way into a population.

    Args:
        entry: the synapse on the chip, of weights 1 and −1.
        signs: those weights, one per channel, broadcasting against the population.
        between: what the host does to the sums, in order of execution.
        synapses: what the host sums.
        bias: of the synapses and the entry, float, as it reaches the population.
    """

    entry: Node
    signs: Array
    between: tuple[Node, ...]
    synapses: tuple[Node, ...]
    bias: Array

    def delivered(self, sums: Mapping[str, Array]) -> Array:
        """What the entry delivers, in the unit of the sums [N, T, ...] of each synapse, by name."""
        values = dict(sums)
        for node in self.between:
            arriving = [late(values[edge.source], edge.delay) for edge in node.inputs]
            samples, steps = arriving[0].shape[:2]
            made = apply(node.layer, [x.reshape(samples * steps, *x.shape[2:]) for x in arriving], _OPS)
            values[node.name] = made.reshape(samples, steps, *made.shape[1:])
        (edge,) = self.entry.inputs
        maxima = late(values[edge.source], edge.delay)
        return cast(Array, maxima * self.signs.astype(maxima.dtype))

    def spans(self, sums: Mapping[str, Range]) -> dict[str, Range]:
        """The range of every node between, for the ranges of the sums, by name."""
        found = dict(sums)
        for node in self.between:
            lows, highs = zip(*(found[edge.source] for edge in node.inputs), strict=True)
            found[node.name] = (sum(lows), sum(highs))
        return {node.name: found[node.name] for node in self.between}

    def span(self, sums: Mapping[str, Range]) -> Range:
        """The range of what the entry delivers, in the unit of the sums."""
        low, high = self.spans(sums)[self.entry.inputs[0].source]
        return (min(low, -high), max(high, -low)) if (self.signs < 0).any() else (low, high)


def pooled(graph: Graph, entry: Node) -> Pooled | None:
    """The maxima of sums that a synapse of a population reads; None where it reads none.

    Raises:
        S2CError: it weighs them, or what is pooled is fed back, is late with a bias, or has a bias that differs
            within a window.
    """
    found: dict[str, Node] = {}
    pending = list(entry.inputs)
    while pending:
        edge = pending.pop()
        node = graph[edge.source]
        if node.name in found or not is_sum(graph, edge):
            continue
        found[node.name] = node
        pending += node.inputs if isinstance(node.layer, _BETWEEN) else ()
    inside = [node for node in graph if node.name in found]
    synapses = [node for node in inside if isinstance(node.layer, Linear | Conv)]
    between = [node for node in inside if isinstance(node.layer, _BETWEEN)]
    if not any(isinstance(node.layer, MaxPool) for node in between):
        return None
    if unknown := [node for node in inside if not isinstance(node.layer, (Linear, Conv, *_BETWEEN))]:
        raise S2CError(
            f"a {unknown[0].layer.kind} layer stands between synapses, the maximum of their sums and a population",
            where=unknown[0].where(),
            why="the passes could not make it part of a synapse",
            fix="put it behind the neuron, or next to a linear or conv layer",
        )
    signs = _signs(entry)
    if signs is None:
        largest = next(node for node in reversed(between) if isinstance(node.layer, MaxPool))
        raise S2CError(
            f"{largest.name} takes maxima of sums, and this layer weighs them",
            where=entry.where(),
            why="the host adds up the synapses of a population in that population's unit; there is none between "
            f"{', '.join(node.name for node in synapses)} and this layer",
            fix="put a neuron between them",
        )
    for node in (*synapses, *between):
        if any(edge.recurrent for edge in node.inputs):
            raise S2CError(
                "a maximum is taken of sums that are fed back",
                where=node.where(),
                why="the scale of a population is searched with its own loop running, in which there are synapses only",
                fix="let the recurrent synapse end in the neuron, behind the pooling",
            )
    return Pooled(entry, signs, tuple(between), tuple(synapses), _bias(graph, entry, signs, between, synapses))


def host_pools(graph: Graph) -> frozenset[str]:
    """The sums that max pooling reads, views of them and further maxima included, by name."""
    found: set[str] = set()
    for node in reversed(list(graph)):
        if isinstance(node.layer, MaxPool) or (node.name in found and isinstance(node.layer, _BETWEEN)):
            found |= {e.source for e in node.inputs if is_sum(graph, e)}
    return frozenset(found)


def summed(sums: Mapping[str, Array], pooled: Iterable[Pooled]) -> Array:
    """What reaches a population [N, T, ...] of the sums of its synapses, by name."""
    arms = tuple(pooled)
    inside = {node.name for arm in arms for node in arm.synapses}
    parts = [arm.delivered(sums) for arm in arms] + [x for name, x in sums.items() if name not in inside]
    total: Array = sum(parts[1:], start=parts[0])
    return total


def reach(spans: Mapping[str, Range], pooled: Iterable[Pooled]) -> Range:
    """The range of what reaches a population, for the ranges of the sums of its synapses, by name."""
    arms = tuple(pooled)
    inside = {node.name for arm in arms for node in arm.synapses}
    parts = [arm.span(spans) for arm in arms] + [span for name, span in spans.items() if name not in inside]
    return sum(low for low, _ in parts), sum(high for _, high in parts)


def late(x: Array, steps: int) -> Array:
    """Values [N, T, ...] that many steps later, zeros first."""
    return x if not steps else np.concatenate([np.zeros_like(x[:, :steps]), x[:, :-steps]], axis=1)


def _signs(entry: Node) -> Array | None:
    """The weights of a synapse that passes every channel, or feature, on as it is or negated; None for others."""
    layer = entry.layer
    assert isinstance(layer, Linear | Conv)
    weight = layer.weight
    if isinstance(layer, Linear):
        diagonal = np.diagonal(weight)
        plain = weight.shape[0] == weight.shape[1] == np.count_nonzero(weight) and layer.delay is None
        return diagonal if plain and (np.abs(diagonal) == 1).all() else None
    plain = layer.groups == weight.shape[0] == weight.size and not any(layer.padding) and set(layer.stride) == {1}
    return weight.reshape(-1, *(1,) * layer.axes) if plain and (np.abs(weight) == 1).all() else None


def _bias(graph: Graph, entry: Node, signs: Array, between: list[Node], synapses: list[Node]) -> Array:
    """max(x + b) = max(x) + b where b is the same all over a window: what the population adds instead of the host.

    Raises:
        S2CError: it is not, or arrives late.
    """
    shapes, values = graph.shapes(), {}
    for node in synapses:
        values[node.name] = np.broadcast_to(feature_bias(node.layer), shapes[node.name])
    for node in (*between, entry):
        if any(edge.delay and values[edge.source].any() for edge in node.inputs):
            raise S2CError(
                f"the bias of {', '.join(s.name for s in synapses)} arrives late",
                where=node.where(),
                why="a chip's population adds its bias at every step, the first included",
                fix="train the layer without a bias",
            )
        if node is entry:
            break
        low, high = (
            sign * apply(node.layer, [sign * values[edge.source][None] for edge in node.inputs], _OPS)[0]
            for sign in (-1, 1)
        )
        values[node.name] = high
        # The largest of negated numbers is the smallest.
        if isinstance(node.layer, MaxPool) and (low < high).any():
            raise S2CError(
                f"the bias of {', '.join(s.name for s in synapses)} differs within the windows of this pooling",
                where=node.where(),
                why="a population adds its bias after the maximum is taken, where it must be one number per window",
                fix="train with the norm or constant that is in front of the zero padding behind the convolution"
                if any(isinstance(s.layer, Conv) and s.layer.per_place for s in synapses)
                else "train the layer without a bias, or pool over places instead of features",
            )
    whole = values[entry.inputs[0].source] * signs + feature_bias(entry.layer)
    return _where_it_varies(np.asarray(whole), shapes[entry.name])


def feature_bias(layer: object) -> Array:
    """A synapse's bias, float64, broadcasting against its output; 0 where it has none."""
    assert isinstance(layer, Linear | Conv)
    bias = layer.spread_bias if isinstance(layer, Conv) else layer.bias
    return np.zeros(()) if bias is None else bias.astype(np.float64)


def _where_it_varies(x: Array, shape: Shape) -> Array:
    """The array without the axes along which it stays the same, still broadcasting."""
    x = np.broadcast_to(x, shape)
    for axis in range(x.ndim):
        first = x.take([0], axis)
        x = first if (x == first).all() else x
    return x
