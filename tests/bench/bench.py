"""How long simulating takes: the engines of snn2chip beside the float network they came from, and Lava's runtime.

One process, variants interleaved, medians with quartiles, printed as ratios to the fastest plain float form. Absolute
times belong to the machine they were taken on; only ratios of one run mean anything.

    python tests/bench/bench.py [--json] [--repeats 7] [--network digits|vgg] [--without-lava]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

import snn2chip as s2c
from examples import digits
from snn2chip.ir.graph import Edge, Node, in_order
from snn2chip.ir.layers import Conv2d, Flatten, Input, Layer, Linear, MaxPool, Neuron, Output, Readout, Rescale
from snn2chip.ir.program import Format, Program
from snn2chip.ir.target import load_target
from snn2chip.neurons.lif import IntegerLIF
from snn2chip.simulate.fast.explain import explain_engine

BASELINE = "float, T folded, channels last"
# Lava's runtime is timed twice: starting its processes takes longer than a few samples.
LAVA_SAMPLES = (1, 65)
Variant = Callable[[], Any]


@dataclass
class Benchmark:
    """Variants of one network on the same samples; ``slow`` ones run once per five of the others."""

    title: str
    samples: int
    variants: dict[str, Variant]
    slow: dict[str, Variant] = field(default_factory=dict)
    notes: dict[str, float] = field(default_factory=dict)


# --- the VGG-like network: c64-c64-P-c128-c128-P-c256-c256-P-fc10 on 3×32×32, T = 4 ---

WIDTHS = (64, 64, 0, 128, 128, 0, 256, 256, 0)
STEPS = 4
SAMPLES = 32
RATE = 0.17
DECAY_V = 1024


class Vgg(nn.Module):
    """Conv–BN–LIF with a Python loop over time, as research code is written; batch norms are identities."""

    def __init__(self, program: Program) -> None:
        super().__init__()
        convs = [n.layer for n in program if isinstance(n.layer, Conv2d)]
        self.convs, self.norms = nn.ModuleList(), nn.ModuleList()
        for layer in convs:
            conv = nn.Conv2d(layer.weight.shape[1], layer.weight.shape[0], 3, padding=1, bias=False)
            scale = 254.0 * (16 if not len(self.convs) else 1)
            conv.weight.data = torch.from_numpy(layer.weight / scale).float()
            self.convs.append(conv)
            self.norms.append(nn.BatchNorm2d(len(layer.weight)))
        self.theta = [float(n.layer.model.v_threshold) / 254.0 for n in program.neurons]
        self.keep = 1 - DECAY_V / 4096
        head = program["fc"].layer.weight
        self.fc = nn.Linear(head.shape[1], len(head), bias=False)
        self.fc.weight.data = torch.from_numpy(head / 254.0).float()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        v: list[Any] = [0.0] * len(self.convs)
        total: Any = 0
        for _ in range(STEPS):
            h, i = x, 0
            for width in WIDTHS:
                if not width:
                    h = F.max_pool2d(h, 2)
                    continue
                v[i] = v[i] * self.keep + self.norms[i](self.convs[i](h))
                h = (v[i] > self.theta[i]).float()
                v[i] = v[i] * (1 - h)
                i += 1
            total = total + self.fc(h.flatten(1))
        return total

    def folded(self, x: torch.Tensor) -> torch.Tensor:
        """Time in the batch, the first convolution once, batch norm folded away."""
        h, i, n = x, 0, len(x)
        for width in WIDTHS:
            if not width:
                h = F.max_pool2d(h, 2)
                continue
            current = self.convs[i](h)
            at = [current] * STEPS if i == 0 else list(current.view(STEPS, n, *current.shape[1:]))
            v: Any = 0.0
            spikes = []
            for t in range(STEPS):
                v = v * self.keep + at[t]
                s = (v > self.theta[i]).float()
                v = v * (1 - s)
                spikes.append(s)
            h = torch.cat(spikes)
            i += 1
        return self.fc(h.flatten(1)).view(STEPS, n, -1).sum(0)


def vgg_program(x: np.ndarray) -> Program:
    """Random weights; thresholds at which every layer fires at ``RATE``, found layer by layer."""
    rng = np.random.default_rng(0)
    nodes: list[Node] = []
    source, channels, size = "x", 3, 32

    def add(name: str, layer: Layer, **options: Any) -> str:
        nodes.append(Node(name, layer, (Edge(source),), **options))
        return name

    def assembled(end: str) -> Program:
        ends = [Node("readout", Readout("sum"), (Edge(end),)), Node("output", Output(), (Edge("readout"),))]
        everything = in_order([Node("x", Input((3, 32, 32))), *nodes, *ends])
        form = Format(8, False, 1.0, overflow="error")
        return Program(everything, STEPS, "direct", load_target("loihi2"), {"x": form}, np.asarray(1.0)).verify()

    def weights(*shape: int) -> np.ndarray:
        return 2 * np.clip(np.rint(rng.normal(0, 35, shape)), -127, 127).astype(np.int64)

    for i, width in enumerate(WIDTHS):
        if not width:
            source, size = add(f"pool{i}", MaxPool((2, 2), (2, 2), (0, 0))), size // 2
            continue
        placement = "host" if source == "x" else "chip"
        source = add(f"conv{i}", Conv2d(weights(width, channels, 3, 3), padding=(1, 1)), placement=placement)
        if placement == "host":
            source = add("rescale", Rescale(4), placement="host")
        unset = assembled(add(f"lif{i}", Neuron(IntegerLIF(1 << 15, DECAY_V, 4096, 0))))
        summed = s2c.simulate(unset, x[:2], record="a", engine="fast")[f"lif{i}"].a
        nodes[-1] = Node(f"lif{i}", Neuron(IntegerLIF(_threshold(summed), DECAY_V, 4096, 0)), (Edge(source),))
        source, channels = f"lif{i}", width
    source = add("flat", Flatten())
    return assembled(add("fc", Linear(weights(10, channels * size * size)), placement="host"))


def _threshold(summed: np.ndarray) -> int:
    some = summed.reshape(len(summed), STEPS, -1)[:, :, ::7]
    low, high = 1, 1 << 16
    while low + 1 < high:
        middle = (low + high) // 2
        model = IntegerLIF(middle, DECAY_V, 4096, 0)
        state, fired = model.start(some[:, 0].shape), 0.0
        for t in range(STEPS):
            state, out = model.step(state, some[:, t], load_target("loihi2").arithmetic)
            fired += out.mean() / STEPS
        low, high = (middle, high) if fired > RATE else (low, middle)
    return high


def vgg() -> Benchmark:
    """The engines against the float network; 32 samples."""
    x = np.random.default_rng(1).integers(0, 256, (SAMPLES, 3, 32, 32))
    program = vgg_program(x)
    model = Vgg(program).eval()
    images = torch.from_numpy(x).float()
    best = Vgg(program).eval().to(memory_format=torch.channels_last)
    in_order_of_channels = images.contiguous(memory_format=torch.channels_last)
    expected = s2c.simulate(program, x[:2], engine="reference").outputs_int
    np.testing.assert_array_equal(expected, s2c.simulate(program, x, engine="fast").outputs_int[:2])
    rates = s2c.simulate(program, x[:4]).counts
    fired = [rates[n.name].spikes.sum() / rates[n.name].neuron_updates.sum() for n in program.neurons]
    return Benchmark(
        "VGG-like network, 3×32×32, T = 4, random weights",
        SAMPLES,
        {
            "float, as written": _torch(model, images),
            BASELINE: lambda: [_torch(best.folded, part)() for part in in_order_of_channels.split(8)],
            "fast engine": lambda: s2c.simulate(program, x, engine="fast"),
        },
        {"reference engine, per 2 samples": lambda: s2c.simulate(program, x[:2], engine="reference")},
        {"mean firing rate": float(np.mean(fired)), **_kernels(program)},
    )


def _torch(run: Callable[[torch.Tensor], Any], x: torch.Tensor) -> Variant:
    def call() -> Any:
        with torch.inference_mode():
            return run(x)

    return call


def _kernels(program: Program) -> dict[str, float]:
    rows = explain_engine(program, SAMPLES, program.time_steps or 1).rows
    found = [row.kernel for row in rows if row.kernel in ("int8", "f32", "f64", "int64")]
    return {f"layers on {kernel}": float(found.count(kernel)) for kernel in dict.fromkeys(found)}


# --- the digits example ---


def digits_net(lava: bool) -> Benchmark:
    """The example's network after five epochs, on its test set."""
    torch.manual_seed(0)
    model = digits.train(epochs=5)
    images, _ = digits.test_data()
    program = s2c.quantize(
        s2c.trace(model, images[:1], time_steps=digits.TIME_STEPS), calibration=digits.calibration_data()
    )
    x = torch.from_numpy(images)
    expected = s2c.simulate(program, images, engine="reference").outputs_int
    np.testing.assert_array_equal(expected, s2c.simulate(program, images, engine="fast").outputs_int)
    slow: dict[str, Variant] = {}
    if lava:
        from snn2chip.verify.lava import project

        for samples in LAVA_SAMPLES:
            part = images[:samples]
            slow[f"Lava's runtime, {samples} sample{'s' * (samples > 1)}"] = lambda part=part: project.in_runtime(
                program, part, timeout=300
            )
    return Benchmark(
        "examples/digits.py, 1×8×8, T = 8, trained for 5 epochs",
        len(images),
        {
            "float, as written": _torch(model, x),
            BASELINE: _torch(lambda x: _digits_folded(model, x), x.contiguous(memory_format=torch.channels_last)),
            "fast engine": lambda: s2c.simulate(program, images, engine="fast"),
            "reference engine": lambda: s2c.simulate(program, images, engine="reference"),
        },
        slow,
        _kernels(program),
    )


