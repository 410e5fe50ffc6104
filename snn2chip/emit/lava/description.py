"""A Program as Lava processes: which, with which parameters, how connected, and when their windows open.

The result is the content of ``network.json`` and ``weights.npz``; nothing here needs Lava.

The machine's clock: a population at depth d computes step t of sample k at machine step k·interval + t + d. Its
state is reset when its window of T steps opens. Native neurons run on between windows, which nobody sees, for
what they send then arrives between the windows of the next layer. Where something reaches ahead in time
(recurrence, delays) the gap between windows is as long as that, and the sender is silent outside its window.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from snn2chip.emit.lava.matrices import Matrix, mantissas
from snn2chip.emit.lava.native import native_parameters
from snn2chip.emit.lava.paths import Path, on_host, paths_into
from snn2chip.errors import S2CError
from snn2chip.ir.graph import Node
from snn2chip.ir.layers import Array, Conv, Input, Neuron, Output, Readout, Shape
from snn2chip.ir.program import Program
from snn2chip.ir.schedule import depths
from snn2chip.ir.structure import encode
from snn2chip.neurons.base import IntegerNeuron, Range
from snn2chip.neurons.lif import IntegerLIF
from snn2chip.quantize.overflow import ranges, sum_range

_LONGEST_DELAY = 63  # lava/proc/dense/models.py, PyDelayDenseModelBitAcc
_INT8 = 127  # lava/proc/conv/models.py: kernel size, stride, padding, dilation and groups are int8
_CONV_REACH = 1 << 23  # lava/proc/conv/models.py: the sum wraps at 24 bits
_MESSAGE_REACH = 1 << 31  # every channel carries int32
_MESSAGE_BITS = 24


@dataclass(frozen=True)
class Description:
    """``network`` is JSON-able; ``arrays`` holds what it refers to by name."""

    network: dict[str, Any]
    arrays: dict[str, Array]


def lava_shape(shape: Shape) -> Shape:
    """Lava's order of axes, PyTorch's reversed: (W, H, C); (C, L) becomes (L, 1, C) for Lava's Conv."""
    return (shape[1], 1, shape[0]) if len(shape) == 2 else shape[::-1]


def program_name(model: IntegerNeuron) -> str:
    """What a project calls the file that holds a neuron's program: the module it comes from."""
    return model.program[-1].__module__.rsplit(".", 1)[-1]


def describe(program: Program, *, time_steps: int | None = None, power_of_two: bool = False) -> Description:
    """Lay out ``program`` as Lava processes.

    Args:
        program: what to lay out.
        time_steps: T of a sample, where the program leaves it open.
        power_of_two: round the interval between samples up to a power of two, as resets on hardware need it.

    Raises:
        S2CError: a layer that Lava cannot compute exactly; the message names it. Or T is not known.
    """
    steps = program.time_steps or time_steps
    if steps is None:
        raise S2CError(
            "the network does not say how many steps a sample has",
            why="in Lava the states are reset at fixed steps",
            fix="give time_steps",
        )
    return _Writer(program, steps, power_of_two).description()


