"""Grow the graph: one node per distinct computation, whatever number of times it was recorded.

Rolling the T copies of a time loop into one step needs nothing more: a layer that reads the same signals with the same
parameters in the same module is the same node.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor, nn

from snn2chip.errors import S2CError
from snn2chip.frontend.torch.elements import Elements, Pattern, Signal
from snn2chip.ir.graph import Edge, Node, Port, Source
from snn2chip.ir.layers import Add, Array, Concat, Flatten, Gather, Layer, Neuron, Permute, Reshape


class Builder:
    """Nodes and signals of one graph being traced from ``model``."""

    def __init__(self, model: nn.Module, elements: Elements, computing: frozenset[str]) -> None:
        """``computing``: paths of modules that do more than move elements about; their names are kept for that."""
        self.elements = elements
        self.nodes: dict[str, Node] = {}
        self._modules: Mapping[str, nn.Module] = dict(model.named_modules())
        self._computing = computing
        self._signals: dict[Any, Signal] = {}
        self._digests: dict[int, tuple[Tensor, str]] = {}

    def add(
        self,
        layer: Layer,
        inputs: list[Signal],
        key: Any,
        source: Source,
        operation: str,
        timed: bool | None = None,
        delay: int = 0,
    ) -> Signal:
        """The output of ``layer`` on these inputs; the node is made when it is first asked for.

        Args:
            key: what tells this layer from others of its class with the same inputs.
            operation: name of the operation, for layers without a module of their own.
            timed: whether the output differs from step to step, where the inputs don't tell.
            delay: steps by which the inputs arrive late.
        """
        # The same view of the same signal is one node, whoever asks for it.
        moves = isinstance(layer, (Flatten, Reshape, Permute, Gather))
        full = (type(layer), *(() if moves else (source.module, operation)), key, tuple(inputs))
        if full not in self._signals:
            name = self._name(source.module, operation, moves, isinstance(layer, Neuron))
            edges = tuple(Edge(signal.name, delay, port=signal.port) for signal in inputs)  # type: ignore[arg-type]
            node = Node(name, layer, edges, source)
            try:
                shape = layer.output_shape(*(signal.shape for signal in inputs))
            except S2CError as error:
                raise S2CError(error.what, where=node.where(), why=error.why, fix=error.fix) from None
            self.nodes[name] = node
            signal = Signal(name, shape, any(s.timed for s in inputs) if timed is None else timed)
            self._signals[full] = self.elements.add(signal)
        return self._signals[full]

    def feed_back(self, population: Signal, layer: Layer, source: Source, delay: int) -> None:
        """Let a population's spikes come back to it through ``layer``, ``delay`` steps later."""
        name = self._name(source.module, "", moves=False, neuron=False)
        self.nodes[name] = Node(name, layer, (Edge(population.name, delay, recurrent=True),), source)
        node = self.nodes[population.name]
        self.nodes[node.name] = replace(node, inputs=(*node.inputs, Edge(name)))

    def port(self, of: Signal, port: str) -> Signal:
        """Another output of a neuron's node."""
        key = (of, port)
        if key not in self._signals:
            self._signals[key] = self.elements.add(Signal(of.name, of.shape, True, port))
        return self._signals[key]

    def over_time(self, how: dict[Signal, tuple[float, ...]] | Signal) -> Signal:
        """A sum over time, weighted per step, or a maximum; it is no node until the read-out is known."""
        if isinstance(how, Signal):
            key: Any = ("max over time", how)
            shape = how.shape
        else:
            key = ("sum over time", *sorted((part.index, weights) for part, weights in how.items()))
            shape = next(iter(how)).shape
        if key not in self._signals:
            self._signals[key] = self.elements.add(Signal("", shape, False, over_time=how))
        return self._signals[key]

    def signal(self, pattern: Pattern, source: Source, operation: str) -> Signal:
        """The signal that holds exactly this pattern in this shape, with the layers that bring it there.

        Raises:
            S2CError: the pattern selects, repeats or reorders in a way no layer can.
        """
        first, last = (int(index) for index in torch.aminmax(pattern.which))
        if first != last:
            return self._joined(pattern, source, operation)
        signal = self.elements.signals[first]
        if signal.port not in get_args(Port):
            raise S2CError(
                f"the model reads the state {signal.port!r} of {signal.name}",
                where=str(source),
                why="only its spikes and its membrane are outputs of a graph's neuron",
                fix="let the model use the membrane, or the spikes, in its place",
            )
        pieces = _affine_pieces(pattern.position)
        order = sorted(range(len(pieces)), key=lambda i: -pieces[i][1])
        sizes = [pieces[i][0] for i in order]
        whole = pattern.position.numel() == signal.size
        contiguous = [pieces[i][1] for i in order] == [math.prod(sizes[i + 1 :]) for i in range(len(sizes))]
        expected = sum(
            (torch.arange(size) * stride).reshape([-1 if i == j else 1 for j in range(len(pieces))])
            for i, (size, stride) in enumerate(pieces)
        )
        if not (
            whole and contiguous and bool((pattern.position.reshape(-1) == torch.as_tensor(expected).reshape(-1)).all())
        ):
            index = pattern.position.numpy().astype(np.int64)
            return self._moved(Gather(index), signal, (index.shape, index.tobytes()), source, operation)
        if order == sorted(order):
            return self._reshaped(signal, pattern.shape, source, operation)
        signal = self._reshaped(signal, tuple(sizes), source, operation)
        back = tuple(order.index(i) for i in range(len(order)))
        signal = self._moved(Permute(back), signal, back, source, operation)
        return self._reshaped(signal, pattern.shape, source, operation)

    def _reshaped(self, signal: Signal, shape: tuple[int, ...], source: Source, operation: str) -> Signal:
        if signal.shape == shape:
            return signal
        layer = Flatten() if len(shape) == 1 else Reshape(shape)
        return self._moved(layer, signal, shape, source, operation)

    def _moved(self, layer: Layer, signal: Signal, key: Any, source: Source, operation: str) -> Signal:
        """A layer that only moves elements; it may go in front of a combination over time."""
        if signal.over_time is None:
            return self.add(layer, [signal], key, source, operation)
        parts = signal.over_time if isinstance(signal.over_time, dict) else {signal.over_time: ()}
        moved = {self._moved(layer, part, key, source, operation): c for part, c in parts.items()}
        return self.over_time(moved if isinstance(signal.over_time, dict) else next(iter(moved)))

    def _joined(self, pattern: Pattern, source: Source, operation: str) -> Signal:
        for axis in range(len(pattern.shape)):
            spans = joints(pattern, axis)
            if len(spans) > 1:
                signals = [self.signal(pattern.part(axis, span), source, operation) for span in spans]
                if any(signal.over_time is not None for signal in signals):
                    return self._joined_over_time(axis, signals, source, operation)
                return self.add(Concat(axis), signals, axis, source, operation)
        raise S2CError(
            "several tensors are interleaved in one", where=str(source), fix="join them with torch.cat along one axis"
        )

    def _joined_over_time(self, axis: int, signals: list[Signal], source: Source, operation: str) -> Signal:
        """What is joined behind a sum or a maximum over time, joined in front of it."""
        parts: list[Signal] = []
        ways: set[tuple[float, ...] | None] = set()
        for signal in signals:
            how = signal.over_time
            terms = list(how) if isinstance(how, dict) else [how or signal]
            ways |= set(how.values()) if isinstance(how, dict) else {None}
            parts.append(self.add(Add(), terms, "over time", source, "add") if len(terms) > 1 else terms[0])
        if len(ways) > 1 or any(part in signals for part in parts):
            raise S2CError(
                "outputs that are read out over time in different ways are joined",
                where=str(source),
                why="a graph has one read-out: the sum, the mean, the maximum or the last step",
                fix="choose one of them with output=, or read all of them out alike",
            )
        made, weights = self.add(Concat(axis), parts, axis, source, operation), ways.pop()
        return self.over_time(made if weights is None else {made: weights})

    def digest(self, tensor: Tensor | None) -> str:
        """Names a constant by its content: some models compute the same weight anew at every step."""
        if tensor is None:
            return ""
        if id(tensor) not in self._digests:
            data = np.ascontiguousarray(as_array(tensor))
            text = hashlib.blake2b(data.tobytes(), digest_size=16).hexdigest()
            self._digests[id(tensor)] = (tensor, f"{data.shape}{text}")
        return self._digests[id(tensor)][1]

    def _name(self, module: str, operation: str, moves: bool, neuron: bool) -> str:
        """The user's module path where the module is this one layer, else the path and the operation."""
        owner = self._modules.get(module)
        leaf = owner is not None and not any(True for _ in owner.children())
        own = bool(module) and (neuron or leaf) and not (moves and module in self._computing)
        longer = ".".join(part for part in (module, operation) if part)
        candidates = [module, longer] if own else [longer]
        free = [name for name in candidates if name not in self.nodes]
        if free:
            return free[0]
        return next(f"{longer}_{i}" for i in range(2, len(self.nodes) + 3) if f"{longer}_{i}" not in self.nodes)


