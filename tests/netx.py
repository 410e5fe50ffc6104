"""Run a ``.net`` file with NetX's own reader and Lava's own models, in this process."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from snn2chip.ir.program import Program
from snn2chip.simulate import simulate
from snn2chip.verify.lava import shim
from snn2chip.verify.lava.inprocess import run_inprocess

Array = np.ndarray[Any, Any]

needs_netx = pytest.mark.skipif(
    not (shim.installed() and shim.netx_installed()), reason="lava-nc and lava-dl are not installed"
)


def run_netx(path: Path, x: Array, reset_interval: int | None = None) -> list[dict[str, Array]]:
    """u, v and spikes [T, C, H, W] or [T, N] of every layer that NetX makes of the file, for spikes x [T, ...]."""
    shim.prepare_netx()
    from lava.lib.dl.netx import hdf5
    from lava.proc.io.source import RingBuffer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Without an input neuron the offset of 1 makes every layer reset right before its sample arrives.
        network = hdf5.Network(net_config=str(path), reset_interval=reset_interval, reset_offset=1)
    source = RingBuffer(data=np.ascontiguousarray(x.transpose(*reversed(range(x.ndim)))))
    source.s_out.connect(network.inp)
    wanted = {
        f"{i}.{name}": (layer.neuron, name) for i, layer in enumerate(network.layers) for name in ("u", "v", "s_out")
    }
    rows = run_inprocess([source, network], len(x), wanted)
    network.net_config.f.close()
    named = {"u": "u", "v": "v", "s_out": "spikes"}
    # Lava's images are (W, H, C).
    return [
        {
            ours: rows[f"{i}.{lava}"].transpose(0, *reversed(range(1, rows[f"{i}.{lava}"].ndim)))
            for lava, ours in named.items()
        }
        for i in range(len(network.layers))
    ]


def assert_netx_agrees(path: Path, program: Program, x: Array, reset_interval: int | None = None) -> list[int]:
    """Every u, v and spike of NetX equals the program's in the machine's clock; the spikes per layer are returned."""
    lava = run_netx(path, x, reset_interval)
    record = ("u", "v", "spikes")
    ours = simulate(program, x[None], record=record, clock="machine", reset_interval=reset_interval)
    populations = [node.name for node in program.neurons]
    assert len(populations) == len(lava)
    fired = []
    for name, expected in zip(populations, lava, strict=True):
        model = program[name].layer.model  # type: ignore[attr-defined]
        for state in ("u", "v") if model.v_threshold is None else record:
            np.testing.assert_array_equal(getattr(ours[name], state)[0], expected[state], err_msg=f"{name} {state}")
        fired.append(int((expected["spikes"] != 0).sum()))
    return fired
