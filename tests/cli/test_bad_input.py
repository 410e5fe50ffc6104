"""Bad input: a message that says what, where, why and what to do; the exit code; and nothing written."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest

DATA = ("--data", "data.npz")


def refused(result, code: int, *parts: str) -> None:
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert "error: " in result.stderr
    for part in parts:
        assert part in result.stderr


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("compil",), ("there is no verb 'compil'", "did you mean 'compile'?")),
        (("frobnicate",), ("there is no verb", "the verbs are compile, simulate")),
        (("compile", "user.py:network", "--wieghts", "w.pt"), ("no option --wieghts", "did you mean --weights?")),
        (("compile",), ("Missing argument 'MODEL'", "snn2chip compile --help")),
        (("compile", "user.py:network", *DATA, "--weight-bits", "x"), ("--weight-bits", "'x' is not a valid integer")),
        (("compile", "user.py:network", *DATA, "--time-steps", "0"), ("--time-steps", "x>=1")),
        (("compile", "user.py", *DATA), ("'user.py' does not name a model", "file.py:function")),
        (("compile", "weights.pt", *DATA), ("holds weights, and no code", "--weights")),
        (("compile", "user.py:network"), ("no data to choose scales with", "--calibration")),
        (("compile", "user.py:network", *DATA, "--target", "loihi9"), ("no target 'loihi9'", "loihi1, loihi2")),
        (("compile", "user.py:network", *DATA, "--passes", "prun"), ("no pass 'prun'", "did you mean prune?")),
        (("compile", "user.py:network", *DATA, "--against", "lave"), ("called 'lave'", "lava-runtime")),
        (("compile", "user.py:network", *DATA, "--reset", "zero"), ("--reset is for .nir models",)),
        (("compile", "net.nir", *DATA, "--per-step-norm"), ("--per-step-norm is for torch models",)),
        (("compile", "user.py:network", "--data", "data.txt"), ("'data.txt' is no data", ".npz or .npy")),
        (("simulate", "built"), ("Missing option '--data'",)),
        (("simulate", "built", *DATA, "--record", "u"), ("--record needs a place", "--output")),
        (("simulate", "built", *DATA, "--record", "w", "--output", "w.npz"), ("cannot record w", "u, v, h, spikes")),
        (("simulate", "built", *DATA, "--output", "w.txt"), ("is no .npz file",)),
        (("simulate", "built", *DATA, "--axes", "QQ"), ("--axes QQ does not describe", "NTCHW")),
        (("simulate", "built", *DATA, "--clock", "machine", "--registers", "tin"), ("'tin'", "simulation, silicon")),
        (("simulate", "built", *DATA, "--reset-interval", "9"), ("reset_interval: only the machine's", "--clock")),
        (("simulate", "built", *DATA, "--compare", "data.npz", "--rename", "x"), ("--rename x is not LAYER=NAME",)),
        (("simulate", "built", *DATA, "--shard-size", "0"), ("--shard-size", "x>=1")),
        (("simulate", "built", *DATA, "--ray", "elsewhere"), ("no address of a Ray cluster", "host:port")),
        (
            ("simulate", "built", *DATA, "--record", "u", "--output", "u.npz", "--run-folder", "run"),
            ("--run-folder is for whole test sets", "held in memory"),
        ),
        (("simulate", "built", "--data", "user.py:dataset", "--labels", "y.npy"), ("labels are for arrays",)),
        (("verify", "built", *DATA, "--against", "magic"), ("'magic'", '"lava-runtime"')),
        (("verify", "built", *DATA, "--against", "reference", "--rename", "a=b"), ("--rename is for recordings",)),
        (("report", "built", "--output", "report.pdf"), ("report.pdf", ".md, .html or .json")),
        (("targets", "loihi3"), ("there is no target 'loihi3'",)),
        (("inspect", "net\0.nir"), (r"the argument 'net\x00.nir' holds a null byte",)),
        (("simulate", "built", "--data", "x\0.npy"), (r"the argument 'x\x00.npy' holds a null byte",)),
        (("report", "built", "--output", "\0.html"), (r"the argument '\x00.html' holds a null byte",)),
    ],
)
def test_wrong_usage(run, built: Path, arguments: tuple[str, ...], parts: tuple[str, ...]) -> None:
    refused(run(*arguments), 2, *parts)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("compile", "nowhere.py:network", *DATA), ("there is no such file", "nowhere.py")),
        (("compile", "user.py:nothing", *DATA), ("user.py has no 'nothing'", "it defines", "network")),
        (("compile", "user.py:NUMBER", *DATA), ("'NUMBER' cannot be called", "int")),
        (("compile", "no.such.module:f", *DATA), ("cannot be imported", "No module named 'no'")),
        (("compile", "syntax.py:f", *DATA), ("syntax.py cannot be imported", "syntax.py:1", "SyntaxError")),
        (("compile", "imports.py:f", *DATA), ("imports.py:1", "there_is_no_such_module")),
        (("compile", "user.py:not_a_model", *DATA), ("gave a int, not a torch.nn.Module",)),
        (("compile", "user.py:bad_mapping", *DATA), ("a mapping with the keys net", "'model' is needed")),
        (("compile", "user.py:needs_arguments", *DATA), ("needs arguments", "width")),
        (("compile", "user.py:raises", *DATA), ("in raises", "ValueError: the config file is missing", "raise Value")),
        (("compile", "user.py:leaves", *DATA), ("in leaves", "SystemExit: usage: train first")),
        (
            ("compile", "user.py:Broken", *DATA),
            ("does not run on an example of shape (4, 6)", "user.py:", "cannot be multiplied"),
        ),
        (("compile", "user.py:Branching", *DATA), ("user.py",)),
        (("compile", "user.py:nan", *DATA), ("NaN", "fc1")),
        (("compile", "user.py:network", "--data", "user.py:no_data"), ("no array of numbers",)),
        (("compile", "user.py:network", "--data", "user.py:nested"), ("is a nested tensor", "user.py:nested")),
        (("simulate", "built", "--data", "user.py:masked"), ("6 of 24 values are masked",)),
        (("compile", "user.py:network", "--data", "wide.npz"), ("an example of shape (4, 7)", "user.py:")),
        (("compile", "user.py:network", "--data", "nan.npz"), ("NaN",)),
        (("compile", "user.py:network", "--data", "labels.npz"), ("labels of shape (7,) do not fit 40 samples",)),
        (("compile", "user.py:network", *DATA, "--out", "data.npz"), ("could not be written", "a file of that name")),
        (("compile", "user.py:network", *DATA, "--out", "."), ("not an earlier output of this command",)),
        (("compile", "user.py:network", *DATA, "--weights", "none.pt"), ("there is no such file", "none.pt")),
        (("simulate", "none.nir", *DATA), ("the file cannot be read", "no such file")),
        (("simulate", "data.npz", *DATA), ("this is not a .nir or .net file",)),
        (("simulate", ".", *DATA), ("holds no compiled network", "no model.nir")),
        (("simulate", "built", "--data", "none.npz"), ("there is no such file", "none.npz")),
        (("simulate", "built", "--data", "damaged.npz"), ("the data cannot be read", "damaged.npz")),
        (("simulate", "built", "--data", "empty.npy"), ("the data cannot be read", "empty.npy")),
        (("simulate", "built", "--data", "header.npy"), ("the data cannot be read", "header.npy")),
        (("simulate", "built", *DATA, "--compare", "header.npy"), ("the data cannot be read", "header.npy")),
        (("simulate", "built", "--data", ""), ("the data cannot be read", "no such file")),
        (("simulate", "built", *DATA, "--labels", ""), ("the data cannot be read", "no such file")),
        (("inspect", "~nobody-of-that-name/net.nir"), ("the file cannot be read", "no such file")),
        (("compile", "~nobody-of-that-name/net.onnx", *DATA), ("the file cannot be read", "no such file")),
        (("compile", "user.py:network", "--data", "tiny.npy"), ("as good as zero", "8e-317")),
        (("simulate", "built", "--data", "objects.npy"), ("would execute code",)),
        (("simulate", "built", "--data", "text.npz"), ("no array of numbers",)),
        (("simulate", "built", "--data", "two.npz"), ("there is no array 'x'", "a, b", "--data-key")),
        (("simulate", "built", "--data", "wide.npz"), ("(40, 7)", "[N, 6]")),
        (("simulate", "built", "--data", "nan.npz"), ("NaN", "sample 0")),
        (("simulate", "built", "--data", "labels.npz"), ("labels of shape (7,) do not fit 40 samples",)),
        (
            ("simulate", "built", "--data", "user.py:damaged_dataset", "--shard-size", "10"),
            ("sample 23", "ValueError: this recording is damaged", "user.py", "run folder"),
        ),
        (("simulate", "built", "--data", "user.py:no_data"), ("cannot be read", "sample 0")),
        (
            ("simulate", "built", "--data", "x.npy", "--labels", "data.npz", "--label-key", "x"),
            ("do not fit 40",),
        ),
        (("simulate", "built", *DATA, "--run-folder", "built"), ("manifest of the run folder cannot be read",)),
        (("verify", "built", *DATA, "--against", "none.npz"), ("there is no such file",)),
        (("report", "nowhere"), ("the report cannot be read", "snn2chip compile")),
        (("report", "data.npz"), ("the report is damaged",)),
        (("inspect", "nowhere.nir"), ("the file cannot be read",)),
    ],
)
def test_failures(run, built: Path, arguments: tuple[str, ...], parts: tuple[str, ...]) -> None:
    before = {path.name for path in built.parent.iterdir()}
    refused(run(*arguments), 1, *parts)
    assert {path.name for path in built.parent.iterdir()} - {"__pycache__"} == before - {"__pycache__"}


def test_errors_as_json(run, built: Path) -> None:
    result = run("simulate", "built", "--data", "none.npz", "--json")
    assert result.exit_code == 1
    error = json.loads(result.stdout)["error"]
    assert error["what"] == "the data cannot be read"
    assert error["exit_code"] == 1


class _Mischief:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_a_checkpoint_that_wants_to_execute_code_is_refused(run, built: Path, tmp_path: Path, how: str) -> None:
    import torch

    proof, checkpoint = tmp_path / "executed", tmp_path / "evil.pt"
    if how == "torch":
        torch.save({"weight": _Mischief(proof)}, checkpoint)
    else:
        checkpoint.write_bytes(pickle.dumps({"weight": _Mischief(proof)}, protocol=2))
    result = run("compile", "user.py:network", "--weights", str(checkpoint), *DATA)
    refused(result, 1, "would execute code", "mkdir", "never does that")
    assert not proof.exists()


@pytest.mark.parametrize("name", ["damaged.pt", "damaged.safetensors"])
def test_damaged_weights(run, built: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"hello world" * 10)
    refused(
        run("compile", "user.py:network", "--weights", str(tmp_path / name), *DATA), 1, "the weights cannot be read"
    )


def test_weights_of_another_model(run, built: Path, tmp_path: Path) -> None:
    import torch

    torch.save({"fc1.weight": torch.zeros(2, 6), "other": torch.zeros(1)}, tmp_path / "other.pt")
    result = run("compile", "user.py:network", "--weights", str(tmp_path / "other.pt"), *DATA)
    shapes = "fc1.weight has shape (2, 6), the model's (12, 6)"
    refused(result, 1, "do not fit the model", "fc1.bias is missing", "other is not in the model", shapes)


def test_a_truncated_program(run, built: Path, tmp_path: Path) -> None:
    content = (built / "model.nir").read_bytes()
    (tmp_path / "short.nir").write_bytes(content[: len(content) // 2])
    refused(run("inspect", str(tmp_path / "short.nir")), 1, "the file cannot be read", "damaged")


def test_a_network_the_target_cannot_take(run, built: Path) -> None:
    """A direct-coded first layer on the chip sends graded spikes, which Loihi 1 does not have."""
    before = set(built.parent.iterdir())
    result = run("compile", "user.py:network", *DATA, "--target", "loihi1", "--encoder", "chip", "--out", "refused")
    assert result.exit_code == 1
    assert "Loihi" in result.stderr
    assert set(built.parent.iterdir()) == before
