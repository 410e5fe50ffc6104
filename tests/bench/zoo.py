"""Every network of the zoo at full size: traced, compared with its own forward pass, folded; times and peak memory.

Tracing compares the spikes of every population with the model's on three batches and refuses if one differs; folding
compares them again. MACs and neurons are those of the traced graph, checked against torch's own count. Prints the table
of docs/zoo.md; a network that fails makes the command fail.

    make bench-zoo ZOO="[NAME ...] [--time-steps 2] [--size PIXELS]"
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
import warnings
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from snn2chip import trace
from snn2chip.energy import dense_operations
from snn2chip.ir.layers import BatchNorm
from snn2chip.passes import run_passes
from snn2chip.zoo import NETWORKS, network, reestimate_batchnorm
from torch_networks import lively

# The tracer tells the batch axis by two samples.
SAMPLES = 2


def measured(name: str, time_steps: int, size: int | None) -> dict[str, Any]:
    """One network, in this process."""
    torch.manual_seed(0)
    channels, *image = NETWORKS[name].shape
    shape = (channels, *([size] * 2 if size else image))
    net = lively(network(name, shape=shape, time_steps=time_steps))
    events = channels == 2
    x = (torch.rand(SAMPLES, time_steps, *shape) < 0.2).float() if events else torch.rand(SAMPLES, *shape)
    reestimate_batchnorm(net, [x])
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(x)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        start = time.perf_counter()
        graph = trace(net, x)
        traced = time.perf_counter()
    count = dense_operations(graph)
    expected = counter.get_total_flops() // (2 * SAMPLES * time_steps)
    assert count.macs == expected, f"{count.macs} MACs in the graph, {expected} in the model"
    ready = time.perf_counter()
    folded, _ = run_passes(graph, x, "prune,fold_batchnorm")
    done = time.perf_counter()
    assert not any(isinstance(node.layer, BatchNorm) for node in folded), "batch norm is left"
    return {
        "network": name,
        "input": "×".join(map(str, shape)),
        "populations": len(graph.neurons),
        "neurons": count.neurons,
        "macs": count.macs,
        "first": count.first_layer,
        "trace": traced - start,
        "fold": done - ready,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "warnings": [str(w.message) for w in caught],
    }


def in_a_process_of_its_own(name: str, options: list[str]) -> dict[str, Any] | str:
    """What was measured, or the last line of what went wrong: peak memory is that of a whole process."""
    command = [sys.executable, "-m", "bench.zoo", name, "--here", *options]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return lines[-1] if lines else f"ended by signal {-done.returncode}"
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="networks; all by default")
    parser.add_argument("--time-steps", type=int, default=2)
    parser.add_argument("--size", type=int, help="height and width of the input; the paper's by default")
    parser.add_argument("--here", action="store_true", help="one network in this process, as JSON")
    options = parser.parse_args()
    unknown = set(options.names) - set(NETWORKS)
    if unknown:
        parser.error(f"the zoo has no network {', '.join(unknown)}")
    if options.here:
        print(json.dumps(measured(options.names[0], options.time_steps, options.size)))
        return 0
    print("| network | input | populations | neurons | MACs per step | first layer | trace s | fold s | peak GiB |")
    print("|---|---|--:|--:|--:|--:|--:|--:|--:|", flush=True)
    given = ["--time-steps", str(options.time_steps), *(["--size", str(options.size)] if options.size else [])]
    failed = 0
    for name in options.names or NETWORKS:
        row = in_a_process_of_its_own(name, given)
        if isinstance(row, str):
            failed += 1
            print(f"| {name} | {row} |", flush=True)
            continue
        numbers = f"{row['populations']} | {row['neurons']:,} | {row['macs']:,} | {row['first']:,}"
        times = f"{row['trace']:.1f} | {row['fold']:.1f} | {row['peak']:.1f}"
        print(f"| {name} | {row['input']} | {numbers} | {times} |", flush=True)
        for message in row["warnings"]:
            print(f"  {name}: {message}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
