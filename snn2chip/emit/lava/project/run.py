"""Run the network of this directory in Intel Lava. ``python run.py --help`` says how; README.md says more."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
QUANTITIES = ("u", "v", "spikes")


def main():
    """Read the data, run it, write what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--input", required=True, metavar="X.npy", help="data as in training: [N, T, ...] or, static, [N, ...]")
    add("--integers", action="store_true", help="the data is already the integers of the input format")
    add("--samples", type=int, metavar="N", help="run only the first N samples")
    add("--output", required=True, metavar="OUT.npz", help="receives outputs, outputs_int and the recordings")
    add("--record", default="", metavar="u,v,spikes", help="of every population, as NAME.u, NAME.v, NAME.spikes")
    arguments = parser.parse_args()
    record = tuple(filter(None, arguments.record.split(",")))
    if unknown := set(record) - set(QUANTITIES):
        parser.error(f"cannot record {', '.join(sorted(unknown))}; choose from {', '.join(QUANTITIES)}")
    try:
        x = np.load(arguments.input, allow_pickle=False)[: arguments.samples]
    except (OSError, ValueError) as error:
        sys.exit(f"cannot read {arguments.input}: {error}")

    # Imported late, so that --help and wrong arguments need no Lava.
    import host
    import network

    description, arrays = network.load(HERE)
    if arguments.integers:
        description["input"] |= {"scale": 1.0, "overflow": "error"}
    try:
        integers = host.integers(description, x)
    except ValueError as error:
        sys.exit(str(error))
    count = len(integers)
    if count == 0:
        sys.exit("there is no sample to run")
    steps = network.steps(description, count)
    populations, _ = network.build(description, arrays, host.streams(description, arrays, integers, steps))
    integrators = {name for name, entry in description["populations"].items() if entry["integrates_only"]}
    wanted = {name: set(record) - ({"spikes"} if name in integrators else set()) for name in populations}
    for name, quantity in host.needed(description):
        wanted[name].add(quantity)
    with tempfile.TemporaryDirectory() as folder:
        recorded = network.run(populations, wanted, steps, folder)
    recorded = {key: host.samples(description, key[0], rows, count) for key, rows in recorded.items()}
    outputs_int, outputs = host.read_out(description, arrays, integers, recorded)
    kept = {f"{name}.{quantity}": value for (name, quantity), value in recorded.items() if quantity in record}
    np.savez_compressed(arguments.output, outputs=outputs, outputs_int=outputs_int, **kept)
    sys.stdout.write(f"{count} samples, {steps} machine steps, wrote {arguments.output}\n")


if __name__ == "__main__":
    main()
