"""Lava becomes importable without a trace in the standard library, and its absence is explained."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from snn2chip.errors import S2CError
from snn2chip.verify.lava import shim

needs_lava = pytest.mark.skipif(not shim.installed(), reason="lava-nc is not installed")
needs_netx = pytest.mark.skipif(not shim.netx_installed(), reason="lava-dl is not installed")


def _python(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout


@needs_lava
def test_prepare_twice_leaves_the_standard_library_and_torch_alone() -> None:
    _python(
        """
        import dataclasses, sys
        before = dataclasses.dataclass
        from snn2chip.verify.lava import shim
        shim.prepare()
        shim.prepare()
        import lava.magma.compiler.compiler
        assert dataclasses.dataclass is before
        assert "torch" not in sys.modules
        """
    )


@needs_lava
def test_lava_imports_after_multiprocessing_was_used() -> None:
    _python(
        """
        import multiprocessing
        multiprocessing.set_start_method("fork")
        from snn2chip.verify.lava import shim
        shim.prepare()
        import lava.magma.runtime.message_infrastructure.multiprocessing
        """
    )


@needs_lava
def test_reshaped_ports_transform_data_in_both_directions() -> None:
    shim.prepare()
    from lava.magma.core.process.ports.ports import ReshapePort

    port = ReshapePort(new_shape=(6,), old_shape=(2, 3))
    data = np.arange(6).reshape(2, 3)
    flat = port.get_transform_func_fwd()(data)
    np.testing.assert_array_equal(flat, np.arange(6))
    np.testing.assert_array_equal(port.get_transform_func_bwd()(flat), data)


_HIDE_TORCH = """
import importlib.abc, sys
class Hide(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise ModuleNotFoundError(name)
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "torch" else find_spec(name, *rest)
sys.meta_path.insert(0, Hide())
"""


@needs_netx
@pytest.mark.parametrize("hide_torch", [False, True])
def test_netx_imports_and_leaves_no_stand_in_for_slayer(hide_torch: bool, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import importlib.util\n"
        + (_HIDE_TORCH if hide_torch else "")
        + "import sys\n"
        + "from snn2chip.verify.lava import shim\n"
        + "shim.prepare_netx()\nshim.prepare_netx()\n"
        + "import lava.lib.dl.netx.hdf5\n"
        + "assert not [name for name in sys.modules if name.startswith('lava.lib.dl.slayer')]\n"
        + f"assert ('torch' in sys.modules) <= {not hide_torch}\n"
    )
    result = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr


@needs_netx
def test_netx_reads_one_element_input_transforms(tmp_path: Path) -> None:
    import h5py

    path = tmp_path / "input.net"
    with h5py.File(path, "w") as file:
        layer = file.create_group("layer/0")
        layer["type"] = np.array([b"input"])
        layer["shape"] = np.array([3])
        layer["weight"], layer["bias"] = np.array([32.0]), np.array([5.0])
        layer["neuron/type"] = np.array([b"CUBA"])
        for name, value in {"iDecay": 4096, "vDecay": 128, "vThMant": 80, "refDelay": 1}.items():
            layer[f"neuron/{name}"] = value
        layer["neuron/gradedSpike"] = False
    shim.prepare_netx()
    from lava.lib.dl.netx.hdf5 import Network

    network = Network(net_config=str(path))
    assert network.in_layer.transform == {"weight": 32, "bias": 5}


@needs_netx
def test_resonator_parameters_equal_slayers_definition() -> None:
    from snn2chip import lava_compat

    period, decay = 9.5, 0.07
    angle = 2 * np.pi / period
    device = {
        "sinDecay": (1 - decay) * np.sin(angle) * 4096,
        "cosDecay": (1 - decay) * np.cos(angle) * 4096,
        "vThMant": 96,
    }
    got = lava_compat._resonator_parameters(device)
    assert got == pytest.approx({"threshold": 1.5, "period": period, "decay": decay})


def test_missing_lava_names_the_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shim, "installed", lambda: False)
    for prepare in (shim.prepare, shim.prepare_netx):
        with pytest.raises(S2CError, match="not installed") as caught:
            prepare()
        assert "lava-nc==0.10.0" in caught.value.fix


@needs_lava
def test_lavas_convolution_takes_images_longer_than_an_int8_holds() -> None:
    shim.prepare()
    from lava.proc.conv import utils

    rng = np.random.default_rng(0)
    image, kernel = rng.integers(0, 2, (140, 4, 2)), rng.integers(-9, 9, (3, 3, 2, 2))
    sizes = [np.array(size, dtype=np.int8) for size in ((3, 2), (2, 1), (1, 0), (1, 1))]
    got = utils.conv(image, kernel, *sizes, np.int8(1))
    padded = np.pad(image, ((1, 1), (0, 0), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 2), axis=(0, 1))[::2]
    expected = np.einsum("xycij,kijc->xyk", windows, kernel[:, ::-1, ::-1])
    np.testing.assert_array_equal(got, expected)
