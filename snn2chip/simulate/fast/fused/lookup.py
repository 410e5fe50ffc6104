"""Sums of spikes that are looked up, not multiplied: machine code for processors with 512-bit registers.

The spikes of five channels are a number of five bits. What they add to one output is one of 32 sums, and 32 sums of 16
bits fill a register; one instruction (``vpermw``) looks up 32 such numbers at once. So 160 products are one look-up and
one addition, where 8-bit dot products take two and a half instructions, at the same rate. Tables of partial sums in
place of products: Arlazarov et al. 1970 ("the four Russians"); for networks, Wei et al. 2024 (T-MAC).

Addresses and distances are in bytes. Sums wrap around in 16 bits, so they are exact where the whole sum fits, in
whatever order it comes about.

This module needs numba; :func:`missing` of ``compiled.py`` says whether it is there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from llvmlite import ir
from numba import njit, types
from numba.core.registry import cpu_target
from numba.extending import intrinsic
from numpy import int32

from snn2chip.simulate.fast.fused.lanes import BITS, GAP, OUTPUTS, REGISTER

# Registers of numbers that are summed side by side: with four outputs 16 sums, 4 tables, 4 numbers, of 32 registers.
_REGISTERS = 4
_BYTES = 2 * REGISTER
# Steps of a register, where it holds more than one.
_PIECES = (1, 2, 4, 8, 16, 32)
_F = TypeVar("_F", bound=Callable[..., None])

_I16, _I64 = ir.IntType(16), ir.IntType(64)
_WORDS = ir.VectorType(_I16, REGISTER)


@functools.cache
def missing() -> str:
    """Why the processor cannot look up; empty where it can. A processor set in numba's environment counts."""
    try:
        _, _, features = cpu_target.target_context.codegen().magic_tuple()
    except (AttributeError, TypeError, ValueError):
        return "this numba does not say what the processor can do"
    return "" if "+avx512bw" in features.split(",") else "the processor has no 512-bit look-ups (AVX-512 BW)"


class _Code:
    """The instructions of one intrinsic."""

    def __init__(self, builder: ir.IRBuilder) -> None:
        self.b = builder

    def at(self, address: Any, distance: Any) -> Any:
        """An address further on."""
        return self.b.add(address, distance if isinstance(distance, ir.Value) else _I64(distance))

    def load(self, address: Any, kind: ir.Type = _WORDS, align: int = _BYTES) -> Any:
        return self.b.load(self.b.inttoptr(address, kind.as_pointer()), align=align)

    def store(self, value: Any, address: Any, align: int = _BYTES) -> None:
        self.b.store(value, self.b.inttoptr(address, value.type.as_pointer()), align=align)

    def splat(self, value: Any) -> Any:
        """One 16-bit number in all lanes."""
        first = self.b.insert_element(ir.Constant(_WORDS, ir.Undefined), value, ir.IntType(32)(0))
        return self.b.shuffle_vector(first, first, ir.Constant(ir.VectorType(ir.IntType(32), REGISTER), [0] * REGISTER))

    def lanes(self, value: Any, first: int, count: int) -> Any:
        """Some lanes of a register."""
        mask = ir.Constant(ir.VectorType(ir.IntType(32), count), list(range(first, first + count)))
        return self.b.shuffle_vector(value, value, mask)

    def join(self, parts: list[Any]) -> Any:
        """Registers of fewer lanes, side by side."""
        while len(parts) > 1:
            count = 2 * parts[0].type.count
            mask = ir.Constant(ir.VectorType(ir.IntType(32), count), list(range(count)))
            parts = [self.b.shuffle_vector(*pair, mask) for pair in zip(parts[::2], parts[1::2], strict=True)]
        return parts[0]

    def function(self, name: str, takes: list[ir.Type]) -> Any:
        """An instruction of LLVM that gives a register."""
        return self.b.module.globals.get(name) or ir.Function(self.b.module, ir.FunctionType(_WORDS, takes), name)

    def look_up(self, table: Any, numbers: Any) -> Any:
        return self.b.call(self.function("llvm.x86.avx512.permvar.hi.512", [_WORDS, _WORDS]), [table, numbers])

    def cases(self, value: Any, known: tuple[int, ...], write: Callable[[int], None]) -> None:
        """What ``write`` writes for the one of the known numbers that a value is."""
        end = self.b.append_basic_block("end")
        switch = self.b.switch(value, end)
        for number in known:
            case = self.b.append_basic_block("case")
            switch.add_case(_I64(number), case)
            self.b.position_at_end(case)
            write(number)
            self.b.branch(end)
        self.b.position_at_end(end)

    def loop(self, count: Any, starts: list[Any], body: Callable[[list[Any]], list[Any]]) -> list[Any]:
        """``count`` (at least 1) times ``body`` on values carried from one time to the next."""
        before = self.b.block
        head, end = self.b.append_basic_block("loop"), self.b.append_basic_block("done")
        self.b.branch(head)
        self.b.position_at_end(head)
        counter = self.b.phi(_I64)
        carried = [self.b.phi(value.type) for value in starts]
        after = body(list(carried))
        counted = self.b.add(counter, _I64(1))
        self.b.cbranch(self.b.icmp_signed("<", counted, count), head, end)
        counter.add_incoming(_I64(0), before)
        counter.add_incoming(counted, head)
        for phi, start, value in zip(carried, starts, after, strict=True):
            phi.add_incoming(start, before)
            phi.add_incoming(value, head)
        self.b.position_at_end(end)
        return after


