"""Make Intel Lava (lava-nc 0.10, lava-dl 0.6 netx) importable on Python 3.10-3.13 and numpy 1.26-2.x.

Lava pins Python 3.10 and numpy 1. Beyond those pins, four places of it break. They are mended
here in the running process; no installed file is changed, and every function is harmless to call twice
and does nothing where nothing is broken.

This file imports nothing of snn2chip, so that an emitted Lava project carries a copy and runs alone.

1. ``lava/magma/compiler/var_model.py`` uses instances of a dataclass without a hash as field
   defaults, which Python 3.11 rejects while the module is imported.
2. ``lava/magma/core/process/ports/ports.py`` calls ``np.reshape(newshape=...)``, gone in numpy 2.4,
   so every ``.reshape()`` and ``.flatten()`` of a port dies at run time.
3. ``lava/proc/conv/utils.py`` adds int8 values to the image's size, which since numpy 2 stays int8 and
   overflows for images whose padded side is longer than 127.
4. ``lava/lib/dl/netx/hdf5.py`` takes ``int()`` of arrays of shape (1,), a TypeError since numpy 2.4,
   and imports all of slayer (torch, torchvision, OpenCV) for one formula.
4. ``lava/magma/runtime/message_infrastructure/multiprocessing.py`` sets the start method "fork" when imported and fails
   where anything has used multiprocessing before (a progress bar is enough), even with "fork" itself.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.util
import multiprocessing
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np

_VAR_MODEL = "lava.magma.compiler.var_model"
_TRANSPORT = "lava.magma.runtime.message_infrastructure.multiprocessing"
_NETX = "lava.lib.dl.netx"
_OBJECT_DETECTION = ("cv2", "torchvision", "PIL", "matplotlib")
_SLAYER_STANDINS = ("lava.lib.dl.slayer", "lava.lib.dl.slayer.neuron", "lava.lib.dl.slayer.neuron.rf")
_NUMPY_2 = int(np.__version__.split(".")[0]) >= 2
_RESHAPE_HAS_SHAPE = tuple(int(part) for part in np.__version__.split(".")[:2]) >= (2, 1)


def prepare() -> None:
    """Make lava-nc importable and its reshaped ports work; call it before the first ``import lava...``.

    Raises:
        ImportError: lava-nc is not installed.
    """
    if _TRANSPORT not in sys.modules and multiprocessing.get_start_method(allow_none=True) == "fork":
        # Forget that the method was chosen, so that Lava may choose the same.
        multiprocessing.set_start_method(None, force=True)
    _import_var_model()
    if _RESHAPE_HAS_SHAPE:
        ports: Any = importlib.import_module("lava.magma.core.process.ports.ports")
        ports.ReshapePort.get_transform_func_fwd = _reshape_forward
        ports.ReshapePort.get_transform_func_bwd = _reshape_backward
    if _NUMPY_2:
        convolution: Any = importlib.import_module("lava.proc.conv.utils")
        if not hasattr(convolution.conv, "__wrapped__"):
            convolution.conv = _with_plain_integers(convolution.conv)


def prepare_netx() -> None:
    """Do what :func:`prepare` does, and make ``lava.lib.dl.netx`` importable with or without torch.

    Raises:
        ImportError: lava-nc, lava-dl or h5py is not installed.
    """
    prepare()
    if _NETX in sys.modules:
        return
    if importlib.util.find_spec(_NETX) is None:
        raise ImportError("lava-dl is not installed")
    if importlib.util.find_spec("torch") is None:
        # Kept: Lava's search for process models imports every module of the netx package again.
        name = f"{_NETX}.sequential_modules"
        sys.modules[name] = _empty_module(name)
    standins = {name: _empty_module(name) for name in _SLAYER_STANDINS if name not in sys.modules}
    for standin in standins.values():
        vars(standin)["neuron_params"] = _resonator_parameters
    sys.modules.update(standins)
    try:
        netx: Any = importlib.import_module(f"{_NETX}.hdf5")
    finally:
        for name in standins:
            del sys.modules[name]
    create_input = netx.Network.create_input

    @functools.wraps(create_input)
    def create_input_from_any_shape(layer_config: Any, *args: Any, **kwargs: Any) -> Any:
        return create_input(_ScalarTransform(layer_config), *args, **kwargs)

    netx.Network.create_input = staticmethod(create_input_from_any_shape)


def prepare_slayer() -> None:
    """Do what :func:`prepare` does, and make ``import lava.lib.dl.slayer`` work without OpenCV and torchvision.

    Only its ``object_detection`` needs these; where one of them is missing, that package stays empty.

    Raises:
        ImportError: lava-nc or lava-dl is not installed.
    """
    prepare()
    if importlib.util.find_spec("lava.lib.dl") is None:
        raise ImportError("lava-dl is not installed")
    name = "lava.lib.dl.slayer.object_detection"
    if name not in sys.modules and any(importlib.util.find_spec(needed) is None for needed in _OBJECT_DETECTION):
        sys.modules[name] = _empty_module(name)


def _import_var_model() -> None:
    if _VAR_MODEL in sys.modules:
        return
    original = dataclasses.dataclass

    def dataclass_with_hash(cls: Any = None, /, **options: Any) -> Any:
        made: Any = original(cls, **options)
        if getattr(made, "__module__", "") == _VAR_MODEL and made.__name__ == "ByteEncoder":
            made.__hash__ = object.__hash__
        return made

    if sys.version_info >= (3, 11):
        dataclasses.dataclass = dataclass_with_hash
    try:
        importlib.import_module(_VAR_MODEL)
    finally:
        dataclasses.dataclass = original


def _with_plain_integers(conv: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(conv)
    def with_plain_integers(x: Any, weight: Any, *sizes: Any) -> Any:
        """``sizes``: kernel, stride, padding and dilation, two each, and the number of groups."""
        return conv(x, weight, *(np.asarray(size).tolist() for size in sizes))

    return with_plain_integers


def _reshape(data: np.ndarray[Any, Any], shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    return np.reshape(data, shape)


def _reshape_forward(port: Any) -> Callable[..., Any]:
    return functools.partial(_reshape, shape=port.shape)


def _reshape_backward(port: Any) -> Callable[..., Any]:
    return functools.partial(_reshape, shape=port.old_shape)


def _empty_module(name: str) -> types.ModuleType:
    module = types.ModuleType(name)
    # Lava's search for process models asks every loaded module of a package for its file.
    module.__file__ = __file__
    module.__path__ = []
    return module


def _resonator_parameters(device_params: Any, scale: int = 1 << 6, p_scale: int = 1 << 12) -> dict[str, float]:
    """Translate a resonator's device integers to threshold, period [steps] and decay [1/step]."""
    sine, cosine = device_params["sinDecay"] / p_scale, device_params["cosDecay"] / p_scale
    frequency = np.arctan2(sine, cosine) / 2 / np.pi
    return {
        "threshold": device_params["vThMant"] / scale,
        "period": 1 / frequency,
        "decay": 1 - np.sqrt(sine**2 + cosine**2),
    }


class _ScalarTransform:
    """An input layer of a ``.net`` file whose one-element weight and bias read as plain integers."""

    def __init__(self, layer_config: Any) -> None:
        self._layer_config = layer_config

    def keys(self) -> Any:
        return self._layer_config.keys()

    def __getitem__(self, key: str) -> Any:
        value = self._layer_config[key]
        return value.item() if key in ("weight", "bias") and np.size(value) == 1 else value
