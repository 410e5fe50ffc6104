"""The same integers from Ray's workers, some of which are killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from process import printed
from snn2chip.errors import S2CError, UsageError
from snn2chip.evaluate import Evaluation, Extent, Progress, evaluate, workers
from snn2chip.evaluate.shard import Job, Setting
from snn2chip.simulate import simulate
from tests.evaluate.conftest import Whole, classifier

ray = pytest.importorskip("ray")


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Ray with two workers, shared by the tests of this file, as a user's own would be; the user's home stays clean."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        with workers.cluster(None, 2, 1 << 20) as at_once:
            yield at_once
    assert not ray.is_initialized()
    assert not (home / ".ray").exists(), "no token is left there"


@pytest.mark.parametrize("size", [1, 30, 200])
def test_the_same_integers(two_workers: int, whole: Whole, tmp_path: Path, size: int) -> None:
    said: list[Extent] = []
    options = {"shard_size": size, "workers": 2, "output": tmp_path / "o.npz", "announce": said.append}
    assert evaluate(whole.program, whole.x, whole.y, **options) == whole.evaluation
    assert ray.is_initialized(), "who started it ends it"
    with np.load(tmp_path / "o.npz") as arrays:
        np.testing.assert_array_equal(arrays["outputs_int"], whole.result.outputs_int)
    assert said[0].workers == 2
    assert said[0].memory.processes == 2


def test_workers_take_over_what_one_process_began(two_workers: int, whole: Whole, tmp_path: Path) -> None:
    run = tmp_path / "run"
    evaluate(whole.program, whole.x, whole.y, run_folder=run, shard_size=10)
    for shard in sorted(run.glob("shards/*/*.shard"))[3:8]:
        shard.unlink()
    told: list[Progress] = []
    found = evaluate(whole.program, whole.x, whole.y, run_folder=run, workers=2, progress=told.append)
    assert found == whole.evaluation
    assert told[-1].resumed == 53


@ray.remote
def _pid() -> int:
    time.sleep(0.2)
    return os.getpid()


def busy(pid: int) -> bool:
    """Whether the worker process simulates: Ray names its processes after what they do."""
    try:
        return b"_simulate_shard" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def test_a_killed_worker_loses_nothing(two_workers: int) -> None:
    rng = np.random.default_rng(1)
    made = classifier(rng, 300, 2000)
    x, y = (rng.random((600, 4, 300)) < 0.2).astype(np.uint8), rng.integers(0, 3, 600)
    pids = set(ray.get([_pid.remote() for _ in range(4)]))
    killed: list[int] = []

    def blocks() -> Iterator[Any]:
        for start in range(0, 600, 50):
            if start >= 200 and not killed:
                end = time.monotonic() + 30
                while not killed and time.monotonic() < end:
                    for pid in filter(busy, pids):
                        os.kill(pid, signal.SIGKILL)
                        killed.append(pid)
                        break
            yield x[start : start + 50], y[start : start + 50]

    found = evaluate(made, blocks(), workers=2, shard_size=50, engine="reference")
    assert len(killed) == 1, "a worker was killed while it simulated"
    assert found == Evaluation.of(simulate(made, x), y)


class Deadly:
    """A network that ends every process it gets to."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (1,)


def test_a_shard_that_kills_every_worker(two_workers: int, whole: Whole) -> None:
    work = workers.on_ray(Deadly(), Setting(), "deadly", 2)  # type: ignore[arg-type]
    with pytest.raises(S2CError, match="its worker was lost 4 times") as lost:
        list(work(iter([Job(0, 40, whole.x[40:50], None)])))
    assert lost.value.where == "samples 40 to 49"


def test_what_fails_in_a_worker_is_told(two_workers: int, whole: Whole, tmp_path: Path) -> None:
    x = whole.x.astype(np.float32)
    x[71, 2, 3] = 0.5
    with pytest.raises(S2CError, match=r"the input holds 0\.5") as refused:
        evaluate(whole.program, x, whole.y, workers=2, shard_size=10, run_folder=tmp_path / "run")
    assert "(71, 2, 3)" in refused.value.where
    assert "shards are kept" in refused.value.fix