def _intrinsic(arguments: int, write: Callable[[_Code, list[Any]], Any], returns: Any = types.void) -> Any:
    """A function of 64-bit integers for compiled code."""

    def typed(context: Any, *given: Any) -> Any:
        def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            found = write(_Code(builder), list(args))
            return context.get_dummy_value() if found is None else found

        return returns(*[types.int64] * arguments), generate

    names = ", ".join(f"x{i}" for i in range(arguments))
    space: dict[str, Any] = {"typed": typed}
    exec(f"def function(context, {names}):\n    return typed(context, {names})", space)
    return intrinsic(space["function"])


def _write_tables(code: _Code, args: list[Any]) -> None:
    """``tables(weights, count, out)``: of ``count`` times five weights, their sums over every set of the five."""
    weights, count, out = args
    sets = [ir.Constant(_WORDS, [-(n >> k & 1) for n in range(REGISTER)]) for k in range(BITS)]

    def one(carried: list[Any]) -> list[Any]:
        source, to = carried
        total = ir.Constant(_WORDS, None)
        for k, members in enumerate(sets):
            weight = code.splat(code.load(code.at(source, 2 * k), _I16, 2))
            total = code.b.add(total, code.b.and_(weight, members))
        code.store(total, to)
        return [code.at(source, 2 * BITS), code.at(to, _BYTES)]

    code.loop(count, [weights, out], one)


def _write_sums(code: _Code, args: list[Any]) -> None:
    """``sums(n0…n3, o0…o3, distances, tables, count, plane, pieces, piece)`` of four registers for four outputs.

    ``n`` is where the numbers of a register lie, and ``distances`` [count] how far from there the numbers are that each
    set of tables is for. Output c of register j goes to ``o_j + c·plane``, in ``pieces`` that lie ``piece`` apart.
    """
    numbers, outs = args[:_REGISTERS], args[_REGISTERS : 2 * _REGISTERS]
    distances, tables, count, plane, pieces, piece = args[2 * _REGISTERS :]

    def one(carried: list[Any]) -> list[Any]:
        distance_at, table_at, *sums = carried
        distance = code.load(distance_at, _I64, 8)
        table = [code.load(code.at(table_at, _BYTES * c)) for c in range(OUTPUTS)]
        for j in range(_REGISTERS):
            number = code.load(code.at(numbers[j], distance))
            for c in range(OUTPUTS):
                i = OUTPUTS * j + c
                sums[i] = code.b.add(sums[i], code.look_up(table[c], number))
        return [code.at(distance_at, 8), code.at(table_at, OUTPUTS * _BYTES), *sums]

    zero = ir.Constant(_WORDS, None)
    _, _, *sums = code.loop(count, [distances, tables, *[zero] * (_REGISTERS * OUTPUTS)], one)

    def store(parts: int) -> None:
        width = REGISTER // parts
        for j in range(_REGISTERS):
            to = outs[j]
            for c in range(OUTPUTS):
                part_at = to
                for k in range(parts):
                    code.store(code.lanes(sums[OUTPUTS * j + c], k * width, width), part_at, 2 * width)
                    part_at = code.at(part_at, piece)
                to = code.at(to, plane)

    code.cases(pieces, _PIECES, store)


def _write_merge(code: _Code, args: list[Any]) -> None:
    """``merge(spikes, pieces, piece, words, bit)``: 32 spikes, in ``pieces`` that lie ``piece`` apart, become a bit of
    32 words. Bit 0 empties the words first.
    """
    spikes, pieces, piece, words, bit = args

    def write(parts: int) -> None:
        width, at, found = REGISTER // parts, spikes, []
        for _ in range(parts):
            found.append(code.load(at, ir.VectorType(_I16, width), 2 * width))
            at = code.at(at, piece)
        shifted = code.b.shl(code.join(found), code.splat(code.b.trunc(bit, _I16)))
        emptied = code.b.icmp_signed("==", bit, _I64(0))
        before = code.b.select(emptied, ir.Constant(_WORDS, None), code.load(words))
        code.store(code.b.or_(before, shifted), words)

    code.cases(pieces, _PIECES, write)


