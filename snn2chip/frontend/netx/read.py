"""Reading NetX ``.net`` files (HDF5, as lava-dl writes them) into a Program.

The meaning is that of NetX 0.6.0 (``lava/lib/dl/netx/hdf5.py``, ``blocks/process.py``) running on Lava's fixed-point
models: i decays by iDecay/4096, v by vDecay/4096, the threshold is vThMant << 6, the bias enters as bias << 6, the
reset is hard, to zero, in the step of the spike. What NetX would clip, wrap or leave out is refused; fields it does not
read are named in the program's notes. The numbers of the file are the program's; one LSB of a weight counts as 1.

Names: ``input``; the layer of group ``layer/3`` is the population ``layer.3``, fed by ``layer.3.synapse`` and, in
dense_rec layers, ``layer.3.recurrent``; a flatten layer is ``layer.3``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import get_args

from snn2chip.errors import S2CError, UsageError
from snn2chip.frontend.hdf5 import Tree, located, opened, read_tree, refuse_format
from snn2chip.frontend.netx import layers
from snn2chip.frontend.netx.chain import Chain, NetReadout
from snn2chip.frontend.netx.fields import Fields
from snn2chip.frontend.options import check_time_steps, one_of
from snn2chip.ir.layers import Shape
from snn2chip.ir.program import Program
from snn2chip.ir.target import Target, load_target


def read_net(
    path: str | os.PathLike[str],
    *,
    target: str | Target = "loihi2",
    time_steps: int | None = None,
    readout: NetReadout | None = None,
    input_shape: Shape | None = None,
) -> Program:
    """Read a NetX network.

    Args:
        path: the ``.net`` file.
        target: the chip whose arithmetic runs it.
        time_steps: T of a sample; None takes the file's ``simulation/tSample``, or else whatever the data has.
        readout: "spikes": the spike count of the last layer; "v": its membrane after the last step. None: "v" where the
            last layer's threshold is the largest there is, so that it serves as an integrator.
        input_shape: (C, H, W) or (N,) of the input, for files without an input layer whose first layer is a conv or
            flatten layer; lava-dl exports one only with an input block.

    Returns:
        The Program; it takes binary spikes [N, T, *input shape], those of a file with an input neuron entering after
        that neuron (NetX does not connect it: lava-dl ``blocks/process.py``).

    Raises:
        S2CError: the file cannot be read, or holds what NetX refuses, ignores or runs with other numbers.
    """
    one_of("readout", readout, (None, *get_args(NetReadout)))
    check_time_steps(time_steps)
    chip = load_target(target)
    with opened(path) as file:
        refuse_format(file, path, "netx")
        groups, simulation = read_tree(file["layer"]), file.get("simulation")
        stated = {} if simulation is None else read_tree(simulation)
    with located(path):
        chain = Chain(chip)
        if input_shape is not None:
            _begin(chain, input_shape, groups)
        for fields in _in_sequence(groups):
            _add(chain, fields)
        if time_steps is None and "tSample" in stated:
            (time_steps,) = Fields("simulation", stated).integers("tSample").ravel().tolist()
        return chain.program(time_steps, readout, f"NetX file {Path(path).name}")


def _begin(chain: Chain, shape: Shape, groups: Tree) -> None:
    """The input as the caller says it is."""
    if not shape or not all(isinstance(size, int) and size >= 1 for size in shape):
        raise UsageError(f"input_shape is {shape!r}", fix="give whole numbers above 0, e.g. input_shape=(2, 34, 34)")
    if any(Fields(f"layer/{i}", group).kind == "input" for i, group in groups.items() if isinstance(group, dict)):
        raise UsageError("input_shape is given", why="the file has an input layer, which says it", fix="leave it out")
    chain.begin(tuple(shape))


def _in_sequence(groups: Tree) -> list[Fields]:
    missing = [str(i) for i in range(len(groups)) if not isinstance(groups.get(str(i)), dict)]
    if missing or not groups:
        found = ", ".join(groups) or "none"
        raise S2CError(
            "the layers are not numbered 0, 1, 2, …",
            where="layer",
            why=f"found {found}",
            fix="export the network again",
        )
    return [Fields(f"layer/{i}", groups[str(i)]) for i in range(len(groups))]


def _add(chain: Chain, layer: Fields) -> None:
    """Append one layer of the file."""
    kind = layer.kind
    if kind not in _LAYERS:
        known = "NetX does not implement it" if kind in _LAYERS_REFUSED else "NetX skips what it does not know"
        raise S2CError(
            f"the file holds a layer of type {kind!r}",
            where=layer.where,
            why=f"{known}; known are {', '.join(_LAYERS)}",
            fix="train the network without it, or express it as conv or dense",
        )
    _LAYERS[kind](chain, layer)


_LAYERS: dict[str, Callable[[Chain, Fields], None]] = {
    "input": layers.entry,
    "flatten": layers.flatten,
    "dense": layers.dense,
    "dense_rec": layers.dense,
    "conv": layers.conv,
}
_LAYERS_REFUSED = ("pool", "convT", "unpool", "average", "concat", "dense_comp")
