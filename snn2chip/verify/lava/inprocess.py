"""Run a network of Lava Processes with Lava's own model classes in one operating-system process.

Lava's compiler finds the models, expands hierarchies and describes every channel; its builder makes the
model objects. Only the transport differs: a channel is a queue in memory with the shape, the dtype and
the unchecked cast of Lava's ``pypychannel.py``, and a step is what ``PyLoihiProcessModel._spike`` does.
So the numbers are Lava's, without forks, shared memory and the hangs of the real runtime.
"""

from __future__ import annotations

import copy
import functools
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from snn2chip.errors import S2CError
from snn2chip.verify.lava import shim

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
        self._tasks: dict[Any, _Task] = {}
        used_before = [process for process in processes if process.is_compiled]
        for process in processes:
            # Compiling a Process marks all that are connected with it.
            if process in used_before or not process.is_compiled:
                self._tasks |= _tasks_of(_compile(process, tag))
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
        pending, finished = self._order, list[_Task]()
        while pending:
            tried = _advance_ready(pending) or _open_a_loop(pending, self.time_step)
            finished += [task for task in tried if not task.suspended]
            pending = [task for task in pending if task.suspended or task not in tried]
        # Next time, models are tried in the order that worked, and those that open a loop come first.
        self._order = sorted(finished, key=lambda task: not task.sends_first)
        _manage([task.model for task in finished])


class _Inlet:
    """Receiving end of a channel: a queue of messages, with the interface of Lava's CspRecvPort."""

    def __init__(self, name: str, sender: str) -> None:
        self.name = name
        self.sender = sender
        self.queue: deque[np.ndarray[Any, Any]] = deque()
        self.task: _Task | None = None

    def recv(self) -> np.ndarray[Any, Any]:
        if not self.queue:
            assert self.task is not None
            self.task.wait_for(self)
        return self.queue.popleft()

    def probe(self) -> bool:
        return bool(self.queue)


class _Outlet:
    """Sending end of a channel, with the interface and the unchecked cast of Lava's CspSendPort."""

    def __init__(self, initializer: Any, inlet: _Inlet) -> None:
        self.name: str = initializer.name
        self._shape = initializer.shape
        self._d_type = initializer.d_type
        self._size = initializer.size
        self._inlet = inlet

    def is_msg_size_static(self) -> bool:
        return True

    def send(self, data: Any) -> None:
        if data.shape != self._shape:
            raise ValueError(f"port {self.name} of shape {self._shape} was given shape {data.shape}")
        if len(self._inlet.queue) == self._size:
            raise BufferError(f"port {self.name} sent {self._size} messages that nobody received")
        message = np.empty(self._shape, self._d_type)
        message[:] = data[:]
        self._inlet.queue.append(message)


class _Tap:
    """One more receiver of an OutPort: it keeps the latest message, cast as a channel casts it."""

    def __init__(self, port: Any) -> None:
        self._latest = np.zeros(port._shape, port._d_type)

    def is_msg_size_static(self) -> bool:
        return True

    def send(self, data: Any) -> None:
        self._latest[:] = data[:]

    def read(self) -> np.ndarray[Any, Any]:
        return self._latest.copy()


class _Closed(BaseException):
    """Unwinds a model that is waiting for a message when its network is closed."""


class _Task:
    """One process model, run to the end of its step, or suspended where it waits for a message.

    Most steps find all messages there and are plain calls. In a recurrent loop somebody has to send before
    it receives (Lava's synapses do); such a model runs on a thread of its own that is held at the receive,
    never at the same time as anything else.
    """

    def __init__(self, name: str, model: Any, inlets: list[_Inlet]) -> None:
        self.name = name
        self.model = model
        self.inlets = inlets
        for inlet in inlets:
            inlet.task = self
        self.suspended = False
        self.sends_first = False
        self._waiting_for: _Inlet | None = None
        self._closing = False
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._resume, self._pause = threading.Semaphore(0), threading.Semaphore(0)

    def tap(self, port: str) -> Callable[[], np.ndarray[Any, Any]]:
        tap = _Tap(getattr(self.model, port))
        getattr(self.model, port).csp_ports.append(tap)
        return tap.read

    def missing(self) -> list[_Inlet]:
        """The inlets that the model cannot go on without, as far as is known."""
        wanted = self.inlets if self._waiting_for is None else [self._waiting_for]
        return [inlet for inlet in wanted if not inlet.queue]

    def ready(self) -> bool:
        return not self.missing()

    def advance(self) -> bool:
        """Run until the step is over (True), or until a message is missing (False, and ``suspended``)."""
        if not self.suspended and self.ready():
            self._step()
            return True
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name=self.name, daemon=True)
            self._thread.start()
        self.suspended, self._waiting_for = False, None
        self._resume.release()
        self._pause.acquire()
        if self._failure is not None:
            raise self._failure
        return not self.suspended

    def wait_for(self, inlet: _Inlet) -> None:
        """Hold the model inside a receive until ``inlet`` has a message."""
        if threading.current_thread() is not self._thread:
            raise S2CError(
                "A Lava model received more messages in one step than were sent to it.",
                where=f"{self.name}.{inlet.name}",
                why=f"{inlet.sender} sent no further message",
            )
        while not inlet.queue:
            self._waiting_for, self.suspended = inlet, True
            self._pause.release()
            self._resume.acquire()
            if self._closing:
                raise _Closed

    def close(self) -> None:
        self._closing = True
        if self._thread is not None:
            self._resume.release()
            self._thread.join()
            self._thread = None

    def _serve(self) -> None:
        self._resume.acquire()
        while not self._closing:
            try:
                self._step()
            except _Closed:
                return
            except BaseException as error:  # advance() raises it again in the caller's thread
                self._failure = error
            self._pause.release()
            self._resume.acquire()

    def _step(self) -> None:
        model = self.model
        model.time_step += 1
        model.phase = model.Phase.SPK
        try:
            model.run_spk()
            model.advance_to_time_step(model.time_step + 1)
        except S2CError:
            raise
        except Exception as error:
            raise S2CError(
                "A Lava process model raised an error (Lava's own runtime would hang here).",
                where=f"{self.name} ({type(model).__name__}), step {model.time_step}",
                why=f"{type(error).__name__}: {error}",
            ) from error


