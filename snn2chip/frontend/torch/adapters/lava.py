"""lava-dl's slayer: CUBA blocks, each synapse, neuron and delays in one, time last.

A block computes in the chip's integers while it trains (``lava/lib/dl/slayer/block/base.py``, ``neuron/cuba.py``), and
so does the neuron it becomes (``neurons/fixed_cuba.py``). Blocks are kept whole: ``delay_shift`` and delays that all
channels share are steps by which the spikes leave late, other delays are those of the block's synapses, as lava-dl
exports them. What lava-dl computes otherwise than the chip, or than its own export, is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from snn2chip.frontend.torch.adapters.reading import changed
from snn2chip.frontend.torch.adapters.slayer import delays_of, neuron_of, refuse, weight_of
from snn2chip.frontend.torch.cells import Cell, Synapse
from snn2chip.ir import layers as L
from snn2chip.ir.layers import Array, Layer, Shape
from snn2chip.neurons.fixed_cuba import FixedCubaLIF

_SLAYER = "lava.lib.dl.slayer"
_TIME = -1
# Neuron of another family → what it is.
_FAMILIES = {
    "alif": "adaptive threshold",
    "adrf": "adaptive resonate-and-fire",
    "adrf_iz": "adaptive resonate-and-fire",
    "rf": "resonate-and-fire",
    "rf_iz": "resonate-and-fire",
    "sigma_delta": "sigma-delta",
}
_BLOCKS_REFUSED = {
    "ConvT": ("it upsamples by transposed convolution", "use Conv blocks, or Dense"),
    "Unpool": ("it upsamples by transposed convolution", "use Conv blocks, or Dense"),
    "KWTA": ("its inhibition is drawn up anew from a parameter in every forward pass", "use a Recurrent block"),
    "TimeDecimation": ("behind it a step lasts several", "bin the data before the network instead"),
}


def cell(module: nn.Module) -> Cell | None:
    """See :class:`snn2chip.frontend.torch.cells.Adapter`."""
    name = _name(module)
    if name is None or changed(module, "lava"):
        return None
    if type(module).__module__.startswith("lava.lib.dl.bootstrap"):
        refuse(
            f"bootstrap.{type(module).__name__}",
            "computes with rates in some runs and with spikes in others",
            "export it with lava-dl (export_hdf5('network.net')) and take the file: snn2chip.load('network.net')",
        )
    package, _, kind = name.rpartition(".")
    family = package.rpartition(".")[2]
    if family in _FAMILIES:
        refuse(
            name,
            f"has {_FAMILIES[family]} neurons, and the chip's fixed neuron is CUBA-LIF",
            "use the blocks of slayer.block.cuba",
        )
    if name == "neuron.cuba.Neuron":
        return _neuron_alone(name, module)
    if package != "block.cuba" and package not in ("axon.delay", "axon.delta", "dendrite.sigma"):
        return None
    if kind in _BLOCKS_REFUSED:
        refuse(name, *_BLOCKS_REFUSED[kind])
    if package != "block.cuba":
        refuse(name, "stands outside a block", "let the block delay its spikes: delay=True")
    return _BLOCKS[kind](name, module) if kind in _BLOCKS else None


def reset(module: nn.Module) -> bool:
    """Every sample starts at rest: forget the states and spikes that ``persistent_state`` keeps."""
    m: Any = module
    name = _name(module)
    if name is None:
        return False
    if name == "neuron.cuba.Neuron":
        m.current_state, m.voltage_state = (torch.zeros(1) for _ in range(2))
    elif getattr(m, "delay_buffer", None) is not None:
        m.delay_buffer = None
    return True


def _name(module: nn.Module) -> str | None:
    """The class of slayer a module is an instance of, as "block.cuba.Dense"; None for other modules."""
    for cls in type(module).__mro__:
        if cls.__module__.startswith(f"{_SLAYER}."):
            return f"{cls.__module__[len(_SLAYER) + 1 :]}.{cls.__name__}"
    return None


def _neuron_alone(name: str, module: Any) -> Cell:
    return Cell(
        neuron_of(name, module, axes=len(module.shape or (1,)) - 1),
        time_axis=_TIME,
        returns=("out",),
        states=(),
        carries=bool(module.persistent_state),
    )


def _dense(name: str, block: Any) -> Cell:
    """``Dense``, and ``Recurrent`` with its second synapse."""
    recurrent = hasattr(block, "recurrent_synapse")
    synapse = block.input_synapse if recurrent else block.synapse
    weight = weight_of(name, block, synapse)
    image = weight.shape[2:] != (1, 1)
    neuron = neuron_of(name, block.neuron, axes=2 * image, steps=recurrent)
    late, own = delays_of(name, block, len(weight), recurrent, not neuron.rests)
    feed = _linear(name, weight, own)
    back = None
    if recurrent:
        matrix = L.Linear(weight_of(name, block, block.recurrent_synapse)[:, :, 0, 0])
        back = Synapse("recurrent_synapse", lambda shape: matrix)
    return _cell(neuron, Synapse("input_synapse" if recurrent else "synapse", feed, axes=None), late, back)


def _linear(name: str, weight: Array, delays: Array | None) -> Callable[[Shape], Layer]:
    flat = weight.reshape(len(weight), -1)

    def layer(shape: Shape) -> Layer:
        if len(shape) == 1:
            every = None if delays is None else np.repeat(delays[:, None], flat.shape[1], axis=1)
            return L.Linear(flat, None, every)
        if delays is not None:
            refuse(name, f"reads an image {shape} with delays that differ", "flatten before the block")
        return L.Conv2d(weight)

    return layer


def _conv(name: str, block: Any) -> Cell:
    s = block.synapse
    options = (s.stride[:2], s.padding[:2], s.dilation[:2], s.groups)
    layer = L.Conv2d(weight_of(name, block, s), None, *options)
    neuron = neuron_of(name, block.neuron, axes=2)
    late, _ = delays_of(name, block, 0, False, not neuron.rests)
    return _cell(neuron, Synapse("synapse", lambda shape: layer, axes=None), late)


def _pool(name: str, block: Any) -> Cell:
    """Sum pooling with a weight: lava-dl ``synapse/layer.py`` Pool."""
    s = block.synapse
    weight = weight_of(name, block, s)
    kernel = tuple(s.kernel_size[:2])
    if tuple(s.stride[:2]) != kernel or any(s.padding[:2]) or any(d != 1 for d in s.dilation[:2]):
        refuse(
            name,
            "pools with windows that overlap or are padded, and lava-dl lets those reach across channels",
            "pool with stride=kernel_size, padding=0 and dilation=1",
        )
    neuron = neuron_of(name, block.neuron, axes=2)
    late, _ = delays_of(name, block, 0, False, not neuron.rests)

    def layer(shape: Shape) -> Layer:
        if len(shape) != 3 or any(size % k for size, k in zip(shape[1:], kernel, strict=True)):
            refuse(
                name,
                f"pools {shape} by {kernel[0]} × {kernel[1]}, and lava-dl pads what is left over on one side",
                "choose a kernel that divides height and width",
            )
        return L.Conv2d(np.repeat(weight, shape[0], axis=0), stride=kernel, groups=shape[0])

    return _cell(neuron, Synapse("synapse", layer, axes=None), late)


def _affine(name: str, block: Any) -> Cell | None:
    """The membrane is the output; without dynamics it is a matrix and nothing else."""
    if not block.dynamics:
        return None
    weight = weight_of(name, block, block.synapse)
    neuron = neuron_of(name, block.neuron, axes=2 * (weight.shape[2:] != (1, 1)), fires=False)
    return _cell(neuron, Synapse("synapse", _linear(name, weight, None), axes=None), 0)


def _input(name: str, block: Any) -> Cell | None:
    if block.neuron is not None:
        refuse(
            name,
            "rounds its input to 1/32 in front of a neuron, and NetX does not connect that neuron either",
            "give the rest of the network the spikes this block makes: trace a model without it",
        )
    if block.delay_shift:
        refuse(name, "only delays its input by a step", "give it delay_shift=False: the answer comes a step earlier")
    return None


def _cell(neuron: FixedCubaLIF, feed: Synapse, late: int, back: Synapse | None = None) -> Cell:
    return Cell(
        neuron,
        time_axis=_TIME,
        returns=("out",),
        states=(),
        delay=late,
        feed=feed,
        feedback=back,
        # Every forward pass goes through all steps; what persistent_state keeps, reset() clears.
        carries=back is not None,
    )


_BLOCKS: dict[str, Callable[[str, Any], Cell | None]] = {
    "Input": _input,
    "Dense": _dense,
    "Recurrent": _dense,
    "Conv": _conv,
    "Pool": _pool,
    "Affine": _affine,
}
