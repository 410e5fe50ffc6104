"""Writing a Program as a NetX ``.net`` file, where NetX's reader runs it with the program's own integers.

NetX (lava-dl 0.6.0, ``lib/dl/netx``) takes a chain of dense, dense_rec, conv and flatten layers with Lava's native LIF.
It has no word for the rest, and reads some weights back changed; all reasons against a file are found and told at once.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from snn2chip.emit.hdf5 import write_tree
from snn2chip.errors import S2CError
from snn2chip.ir import layers as L
from snn2chip.ir.arithmetic import Arithmetic
from snn2chip.ir.graph import Node
from snn2chip.ir.layers import Array, Shape
from snn2chip.ir.program import Program
from snn2chip.neurons.lif import IntegerLIF

# NetX's bias enters as bias << 6, and Lava keeps the mantissa in 16 bits.
BIAS_EXP = 6
_BIAS_LIMIT = (1 << 15) - 1
# lava-dl fixes max_delay at 62.
_DELAY_LIMIT = 62
# Lava keeps a convolution's sizes and groups in 8 bits, sign included.
_CONV_LIMIT = 127
# The mantissa that v, saturating at 2**23 - 1, never exceeds: a neuron that never fires.
_UNREACHABLE = 1 << 17

_LAVA = Arithmetic()
# What only a host does between populations.
_HOSTED = {
    L.MatMul: "multiplies two computed values; NetX's layers multiply by weights",
    L.Mul: "multiplies two computed values; NetX's layers multiply by weights",
    L.MaxPool: "takes maxima; NetX's layers add up",
}
_ARITHMETIC = ("decay_bits", "decay_rounding", "input_shift", "threshold_shift")


def write_net(program: Program, path: str | os.PathLike[str]) -> None:
    """Write ``program`` to ``path``; ``read_net`` gives the same integers back, and NetX runs them.

    Raises:
        S2CError: NetX cannot take the program; ``why`` lists every reason. Or the file cannot be written.
    """
    chain = _Chain(program)
    chain.follow()
    if chain.reasons:
        raise S2CError(
            "NetX cannot run this program, so there is no .net file",
            why="\n".join(dict.fromkeys(chain.reasons)),
            fix="the .nir file holds the program in full, and Lava projects take more than NetX does",
        )
    tree: dict[str, Any] = {"layer": {str(i): layer for i, layer in enumerate(chain.layers)}}
    if program.time_steps is not None:
        tree["simulation"] = {"Ts": 1, "tSample": program.time_steps}
    write_tree(path, tree)


def reads_unchanged(weights: Sequence[Array]) -> bool:
    """Whether NetX runs the very weights of a dense layer's file (feed-forward, and recurrent where there are any).

    lava-dl ``netx/utils.py`` optimize_weight_bits shifts them all up together; lava-nc ``utils/weightutils.py``
    clip_weights and truncate_weights then act on each matrix, whose sign mode is found anew.
    """
    together = np.hstack(list(weights))
    low, high = int(together.min()), int(together.max())
    if low == 0 == high:
        return False
    mixed = low < 0 <= high
    if mixed and (low < -256 or high > 254):
        return False
    above = (127 if mixed else 255) / high if high > 0 else np.inf
    below = (-128 if mixed else -256) / low if low < 0 else np.inf
    room = min(above, below)
    shift = int(np.floor(np.log2(room))) + mixed
    if shift < 0:
        return False
    zeros = next((n for n in range(8, 0, -1) if not (together % (1 << n)).any()), 0)
    bits = 8 - shift - (zeros - mixed)
    return all(_kept_by_lava(weight << shift, bits) for weight in weights)


def _kept_by_lava(weight: Array, bits: int) -> bool:
    signs_mix = bool(weight.min() < 0 < weight.max())
    magnitude = -weight if weight.max() <= 0 and weight.min() < 0 else weight
    dropped = 8 - bits + signs_mix
    if dropped < 0 or magnitude.min() < (-256 if signs_mix else 0) or magnitude.max() > 255:
        return False
    return not (magnitude % (1 << dropped)).any()


@dataclass
class _Chain:
    """The layers written so far, and all that speaks against the file."""

    program: Program
    layers: list[dict[str, Any]] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    def follow(self) -> None:
        """Go through the program in order, collecting layers and reasons."""
        for node in self.program:
            if type(node.layer) in _HOSTED:
                self._against(node, _HOSTED[type(node.layer)])
        self._of_the_whole()
        self._in_order()
        self._forks()

    def _of_the_whole(self) -> None:
        target = self.program.target
        for name in _ARITHMETIC:
            here, lava = getattr(target.arithmetic, name), getattr(_LAVA, name)
            if here != lava:
                self.reasons.append(f"{target.name} has {name} {here}, Lava {lava}")
        if self.program.coding != "steps":
            self.reasons.append("the input is a value that stays over the steps; NetX takes spikes")

    def _in_order(self) -> None:
        program, shapes = self.program, self.program.shapes()
        expected = program.input.name
        for node in program:
            if node.placement == "host" and not isinstance(node.layer, (L.Input, L.Readout, L.Output, *_HOSTED)):
                self._against(node, "runs on the host")
            handled = self._layer(node, shapes)
            if handled is None:
                continue
            if not isinstance(node.layer, L.Input):
                sources = [e.source for e in node.inputs if not self._is_synapse(e.source, recurrent=True)]
                if sources != [expected]:
                    self._against(
                        node,
                        f"reads {', '.join(sources) or 'nothing'}; in NetX's chain it would read {expected}",
                    )
            expected = handled

    def _forks(self) -> None:
        for node in self.program:
            readers = [n for n in self.program.consumers(node.name) if not isinstance(n.layer, (L.Readout, L.Output))]
            forward = [n for n in readers if any(e.source == node.name and not e.recurrent for e in n.inputs)]
            if len(forward) > 1:
                self._against(node, f"feeds {', '.join(n.name for n in forward)}; NetX takes a chain")

    def _against(self, node: Node, reason: str) -> None:
        self.reasons.append(f"{node.name} ({node.layer.kind}): {reason}")

    def _layer(self, node: Node, shapes: dict[str, Shape]) -> str | None:
        """Write one node; the name of what the next one has to read, or None for a node beside the chain."""
        layer = node.layer
        if any(edge.delay != int(edge.recurrent) for edge in node.inputs):
            self._against(node, "reads a delayed value; NetX has delays in synapses only")
        if isinstance(layer, L.Input):
            form = self.program.formats.get(node.name)
            if form is None or (form.bits, form.signed) != (1, False):
                self._against(node, "takes more than binary spikes")
            self.layers.append({"type": _text("input"), "shape": np.array(shapes[node.name])})
        elif isinstance(layer, L.Flatten):
            if len(shapes[node.name]) != 1:
                self._against(node, "leaves axes; NetX flattens all of them")
            self.layers.append({"type": _text("flatten"), "shape": np.array(shapes[node.name])})
        elif isinstance(layer, (L.Linear, L.Conv)):
            # Written together with the population it feeds.
            return None if all(edge.recurrent for edge in node.inputs) else node.name
        elif isinstance(layer, L.Neuron):
            self._population(node, shapes)
        elif isinstance(layer, (L.Readout, L.Output)) or self._times_readout(node):
            return None
        elif not isinstance(layer, tuple(_HOSTED)):
            self._against(node, "NetX has no such layer")
        return node.name

    def _times_readout(self, node: Node) -> bool:
        """Whether it only delays what is read out: a file holds the populations, their reader counts when it will."""
        readers = self.program.consumers(node.name)
        return isinstance(node.layer, L.Delay) and all(isinstance(n.layer, (L.Readout, L.Output)) for n in readers)

    def _population(self, node: Node, shapes: dict[str, Shape]) -> None:
        model = node.layer.model  # type: ignore[attr-defined]
        if not isinstance(model, IntegerLIF):
            self._against(node, f"NetX has no {model.kind} neuron")
            return
        if not model.native:
            choices = model.describe().split(", ", 1)[-1]
            self._against(node, f"is not the native LIF (strict >, hard reset to 0 in the same step): {choices}")
        if self.program.formats.get(node.name) is not None and self.program.formats[node.name].bits != 1:
            self._against(node, "sends more than binary spikes")
        shape = shapes[node.name]
        forward = [self.program[e.source] for e in node.inputs if self._is_synapse(e.source, recurrent=False)]
        back = [self.program[e.source] for e in node.inputs if self._is_synapse(e.source, recurrent=True)]
        if len(forward) != 1 or len(back) > 1 or len(forward) + len(back) != len(node.inputs):
            self._against(
                node,
                f"is fed by {', '.join(e.source for e in node.inputs)}; NetX takes one synapse, and one recurrent one",
            )
            return
        written = (
            self._conv(forward[0], shape)
            if isinstance(forward[0].layer, L.Conv)
            else self._dense(forward[0], back, node)
        )
        if back and isinstance(forward[0].layer, L.Conv):
            self._against(node, "is recurrent and convolutional; NetX has recurrent dense layers only")
        bias = self._bias(node, model)
        if bias is not None and bias.any():
            written["bias"] = _by_channel(bias, shape)
        threshold = np.asarray(_UNREACHABLE) if model.v_threshold is None else model.v_threshold
        written["neuron"] = {
            "type": "CUBA",
            "iDecay": _placed(model.decay_u),
            "vDecay": _placed(model.decay_v),
            "vThMant": _placed(threshold),
            "refDelay": 1,
            "gradedSpike": 0,
            "wgtExp": 0,
        }
        self.layers.append(written)

    def _is_synapse(self, name: str, recurrent: bool) -> bool:
        node = self.program[name]
        return node.layer.synaptic and all(edge.recurrent == recurrent for edge in node.inputs)

    def _dense(self, synapse: Node, back: list[Node], population: Node) -> dict[str, Any]:
        layer = synapse.layer
        assert isinstance(layer, L.Linear)
        weights = [layer.weight]
        written = {"type": _text("dense"), "shape": np.array([layer.weight.shape[0]]), "weight": layer.weight}
        if layer.bias is not None:
            self._against(synapse, "has a bias of its own")
        if layer.delay is not None and layer.delay.any():
            if layer.delay.max() > _DELAY_LIMIT:
                self._against(synapse, f"delays by {layer.delay.max()} steps; NetX by {_DELAY_LIMIT} at most")
            if back:
                self._against(synapse, "is recurrent and delayed; NetX runs that with wrongly scaled weights")
            written["delay"] = layer.delay
        for node in back:
            rec = node.layer
            if (
                not isinstance(rec, L.Linear)
                or rec.delay is not None
                or [e.source for e in node.inputs] != [population.name]
            ):
                self._against(node, "is not a plain recurrent dense synapse of the population it feeds")
                continue
            weights.append(rec.weight)
            written |= {"type": _text("dense_rec"), "weight_rec": rec.weight}
        if any(w.ndim != 2 for w in weights) or len({w.shape[0] for w in weights}) > 1:
            return written
        if not reads_unchanged(weights):
            span = f"{min(w.min() for w in weights)}…{max(w.max() for w in weights)}"
            self._against(
                synapse, f"NetX does not read its weights ({span}) back unchanged; it takes 8 bits, and not only zeros"
            )
        return written

    def _conv(self, synapse: Node, shape: Shape) -> dict[str, Any]:
        layer = synapse.layer
        assert isinstance(layer, L.Conv)
        if layer.axes != 2:
            self._against(synapse, "NetX convolves over two axes only")
        if layer.bias is not None:
            self._against(synapse, "has a bias of its own")
        sizes = {
            "stride": layer.stride,
            "padding": layer.padding,
            "dilation": layer.dilation,
            "kernelSize": layer.kernel,
        }
        largest = max(layer.groups, *(max(size) for size in sizes.values()))
        if largest > _CONV_LIMIT:
            self._against(synapse, f"has groups or sizes of {largest}; Lava keeps them in 8 bits")
        return {
            "type": _text("conv"),
            "shape": np.array(shape),
            "weight": layer.weight,
            "groups": layer.groups,
            "inChannels": layer.weight.shape[1] * layer.groups,
            "outChannels": layer.weight.shape[0],
            **{name: np.array(size) for name, size in sizes.items()},
        }

    def _bias(self, node: Node, model: IntegerLIF) -> Array | None:
        """The bias as the mantissa of bias << 6, or None with a reason."""
        total = model.bias << model.bias_exp if model.bias_exp >= 0 else model.bias >> -model.bias_exp
        if (total % (1 << BIAS_EXP)).any():
            self._against(node, f"has a bias that is no multiple of {1 << BIAS_EXP}; NetX has bias << {BIAS_EXP}")
            return None
        mantissa = total >> BIAS_EXP
        if np.abs(mantissa).max(initial=0) > _BIAS_LIMIT:
            self._against(node, f"has a bias mantissa of {np.abs(mantissa).max()}; Lava holds {_BIAS_LIMIT}")
            return None
        return mantissa


def _text(kind: str) -> Array:
    # lava-dl stores a layer's type as a list of one text.
    return np.array([kind], dtype=object)


def _placed(value: Array) -> Array:
    """A neuron parameter as NetX takes it: one, one per channel, or one per neuron as (W, H, C)."""
    if value.ndim == 3 and value.shape[1:] == (1, 1):
        return value.ravel()
    return value.T if value.ndim > 1 else value


def _by_channel(bias: Array, shape: Shape) -> Array:
    """A bias as NetX takes it: per neuron, or per channel of a conv layer."""
    if len(shape) == 1:
        return np.broadcast_to(bias, shape).copy()
    if bias.ndim == 0:
        return np.broadcast_to(bias, shape[:1]).copy()
    return _placed(bias if bias.shape[1:] == (1, 1) else np.broadcast_to(bias, shape).copy())
