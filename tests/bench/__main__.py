"""How fast and how small: snn2chip beside the float networks its Programs come from, other libraries, and Lava.

One process tree; variants interleaved; medians with quartiles; ratios per sample to the fastest eager float form.
Absolute times belong to the machine they were taken on; only ratios of one run mean anything.

    make bench                                                  networks, memory, tracing
    make bench BENCH="--network vgg,resnet34 --steps 4 --quick"
    make bench BENCH=--docs                                     all of it, into docs/speed.md and its plots
"""

from __future__ import annotations

import argparse
import json
import sys
import time

from bench import docs, results, tables
from bench.machine import machine
from bench.networks import NETS

PARTS = ("networks", "memory", "tracing", "sweeps")
NAMES = ("digits", *NETS)


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, and write where asked to."""
    parser = argparse.ArgumentParser(
        prog="bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", metavar="NAMES", help=f"of {','.join(NAMES)}; all by default")
    parser.add_argument("--steps", metavar="T", help="values of T, of those the network has; all by default")
    parser.add_argument("--parts", help=f"of {','.join(PARTS)}; all but sweeps by default")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved runs of every variant")
    parser.add_argument("--quick", action="store_true", help="few samples, one T, nothing that takes minutes")
    parser.add_argument("--plots", action="store_true", help="the sweeps too")
    parser.add_argument("--docs", action="store_true", help="everything, written into docs/")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    chosen = _chosen(parser, options.network, NAMES)
    parts = set(_chosen(parser, options.parts, PARTS) if options.parts else PARTS[:3])
    parts |= set(PARTS) if options.docs else {"sweeps"} if options.plots else set()
    steps = None if options.steps is None else [int(t) for t in options.steps.split(",")]
    start = time.monotonic()

    def say(what: str) -> None:
        print(f"{time.monotonic() - start:5.0f} s  {what}", file=sys.stderr, flush=True)

    wanted = results.Options(chosen, steps, options.rounds, options.quick)
    report = results.everything(wanted, parts, machine(), say)
    if options.docs:
        docs.write(report)
    print(json.dumps(report, indent=1, ensure_ascii=False) if options.json else tables.text(report))
    say("done")
    return 0


def _chosen(parser: argparse.ArgumentParser, given: str | None, known: tuple[str, ...]) -> list[str]:
    names = list(known) if given is None else given.split(",")
    if unknown := [name for name in names if name not in known]:
        parser.error(f"there is no {unknown[0]}; choose from {', '.join(known)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
