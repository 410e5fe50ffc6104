"""The door to simulation: checks what is asked for and hands it to the engine that takes it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from numbers import Integral
from typing import Any, Literal, Protocol, get_args

from snn2chip.errors import S2CError, UsageError
from snn2chip.ir.graph import Network
from snn2chip.ir.layers import Array
from snn2chip.ir.program import Program
from snn2chip.simulate import fast, reference
from snn2chip.simulate.backends import Backend
from snn2chip.simulate.data import as_samples
from snn2chip.simulate.reference import Clock, MachineClock
from snn2chip.simulate.result import Result

Engine = Literal["auto", "fast", "reference", "cuda"]
RECORDABLE = ("u", "v", "h", "spikes", "a", "out")


def simulate(
    network: Network,
    x: Any,
    *,
    record: Iterable[str] | str = (),
    clock: Clock = "sample",
    reset_interval: int | None = None,
    reset_phase: int = 0,
    registers: str | None = None,
    batch_size: int = 128,
    backend: Backend = "auto",
    engine: Engine = "auto",
    first_sample: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Result:
    """Run ``network`` on samples ``x`` [N, T, ...] (or [N, ...] with direct coding).

    Args:
        network: a float Graph, or a Program, whose integers are then exact.
        x: samples, numpy or torch, in the units the network was trained with.
        record: any of "u", "v", "spikes", "a" (summed input of a population), "h" (a float population's membrane at the
            fire test), "out" (output of the other layers).
        clock: "sample", or "machine"; x may then have any number of steps.
        reset_interval, reset_phase, registers: of the machine's clock, see
            :class:`~snn2chip.simulate.reference.MachineClock`.
        batch_size: samples computed together; the result does not depend on it for a Program.
        backend: kernels for a float Graph: torch where it is installed, so that rounding is the model's own.
        engine: what computes a Program. "reference": the definition,
            :mod:`snn2chip.simulate.reference`. "fast": the same integers sooner, :mod:`snn2chip.simulate.fast`.
            "auto": the fast one where torch and numba are there, it covers the program, and the run is long enough to
            repay its preparation. "cuda": the definition on a GPU, :mod:`snn2chip.simulate.cuda`, in either clock.
        first_sample: number of the first sample in the data this is a part of, for messages.
        progress: called with the number of samples done.

    Raises:
        S2CError: data that does not fit, with the sample and the reason; or the fast engine was asked for where it
            cannot run.
    """
    wanted = frozenset([record] if isinstance(record, str) else record)
    if unknown := wanted - set(RECORDABLE):
        raise UsageError(f"cannot record {', '.join(sorted(unknown))}", fix=f"choose from {', '.join(RECORDABLE)}")
    if engine not in get_args(Engine):
        raise UsageError(f"there is no engine {engine!r}", fix=f"use one of {', '.join(get_args(Engine))}")
    require_network(network)
    require_count(batch_size, "a batch", "samples")
    machine = machine_clock(clock, reset_interval, reset_phase, registers)
    samples = as_samples(network, x, free_time=machine is not None, first=first_sample)
    steps = samples.shape[1] if network.coding == "steps" else network.time_steps or 0
    options: dict[str, Any] = {"batch_size": batch_size, "first": first_sample, "progress": progress}
    with _memory_told():
        if engine == "cuda":
            if not isinstance(network, Program):
                raise UsageError("a float network is not simulated on a GPU", fix='leave out engine="cuda"')
            needs_torch("simulating on a GPU")
            from snn2chip.simulate import cuda

            return cuda.run(network, samples, steps, wanted, machine=machine, **options)
        if takes_fast(network, machine, engine, len(samples), steps):
            assert isinstance(network, Program)
            return fast.run(network, samples, steps, wanted, **options)
        return reference.run(network, samples, steps, wanted, machine=machine, backend=backend, **options)


def require_network(network: Any) -> None:
    """Raise unless it is a network, and not the name of one."""
    if not isinstance(network, Network):
        raise UsageError(f"a {type(network).__name__} is no network", fix="read a file with snn2chip.load(path)")


def require_count(number: Any, of: str, what: str) -> None:
    """Raise unless ``number`` is a whole one, at least 1."""
    if not isinstance(number, Integral) or int(number) < 1:
        raise UsageError(f"{of} of {number} {what} is none", fix="give a whole number, at least 1")


def machine_clock(
    clock: Clock, reset_interval: int | None, reset_phase: int, registers: str | None
) -> MachineClock | None:
    """How the machine's clock runs, or None for the sample's clock, which knows none of its options."""
    if clock not in get_args(Clock):
        raise UsageError(f"there is no clock {clock!r}", fix='use "sample" or "machine"')
    if reset_interval is not None:
        require_count(reset_interval, "a reset interval", "steps")
    if clock == "machine":
        return MachineClock(reset_interval, reset_phase, registers)
    options = {"reset_interval": reset_interval, "reset_phase": reset_phase or None, "registers": registers}
    if given := [name for name, value in options.items() if value is not None]:
        raise UsageError(
            f"{', '.join(given)}: only the machine's clock has that",
            fix='give clock="machine" (--clock machine), or leave it out',
        )
    return None


@contextmanager
def _memory_told() -> Iterator[None]:
    """Memory that does not suffice, as a message; torch raises no error of its own for it."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "allocate memory" not in str(error):
            raise
        raise S2CError(
            "there is not enough memory for this simulation",
            why=str(error).splitlines()[0] if str(error) else "",
            fix="give a smaller batch_size (--batch-size), fewer samples, or record less; snn2chip.evaluate takes "
            "data of any size",
        ) from None


class Again(Protocol):
    """Runs of Programs on the same samples, one after another."""

    def outputs(self, program: Program) -> Array:
        """As ``simulate(program, samples).outputs``."""

    def keep(self) -> None:
        """Have what the last Program shares with the next ones computed once."""


class _Anew:
    """Every run by itself."""

    def __init__(self, samples: Array) -> None:
        self._samples = samples

    def outputs(self, program: Program) -> Array:
        return simulate(program, self._samples).outputs

    def keep(self) -> None:
        """Nothing is."""


def again(program: Program, samples: Array, times: int) -> Again:
    """For about ``times`` runs of Programs that are much like this one, all on checked ``samples`` [N, ...]."""
    steps = samples.shape[1] if program.coding == "steps" else program.time_steps or 0
    if not takes_fast(program, None, "auto", len(samples) * times, steps):
        return _Anew(samples)
    from snn2chip.simulate.fast.again import Again as Sharing

    return Sharing(samples, steps)


def needs_torch(what: str) -> None:
    """Raise unless torch is there for ``what``."""
    if why := fast.torch_missing():
        raise S2CError(f"{what} needs torch", why=why, fix="pip install torch")


def takes_fast(network: Network, machine: MachineClock | None, engine: Engine, samples: int, steps: int) -> bool:
    """Whether the fast engine runs this, where the GPU is not asked for.

    Raises:
        S2CError: it is asked for, and cannot.
    """
    if engine == "fast" and (machine is not None or not isinstance(network, Program)):
        what = "the machine's clock" if machine is not None else "a float network"
        raise UsageError(f"the fast engine does not run {what}", fix='leave out engine="fast"')
    if engine == "reference" or machine is not None or not isinstance(network, Program):
        return False
    if engine == "fast":
        needs_torch("the fast engine")
        return True
    return fast.worthwhile(network, samples, steps)
