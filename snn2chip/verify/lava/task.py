"""A process model that is stepped by hand, and the queues that stand for Lava's channels."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from snn2chip.errors import S2CError


class Inlet:
    """Receiving end of a channel: a queue of messages, with the interface of Lava's CspRecvPort."""

    def __init__(self, name: str, sender: str) -> None:
        self.name = name
        self.sender = sender
        self.queue: deque[np.ndarray[Any, Any]] = deque()
        self.task: Task | None = None

    def recv(self) -> np.ndarray[Any, Any]:
        """The next message; the task is held until there is one."""
        if not self.queue:
            assert self.task is not None
            self.task.wait_for(self)
        return self.queue.popleft()

    def probe(self) -> bool:
        """Whether there is a message."""
        return bool(self.queue)


class Outlet:
    """Sending end of a channel, with the interface and the unchecked cast of Lava's CspSendPort."""

    def __init__(self, initializer: Any, inlet: Inlet) -> None:
        self.name: str = initializer.name
        self._shape = initializer.shape
        self._d_type = initializer.d_type
        self._size = initializer.size
        self._inlet = inlet

    def is_msg_size_static(self) -> bool:
        """Asked by Lava's ports before they send."""
        return True

    def send(self, data: Any) -> None:
        """Copy the message into the queue.

        Raises:
            ValueError: its shape is not the port's.
            BufferError: nobody has received the messages before it.
        """
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


class Task:
    """One process model, run to the end of its step, or suspended where it waits for a message.

    Most steps find all messages there and are plain calls. In a recurrent loop somebody has to send before
    it receives (Lava's synapses do); such a model runs on a thread of its own that is held at the receive,
    never at the same time as anything else.
    """

    def __init__(self, name: str, model: Any, inlets: list[Inlet]) -> None:
        self.name = name
        self.model = model
        self.inlets = inlets
        for inlet in inlets:
            inlet.task = self
        self.suspended = False
        self.sends_first = False
        self._waiting_for: Inlet | None = None
        self._closing = False
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._resume, self._pause = threading.Semaphore(0), threading.Semaphore(0)

    def tap(self, port: str) -> Callable[[], np.ndarray[Any, Any]]:
        """What an OutPort of the model sent last, asked by the function returned."""
        tap = _Tap(getattr(self.model, port))
        getattr(self.model, port).csp_ports.append(tap)
        return tap.read

    def missing(self) -> list[Inlet]:
        """The inlets that the model cannot go on without, as far as is known."""
        wanted = self.inlets if self._waiting_for is None else [self._waiting_for]
        return [inlet for inlet in wanted if not inlet.queue]

    def ready(self) -> bool:
        """Whether the model has all messages it is known to wait for."""
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

    def wait_for(self, inlet: Inlet) -> None:
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
        """End the thread, if it has one."""
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