def _advance_ready(pending: list[_Task]) -> list[_Task]:
    tried = []
    for task in pending:
        if task.ready():
            task.advance()
            tried.append(task)
    return tried


def _open_a_loop(pending: list[_Task], step: int) -> list[_Task]:
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


def _compile(process: Any, tag: str) -> Any:
    from lava.magma.core.run_configs import Loihi2SimCfg

    try:
        with _remembered_model_search():
            return _compiler().compile(process, Loihi2SimCfg(select_tag=tag))
    except Exception as error:
        raise S2CError(
            "Lava cannot compile the network.", where=process.name, why=f"{type(error).__name__}: {error}"
        ) from error


@functools.cache
def _compiler() -> Any:
    # Every Compiler() adds one more handler to Lava's log, so one serves all networks.
    from lava.magma.compiler.compiler import Compiler

    return Compiler()


_models_of_class: dict[type, list[type]] = {}


@contextmanager
def _remembered_model_search() -> Iterator[None]:
    """Search the models of a Process class once: the search executes every file next to the class."""
    from lava.magma.compiler.compiler_graphs import ProcGroupDiGraphs

    search = ProcGroupDiGraphs._find_proc_models

    def remembered(proc: Any) -> list[type]:
        cls = type(proc)
        if cls not in _models_of_class:
            _models_of_class[cls] = search(proc)
        return list(_models_of_class[cls])

    ProcGroupDiGraphs._find_proc_models = staticmethod(remembered)
    try:
        yield
    finally:
        ProcGroupDiGraphs._find_proc_models = staticmethod(search)


def _tasks_of(executable: Any) -> dict[Any, _Task]:
    """Join the builders by queues, as ``lava/magma/runtime/runtime.py`` joins them by channels, and build."""
    from lava.magma.core.process.ports.ports import create_port_id

    builders = executable.proc_builders
    inlets: dict[Any, list[_Inlet]] = {process: [] for process in builders}
    for channel in executable.channel_builders:
        source, target = channel.src_port_initializer, channel.dst_port_initializer
        if source.port_type != "OutPort":
            raise S2CError(
                "RefPorts of Lava are not supported in one process.",
                where=f"{channel.src_process.name}.{source.name}",
                fix="record the Var instead of reading it with another Process",
            )
        inlet = _Inlet(target.name, f"{channel.src_process.name}.{source.name}")
        inlets[channel.dst_process].append(inlet)
        builders[channel.src_process].set_csp_ports([_Outlet(source, inlet)])
        builders[channel.dst_process].set_csp_ports([inlet])
        builders[channel.dst_process].add_csp_port_mapping(create_port_id(channel.src_process.id, source.name), inlet)
    return {process: _Task(process.name, _build(builder), inlets[process]) for process, builder in builders.items()}


def _build(builder: Any) -> Any:
    # A forked process has its own copy of the initial values and parameters; so has a model here.
    builder.vars = copy.deepcopy(builder.vars)
    builder.proc_params = copy.deepcopy(builder.proc_params)
    return builder.build()


def _no_such_recording(process: Any, name: str, why: str) -> S2CError:
    return S2CError("A Lava recording names something that is not there.", where=f"{process.name}.{name}", why=why)


def _deadlock(tasks: list[_Task], step: int) -> S2CError:
    waits = [f"{task.name}.{inlet.name} waits for {inlet.sender}" for task in tasks for inlet in task.missing()]
    return S2CError(
        "The Lava network waits for itself (Lava's own runtime would hang here).",
        where=f"step {step}",
        why="\n".join(waits),
        fix="put a process that sends before it receives (a synapse such as Dense) into every loop",
    )
