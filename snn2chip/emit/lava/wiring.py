"""What connects a project's populations: Lava's synapses, and the streams that play what the host hands over."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from snn2chip.emit.lava.axes import lava_place, lava_shape
from snn2chip.emit.lava.matrices import Matrix, mantissas
from snn2chip.emit.lava.paths import Path, on_host
from snn2chip.errors import S2CError
from snn2chip.ir.layers import Array, Conv
from snn2chip.ir.program import Program
from snn2chip.ir.schedule import depths
from snn2chip.neurons.base import Range
from snn2chip.quantize.overflow import ranges, sum_range

_LONGEST_DELAY = 63  # lava/proc/dense/models.py, PyDelayDenseModelBitAcc
_INT8 = 127  # lava/proc/conv/models.py: kernel size, stride, padding, dilation and groups are int8
_CONV_REACH = 1 << 23  # lava/proc/conv/models.py: the sum wraps at 24 bits
_MESSAGE_BITS = 24
_PORTS = {"out": "s_out", "v": "v_out", "u": "u_out"}


class Wiring:
    """Connects one path after the other.

    Args:
        program: what is connected.
        arrays: where weights and delays go.

    ``streams`` and ``synapses`` are as ``network.json`` has them.
    """

    def __init__(self, program: Program, arrays: dict[str, Array]) -> None:
        self.program, self.arrays = program, arrays
        self.shapes, self.depth = program.shapes(), depths(program)
        self.range_of = ranges(program, program.formats[program.input.name].range)
        self.streams: dict[str, dict[str, Any]] = {}
        self.synapses: list[dict[str, Any]] = []

    def connect(self, path: Path) -> Range:
        """Add the synapses of a path, and return the smallest and largest sum they can deliver in one step.

        Raises:
            S2CError: Lava has no synapse that delivers it at the right step, or unchanged.
        """
        machine_steps = path.delay + self.depth[path.target.name] - self.depth[path.source.name]
        payload = self._payload(path)
        conv = path.only_conv()
        matrix = path.matrix(self.program, self.shapes) if conv is None else None
        if matrix is not None and path.synapse is None and (machine_steps == 0 or on_host(self.program, path.source)):
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
        if on_host(self.program, path.source):
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
        source = self._stream(path, machine_steps) if on_host(self.program, path.source) else path.source.name
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
        return matrix.reordered(*(lava_place(self.shapes[node.name]) for node in (path.target, path.source)))

    def _synapse_name(self, path: Path) -> str:
        wanted = path.synapse.name if path.synapse is not None else f"{path.source.name} to {path.target.name}"
        taken = {synapse["name"] for synapse in self.synapses}
        numbered = (f"{wanted}#{i}" for i in itertools.count(1))
        return next(name for name in itertools.chain([wanted], numbered) if name not in taken)
