"""What computes a run, and why, for people: the engine, and in the fast one every layer's kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from snn2chip.ir.program import Program
from snn2chip.simulate import fast
from snn2chip.simulate.engine import Engine, needs_torch, takes_fast
from snn2chip.simulate.fast import compiled
from snn2chip.simulate.footprint import Memory, reference_memory
from snn2chip.simulate.reference import MachineClock

if TYPE_CHECKING:
    from snn2chip.simulate.fast.explain import Row
    from snn2chip.simulate.fast.plan import Chunk

_ASKED = "it is asked for"


@dataclass(frozen=True)
class Explanation:
    """How a run would be computed.

    Args:
        engine: what runs, and ``why``.
        how: what it does in general; empty where ``rows`` say it.
        rows: one per layer, of the fast engine; empty where it does not run the program, or is not asked for.
        chunk: of the fast engine, None where it does not run.
        memory: of the fast engine where it has a plan, of the reference engine where nothing is recorded; else None.
        remarks: what would make it faster.
    """

    engine: str
    why: str
    how: str = ""
    rows: tuple[Row, ...] = ()
    chunk: Chunk | None = None
    memory: Memory | None = None
    remarks: tuple[str, ...] = ()


def explain_engine(
    program: Program,
    samples: int,
    steps: int,
    *,
    engine: Engine = "auto",
    machine: MachineClock | None = None,
    wanted: frozenset[str] = frozenset(),
    batch_size: int = 128,
) -> Explanation:
    """What runs ``samples`` samples of ``steps`` steps; kernels are chosen, and timed, as for the run itself.

    Args:
        engine, machine: as :func:`snn2chip.simulate.simulate` takes them; for "auto" the fast engine's plan is told
            also where the run is too short for it.
        wanted: what is recorded.

    Raises:
        S2CError: the engine that is asked for cannot run this; the message is the run's own.
    """
    if engine == "cuda":
        return _on_gpu(program)
    taken = takes_fast(program, machine, engine, samples, steps)

    def by_definition(why: str) -> Explanation:
        memory = None if wanted else reference_memory(program, samples, steps, batch_size, machine=machine is not None)
        return Explanation("reference", why, "every layer as it is defined, in numpy's 64-bit integers", memory=memory)

    if machine is not None:
        return by_definition("the machine's clock is the reference engine's")
    if engine == "reference":
        return by_definition(_ASKED)
    if why := fast.torch_missing():
        return by_definition(why)
    import torch

    from snn2chip.simulate.fast.cutting import chunk_of
    from snn2chip.simulate.fast.explain import peak_memory, rows
    from snn2chip.simulate.fast.prepare import refusal

    if engine == "auto" and (why := refusal(program)):
        return by_definition(why)
    plan = fast.plan_for(program, wanted, samples, steps)
    if engine == "fast":
        why = _ASKED
    elif compiled.missing():
        why = "without numba the reference engine is as good"
    else:
        why = "the run repays its preparation" if taken else "the run is too short to repay the preparation"
    return Explanation(
        "fast" if taken else "reference",
        why,
        rows=rows(plan),
        chunk=chunk_of(plan, samples, steps, batch_size, torch.get_num_threads()),
        memory=peak_memory(plan, samples, steps, wanted, batch_size),
        remarks=tuple(filter(None, [compiled.missing(), compiled.cache_remark()])),
    )


def _on_gpu(program: Program) -> Explanation:
    needs_torch("simulating on a GPU")
    from snn2chip.simulate import cuda

    cuda.require_gpu()
    on_host = [f"{name}: computed by numpy on the host: {why}" for name, why in cuda.on_host(program).items()]
    how = (
        "every layer as it is defined, in 64-bit integers on the GPU; products in the narrower of float32 and float64 "
        "that holds every sum of the data, in numpy on the host where neither does"
    )
    return Explanation("cuda", _ASKED, how, remarks=tuple(on_host))
