"""Networks of lava-dl's slayer are refused with the way out that keeps its integers."""

from __future__ import annotations

import importlib
import sys
import types
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from snn2chip import lava_compat
from snn2chip.errors import S2CError
from snn2chip.frontend.torch import trace


@pytest.fixture
def cuba(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """CUBA blocks of slayer, without its package's own imports: OpenCV and torchvision, for object detection."""
    pytest.importorskip("lava")
    lava_compat.prepare()
    package = pytest.importorskip("lava.lib.dl")
    slayer = types.ModuleType("lava.lib.dl.slayer")
    slayer.__path__ = [str(Path(path) / "slayer") for path in package.__path__]
    for name in [name for name in sys.modules if name.startswith(slayer.__name__)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, slayer.__name__, slayer)
    return importlib.import_module("lava.lib.dl.slayer.block.cuba")


class Net(nn.Module):
    def __init__(self, cuba: types.ModuleType) -> None:
        super().__init__()
        neuron = {"threshold": 1.25, "current_decay": 0.25, "voltage_decay": 0.03}
        self.blocks = nn.ModuleList([cuba.Dense(neuron, 6, 4), cuba.Dense(neuron, 4, 2)])

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def test_slayer_blocks_are_refused_by_name(cuba: types.ModuleType) -> None:
    with pytest.raises(S2CError, match=r"lava-dl's cuba\.Dense computes in integers already") as caught:
        trace(Net(cuba), torch.ones(2, 6, 5))
    assert caught.value.where == "blocks.0"
    assert "export_hdf5('network.net')" in caught.value.fix
