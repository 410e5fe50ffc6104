"""What is installed, what is missing, and the command that mends it."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from snn2chip.verify.lava import runtime, shim

_PYTHON_FROM, _PYTHON_BELOW = (3, 10), (3, 14)
_IMPORT_TIMEOUT = 120.0


@dataclass(frozen=True)
class Check:
    """One line of the doctor's list.

    Attributes:
        name: what was looked at.
        ok: whether it is usable.
        detail: the version found, or what is wrong.
        command: what to run or do to mend it; empty where nothing is to be done.
        required: whether snn2chip cannot work at all without it.
        purpose: what it is used for.
    """

    name: str
    ok: bool
    detail: str
    command: str
    required: bool
    purpose: str


@dataclass(frozen=True)
class _Package:
    """A distribution to look for: a module that it brings, and the code that shows it works."""

    name: str
    module: str
    probe: str
    command: str
    required: bool
    purpose: str


_WITH_SHIM = "from snn2chip.verify.lava import shim"
_PACKAGES = (
    _Package("numpy", "numpy", "import numpy", "pip install numpy", True, "all arithmetic"),
    _Package("h5py", "h5py", "import h5py", "pip install h5py", True, ".nir and .net files"),
    _Package("nir", "nir", "import nir", "pip install 'nir>=1.0.6'", True, ".nir files"),
    _Package("torch", "torch", "import torch", "pip install torch", False, "tracing PyTorch models"),
    _Package(
        "safetensors",
        "safetensors",
        "import safetensors.numpy",
        "pip install safetensors",
        False,
        "weights from .safetensors files",
    ),
    _Package(
        "snntorch",
        "snntorch",
        "import snntorch",
        "pip install --no-deps snntorch==1.0.0",
        False,
        "models built with snnTorch",
    ),
    _Package(
        "spikingjelly",
        "spikingjelly",
        "from spikingjelly.activation_based import layer, neuron",
        "pip install scipy matplotlib tqdm loguru requests && pip install --no-deps spikingjelly==2.0.0",
        False,
        "models built with SpikingJelly",
    ),
    _Package(
        "norse",
        "norse",
        "import norse.torch",
        "pip install tqdm matplotlib && pip install --no-deps nirtorch norse==1.1.0",
        False,
        "models built with Norse",
    ),
    _Package(
        "sinabs",
        "sinabs",
        "import sinabs.layers",
        "pip install tqdm matplotlib pbr && pip install --no-deps nirtorch sinabs==3.1.3",
        False,
        "models built with Sinabs",
    ),
    _Package("numba", "numba", "import numba", "pip install 'numba>=0.60'", False, "the fast engine's neurons"),
    _Package("scikit-learn", "sklearn", "import sklearn", "pip install scikit-learn", False, "snn2chip demo"),
    _Package("onnx", "onnx", "import onnx", "pip install onnx", False, ".onnx files"),
    _Package("ray", "ray", "import ray", "pip install ray", False, "simulating with several workers"),
    _Package(
        "lava-nc",
        "lava.magma",
        f"{_WITH_SHIM}; shim.prepare(); import lava.proc.lif.models, lava.proc.conv.models",
        shim.LAVA_INSTALL,
        False,
        "verifying against Lava",
    ),
    _Package(
        "lava-dl",
        "lava.lib.dl.netx",
        f"{_WITH_SHIM}; shim.prepare_netx(); import lava.lib.dl.netx.hdf5",
        shim.NETX_INSTALL,
        False,
        "verifying .net files against Lava's own reader",
    ),
)


def run_checks() -> list[Check]:
    """Look at the interpreter, at every package snn2chip can use and at Lava's shared memory.

    Packages are imported in subprocesses, so a broken one cannot take this process with it. Nothing
    is printed.
    """
    with ThreadPoolExecutor() as workers:
        packages = list(workers.map(_check_package, _PACKAGES))
    return [_check_python(), *packages, _check_shared_memory()]


def _check_python() -> Check:
    ok = _PYTHON_FROM <= sys.version_info[:2] < _PYTHON_BELOW
    supported = f"Python {'.'.join(map(str, _PYTHON_FROM))} or newer, below {'.'.join(map(str, _PYTHON_BELOW))}"
    return Check("python", ok, platform.python_version(), "" if ok else f"use {supported}", True, "running snn2chip")


def _check_package(package: _Package) -> Check:
    if not shim.found(package.module):
        return _result(package, False, "not installed")
    try:
        probe = subprocess.run(
            [sys.executable, "-c", package.probe], capture_output=True, text=True, timeout=_IMPORT_TIMEOUT
        )
    except subprocess.TimeoutExpired:
        return _result(package, False, f"importing it took more than {_IMPORT_TIMEOUT:g} s")
    if probe.returncode != 0:
        lines = probe.stderr.strip().splitlines() or [f"the import ended with status {probe.returncode}"]
        return _result(package, False, f"installed, but cannot be imported: {lines[-1]}")
    return _result(package, True, importlib.metadata.version(package.name))


def _result(package: _Package, ok: bool, detail: str) -> Check:
    command = "" if ok else package.command
    return Check(package.name, ok, detail, command, package.required, package.purpose)


def _check_shared_memory() -> Check:
    size = runtime.shared_memory_size()
    ok = size is None or size >= runtime.SHARED_MEMORY_WANTED
    detail = "none on this system" if size is None else f"{size >> 20} MiB"
    command = "" if ok else f"mount -o remount,size=1G {runtime.SHARED_MEMORY} (docker run --shm-size=1g)"
    return Check(str(runtime.SHARED_MEMORY), ok, detail, command, False, "Lava's own runtime")