def _digits_folded(model: digits.Digits, x: torch.Tensor) -> torch.Tensor:
    def lif(current: torch.Tensor, module: digits.LIF) -> torch.Tensor:
        v: Any = 0.0
        spikes = []
        for now in current.view(-1, len(x), *current.shape[1:]).expand(digits.TIME_STEPS, -1, *current.shape[1:]):
            v = module.decay * v + now
            s = (v > module.v_threshold).float()
            v = v * (1 - s)
            spikes.append(s)
        return torch.cat(spikes)

    h = lif(model.bn1(model.conv1(x)), model.lif1)
    h = lif(model.bn2(model.conv2(h)), model.lif2)
    h = lif(model.fc1(model.pool(h).flatten(1)), model.lif3)
    return model.fc2(h).view(digits.TIME_STEPS, len(x), -1).mean(0)


# --- measuring and telling ---


def measured(benchmark: Benchmark, repeats: int) -> dict[str, list[float]]:
    """Seconds of every variant, interleaved after one warm-up each."""
    times: dict[str, list[float]] = {name: [] for name in (*benchmark.variants, *benchmark.slow)}
    for run in benchmark.variants.values():
        run()
    for repeat in range(repeats):
        due = {**benchmark.variants, **(benchmark.slow if repeat % 5 == 0 else {})}
        for name, run in due.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return times


