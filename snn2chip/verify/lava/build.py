"""Processes as Lava's own compiler and builder make them, joined by queues instead of channels."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from snn2chip.errors import S2CError
from snn2chip.verify.lava.task import Inlet, Outlet, Task


def tasks_of(process: Any, tag: str) -> dict[Any, Task]:
    """Compile the network that ``process`` belongs to: a task for each of its processes.

    The builders are joined by queues as ``lava/magma/runtime/runtime.py`` joins them by channels.

    Args:
        process: any Process of the network.
        tag: of the process models to select.

    Raises:
        S2CError: Lava cannot compile the network, or a port kind is not supported (RefPorts).
    """
    from lava.magma.core.process.ports.ports import create_port_id

    executable = _compile(process, tag)
    builders = executable.proc_builders
    inlets: dict[Any, list[Inlet]] = {owner: [] for owner in builders}
    for channel in executable.channel_builders:
        source, target = channel.src_port_initializer, channel.dst_port_initializer
        if source.port_type != "OutPort":
            raise S2CError(
                "RefPorts of Lava are not supported in one process.",
                where=f"{channel.src_process.name}.{source.name}",
                fix="record the Var instead of reading it with another Process",
            )
        inlet = Inlet(target.name, f"{channel.src_process.name}.{source.name}")
        inlets[channel.dst_process].append(inlet)
        builders[channel.src_process].set_csp_ports([Outlet(source, inlet)])
        builders[channel.dst_process].set_csp_ports([inlet])
        builders[channel.dst_process].add_csp_port_mapping(create_port_id(channel.src_process.id, source.name), inlet)
    return {owner: Task(owner.name, _build(builder), inlets[owner]) for owner, builder in builders.items()}


def _build(builder: Any) -> Any:
    # A forked process has its own copy of the initial values and parameters; so has a model here.
    builder.vars = copy.deepcopy(builder.vars)
    builder.proc_params = copy.deepcopy(builder.proc_params)
    return builder.build()


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
