"""The source of a compiled population kernel, written from the traced integer step.

One kernel runs a population over all steps of a chunk: blocks of neurons small enough for the first-level cache, time
inside, states kept in the block, spikes counted as they are written. In 32 bits every operation is cast back, so that
the compiler uses lanes of that width; the cast changes nothing, because the kernel is only written where the ranges
prove that every value fits.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from snn2chip.simulate.fast.populations.symbolic import COMPARISONS, Expr, Ranges, Step

# Neurons per block: a few arrays of this many 32-bit integers stay in a first-level cache of 32 KiB.
BLOCK = 1024


class DoesNotFitError(Exception):
    """Some value of the step is not proved to fit the width asked for."""


@dataclass(frozen=True)
class Source:
    """Python source of a function ``kernel`` and what it must be called with.

    ``kernel(t0, T, n0, N, size, period, block, first, carried, a0, s0, …, out, fired, <live states>, <state
    histories>, <starts>, <params>, <gains>)`` for T steps from ``t0`` and N samples from ``n0``, of ``size`` neurons:
    ``first`` where these are the first steps, ``a<i>`` [T or 1, N·size] summed input of these, ``s<i>`` 0 where it has
    one row. Of all steps and samples: ``out`` [steps, samples·size], ``fired`` [steps, samples] incremented by the
    nonzero outputs, live states [samples·size] updated in place where they are ``carried`` to later steps, else scratch
    [block], histories [steps, samples·size] of every state where ``record``; starts of the live states, parameters and
    gains [period]: period is a multiple of their repetition in memory.
    """

    text: str
    bits: int
    live: tuple[str, ...]
    recorded: tuple[str, ...]
    params: tuple[int, ...]


@dataclass(frozen=True)
class WayIn:
    """What a kernel sums: for each tensor whether it is multiplied by a gain per neuron, and what it sends to itself.

    A ``recurrent`` kernel takes three arguments more, ``past`` [D, N·size], ``rows`` [K, size, size], ``delays`` [K],
    and wants all neurons of a sample in one block.
    """

    gained: tuple[bool, ...]
    recurrent: bool = False


def population_source(step: Step, ranges: Ranges | None, way_in: WayIn, record: bool, bits: int) -> Source:
    """The kernel of a population that sums its inputs.

    Args:
        step: its integer step.
        ranges: proved intervals of the step's nodes; None where nothing is proved (then 64 bits only).
        way_in: what is summed.
        record: whether the states of every step are stored.
        bits: 32 or 64; 64-bit arithmetic is numpy's, wrap-around included.

    Raises:
        DoesNotFitError: ``bits`` bits are not proved to suffice (without ranges, 64 are never refused).
    """
    if bits == 32 and ranges is None:
        raise DoesNotFitError("no register of the population is bounded")
    names = {f"{name}": f"x_{name}" for name in step.states}
    live = step.live
    recorded = tuple(step.states) if record else ()
    body = Body(step, ranges, bits, way_in)
    new = {name: body.value(step.states[name]) for name in dict.fromkeys((*live, *recorded))}
    out = body.value(step.out)
    used = body.params
    inputs, gains = range(len(way_in.gained)), [i for i, gain in enumerate(way_in.gained) if gain]
    args = [f"a{i}, s{i}" for i in inputs] + ["out, fired"] + [names[n] for n in live]
    tiles = [*(f"start_{n}" for n in live), *(f"p{i}" for i in used), *(f"g{i}" for i in gains)]
    args += [f"h_{n}" for n in recorded] + tiles + (["past", "rows", "delays"] if way_in.recurrent else [])
    lines = [
        "from numpy import empty, int32, int64",
        "",
        "",
        f"def kernel(t0, T, n0, N, size, period, block, first, carried, {', '.join(args)}):",
        "    in_period = (period + block - 1) // block",
        "    in_sample = (size + period - 1) // period * in_period",
        *([f"    r_ = empty(size, {body.cast})"] if way_in.recurrent else []),
        "    for b in range(N * in_sample):",
        "        of_sample = b % in_sample",
        "        off = (of_sample % in_period) * block",
        "        lo = of_sample // in_period * period + off",
        "        n = min(block, period - off, size - lo)",
        "        lo += b // in_sample * size",
        "        to = lo + n0 * size",
        *(f"        {tile}_ = {tile}[off : off + n]" for tile in tiles),
        "        at = to if carried else 0",
        *(f"        {names[name]}_ = {names[name]}[at : at + n]" for name in live),
        "        if first:",
        "            for i in range(n):",
        *(f"                {names[name]}_[i] = start_{name}_[i]" for name in live),
        *([] if live else ["                pass"]),
        "        for t in range(t0, t0 + T):",
        *(f"            a{i}_ = a{i}[(t - t0) * s{i}, lo : lo + n]" for i in inputs),
        "            out_ = out[t, to : to + n]",
        *(_events(body.cast) if way_in.recurrent else []),
        *(f"            h_{name}_ = h_{name}[t, to : to + n]" for name in recorded),
        "            count = int32(0)",
        "            for i in range(n):",
        *(f"                {entered(name)} = {names[name]}_[i]" for name in live),
        *(f"                {line}" for line in body.lines),
        *(f"                {names[name]}_[i] = {new[name]}" for name in live),
        *(f"                h_{name}_[i] = {new[name]}" for name in recorded),
        f"                out_[i] = {out}",
        f"                count = int32(count + (int32(1) if {out} != {body.zero} else int32(0)))",
        "            fired[t, n0 + b // in_sample] += count",
        "",
    ]
    return Source("\n".join(lines), bits, live, recorded, used)


def entered(name: str) -> str:
    """The kernel's name for an input or for a state as it was: states may be called like the kernel's own counters."""
    return f"{name}_in"


def _events(cast: str) -> list[str]:
    """``r_``: what the spikes of earlier steps bring."""
    return [
        "            r_[:] = 0",
        "            for k in range(len(delays)):",
        "                s = t - delays[k]",
        "                sent = out[s, to : to + n] if s >= 0 else past[len(past) + s, to : to + n]",
        "                for j in range(n):",
        f"                    value = {cast}(sent[j])",
        "                    if value != 0:",
        "                        row = rows[k, j]",
        "                        for i in range(n):",
        f"                            r_[i] = {cast}(r_[i] + {cast}(value * row[i]))",
    ]


class Body:
    """Straight-line code of the expressions asked for.

    Args:
        param: how a parameter is written, by its index.
    """

    def __init__(self, step: Step, ranges: Ranges | None, bits: int, way_in: WayIn, param: str = "p{}_[i]") -> None:
        self._ranges, self._bits, self.cast, self._param = ranges, bits, f"int{bits}", param
        self._names: dict[Expr, str] = {}
        self._params: set[int] = set()
        self.lines: list[str] = []
        terms = [
            f"{self.cast}({self.cast}(a{i}_[i]) * g{i}_[i])" if gain else f"{self.cast}(a{i}_[i])"
            for i, gain in enumerate(way_in.gained)
        ] + (["r_[i]"] if way_in.recurrent else [])
        total = functools.reduce(lambda sum_, term: f"{self.cast}({sum_} + {term})", terms)
        self.lines.append(f"{entered('a')} = {total}")
        self._check(step.trace.leaf("input", "a"))

    @property
    def zero(self) -> str:
        """In the width of the kernel."""
        return f"{self.cast}(0)"

    @property
    def params(self) -> tuple[int, ...]:
        return tuple(sorted(self._params))

    def value(self, e: Expr) -> str:
        """The name or literal holding ``e``; the lines that compute it are added."""
        e = self._decided(e)
        if e not in self._names:
            self._check(e)
            self._names[e] = self._leaf(e) or self._assigned(self._code(e))
        return self._names[e]

    def _leaf(self, e: Expr) -> str:
        if e.op == "const":
            return str(e.args[0]) if isinstance(e.args[0], bool) else f"{self.cast}({e.args[0]})"
        if e.op == "input":
            return entered(e.args[0])
        if e.op == "param":
            self._params.add(e.args[0])
            return self._assigned(self._param.format(e.args[0]))
        return ""

    def _assigned(self, code: str) -> str:
        name = f"t{len(self.lines)}"
        self.lines.append(f"{name} = {code}")
        return name

    def _decided(self, e: Expr) -> Expr:
        """The branch a choice always takes, where the ranges decide it (a register that never overflows)."""
        while e.op == "where" and self._ranges is not None:
            truth = self._ranges.decided(e.args[0])
            if truth is None:
                break
            e = e.args[1] if truth else e.args[2]
        return e

    def _code(self, e: Expr) -> str:
        if e.op in ("shr", "trunc"):
            return self._shifted(e)
        x = [self.value(a) for a in e.args]
        if e.op in COMPARISONS:
            return f"{x[0]} {COMPARISONS[e.op]} {x[1]}"
        if e.op == "and" and e.boolean:
            return f"{x[0]} and {x[1]}"
        return _TEMPLATES[e.op].format(*x, cast=self.cast)

    def _shifted(self, e: Expr) -> str:
        """``x >> bits``, rounded down or toward zero; a product that may be wider than its result is split.

        With x = s·k, s = h·2**b + l and 0 ≤ l < 2**b: floor(s·k / 2**b) = h·k + floor(l·k / 2**b), and rounding toward
        zero is rounding down after adding 2**b − 1 to a negative x. A factor k = 0 makes both parts 0 all the same.
        """
        x, shift = e.args[0], e.args[1].args[0]
        if x.op == "shl" and x.args[1].args[0] <= shift and self._fits(x, 64):
            # A decay by a power of two: shifted up, it may need more bits than before and after. Where that leaves
            # 64 bits, numpy loses the upper ones.
            x, shift = x.args[0], shift - x.args[1].args[0]
            if shift == 0:
                return self.value(x)
        toward_zero = e.op == "trunc"
        if self._bits == 32 and x.op == "mul" and not self._fits(x, 32):
            s, k = x.args
            if not self._split_fits(s, k, shift):
                raise DoesNotFitError("a product is wider than 32 bits")
            mask = f"int32({(1 << shift) - 1})"
            b, s_, k_ = f"int32({shift})", self.value(s), self.value(k)
            low = f"int32(int32({s_} & {mask}) * {k_})"
            if toward_zero:
                low = f"int32({low} + int32(int32({s_} >> int32(31)) & {mask}))"
            return f"int32(int32(int32({s_} >> {b}) * {k_}) + int32({low} >> {b}))"
        x_, b, cast = self.value(x), f"{self.cast}({shift})", self.cast
        if not toward_zero:
            return f"{cast}({x_} >> {b})"
        return f"{cast}(-{cast}({cast}(-{x_}) >> {b})) if {x_} < {cast}(0) else {cast}({x_} >> {b})"

    def _split_fits(self, s: Expr, k: Expr, shift: int) -> bool:
        assert self._ranges is not None
        of_s, of_k = self._ranges.of(s), self._ranges.of(k)
        low_part = ((1 << shift) - 1) * of_k.high + (1 << shift)
        high_part = ((of_s.magnitude >> shift) + 1) * of_k.high
        return of_k.low >= 0 and max(low_part, high_part, of_s.magnitude) < 2**31

    def _fits(self, e: Expr, bits: int) -> bool:
        """Whether every value of ``e`` is proved to fit."""
        return self._ranges is not None and self._ranges.of(e).magnitude < 1 << (bits - 1)

    def _check(self, e: Expr) -> None:
        if self._ranges is not None and not e.boolean and not self._fits(e, self._bits):
            raise DoesNotFitError(f"{e.op} can reach {self._ranges.of(e)}")


_TEMPLATES = {
    "add": "{cast}({0} + {1})",
    "sub": "{cast}({0} - {1})",
    "mul": "{cast}({0} * {1})",
    "shl": "{cast}({0} << {1})",
    "neg": "{cast}(-{0})",
    "and": "{cast}({0} & {1})",
    "min": "{0} if {0} < {1} else {1}",
    "max": "{0} if {0} > {1} else {1}",
    "where": "{1} if {0} else {2}",
}
