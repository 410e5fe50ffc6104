"""Run a network of Lava Processes with Lava's own model classes in one operating-system process.

Lava's compiler finds the models, expands hierarchies and describes every channel; its builder makes the
model objects. Only the transport differs: a channel is a queue in memory with the shape, the dtype and
the unchecked cast of Lava's ``pypychannel.py``, and a step is what ``PyLoihiProcessModel._spike`` does.
So the numbers are Lava's, without forks, shared memory and the hangs of the real runtime.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from snn2chip.errors import S2CError
from snn2chip.verify.lava import shim
from snn2chip.verify.lava.build import tasks_of
from snn2chip.verify.lava.task import Task

FIXED_POINT = "fixed_pt"


def run_inprocess(
    processes: Sequence[Any],
    steps: int,
    record: Mapping[str, tuple[Any, str]],
    *,
    tag: str = FIXED_POINT,
) -> dict[str, np.ndarray[Any, Any]]:
    """Step a network of Lava Processes and return what was recorded.

    Args:
        processes: at least one Process of every connected network; the rest is found through the ports.
            Lava compiles a Process once, so they must be freshly built for every run.
        steps: number of time steps, at least 1; the first one is Lava's ``time_step`` 1.
        record: label to (Process, name). A Var is read at the end of each step (state after reset),
            an OutPort gives the message it sent in that step. Aliased Vars of hierarchical Processes
            are followed to their owner.
        tag: tag of the process models to select.

    Returns:
        label to array of shape [steps, *shape of the Var or port], in the model's own dtype.

    Raises:
        S2CError: Lava is missing or cannot compile the network, a model raised, a process is waiting
            for a message that nobody will send, or a port kind is not supported (RefPorts).
    """
    with LavaNetwork(processes, tag=tag) as network:
        probes = {label: network.probe(process, name) for label, (process, name) in record.items()}
        rows: dict[str, list[np.ndarray[Any, Any]]] = {label: [] for label in record}
        for _ in range(steps):
            network.step()
            for label, read in probes.items():
                rows[label].append(read())
    return {label: np.stack(values) for label, values in rows.items()}


class LavaNetwork:
    """A compiled network of Lava Processes that is stepped by hand; use it as a context manager."""

    def __init__(self, processes: Sequence[Any], *, tag: str = FIXED_POINT) -> None:
        """Compile all networks that ``processes`` belong to; see :func:`run_inprocess`."""
        shim.prepare()
        self.time_step = 0
        self._tasks: dict[Any, Task] = {}
        used_before = [process for process in processes if process.is_compiled]
        for process in processes:
            # Compiling a Process marks all that are connected with it.
            if process in used_before or not process.is_compiled:
                self._tasks |= tasks_of(process, tag)
        self._order = list(self._tasks.values())

    def __enter__(self) -> LavaNetwork:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the helper threads; the network cannot be stepped afterwards."""
        for task in self._tasks.values():
            task.close()

    def probe(self, process: Any, name: str) -> Callable[[], np.ndarray[Any, Any]]:
        """Return a function that copies a Var (as it is now) or the latest message of an OutPort.

        Raises:
            S2CError: ``process`` is not part of the network or has no such Var or OutPort.
        """
        ports, variables = process.out_ports.member_names, process.vars.member_names
        if name not in (*ports, *variables):
            why = f"the process has the Vars {variables} and the OutPorts {ports}"
            raise _no_such_recording(process, name, why)
        member = getattr(process, name)
        if name in ports:
            # The OutPort of a hierarchical Process is fed by the OutPort of one of its parts.
            member = next(iter(member.get_src_ports()), member)
        else:
            while member.aliased_var is not None:
                member = member.aliased_var
        if member.process not in self._tasks:
            why = "the process is not connected to the network that runs"
            raise _no_such_recording(process, name, why)
        task = self._tasks[member.process]
        if name in ports:
            return task.tap(member.name)
        return lambda: np.array(getattr(task.model, member.name))

    def step(self) -> None:
        """Run one time step of every process: spiking phase, then learning and management phases."""
        self.time_step += 1
        pending, finished = self._order, list[Task]()
        while pending:
            tried = _advance_ready(pending) or _open_a_loop(pending, self.time_step)
            finished += [task for task in tried if not task.suspended]
            pending = [task for task in pending if task.suspended or task not in tried]
        # Next time, models are tried in the order that worked, and those that open a loop come first.
        self._order = sorted(finished, key=lambda task: not task.sends_first)
        _manage([task.model for task in finished])


def _advance_ready(pending: list[Task]) -> list[Task]:
    tried = []
    for task in pending:
        if task.ready():
            task.advance()
            tried.append(task)
    return tried


def _open_a_loop(pending: list[Task], step: int) -> list[Task]:
    """Start models that lack a message until one has sent something that lets another go on."""
    tried = []
    for task in pending:
        if task.suspended:
            continue
        over = task.advance()
        tried.append(task)
        if over or any(other.ready() for other in pending):
            task.sends_first = True
            return tried
    raise _deadlock(pending, step)


def _manage(models: list[Any]) -> None:
    """The phases after spiking, in the order of Lava's LoihiProtocol; each model's guard decides."""
    for model in models:
        if model.lrn_guard() and model.pre_guard():
            model.phase = model.Phase.PRE_MGMT
            model.run_pre_mgmt()
    for model in models:
        if model.lrn_guard():
            model.phase = model.Phase.LRN
            model.run_lrn()
    for model in models:
        if model.post_guard():
            model.phase = model.Phase.POST_MGMT
            model.run_post_mgmt()


def _no_such_recording(process: Any, name: str, why: str) -> S2CError:
    return S2CError("A Lava recording names something that is not there.", where=f"{process.name}.{name}", why=why)


def _deadlock(tasks: list[Task], step: int) -> S2CError:
    waits = [f"{task.name}.{inlet.name} waits for {inlet.sender}" for task in tasks for inlet in task.missing()]
    return S2CError(
        "The Lava network waits for itself (Lava's own runtime would hang here).",
        where=f"step {step}",
        why="\n".join(waits),
        fix="put a process that sends before it receives (a synapse such as Dense) into every loop",
    )