def joints(pattern: Pattern, axis: int) -> list[slice]:
    """The parts along an axis that are of one signal each; none where signals vary along other axes too."""
    size = pattern.shape[axis]
    moved = pattern.which.movedim(axis, 0).reshape(size, -1)
    if not bool((moved == moved[:, :1]).all()):
        return []
    cuts = [i for i in range(1, size) if bool((moved[i] != moved[i - 1]).any())]
    return [slice(a, b) for a, b in pairwise([0, *cuts, size])]


def as_array(tensor: Tensor) -> Array:
    """A constant as float32 or float64 numpy."""
    array = tensor.detach().cpu()
    if not array.is_floating_point() or array.dtype in (torch.float16, torch.bfloat16):
        array = array.float()
    return array.numpy().copy()


def _affine_pieces(position: Tensor) -> list[tuple[int, int]]:
    """The axes of a pattern, split so that along each piece the position grows evenly: (size, growth), size above 1."""
    pieces: list[tuple[int, int]] = []
    for axis in range(position.ndim):
        along = position.movedim(axis, 0).reshape(position.shape[axis], -1)[:, 0]
        pieces += _split(along)
    return pieces


def _split(along: Tensor) -> list[tuple[int, int]]:
    if len(along) < 2:
        return []
    steps = along.diff()
    breaks = torch.nonzero(steps != steps[0]).flatten()
    run = int(breaks[0]) + 1 if len(breaks) else len(along)
    if len(along) % run:
        return [(len(along), 0)]
    return [*_split(along[::run]), (run, int(steps[0]))] if run > 1 else [(len(along), 0)]
