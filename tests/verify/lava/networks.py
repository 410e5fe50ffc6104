"""Small Lava networks, and a program that runs one of them in Lava's own runtime.

``python networks.py NAME OUT.npz`` records u, v and spikes of every neuron layer for STEPS steps.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from snn2chip import lava_compat

lava_compat.prepare()

from lava.proc.conv.process import Conv  # noqa: E402
from lava.proc.dense.process import DelayDense, Dense  # noqa: E402
from lava.proc.io.source import RingBuffer as Source  # noqa: E402
from lava.proc.lif.process import LIF, LIFReset  # noqa: E402
from lava.proc.sparse.process import Sparse  # noqa: E402

STEPS = 24


def _rng(name: str) -> np.random.Generator:
    return np.random.default_rng(list(name.encode()))


def _source(rng: np.random.Generator, *shape: int) -> Any:
    return Source(data=rng.integers(0, 2, (*shape, STEPS)))


def dense_lif() -> dict[str, Any]:
    """Two Dense + LIF layers with decays, bias and a weight exponent."""
    rng = _rng("dense_lif")
    source = _source(rng, 7)
    first = Dense(weights=2 * rng.integers(-60, 90, (9, 7)), weight_exp=1)
    hidden = LIF(shape=(9,), du=1500, dv=300, vth=180, bias_mant=rng.integers(-40, 40, 9), bias_exp=6)
    second = Dense(weights=2 * rng.integers(-60, 90, (5, 9)))
    output = LIF(shape=(5,), du=4095, dv=0, vth=150, bias_mant=0, bias_exp=6)
    source.s_out.connect(first.s_in)
    first.a_out.connect(hidden.a_in)
    hidden.s_out.connect(second.s_in)
    second.a_out.connect(output.a_in)
    return {"hidden": hidden, "output": output}


def conv_lifreset() -> dict[str, Any]:
    """Strided, padded Conv + LIFReset, a transposed and flattened port, Dense + LIF."""
    rng = _rng("conv_lifreset")
    source = _source(rng, 7, 5, 2)
    conv = Conv(weight=rng.integers(-40, 60, (3, 3, 2, 2)), input_shape=(7, 5, 2), padding=(1, 0), stride=(2, 1))
    shape = conv.a_out.shape
    hidden = LIFReset(shape=shape, du=2000, dv=200, vth=60, bias_mant=5, bias_exp=6, reset_interval=8, reset_offset=2)
    dense = Dense(weights=2 * rng.integers(-50, 60, (4, int(np.prod(shape)))))
    output = LIF(shape=(4,), du=4095, dv=100, vth=120, bias_mant=0, bias_exp=6)
    source.s_out.connect(conv.s_in)
    conv.a_out.connect(hidden.a_in)
    hidden.s_out.transpose([2, 1, 0]).flatten().connect(dense.s_in)
    dense.a_out.connect(output.a_in)
    return {"hidden": hidden, "output": output}


def recurrent() -> dict[str, Any]:
    """Two layers that excite and inhibit themselves and each other: loops inside a loop."""
    rng = _rng("recurrent")
    source = _source(rng, 6)
    forward = Dense(weights=2 * rng.integers(-30, 80, (8, 6)))
    first = LIF(shape=(8,), du=3000, dv=150, vth=110, bias_mant=0, bias_exp=6)
    own = Dense(weights=2 * rng.integers(-70, 40, (8, 8)))
    up = Sparse(weights=_sparse(2 * rng.integers(-40, 90, (5, 8))))
    second = LIF(shape=(5,), du=4095, dv=400, vth=90, bias_mant=0, bias_exp=6)
    down = Dense(weights=2 * rng.integers(-60, 30, (8, 5)))
    source.s_out.connect(forward.s_in)
    for synapse in (forward, own, down):
        synapse.a_out.connect(first.a_in)
    first.s_out.connect(own.s_in)
    first.s_out.connect(up.s_in)
    up.a_out.connect(second.a_in)
    second.s_out.connect(down.s_in)
    return {"first": first, "second": second}


def delay_dense() -> dict[str, Any]:
    """A Dense with one delay per synapse."""
    rng = _rng("delay_dense")
    source = _source(rng, 6)
    weights = 2 * rng.integers(-40, 90, (5, 6))
    synapses = DelayDense(weights=weights, delays=rng.integers(0, 5, (5, 6)), max_delay=6)
    neurons = LIF(shape=(5,), du=2500, dv=250, vth=130, bias_mant=0, bias_exp=6)
    source.s_out.connect(synapses.s_in)
    synapses.a_out.connect(neurons.a_in)
    return {"neurons": neurons}


def _sparse(weights: np.ndarray[Any, Any]) -> Any:
    from scipy.sparse import csr_matrix

    return csr_matrix(weights)


NETWORKS: dict[str, Callable[[], dict[str, Any]]] = {
    build.__name__: build for build in (dense_lif, conv_lifreset, recurrent, delay_dense)
}


def _run_in_lava(name: str, path: str) -> None:
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi2SimCfg
    from lava.proc.io.sink import Read
    from lava.proc.io.sink import RingBuffer as Sink

    readers: dict[str, Any] = {}
    layers = NETWORKS[name]()
    for label, neurons in layers.items():
        for state in ("u", "v"):
            reader = Read(buffer=STEPS)
            reader.connect_var(getattr(neurons, state))
            readers[f"{label}.{state}"] = reader
        sink = Sink(shape=neurons.s_out.shape, buffer=STEPS)
        neurons.s_out.connect(sink.a_in)
        readers[f"{label}.s_out"] = sink
    first = next(iter(layers.values()))
    first.run(condition=RunSteps(num_steps=STEPS), run_cfg=Loihi2SimCfg(select_tag="fixed_pt"))
    try:
        data = {label: np.moveaxis(reader.data.get(), -1, 0) for label, reader in readers.items()}
    finally:
        first.stop()
    np.savez(path, **data)


if __name__ == "__main__":
    _run_in_lava(*sys.argv[1:])