def _write_bits(code: _Code, args: list[Any]) -> Any:
    """``bits(bytes)``: of 64 bytes, one bit each that says whether it is not zero."""
    kind = ir.VectorType(ir.IntType(8), 64)
    return code.b.bitcast(code.b.icmp_unsigned("!=", code.load(args[0], kind, 1), ir.Constant(kind, None)), _I64)


def _write_spread(code: _Code, args: list[Any]) -> None:
    """``spread(bits, bytes)``: 64 bits as 64 bytes."""
    number, to = args
    bytes_ = code.b.zext(code.b.bitcast(number, ir.VectorType(ir.IntType(1), 64)), ir.VectorType(ir.IntType(8), 64))
    code.store(bytes_, to, 1)


def _write_ones(code: _Code, args: list[Any]) -> None:
    """``ones(words, count, distance, out)``: the bits of ``count`` words, lane by lane."""
    words, count, distance, out = args
    bits = code.function("llvm.ctpop.v32i16", [_WORDS])

    def one(carried: list[Any]) -> list[Any]:
        at, total = carried
        return [code.at(at, distance), code.b.add(total, code.b.call(bits, [code.load(at)]))]

    code.store(code.loop(count, [words, ir.Constant(_WORDS, None)], one)[1], out)


bits = _intrinsic(1, _write_bits, types.uint64)
spread = _intrinsic(2, _write_spread)
ones = _intrinsic(4, _write_ones)
_tables = _intrinsic(3, _write_tables)
_sums = _intrinsic(14, _write_sums)
_merge = _intrinsic(5, _write_merge)


# --- what generated kernels call; see ``population.py`` for what the arrays hold ---


def _machine_code(function: _F) -> _F:
    compiled: Any = njit(nogil=True, boundscheck=False, error_model="numpy")(function)
    return compiled  # type: ignore[no-any-return]


@_machine_code
def look_up(
    source: int,
    row: int,
    places: Any,
    weights: int,
    distances: Any,
    factor: int,
    first: bool,
    lanes: int,
    batch: int,
    tables: Any,
    offsets: Any,
    sums: Any,
    total: Any,
) -> None:
    """Add what one source sends to four outputs at some places: ``total`` [4, T, places, batch] of int32, or fill it.

    Args:
        source: where its words lie, [places of the source, words, lanes] of 16 bits. row: words of a place.
        places: of the source, for each place of the output.
        weights: where they lie, [distances, 4, 5] of 16 bits. distances: to words, counted in words.
        factor: what the sums are multiplied by. first: whether ``total`` is filled.
        lanes, batch: of a word and of its steps.
        tables, offsets, sums: room for the tables and offsets of all distances, and for the 16-bit sums.
    """
    count, n = len(distances), len(places)
    _tables(weights, OUTPUTS * count, tables.ctypes.data)
    for k in range(count):
        offsets[k] = distances[k] * 2 * lanes
    registers = lanes // REGISTER
    pieces, blocks = max(1, REGISTER // batch), max(1, batch // REGISTER)
    stride = (n * batch + GAP) * 2
    plane = lanes // batch * stride
    numbers, outs = (0, 0, 0, 0), (0, 0, 0, 0)
    last = n * registers - 1
    base, at, table = sums.ctypes.data, offsets.ctypes.data, tables.ctypes.data
    for q in range(0, n * registers, 4):
        for j in range(4):
            place, register = divmod(min(q + j, last), registers)
            number = source + (places[place] * row * lanes + register * REGISTER) * 2
            step, block = divmod(register, blocks)
            out = base + step * pieces * stride + (place * batch + block * REGISTER) * 2
            numbers = (numbers[1], numbers[2], numbers[3], number)
            outs = (outs[1], outs[2], outs[3], out)
        n0, n1, n2, n3 = numbers
        o0, o1, o2, o3 = outs
        _sums(n0, n1, n2, n3, o0, o1, o2, o3, at, table, count, plane, pieces, stride)
    size, times = OUTPUTS * (plane // 2), int32(factor)
    if first:
        for i in range(size):
            total[i] = int32(times * int32(sums[i]))
    else:
        for i in range(size):
            total[i] = int32(total[i] + int32(times * int32(sums[i])))


@_machine_code
def merge(spikes: Any, words: int, row: int, places: Any, channel: int, lanes: int, batch: int) -> None:
    """Write the spikes of a channel, [T, places, batch] of 16 bits, into the words of a population."""
    n, registers = len(places), lanes // REGISTER
    pieces, blocks = max(1, REGISTER // batch), max(1, batch // REGISTER)
    stride = (n * batch + GAP) * 2
    base, bit = spikes.ctypes.data, channel % BITS
    for place in range(n):
        for register in range(registers):
            step, block = divmod(register, blocks)
            source = base + step * pieces * stride + (place * batch + block * REGISTER) * 2
            to = words + ((places[place] * row + channel // BITS) * lanes + register * REGISTER) * 2
            _merge(source, pieces, stride, to, bit)
