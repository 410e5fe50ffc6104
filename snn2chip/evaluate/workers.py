"""Where shards are simulated: in this process, or by Ray on processes of this machine or of a cluster.

Ray schedules shards and runs those of a lost worker again; results come in any order.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import secrets
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from snn2chip.atomic import workspace
from snn2chip.errors import S2CError, UsageError, first_line
from snn2chip.evaluate.shard import Job, Setting, Shard, run_job
from snn2chip.evaluate.sizing import IN_FLIGHT
from snn2chip.ir.graph import Network
from snn2chip.machine import home

Work = Callable[[Iterator[Job]], Iterator[Shard]]

# A shard whose worker is lost this many times is not the victim of an accident.
_RETRIES = 3
# Ray's smallest object store.
_STORE_BYTES = 80 << 20
_ANSWER_SECONDS = 5.0
# Where Ray looks for the token that its processes show each other, beside a file in the user's home.
_TOKENS = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
# What starting a cluster here puts into the environment, for this cluster alone.
_OF_THIS_CLUSTER = (_TOKENS[0], "RAY_AUTH_MODE")


def in_process(network: Network, setting: Setting) -> Work:
    """One shard after another."""
    return lambda jobs: (run_job(network, setting, job) for job in jobs)


@contextmanager
def cluster(address: str | None, workers: int | None, waiting_bytes: int) -> Iterator[int]:
    """Ray, running or started, as long as the block lasts; yields how many shards it simulates at once.

    Args:
        address: None: processes of this machine, started and ended here, unless this process has a Ray already;
            "auto": the cluster of this machine or of $RAY_ADDRESS; else a cluster's address.
        workers: shards at once; None: as many as Ray has processors.
        waiting_bytes: of the samples of one shard, which Ray keeps in shared memory until they are simulated.

    Raises:
        S2CError: Ray is not installed, or the cluster does not answer.
    """
    if importlib.util.find_spec("ray") is None:
        raise S2CError("several workers need Ray", why="it is not installed", fix="pip install 'snn2chip[ray]'")
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS") or address
    if address is not None and address != "auto":
        _require_answer(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    if ray.is_initialized():
        yield workers or _processors()
        return
    with workspace(Path(tempfile.gettempdir(), "ray")) as scratch, _token(own=address is None):
        try:
            # Ray opens its folder to every user of the machine; the one around it stays closed.
            own = str(scratch / "ray")
            _start(address, workers, max(_STORE_BYTES, 2 * IN_FLIGHT * (workers or 1) * waiting_bytes), own)
            yield workers or _processors()
        finally:
            ray.shutdown()


@contextmanager
def _token(own: bool) -> Iterator[None]:
    """As long as the block lasts, the token that the environment states now; without one a new one where ``own``.

    Ray would otherwise leave a new one in the user's home, and show the first one it read to every later cluster.
    """
    before = {name: os.environ.get(name) for name in _OF_THIS_CLUSTER}
    users = home()
    kept = users is not None and (users / ".ray" / "auth_token").exists()
    if own and not kept and not any(name in os.environ for name in _TOKENS):
        os.environ[_TOKENS[0]] = secrets.token_hex(32)
    _read_again()
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        _read_again()


def _read_again() -> None:
    """Ray forgets the token and the settings it has read from the environment."""
    inner: Any = importlib.import_module("ray._raylet")
    # Versions without tokens, or that keep them elsewhere, have no such names.
    with suppress(AttributeError):
        inner.AuthenticationTokenLoader.instance().reset_cache()
        inner.Config.initialize("")


def _require_answer(address: str) -> None:
    """Ray itself waits for minutes for a cluster that is not there."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not host or not port.isdigit():
        raise UsageError(f"{address!r} is no address of a Ray cluster", fix="write host:port, ray://host:port or auto")
    try:
        socket.create_connection((host, int(port)), timeout=_ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise _unreachable(address, str(error)) from None


def _unreachable(address: str, why: str) -> S2CError:
    fix = (
        "start a cluster with `ray start --head`, or use workers of this machine; one with a token needs "
        "RAY_AUTH_MODE=token and its RAY_AUTH_TOKEN"
    )
    return S2CError("there is no Ray cluster that answers", where=address, why=why, fix=fix)


def _start(address: str | None, workers: int | None, store_bytes: int, scratch: str) -> None:
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address is not None:
            ray.init(address=address, **quiet)
        else:
            ray.init(
                address="local",
                num_cpus=workers,
                num_gpus=0,
                include_dashboard=False,
                object_store_memory=store_bytes,
                _temp_dir=scratch,
                _node_ip_address="127.0.0.1",
                **quiet,
            )
    except Exception as error:  # Ray has no class for them: a start that took too long is a bare Exception
        why = first_line(error)
        if address is not None:
            raise _unreachable(address, why) from None
        raise S2CError(
            "Ray cannot be started", why=why, fix="leave out the workers: one process does the same"
        ) from None


def _processors() -> int:
    import ray

    resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return max(1, int(resources.get("CPU", 1)))


def on_ray(network: Network, setting: Setting, key: str, at_once: int) -> Work:
    """Shards on a running Ray, ``at_once`` of them simulated and as many ready.

    ``key`` stands for network and setting: workers fetch and prepare them once.
    """
    import ray

    held = ray.put((network, setting))
    # Only lost workers are a reason to try again; what an error says once it says again.
    simulate_shard = ray.remote(num_cpus=1, max_retries=_RETRIES, retry_exceptions=False)(_simulate_shard)

    def work(jobs: Iterator[Job]) -> Iterator[Shard]:
        pending: dict[Any, tuple[int, int]] = {}  # the first and last sample
        failure: BaseException | None = None
        more = True
        while more or pending:
            while more and len(pending) < IN_FLIGHT * at_once:
                try:
                    job = next(jobs, None)
                except Exception as error:
                    # What is under way is finished first, so that nothing computed is lost.
                    job, failure = None, error
                more = job is not None
                if job is not None:
                    pending[simulate_shard.remote([held], key, job)] = (job.first, job.first + len(job.x) - 1)
            if pending:
                (done, *_), _ = ray.wait(list(pending), num_returns=1)
                samples = pending.pop(done)
                try:
                    shard: Shard = ray.get(done)
                except ray.exceptions.RayTaskError as error:
                    failure, more = error.cause, False
                except ray.exceptions.RayError as error:
                    failure, more = _lost(samples, error), False
                else:
                    yield shard
        if failure is not None:
            raise failure

    return work


_prepared: dict[str, tuple[Network, Setting]] = {}


def _simulate_shard(held: list[Any], key: str, job: Job) -> Shard:
    """In a worker process: the shard of ``job``."""
    if key not in _prepared:
        import ray

        _prepared.clear()
        _prepared[key] = ray.get(held[0])
    return run_job(*_prepared[key], job)


def _lost(samples: tuple[int, int], error: Exception) -> S2CError:
    return S2CError(
        f"a shard could not be simulated: its worker was lost {_RETRIES + 1} times",
        where=f"samples {samples[0]} to {samples[1]}",
        why=first_line(error),
        fix="the worker may need more memory than there is: give a smaller shard size, or fewer workers",
    )