def test_what_was_under_way_is_finished_when_the_data_fails(two_workers: int, whole: Whole, tmp_path: Path) -> None:
    def fails() -> Iterator[Any]:
        yield from zip(whole.x[:65], whole.y[:65], strict=True)
        raise OSError("the disk is gone")

    with pytest.raises(S2CError, match="cannot be read") as failed:
        evaluate(whole.program, fails(), workers=2, shard_size=10, run_folder=tmp_path / "run")
    assert failed.value.where == "samples from 65 on"
    assert "6 shards are kept" in failed.value.fix


@pytest.mark.parametrize("error", [Exception("The current node timed out during startup."), OSError("no room")])
def test_a_ray_that_does_not_start(error: Exception) -> None:
    with (
        mock.patch.object(ray, "is_initialized", return_value=False),
        mock.patch.object(ray, "init", side_effect=error),
        mock.patch.object(ray, "shutdown"),
        pytest.raises(S2CError, match="Ray cannot be started") as refused,
        workers.cluster(None, 2, 1),
    ):
        pass
    assert refused.value.why == str(error)
    assert "one process does the same" in refused.value.fix


# --- tokens ---

_ANOTHER_CLUSTER = """
import ray, sys, tempfile
with tempfile.TemporaryDirectory(prefix="r") as folder:
    ray.init(
        address="local", num_cpus=1, include_dashboard=False, _node_ip_address="127.0.0.1",
        _temp_dir=folder, logging_level="ERROR",
    )
    print(ray.get_runtime_context().gcs_address, flush=True)
    sys.stdin.read()
"""

_ONE_AFTER_ANOTHER = """
import os, sys
import numpy as np
from snn2chip.errors import S2CError
from snn2chip.evaluate import evaluate
from tests.evaluate.conftest import classifier

address, token = sys.argv[1:]
rng = np.random.default_rng(3)
made, x = classifier(rng), rng.integers(0, 2, (20, 4, 6))
expected = evaluate(made, x)
assert evaluate(made, x, workers=2) == expected
assert not [name for name in os.environ if "AUTH" in name]
os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=token)
assert evaluate(made, x, ray=address) == expected
del os.environ["RAY_AUTH_TOKEN"]
try:
    evaluate(made, x, ray=address)
except S2CError as error:
    print(error.fix)
"""


def test_clusters_one_after_another_have_tokens_of_their_own(tmp_path: Path) -> None:
    """A cluster started here, one that runs with another token, and that one without its token."""
    token = "cd" * 32
    private = {name: value for name, value in os.environ.items() if "RAY_" not in name} | {"HOME": str(tmp_path)}
    other = subprocess.Popen(
        [sys.executable, "-c", _ANOTHER_CLUSTER],
        env=private | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert other.stdout is not None
        address = other.stdout.readline().strip()
        with mock.patch.dict(os.environ, private, clear=True):
            assert "needs RAY_AUTH_MODE=token and its RAY_AUTH_TOKEN" in printed(_ONE_AFTER_ANOTHER, address, token)
    finally:
        other.communicate("", timeout=60)
    assert not (tmp_path / ".ray").exists(), "no token is left there"


# --- no Ray, or none there ---


def test_without_ray(whole: Whole) -> None:
    with (
        mock.patch.object(workers.importlib.util, "find_spec", return_value=None),
        pytest.raises(S2CError, match="several workers need Ray") as refused,
    ):
        evaluate(whole.program, whole.x, workers=2, engine="reference")
    assert "snn2chip[ray]" in refused.value.fix


def test_clusters_that_are_not_there(whole: Whole, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{unused.getsockname()[1]}"
        for address in (nobody, f"ray://{nobody}"):
            with pytest.raises(S2CError, match="there is no Ray cluster that answers") as refused:
                evaluate(whole.program, whole.x, ray=address)
            assert refused.value.where == address
        monkeypatch.setenv("RAY_ADDRESS", nobody)
        with pytest.raises(S2CError, match="there is no Ray cluster"):
            evaluate(whole.program, whole.x, ray="auto")
    for wrong in ("net.nir", "host:", ":6379", "host:port"):
        with pytest.raises(UsageError, match="no address of a Ray cluster"):
            evaluate(whole.program, whole.x, ray=wrong)
