"""Measures of the machine: what a Program's products cost where they are multiplied, and what its neurons move."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from bench.machine import copy_bandwidth
from bench.measure import seconds
from snn2chip.ir.layers import Conv2d, Linear
from snn2chip.ir.program import Program
from snn2chip.simulate.fast import plan_for
from snn2chip.simulate.fast.cutting import chunk_of, piece_of
from snn2chip.simulate.fast.fused.population import Fusion
from snn2chip.simulate.fast.plan import Plan
from snn2chip.simulate.fast.populations.population import Piece

Call = Callable[[], Any]


def bare_convolutions(program: Program, samples: int, steps: int) -> Call:
    """The linear layers alone, each on data that lies ready, as much at once as the engine takes; one thread.

    Layers that the engine runs on int8 are called on int8 directly through oneDNN; where inputs or weights are wider,
    in float32. Layers that give the same at every step run once per sample; those that a population computes itself are
    left out.
    """
    plan = _apart(program, samples, steps)
    chunk = chunk_of(plan, samples, steps)
    calls = []
    for node in program:
        population = plan.absorbed.streamed.get(node.name)
        if not isinstance(node.layer, Conv2d | Linear) or node.name in plan.without_kernel:
            continue
        part = chunk if population is None else piece_of(plan, population, chunk.samples, chunk.steps)
        once = node.name in plan.static
        shape = (part.samples * (1 if once else part.steps), *plan.shapes[node.inputs[0].source])
        chosen = {choice.kernel for _, choice in plan.synapses[node.name].parts}
        make = _int8 if chosen == {"int8"} else _float
        times = math.ceil(samples / part.samples) * (1 if once else math.ceil(steps / part.steps))
        calls.append((make(node.layer, shape), times))

    def run() -> None:
        with torch.inference_mode():
            for call, times in calls:
                for _ in range(times):
                    call()

    return run


def _apart(program: Program, samples: int, steps: int) -> Plan:
    """The plan in which every product is multiplied and populations run apart from their synapses."""
    return replace(plan_for(program, frozenset(), samples, steps), fusion=Fusion())


def _int8(layer: Conv2d | Linear, shape: tuple[int, ...]) -> Call:
    x = torch.randint(0, 2, shape, dtype=torch.uint8)
    weight = torch.from_numpy(np.clip(layer.weight, -128, 127).astype(np.int8))
    ones, zeros = torch.ones(len(weight)), torch.zeros(len(weight), dtype=torch.int32)
    ops, tail = torch.ops.onednn, (1.0, 0, torch.float32, "none", [], "")
    if isinstance(layer, Linear):
        packed = ops.qlinear_prepack(weight, None)
        rows = x.reshape(-1, x.shape[-1])
        return lambda: ops.qlinear_pointwise(rows, 1.0, 0, packed, ones, zeros, None, *tail)
    where = (layer.stride, layer.padding, layer.dilation, layer.groups)
    packed = ops.qconv_prepack(weight, ones, 1.0, 0, *where, list(shape))
    images = x.contiguous(memory_format=torch.channels_last)
    return lambda: ops.qconv2d_pointwise(images, 1.0, 0, packed, ones, zeros, None, *where, *tail)


def _float(layer: Conv2d | Linear, shape: tuple[int, ...]) -> Call:
    x, weight = torch.randint(0, 2, shape).float(), torch.from_numpy(layer.weight).float()
    if isinstance(layer, Linear):
        return lambda: F.linear(x, weight)
    images, kernel = (t.contiguous(memory_format=torch.channels_last) for t in (x, weight))
    return lambda: F.conv2d(images, kernel, None, layer.stride, layer.padding, layer.dilation, layer.groups)


def neuron_bandwidth(program: Program, samples: int, steps: int) -> list[dict[str, Any]]:
    """What each population moves per second where it runs apart, beside a copy of blocks as large as its own.

    A population reads its summed inputs and writes its spikes once; states stay in the cache. One thread, one chunk.
    Those that run their own recurrent synapses are left out: they do more than move.
    """
    plan = _apart(program, samples, steps)
    chunk = chunk_of(plan, samples, steps)
    plain = [name for name, population in plan.populations.items() if population.recurrent is None]
    return [_moved(plan, name, chunk.samples, chunk.steps) for name in plain]


def _moved(plan: Plan, name: str, samples: int, steps: int) -> dict[str, Any]:
    population = plan.populations[name]
    size = samples * population.layout.size
    rng = np.random.default_rng(0)
    inputs = [
        rng.integers(max(x.range.low, -(2**15)), min(x.range.high, 2**15) + 1, (steps, size)).astype(x.dtype)
        for x in population.inputs
    ]

    def run() -> Any:
        room = population.room(steps, samples)
        population.run(room, Piece(0, steps, 0, samples), population.start(samples, False), inputs, True)
        return room

    moved = sum(x.nbytes for x in inputs) + run().out.nbytes
    taken = float(np.median([seconds(run) for _ in range(5)]))
    return {
        "population": name,
        "kernel": population.kernel,
        "bytes": moved,
        "gigabytes_per_second": moved / taken / 1e9,
        "copy_gigabytes_per_second": copy_bandwidth(max(moved // 2, 1)) / 1e9,
    }
