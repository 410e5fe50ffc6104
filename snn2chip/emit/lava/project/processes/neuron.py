"""A leaky integrate-and-fire neuron with the choices that Lava's own LIF lacks, and its model.

Lava executes every file of this directory when it looks for models: keep anything else out of it.
"""

from __future__ import annotations

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
from reference.neuron import integer_step


class IntegerLIF(AbstractProcess):
    """A population that computes in windows and rests, silent, between them.

    Args:
        shape: of the population, (W, H, C) for images.
        first_step: Lava's time step in which the first window opens.
        window: number of steps of a window.
        reset_interval: steps from one window to the next; the state is reset when a window opens.
        v_start: membrane after a reset.
        threshold, decay_u, decay_v, bias, bias_u, v_reset: integers, or arrays that broadcast to ``shape``.
        choices: the rest of what ``reference/neuron.py`` takes; fire="never" makes an integrator.
    """

    def __init__(
        self,
        *,
        shape,
        first_step,
        window,
        reset_interval,
        v_start,
        threshold,
        decay_u,
        decay_v,
        bias,
        bias_u,
        v_reset,
        name=None,
        **choices,
    ):
        super().__init__(
            first_step=first_step, window=window, reset_interval=reset_interval, choices=choices, name=name
        )
        self.a_in = InPort(shape=shape)
        self.s_out = OutPort(shape=shape)
        self.u_out = OutPort(shape=shape)
        self.v_out = OutPort(shape=shape)
        self.u = Var(shape=shape, init=0)
        self.v = Var(shape=shape, init=np.broadcast_to(v_start, shape).astype(np.int32))
        self.v_start = _parameter(v_start)
        self.threshold = _parameter(threshold)
        self.decay_u = _parameter(decay_u)
        self.decay_v = _parameter(decay_v)
        self.bias = _parameter(bias)
        self.bias_u = _parameter(bias_u)
        self.v_reset = _parameter(v_reset)


def _parameter(value):
    array = np.atleast_1d(np.asarray(value, dtype=np.int64))
    return Var(shape=array.shape, init=array)


@implements(proc=IntegerLIF, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyIntegerLIF(PyLoihiProcessModel):
    """Steps the population; an integrator sends its membrane in place of spikes."""

    a_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)
    u_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)
    v_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)
    u: np.ndarray = LavaPyType(np.ndarray, np.int32)
    v: np.ndarray = LavaPyType(np.ndarray, np.int32)
    v_start: np.ndarray = LavaPyType(np.ndarray, np.int64)
    threshold: np.ndarray = LavaPyType(np.ndarray, np.int64)
    decay_u: np.ndarray = LavaPyType(np.ndarray, np.int64)
    decay_v: np.ndarray = LavaPyType(np.ndarray, np.int64)
    bias: np.ndarray = LavaPyType(np.ndarray, np.int64)
    bias_u: np.ndarray = LavaPyType(np.ndarray, np.int64)
    v_reset: np.ndarray = LavaPyType(np.ndarray, np.int64)

    def __init__(self, proc_params):
        super().__init__(proc_params)
        self.first_step = proc_params["first_step"]
        self.window = proc_params["window"]
        self.reset_interval = proc_params["reset_interval"]
        self.choices = proc_params["choices"]

    def run_spk(self):
        """One time step."""
        a = self.a_in.recv().astype(np.int64)
        since = self.time_step - self.first_step
        if since < 0 or since % self.reset_interval >= self.window:
            self._rest()
            silence = np.zeros_like(self.u)
            self._send(silence, silence, silence)
            return
        if since % self.reset_interval == 0:
            self._rest()
        u, v, spikes = integer_step(self.u.astype(np.int64), self.v.astype(np.int64), a, self._parameters())
        self.u[:], self.v[:] = u, v
        self._send(self.v if self.choices["fire"] == "never" else spikes, self.u, self.v)

    def _rest(self):
        self.u[:] = 0
        self.v[:] = self.v_start

    def _send(self, spikes, u, v):
        self.s_out.send(spikes)
        self.u_out.send(u)
        self.v_out.send(v)

    def _parameters(self):
        return {
            **self.choices,
            "threshold": None if self.choices["fire"] == "never" else self.threshold,
            "decay_u": self.decay_u,
            "decay_v": self.decay_v,
            "bias": self.bias,
            "bias_u": self.bias_u,
            "v_reset": self.v_reset,
        }
