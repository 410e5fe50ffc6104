"""The network of network.json and weights.npz as Lava processes, and its run in Lava's runtime."""

from __future__ import annotations

import json
from pathlib import Path

import compat
import numpy as np

compat.prepare()

from lava.magma.compiler.compiler_graphs import find_processes  # noqa: E402
from lava.magma.core.run_conditions import RunSteps  # noqa: E402
from lava.magma.core.run_configs import Loihi2SimCfg  # noqa: E402
from lava.proc.conv.process import Conv  # noqa: E402
from lava.proc.dense.process import DelayDense, Dense  # noqa: E402
from lava.proc.io.source import RingBuffer  # noqa: E402
from lava.proc.lif.process import LIFReset  # noqa: E402
from lava.proc.sparse.process import DelaySparse, Sparse  # noqa: E402
from lava.utils.weightutils import SignMode  # noqa: E402
from processes.neuron import IntegerNeuron  # noqa: E402
from processes.recorder import MessageRecorder, VarRecorder  # noqa: E402
from scipy.sparse import csr_matrix  # noqa: E402

_KINDS = {
    "LIFReset": LIFReset,
    "IntegerNeuron": IntegerNeuron,
    "Dense": Dense,
    "Sparse": Sparse,
    "DelayDense": DelayDense,
    "DelaySparse": DelaySparse,
    "Conv": Conv,
}
# Lava reserves this many messages per channel in shared memory; its default of 64 fills a small /dev/shm.
_CHANNEL_SIZE = 4


def load(folder):
    """The description and its arrays: (network.json, weights.npz)."""
    description = json.loads(Path(folder, "network.json").read_text("utf-8"))
    with np.load(Path(folder, "weights.npz")) as arrays:
        return description, dict(arrays)


def steps(description, samples):
    """Machine steps until the last population has finished the last sample."""
    deepest = max(population["depth"] for population in description["populations"].values())
    return (samples - 1) * description["interval"] + description["time_steps"] + deepest


def build(description, arrays, streams):
    """Create and connect the processes.

    Args:
        description: network.json.
        arrays: weights.npz.
        streams: for every stream its data, (W, H, C, steps), integers.

    Returns:
        (populations by name, streams by name).
    """
    sources = {name: RingBuffer(data=streams[name]) for name in description["streams"]}
    populations = {
        name: _KINDS[entry["process"]](name=name, **_parameters(entry, arrays))
        for name, entry in description["populations"].items()
    }
    senders = sources | populations
    for entry in description["synapses"]:
        out = getattr(senders[entry["source"]], entry["port"])
        target = populations[entry["target"]].a_in
        if entry["process"] is not None:
            synapse = _KINDS[entry["process"]](**_parameters(entry, arrays))
            _connect(out, synapse.s_in)
            out = synapse.a_out
        _connect(out, target)
    return populations, sources


def run(populations, record, number_of_steps, folder):
    """Run Lava's runtime, one operating-system process for every Lava process.

    Args:
        populations: what :func:`build` made.
        record: names of populations → any of "u", "v", "spikes".
        number_of_steps: how long.
        folder: where the recordings are written on the way.

    Returns:
        (population, quantity) → int32 [steps, W, H, C].
    """
    files = {}
    for name, quantities in record.items():
        for quantity in quantities:
            path = str(Path(folder, f"{len(files)}.npy"))
            files[name, quantity] = path
            shape = populations[name].a_in.shape
            np.lib.format.open_memmap(path, "w+", np.int32, (number_of_steps, *shape)).flush()
            if quantity == "spikes":
                recorder = MessageRecorder(shape=shape, path=path)
                populations[name].s_out.connect(recorder.a_in)
            else:
                VarRecorder(var=getattr(populations[name], quantity), path=path)
    done = set()
    for process in populations.values():
        if process not in done:
            done |= set(find_processes(process))
            _run_connected(process, number_of_steps)
    return {key: np.load(path) for key, path in files.items()}


def _run_connected(process, number_of_steps):
    try:
        process.run(
            condition=RunSteps(num_steps=number_of_steps),
            run_cfg=Loihi2SimCfg(select_tag="fixed_pt"),
            compile_config={"pypy_channel_size": _CHANNEL_SIZE},
        )
    finally:
        # Without it Python would wait at its exit for processes that never end.
        process.stop()


def _connect(out, target):
    if out.shape != target.shape:
        out = out.reshape(target.shape)
    out.connect(target)


def _parameters(entry, arrays):
    return {key: _value(key, value, arrays) for key, value in entry["parameters"].items()}


def _value(key, value, arrays):
    if key == "sign_mode":
        return SignMode[value]
    if isinstance(value, list):
        return tuple(_value(key, item, arrays) for item in value)
    if not isinstance(value, dict):
        return value
    if "array" in value:
        return arrays[value["array"]]
    if "sparse" not in value:
        return {name: _value(name, item, arrays) for name, item in value.items()}
    parts = (arrays[f"{value['sparse']}/{part}"] for part in ("data", "indices", "indptr"))
    return csr_matrix(tuple(parts), shape=tuple(arrays[f"{value['sparse']}/shape"]))
