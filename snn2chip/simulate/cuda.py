"""The reference engine's loop on a GPU: the same integers, large batches at once.

Values are 64-bit integers on the device. Synapses run as float32 or float64 products wherever the operands prove that
no partial sum, in whatever order, leaves the mantissa; as numpy on the host where neither suffices. TF32 and cuDNN,
whose Winograd and Fourier convolutions do not add integers, are off meanwhile. Neurons are the traced integer step in
torch's integer operations. The first sample of every run is computed by numpy too and compared.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from snn2chip.errors import S2CError, first_line
from snn2chip.ir import layers as L
from snn2chip.ir.arithmetic import Arithmetic
from snn2chip.ir.graph import Network, Node
from snn2chip.ir.layers import Array
from snn2chip.ir.program import Program
from snn2chip.neurons.base import IntegerNeuron
from snn2chip.simulate import reference
from snn2chip.simulate.backends import Kernels
from snn2chip.simulate.data import to_integers
from snn2chip.simulate.fast.populations.symbolic import NotSymbolicError, Step, reachable, start_of, trace_step
from snn2chip.simulate.ops import NumpyOps, apply
from snn2chip.simulate.ranges import magnitude
from snn2chip.simulate.reference import MachineClock
from snn2chip.simulate.result import Result
from snn2chip.simulate.torch_ops import TorchOps

State = dict[str, torch.Tensor]


def run(
    program: Program,
    samples: Array,
    steps: int,
    wanted: frozenset[str],
    *,
    machine: MachineClock | None,
    batch_size: int,
    first: int = 0,
    progress: Callable[[int], None] | None,
    device: str = "cuda",
) -> Result:
    """Run checked samples on ``device``; see :func:`snn2chip.simulate.reference.run`.

    Raises:
        S2CError: torch finds no GPU, a batch does not fit its memory, or it computes other integers than numpy.
    """
    if device == "cuda":
        require_gpu()
    options: dict[str, Any] = {"machine": machine, "backend": "auto", "first": first}
    on_device = _Device(program, torch.device(device))
    with _exact():
        try:
            found = reference.run(
                program, samples, steps, wanted, batch_size=batch_size, progress=progress, kernels=on_device, **options
            )
        except torch.OutOfMemoryError as error:
            raise S2CError(
                f"a batch of {batch_size} samples does not fit the GPU's memory",
                why=first_line(error),
                fix="give a smaller batch_size (--batch-size)",
            ) from None
    expected = reference.run(program, samples[:1], steps, frozenset(), batch_size=1, progress=None, **options)
    _compare(found, expected)
    return found


def require_gpu() -> None:
    """Raise unless torch finds a GPU."""
    if not torch.cuda.is_available():
        raise S2CError(
            "there is no GPU to simulate on",
            why="torch.cuda.is_available() is False"
            + ("" if torch.version.cuda else ": this torch is built without CUDA"),
            fix='leave out engine="cuda" (--engine cuda): the fast engine gives the same integers',
        )


def on_host(program: Program) -> dict[str, str]:
    """The populations whose step has operations only numpy does, and why."""
    found = {}
    for node in program.neurons:
        try:
            trace_step(node.layer.model, program.target.arithmetic)  # type: ignore[attr-defined]
        except NotSymbolicError as error:
            found[node.name] = str(error)
    return found


def _compare(found: Result, expected: Result) -> None:
    same = np.array_equal(found.outputs_int[:1], expected.outputs_int)  # type: ignore[index,arg-type]
    for name, counts in expected.counts.items():
        same = same and all(np.array_equal(getattr(found.counts[name], k)[:1], v) for k, v in vars(counts).items())
    if not same:
        raise S2CError(
            "the GPU computes other integers than the processor",
            where="the first sample",
            why="a library under torch does not add integers exactly there",
            fix='leave out engine="cuda" (--engine cuda), and report this with the versions of torch and the driver',
        )


@contextlib.contextmanager
def _exact() -> Iterator[None]:
    """No reduced precision and no convolution by transform, while float kernels carry integers."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        stack.enter_context(torch.autocast("cuda", enabled=False))
        stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = False
        stack.callback(setattr, torch.backends.cuda.matmul, "allow_tf32", before)
        yield


