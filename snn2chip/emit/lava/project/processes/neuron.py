"""A neuron that Lava does not have, and its model: it runs the program in ``reference/``.

Lava executes every file of this directory when it looks for models: keep anything else out of it.
"""

from __future__ import annotations

import importlib

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort, PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort, OutPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.process.variable import Var
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol


class IntegerNeuron(AbstractProcess):
    """A population that computes in windows and rests, silent, between them.

    Args:
        shape: of the population, (W, H, C) for images.
        first_step: Lava's time step in which the first window opens.
        window: number of steps of a window.
        reset_interval: steps from one window to the next; the state is reset when a window opens.
        program: file of ``reference/`` whose ``integer_step`` it runs.
        start: every state after a reset: integers, or arrays of ``shape``.
        values: the parameters ``integer_step`` takes.
    """

    def __init__(self, *, shape, first_step, window, reset_interval, program, start, values, name=None):
        super().__init__(
            first_step=first_step,
            window=window,
            reset_interval=reset_interval,
            program=program,
            start={state: np.broadcast_to(value, shape).astype(np.int64) for state, value in start.items()},
            values=values,
            name=name,
        )
        self.a_in = InPort(shape=shape)
        self.s_out = OutPort(shape=shape)
        self.u_out = OutPort(shape=shape)
        self.v_out = OutPort(shape=shape)
        self.u = Var(shape=shape, init=np.broadcast_to(start["u"], shape).astype(np.int32))
        self.v = Var(shape=shape, init=np.broadcast_to(start["v"], shape).astype(np.int32))


@implements(proc=IntegerNeuron, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyIntegerNeuron(PyLoihiProcessModel):
    """Steps the population; current and membrane are also Vars, for those who record them."""

    a_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)
    u_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)
    v_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)
    u: np.ndarray = LavaPyType(np.ndarray, np.int32)
    v: np.ndarray = LavaPyType(np.ndarray, np.int32)

    def __init__(self, proc_params):
        super().__init__(proc_params)
        self.first_step = proc_params["first_step"]
        self.window = proc_params["window"]
        self.reset_interval = proc_params["reset_interval"]
        self.rest = proc_params["start"]
        self.values = proc_params["values"]
        self.integer_step = importlib.import_module(f"reference.{proc_params['program']}").integer_step
        self.state = dict(self.rest)

    def run_spk(self):
        """One time step."""
        a = self.a_in.recv().astype(np.int64)
        since = self.time_step - self.first_step
        within = since >= 0 and since % self.reset_interval < self.window
        if not within or since % self.reset_interval == 0:
            self.state = dict(self.rest)
        out = np.zeros_like(a)
        if within:
            self.state, out = self.integer_step(self.state, a, self.values)
        self.u[:], self.v[:] = self.state["u"], self.state["v"]
        silence = np.zeros_like(self.u)
        self.s_out.send(out.astype(np.int32))
        self.u_out.send(self.u if within else silence)
        self.v_out.send(self.v if within else silence)