def summarized(benchmark: Benchmark, times: dict[str, list[float]]) -> dict[str, Any]:
    """Medians, quartiles and ratios, as data."""
    base = statistics.median(times[BASELINE])
    rows = {}
    for name, seconds in times.items():
        low, middle, high = np.quantile(seconds, [0.25, 0.5, 0.75])
        ratios = [s / b for s, b in zip(seconds, times[BASELINE], strict=False)]
        rows[name] = {
            "median_ms": 1000 * float(middle),
            "quartiles_ms": [1000 * float(low), 1000 * float(high)],
            "ratio": float(middle) / base,
            "ratio_of_pairs": statistics.median(ratios),
            "runs": len(seconds),
        }
    notes = dict(benchmark.notes)
    one, many = (f"Lava's runtime, {n} sample{'s' * (n > 1)}" for n in LAVA_SAMPLES)
    if one in rows:
        per_sample = (rows[many]["median_ms"] - rows[one]["median_ms"]) / (LAVA_SAMPLES[1] - LAVA_SAMPLES[0])
        notes["Lava's runtime, ms per further sample"] = per_sample
        notes["… over the fast engine's ms per sample"] = per_sample / (
            rows["fast engine"]["median_ms"] / benchmark.samples
        )
    part = "reference engine, per 2 samples"
    if part in rows:
        per_sample = rows[part]["median_ms"] / 2
        notes["reference over fast, per sample"] = per_sample / (rows["fast engine"]["median_ms"] / benchmark.samples)
    return {"network": benchmark.title, "samples": benchmark.samples, "variants": rows, "notes": notes}


def machine() -> dict[str, Any]:
    """What the ratios were taken on."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    versions = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
    return {"processor": model, "threads": torch.get_num_threads(), **versions}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--repeats", type=int, default=7, help="runs of every variant")
    parser.add_argument("--network", choices=["digits", "vgg"], help="one network only")
    parser.add_argument("--without-lava", action="store_true", help="leave out Lava's runtime, which takes minutes")
    options = parser.parse_args()
    benchmarks = {"digits": lambda: digits_net(not options.without_lava), "vgg": vgg}
    chosen = [make() for name, make in benchmarks.items() if options.network in (None, name)]
    results = [summarized(b, measured(b, options.repeats)) for b in chosen]
    if options.json:
        print(json.dumps({"machine": machine(), "baseline": BASELINE, "benchmarks": results}, indent=1))
        return
    print(", ".join(f"{key} {value}" for key, value in machine().items()))
    for result in results:
        print(f"\n{result['network']}, {result['samples']} samples")
        for name, row in result["variants"].items():
            low, high = row["quartiles_ms"]
            print(f"  {name:34} {row['ratio']:9.3f} ×   {row['median_ms']:10.1f} ms  ({low:.1f} … {high:.1f})")
        for name, value in result["notes"].items():
            print(f"  {name}: {value:.4g}")


if __name__ == "__main__":
    main()
