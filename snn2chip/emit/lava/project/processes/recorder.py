"""Processes that write what a population does into a .npy file: far quicker than reading Lava's Vars.

Lava executes every file of this directory when it looks for models: keep anything else out of it.
"""

from __future__ import annotations

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort, PyRefPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort, RefPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol


class MessageRecorder(AbstractProcess):
    """Writes every message it gets: int32 [steps, *shape] into the existing file ``path``."""

    def __init__(self, *, shape, path, name=None):
        super().__init__(path=path, name=name)
        self.a_in = InPort(shape=shape)


class VarRecorder(AbstractProcess):
    """Writes a Var after every step, resets included: int32 [steps, *shape] into the existing ``path``."""

    def __init__(self, *, var, path, name=None):
        super().__init__(path=path, name=name)
        self.state = RefPort(shape=var.shape)
        self.state.connect_var(var)


class _Recorder(PyLoihiProcessModel):
    def __init__(self, proc_params):
        super().__init__(proc_params)
        self.rows = np.load(proc_params["path"], mmap_mode="r+")


@implements(proc=MessageRecorder, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyMessageRecorder(_Recorder):
    """Records in the spiking phase."""

    a_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)

    def run_spk(self):
        """One time step."""
        self.rows[self.time_step - 1] = self.a_in.recv()


@implements(proc=VarRecorder, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyVarRecorder(_Recorder):
    """Records in the management phase, when the step is over."""

    state: PyRefPort = LavaPyType(PyRefPort.VEC_DENSE, np.int32)

    def post_guard(self):
        """Take part in the management phase of every step."""
        return True

    def run_post_mgmt(self):
        """One time step."""
        self.rows[self.time_step - 1] = self.state.read()
