"""A small torch model in a user's file, its weights and data, and a folder it was compiled to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from snn2chip.cli import main

Run = Callable[..., Result]

MODEL = '''
"""A user's file: hand-written LIF, two layers, four time steps."""
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

print("a user's print must not get into --json")


class Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return (x > 0).float()

    @staticmethod
    def backward(ctx, grad):
        return grad


class LIF(nn.Module):
    def __init__(self):
        super().__init__()
        self.v = 0.0

    def forward(self, x):
        self.v = 0.75 * self.v + x
        s = Spike.apply(self.v - 1.0)
        self.v = self.v * (1 - s)
        return s


class Net(nn.Module):
    def __init__(self, width=12):
        super().__init__()
        self.fc1, self.lif1 = nn.Linear(6, width), LIF()
        self.fc2, self.lif2 = nn.Linear(width, 3), LIF()

    def forward(self, x):
        self.lif1.v = self.lif2.v = 0.0
        flag = os.environ.get("WAIT_IN_FORWARD")
        if flag:
            Path(flag).touch()
            time.sleep(60)
        total = 0
        for _ in range(4):
            total = total + self.lif2(self.fc2(self.lif1(self.fc1(x))))
        return total / 4


def network():
    torch.manual_seed(1)
    net = Net()
    with torch.no_grad():
        net.fc1.weight.mul_(4)
        net.fc2.weight.mul_(4)
    return net


def as_mapping():
    return {"model": network(), "time_steps": 4}


def bad_mapping():
    return {"net": network()}


def pair():
    return network(), lambda model, x: model(x)


def not_a_model():
    return 3


def needs_arguments(width):
    return Net(width)


def raises():
    raise ValueError("the config file is missing")


def leaves():
    sys.exit("usage: train first")


class Broken(Net):
    def forward(self, x):
        return super().forward(x) @ torch.zeros(99, 3)


class Branching(Net):
    def forward(self, x):
        return super().forward(x) if x.sum() > 0 else x


def nan():
    net = network()
    with torch.no_grad():
        net.fc1.weight[0, 0] = float("nan")
    return net


def data():
    rng = np.random.default_rng(0)
    return rng.random((40, 6)).astype(np.float32), rng.integers(0, 3, 40)


class Recordings(torch.utils.data.Dataset):
    def __init__(self, bad=-1):
        self.x, self.y = data()
        self.bad = bad

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        print("reading", index)
        if index == self.bad:
            raise ValueError("this recording is damaged")
        return self.x[index], self.y[index]


def dataset():
    return Recordings()


def damaged_dataset():
    return Recordings(bad=23)


def loader():
    return torch.utils.data.DataLoader(Recordings(), batch_size=7)


def nested():
    return torch.nested.nested_tensor([torch.zeros(6), torch.zeros(5)], layout=torch.jagged)


def masked():
    return np.ma.masked_equal(np.arange(24).reshape(4, 6) % 4, 1)


def no_data():
    return {"a": 1}


NUMBER = 3
'''


@pytest.fixture(scope="session")
def session_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    (folder / "user.py").write_text(MODEL, "utf-8")
    rng = np.random.default_rng(0)
    x, y = rng.random((40, 6)).astype(np.float32), rng.integers(0, 3, 40)
    np.savez(folder / "data.npz", x=x, y=y)
    np.save(folder / "x.npy", x)
    np.save(folder / "y.npy", y)
    np.savez(folder / "nan.npz", x=np.full_like(x, np.nan))
    np.savez(folder / "wide.npz", x=np.zeros((40, 7), dtype=np.float32))
    np.savez(folder / "two.npz", a=x, b=x)
    np.savez(folder / "labels.npz", x=x, y=np.zeros(7, dtype=int))
    np.savez(folder / "text.npz", x=np.array(["a", "b"]))
    np.save(folder / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    (folder / "damaged.npz").write_bytes(b"PK\x03\x04" + b"x" * 100)
    np.save(folder / "tiny.npy", np.full((40, 6), 8e-317))
    (folder / "header.npy").write_bytes((folder / "x.npy").read_bytes().replace(b"), }", b"(, }"))
    (folder / "empty.npy").write_bytes(b"")
    (folder / "syntax.py").write_text("x = 1 +\n")
    (folder / "imports.py").write_text("import there_is_no_such_module\n")
    return folder


@pytest.fixture
def run(session_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Invoke the command line in the session's folder."""
    monkeypatch.chdir(session_folder)

    def invoke(*arguments: str) -> Result:
        result = CliRunner().invoke(main, list(arguments), prog_name="snn2chip")
        assert "Traceback" not in result.output
        return result

    return invoke


@pytest.fixture(scope="session")
def built(session_folder: Path) -> Path:
    """``built/``: the model compiled, without Lava."""
    pytest.importorskip("torch", reason="compiling a torch model needs torch")
    arguments = ["compile", str(session_folder / "user.py:network"), "--data", str(session_folder / "data.npz")]
    options = ["--against", "reference", "--out", str(session_folder / "built")]
    result = CliRunner().invoke(main, [*arguments, *options], prog_name="snn2chip")
    assert result.exit_code == 0, result.output
    return session_folder / "built"