class _Device:
    """Makes the kernels of every batch of one run; parameters and neurons are put on the device once."""

    def __init__(self, program: Program, device: torch.device) -> None:
        self._ops, self._device, self._arithmetic = IntegerTensorOps(), device, program.target.arithmetic
        self._populations: dict[str, _Population] = {}

    def __call__(self, network: Network, samples: Array, first: int) -> Kernels:
        assert isinstance(network, Program)
        integers, clipped = to_integers(network, samples, first)
        return Kernels(
            ops=self._ops,
            start=lambda node, a: self._population(node, a).start(len(a)),
            step=lambda node, state, a: self._population(node, a).step(state, a),
            to_numpy=lambda a: a.cpu().numpy(),
            zeros=lambda shape: torch.zeros(shape, dtype=torch.int64, device=self._device),
            events=self._ops.events,
            samples=torch.from_numpy(integers).to(self._device),
            clipped=clipped,
        )

    def _population(self, node: Node, a: torch.Tensor) -> _Population:
        if node.name not in self._populations:
            model = node.layer.model  # type: ignore[attr-defined]
            self._populations[node.name] = _Population(model, self._arithmetic, tuple(a.shape[1:]), self._device)
        return self._populations[node.name]


class IntegerTensorOps(TorchOps):
    """The integer operations of ``ops.NumpyOps`` on int64 tensors [N, ...] of any device."""

    def linear(self, x: torch.Tensor, weight: Array, bias: Array | None) -> torch.Tensor:
        """X [N, ..., in], weight (out, in)."""
        dtype = _holding(_reach(x, weight, bias))
        if dtype is None:
            return _on_host(L.Linear(weight, bias), [x])
        return super().linear(x.to(dtype), weight, bias).to(torch.int64)

    def conv(self, x: torch.Tensor, layer: L.Conv) -> torch.Tensor:
        """X [N, C, *space]."""
        dtype = _holding(_reach(x, layer.weight, layer.bias))
        return _on_host(layer, [x]) if dtype is None else super().conv(x.to(dtype), layer).to(torch.int64)

    def pool(self, x: torch.Tensor, layer: L.Pool, how: str) -> torch.Tensor:
        """Windows of x [N, C, *space] reduced by "sum" or "max"."""
        dtype = _holding(_magnitude(x) * (1 if how == "max" else math.prod(layer.kernel)))
        # torch pools with a padding of half a kernel at most; over three axes not in every way.
        other = len(layer.kernel) > 2 or any(2 * p > k for p, k in zip(layer.padding, layer.kernel, strict=True))
        return _on_host(layer, [x]) if dtype is None or other else super().pool(x.to(dtype), layer, how).to(torch.int64)

    def matmul(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Product over the last two axes."""
        dtype = _holding(max(_magnitude(a), 1) * max(_magnitude(b), 1) * a.shape[-1])
        return _on_host(L.MatMul(), [a, b]) if dtype is None else (a.to(dtype) @ b.to(dtype)).to(torch.int64)

    def events(self, x: torch.Tensor, fan: Array | None) -> Array:
        """Nonzero values of every sample [N], each counted as often as ``fan``, of a sample's shape, says."""
        nonzero = (x != 0).flatten(1)
        # The synapses of one sample stay far below a float64's 2**53.
        found = nonzero.sum(1) if fan is None else nonzero.double() @ self.const(fan, x).double().flatten()
        return np.asarray(found.long().cpu())


def _on_host(layer: L.Layer, xs: list[torch.Tensor]) -> torch.Tensor:
    y = apply(layer, [x.cpu().numpy() for x in xs], NumpyOps())
    return torch.from_numpy(np.ascontiguousarray(y)).to(xs[0].device)


def _reach(x: torch.Tensor, weight: Array, bias: Array | None) -> int:
    """The largest sum in any order: every input at its largest, every weight counted."""
    most: int = magnitude(weight) * math.prod(weight.shape[1:])
    if most < 2**63:  # else the sum of weights may itself leave 64 bits
        most = int(np.abs(weight.reshape(len(weight), -1)).sum(axis=1).max(initial=0))
    return max(_magnitude(x), 1) * max(most, 1) + (0 if bias is None else magnitude(bias))


def _magnitude(x: torch.Tensor) -> int:
    return max(abs(int(x.max())), abs(int(x.min()))) if x.numel() else 0


def _holding(reach: int) -> torch.dtype | None:
    """The float whose mantissa holds every integer up to ``reach``."""
    return torch.float32 if reach < 2**24 else torch.float64 if reach < 2**53 else None


def _toward_zero(x: torch.Tensor, bits: torch.Tensor) -> torch.Tensor:
    return torch.where(x < 0, -(-x >> bits), x >> bits)


_OPERATIONS: dict[str, Callable[..., torch.Tensor]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "shl": torch.bitwise_left_shift,
    "shr": torch.bitwise_right_shift,
    "trunc": _toward_zero,
    "neg": torch.neg,
    "and": torch.bitwise_and,
    "min": torch.minimum,
    "max": torch.maximum,
    "where": torch.where,
    "lt": torch.lt,
    "le": torch.le,
    "gt": torch.gt,
    "ge": torch.ge,
    "eq": torch.eq,
    "ne": torch.ne,
}


class _Population:
    """The integer step of a population in torch's integer operations, or in numpy where it does more than those."""

    def __init__(
        self, model: IntegerNeuron, arithmetic: Arithmetic, shape: tuple[int, ...], device: torch.device
    ) -> None:
        self._model, self._arithmetic, self._shape, self._device = model, arithmetic, shape, device
        self._rest = {name: self._tensor(value) for name, value in start_of(model, shape).items()}
        try:
            self.step = self._on_tensors(trace_step(model, arithmetic))
        except NotSymbolicError:
            self.step = self._in_numpy

    def start(self, n: int) -> State:
        """The states [n, *shape] before the first step."""
        return {name: value.expand(n, *self._shape) for name, value in self._rest.items()}

    def _on_tensors(self, step: Step) -> Callable[[State, torch.Tensor], tuple[State, torch.Tensor]]:
        """The expressions of the step in order, each computed once."""
        order = list(reachable([*step.states.values(), step.out]))
        fixed = {id(e): torch.tensor(e.args[0], device=self._device) for e in order if e.op == "const"}
        fixed |= {id(e): self._tensor(step.trace.params[e.args[0]]) for e in order if e.op == "param"}
        computed = [e for e in order if e.op in _OPERATIONS]
        inputs = [e for e in order if e.op == "input"]

        def run(state: State, a: torch.Tensor) -> tuple[State, torch.Tensor]:
            values: dict[int, Any] = dict(fixed)
            values |= {id(e): a if e.args[0] == "a" else state[e.args[0]] for e in inputs}
            for e in computed:
                values[id(e)] = _OPERATIONS[e.op](*(values[id(x)] for x in e.args))
            new = {name: values[id(e)].expand(a.shape) for name, e in step.states.items()}
            return new, values[id(step.out)].expand(a.shape)

        return run

    def _in_numpy(self, state: State, a: torch.Tensor) -> tuple[State, torch.Tensor]:
        held = {name: value.cpu().numpy() for name, value in state.items()}
        new, out = self._model.step(held, a.cpu().numpy(), self._arithmetic)
        return {name: self._tensor(value) for name, value in new.items()}, self._tensor(out)

    def _tensor(self, array: Any) -> torch.Tensor:
        return torch.from_numpy(np.array(array, dtype=np.int64)).to(self._device)