class _Writer:
    def __init__(self, program: Program, time_steps: int, power_of_two: bool) -> None:
        self.program, self.time_steps = program, time_steps
        self.shapes = program.shapes()
        self.depth = depths(program)
        self.arrays: dict[str, Array] = {}
        self.paths = {node.name: paths_into(program, node) for node in program.neurons}
        every = [path for paths in self.paths.values() for path in paths]
        # Whatever a population sends later than its own step must not meet the next sample.
        self.windowed = {p.source.name for p in every if not self._from_host(p) and p.delay + p.longest_synaptic_delay}
        self.ports = {(p.source.name, p.port) for p in every if not self._from_host(p)}
        gap = max((p.longest_synaptic_delay + (0 if self._from_host(p) else p.delay) for p in every), default=0)
        self.interval = time_steps + gap
        if power_of_two:
            self.interval = 1 << (self.interval - 1).bit_length()
        self.range_of = ranges(program, program.formats[program.input.name].range)
        self.streams: dict[str, dict[str, Any]] = {}
        self.synapses: list[dict[str, Any]] = []

    def description(self) -> Description:
        populations = {}
        for node in self.program.neurons:
            low, high = zip(*map(self._connect, self.paths[node.name]), strict=True)
            arriving = sum(low), sum(high)
            populations[node.name] = self._population(node, arriving)
        network = {
            "time_steps": self.time_steps,
            "interval": self.interval,
            "coding": self.program.coding,
            "input": dataclasses.asdict(self.program.formats[self.program.input.name]),
            "streams": self.streams,
            "populations": populations,
            "synapses": self.synapses,
            "host": self._host(),
        }
        return Description(network, self.arrays)

    def _from_host(self, path: Path) -> bool:
        return on_host(self.program, path.source)

    # --- populations ---

    def _population(self, node: Node, arriving: Range) -> dict[str, Any]:
        model = node.layer.model  # type: ignore[attr-defined]
        if not isinstance(model, IntegerNeuron):
            raise S2CError(f"no Lava process is known for a {node.layer.kind} neuron", where=node.where())
        largest = max(-arriving[0], arriving[1])
        if largest >= _MESSAGE_REACH:
            raise S2CError(
                f"its summed input may reach {largest}",
                where=node.where(),
                why="Lava carries 32-bit messages",
                fix="quantize with fewer weight bits or a coarser input",
            )
        shape, first = self.shapes[node.name], self.depth[node.name] + 1
        native, why = None, self._beyond_native(node)
        if not isinstance(model, IntegerLIF):
            why = f"Lava has no {model.kind} neuron"
        elif not why:
            native, why = native_parameters(model, self.program.target.arithmetic, arriving, self.time_steps)
        if native is not None:
            process = {"reset_interval": self.interval, "reset_offset": first % self.interval}
            kind, values = "LIFReset", native
        else:
            process = {"reset_interval": self.interval, "first_step": first, "window": self.time_steps}
            start = {name: value[0] for name, value in model.start((1, *shape)).items()}
            given = model.parameters(self.program.target.arithmetic)
            kind, values = "IntegerNeuron", {"program": program_name(model), "start": start, "values": given}
        stored = {key: self._parameter(f"{node.name}/{key}", value, shape) for key, value in values.items()}
        return {
            "process": kind,
            "reason": why,
            "depth": self.depth[node.name],
            "shape": list(shape),
            "integrates_only": model.v_threshold is None,
            "parameters": {"shape": list(lava_shape(shape)), **process, **stored},
        }

    def _beyond_native(self, node: Node) -> str:
        """Why the native neuron, whose only message is the spike and which never rests, won't do; or nothing."""
        if node.name in self.windowed:
            return "its spikes arrive later than one step on: it has to be silent between samples"
        sent = {port for name, port in self.ports if name == node.name}
        if sent - {"out"} or (sent and node.layer.model.v_threshold is None):  # type: ignore[attr-defined]
            return "it sends its membrane or current to another population"
        return ""

    def _parameter(self, name: str, value: Any, shape: Shape) -> Any:
        if value is None or isinstance(value, str | int):
            return value
        if isinstance(value, tuple):
            return [self._parameter(f"{name}/{i}", item, shape) for i, item in enumerate(value)]
        if isinstance(value, dict):
            return {key: self._parameter(f"{name}/{key}", item, shape) for key, item in value.items()}
        array = np.asarray(value)
        if array.size == 1 or (array == array.flat[0]).all():
            return int(array.flat[0])
        self.arrays[name] = self._lava(np.broadcast_to(array, shape))
        return {"array": name}

    def _lava(self, array: Array) -> Array:
        return np.ascontiguousarray(array.transpose()).reshape(lava_shape(array.shape))

    # --- synapses ---

    def _connect(self, path: Path) -> Range:
        """Add the synapses of a path, and return what they can deliver in one step."""
        machine_steps = path.delay + self.depth[path.target.name] - self.depth[path.source.name]
        payload = self._payload(path)
        conv = path.only_conv()
        matrix = path.matrix(self.program, self.shapes) if conv is None else None
        if matrix is not None and path.synapse is None and (machine_steps == 0 or self._from_host(path)):
            return self._wire(path, matrix, machine_steps, payload)
        spare = machine_steps - 1
        if spare < 0:
            raise S2CError(
                f"the connection from {path.source.name} would have to arrive {-spare} steps before it can",
                where=path.target.where(),
                why=f"every synapse takes a machine step, and this one has {machine_steps}",
                fix="a cycle through k populations needs delays of k steps in all",
            )
        source = path.source.name
        if self._from_host(path):
            source, spare = self._stream(path, spare), 0
        longest = spare + path.longest_synaptic_delay
        if longest > _LONGEST_DELAY:
            raise S2CError(
                f"the connection from {path.source.name} has to wait {longest} steps",
                where=path.target.where(),
                why=f"a synapse of Lava delays by at most {_LONGEST_DELAY}",
                fix="shorten the delay, or the path it has to wait for",
            )
        link = {"source": source, "port": _PORTS[path.port], "target": path.target.name}
        message_bits = 0 if payload[0] >= 0 and payload[1] <= 1 else _MESSAGE_BITS
        if conv is not None:
            reach = sum_range(conv, payload)
            if spare == 0 and self._conv_fits(conv, reach):
                self._conv(path, conv, link, message_bits)
                return reach
            matrix = path.matrix(self.program, self.shapes)
        assert matrix is not None
        self._matrix(path, matrix, spare, link, message_bits)
        return matrix.reach(*payload)

    def _payload(self, path: Path) -> Range:
        """The range of the values that travel along a path, the zeros between samples included."""
        arithmetic = self.program.target.arithmetic
        if path.port == "out":
            low, high = self.range_of(path.source.name)
            return min(low, 0), max(high, 0)
        half = 1 << ((arithmetic.voltage_bits if path.port == "v" else arithmetic.current_bits) - 1)
        return -half, half

    def _wire(self, path: Path, matrix: Matrix, machine_steps: int, payload: Range) -> Range:
        ordered = self._reordered(path, matrix)
        index = np.arange(ordered.shape[0])
        same = ordered.shape[0] == ordered.shape[1] == len(ordered.rows)
        if not (
            same and (ordered.rows == index).all() and (ordered.columns == index).all() and (ordered.weights == 1).all()
        ):
            raise S2CError(
                f"what reaches it from {path.source.name} passes no synapse",
                where=path.target.where(),
                why="without a synapse Lava can hand on values only as they are",
                fix="put the layers between them on the host, or into a synaptic layer",
            )
        source = self._stream(path, machine_steps) if self._from_host(path) else path.source.name
        self.synapses.append(
            {"name": None, "process": None, "source": source, "port": _PORTS[path.port], "target": path.target.name}
        )
        return payload

    def _stream(self, path: Path, machine_steps: int) -> str:
        """The process that plays what the host hands over, ``machine_steps`` late.

        ``path.delay`` of them belong to the network, the rest waits for the target's depth.
        """
        late = machine_steps - path.delay
        name = path.source.name + (f"[t-{path.delay}]" if path.delay else "") + (f"+{late}" if late else "")
        shape = self.shapes[path.source.name]
        self.streams[name] = {"source": path.source.name, "shape": list(shape), "delay": path.delay, "late": late}
        return name

    def _conv_fits(self, conv: Conv, reach: Range) -> bool:
        small = (*conv.kernel, *conv.stride, *conv.padding, *conv.dilation, conv.groups)
        return max(small) <= _INT8 and reach[0] >= -_CONV_REACH and reach[1] < _CONV_REACH

    def _conv(self, path: Path, conv: Conv, link: dict[str, Any], message_bits: int) -> None:
        name = self._synapse_name(path)
        weight, two = conv.weight, {}
        for key, neutral in (("stride", 1), ("padding", 0), ("dilation", 1)):
            value = getattr(conv, key)
            two[key] = [value[0], neutral] if conv.axes == 1 else list(value[::-1])
        if conv.axes == 1:
            weight = weight[:, :, None, :]
        # lava/proc/conv/utils.py convolves: the kernel is flipped, and (C_out, W, H, C_in).
        flipped = weight[:, :, ::-1, ::-1].transpose(0, 3, 2, 1)
        self.arrays[f"{name}/weight"] = np.ascontiguousarray(flipped).astype(np.int32)
        parameters = {
            "weight": {"array": f"{name}/weight"},
            "input_shape": list(lava_shape(self.shapes[path.source.name])),
            "groups": conv.groups,
            "num_message_bits": message_bits,
            **two,
        }
        self.synapses.append({"name": name, "process": "Conv", **link, "parameters": parameters})

    def _matrix(self, path: Path, matrix: Matrix, spare: int, link: dict[str, Any], message_bits: int) -> None:
        exponent = 0
        if path.synapse is not None and (form := self.program.formats.get(f"{path.synapse.name}.weight")) is not None:
            exponent = form.exponent
        for layer in self._reordered(path, matrix).layers():
            delays = layer.delays + spare
            # A stored entry of a sparse matrix takes a value and an index, and the row its pointers.
            sparse = 3 * len(layer.rows) < math.prod(layer.shape)
            for mantissa, exp, sign_mode in mantissas(layer.weights, exponent):
                name = self._synapse_name(path)
                fields = {"weights": mantissa} | ({"delays": delays} if delays.any() else {})
                parameters: dict[str, Any] = {
                    field: self._stored(f"{name}/{field}", layer, values, sparse) for field, values in fields.items()
                }
                parameters |= {"num_weight_bits": 8, "sign_mode": sign_mode, "weight_exp": exp}
                parameters["num_message_bits"] = message_bits
                if "delays" in fields:
                    parameters["max_delay"] = int(delays.max())
                process = ("Delay" if "delays" in fields else "") + ("Sparse" if sparse else "Dense")
                self.synapses.append({"name": name, "process": process, **link, "parameters": parameters})

    def _stored(self, key: str, matrix: Matrix, values: Array, sparse: bool) -> dict[str, str]:
        if not sparse:
            self.arrays[key] = matrix.dense(values)
            return {"array": key}
        order = np.lexsort((matrix.columns, matrix.rows))
        self.arrays[f"{key}/data"] = values[order].astype(np.int64)
        self.arrays[f"{key}/indices"] = matrix.columns[order].astype(np.int32)
        rows = np.bincount(matrix.rows, minlength=matrix.shape[0])
        self.arrays[f"{key}/indptr"] = np.concatenate([[0], np.cumsum(rows)]).astype(np.int32)
        self.arrays[f"{key}/shape"] = np.asarray(matrix.shape)
        return {"sparse": key}

    def _reordered(self, path: Path, matrix: Matrix) -> Matrix:
        return matrix.reordered(*(_lava_place(self.shapes[node.name]) for node in (path.target, path.source)))

    def _synapse_name(self, path: Path) -> str:
        wanted = path.synapse.name if path.synapse is not None else f"{path.source.name} to {path.target.name}"
        taken = {synapse["name"] for synapse in self.synapses}
        numbered = (f"{wanted}#{i}" for i in itertools.count(1))
        return next(name for name in itertools.chain([wanted], numbered) if name not in taken)

    # --- host ---

    def _host(self) -> dict[str, Any]:
        """The layers run.py computes: what the streams and the output need, back to the populations."""
        needed: set[str] = set()
        pending = [self.program.output.name, *(stream["source"] for stream in self.streams.values())]
        while pending:
            node = self.program[pending.pop()]
            if node.name in needed or isinstance(node.layer, Neuron):
                continue
            needed.add(node.name)
            pending += [edge.source for edge in node.inputs]
        nodes, readout = [], ""
        for node in self.program:
            if node.name not in needed:
                continue
            if isinstance(node.layer, Readout):
                readout = node.layer.how
            elif not isinstance(node.layer, Input | Output):
                nodes.append(self._host_node(node))
        source = self.program.output.inputs[0]
        if readout:
            source = self.program[source.source].inputs[0]
        self.arrays["output_scale"] = np.asarray(self.program.output_scale, dtype=np.float64)
        return {
            "input": self.program.input.name,
            "input_shape": list(self.shapes[self.program.input.name]),
            "layers": nodes,
            "output": dataclasses.asdict(source),
            "readout": readout,
        }

    def _host_node(self, node: Node) -> dict[str, Any]:
        if getattr(node.layer, "delay", None) is not None:
            raise S2CError("a layer on the host has synaptic delays", where=node.where(), fix="place it on the chip")
        arrays: dict[str, Array] = {}
        layer = encode(node.layer, arrays, node.name)
        self.arrays |= arrays
        return {"name": node.name, "layer": layer, "inputs": [dataclasses.asdict(edge) for edge in node.inputs]}


_PORTS = {"out": "s_out", "v": "v_out", "u": "u_out"}


def _lava_place(shape: Shape) -> Array:
    """For every element in PyTorch's order, its place in Lava's."""
    order = np.arange(math.prod(shape)).reshape(shape).transpose().ravel()
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return place
