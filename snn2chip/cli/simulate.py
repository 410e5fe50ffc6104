"""``snn2chip simulate``: run a compiled network exactly."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click
import numpy as np

from snn2chip.cli.arrays import load_data, save_arrays
from snn2chip.cli.output import json_option, print_json, print_table, progress
from snn2chip.cli.programs import (
    clock_options,
    data_options,
    load_program,
    recording_options,
    renamed_recording,
)
from snn2chip.errors import EXIT_FAILURE, S2CError, UsageError
from snn2chip.report.units import count, number, percent


@click.command("simulate", short_help="Run a network on data, integer for integer.")
@click.argument("network")
@data_options
@click.option(
    "--record", metavar="NAMES", default="", help="What to record, separated by commas: u, v, spikes, a, out."
)
@click.option("--output", metavar="FILE", help="Where recordings and outputs go (.npz).")
@clock_options
@click.option("--compare", metavar="FILE", help="A recording (.npz) that every u, v and spike must equal.")
@recording_options
@click.option("--batch-size", type=click.IntRange(1), default=128, show_default=True, help="Samples run together.")
@click.option(
    "--engine",
    type=click.Choice(["auto", "fast", "reference"]),
    default="auto",
    show_default=True,
    help="The same integers from either; auto takes the fast one where the run repays its preparation.",
)
@click.option("--explain-engine", is_flag=True, help="Say what computes each layer, and why; run nothing.")
@json_option
def command(
    network: str,
    data: str,
    data_key: str,
    label_key: str,
    axes: str | None,
    record: str,
    output: str | None,
    compare: str | None,
    layout: str,
    rename: tuple[str, ...],
    batch_size: int,
    engine: str,
    explain_engine: bool,
    as_json: bool,
    **clock: Any,
) -> int:
    """Run NETWORK (a .nir program, a .net file, or the folder of a compile) on data, integer for integer.

    With --compare the exit code is 1 if anything recorded differs.
    """
    from snn2chip.simulate import simulate
    from snn2chip.verify import verify

    if output is not None and not output.endswith(".npz"):
        raise UsageError(f"--output {output} is no .npz file", fix="name a file that ends in .npz")
    if record and output is None:
        raise UsageError("--record needs a place to put it", fix="give --output recordings.npz")
    program = load_program(network)
    given = load_data(data, key=data_key, labels=label_key, axes=axes)
    if explain_engine:
        _explain(program, given.x, tuple(filter(None, record.split(","))), batch_size, clock, as_json)
        return 0
    recording = None if compare is None else renamed_recording(compare, rename)
    with progress(as_json) as tell:
        tell("simulate", 0, len(given.x))
        result = simulate(
            program,
            given.x,
            record=tuple(filter(None, record.split(","))),
            batch_size=batch_size,
            engine=engine,  # type: ignore[arg-type]
            progress=lambda n: tell("simulate", n, len(given.x)),
            **clock,
        )
        report = None
        if recording is not None:
            tell("compare", 0, None)
            report = verify(program, given.x, recording, layout=layout, **clock)  # type: ignore[arg-type]
    if output is not None:
        arrays = {
            f"{name}.{quantity}": array
            for name, recorded in result.recordings.items()
            for quantity, array in vars(recorded).items()
            if array is not None
        }
        integers = {} if result.outputs_int is None else {"outputs_int": result.outputs_int}
        save_arrays(output, {"outputs": result.outputs, **integers, **arrays})
    accuracy = _accuracy(result.outputs, given.y)
    if as_json:
        print_json(
            {
                "network": network,
                "samples": len(given.x),
                "accuracy": accuracy,
                "totals": dict(result.totals()),
                "layers": {
                    name: {kind: int(array.sum()) for kind, array in vars(counts).items()}
                    for name, counts in result.counts.items()
                },
                "saturated_inputs": result.saturated_inputs,
                "output": output,
                "compare": None if report is None else report.as_dict(),
            }
        )
    else:
        _print(result, accuracy)
        if output is not None:
            click.echo(f"Written to {Path(output)}")
        if report is not None:
            click.echo(f"\n{report}")
    return EXIT_FAILURE if report is not None and not report.equal else 0


def _explain(
    program: Any, x: Any, record: tuple[str, ...], batch_size: int, clock: dict[str, Any], as_json: bool
) -> None:
    from snn2chip.simulate.data import as_samples
    from snn2chip.simulate.fast.explain import explain_engine

    if clock["clock"] == "machine":
        raise UsageError("the machine's clock is always the reference engine's", fix="leave out --explain-engine")
    samples = as_samples(program, x)
    steps = samples.shape[1] if program.coding == "steps" else program.time_steps
    found = explain_engine(program, len(samples), steps, wanted=frozenset(record), batch_size=batch_size)
    if as_json:
        print_json(dataclasses.asdict(found))
        return
    if found.rows:
        print_table(("layer", "kind", "kernel", "why", "proved"), [dataclasses.astuple(row) for row in found.rows])
    click.echo(f"\nTaken for {count(len(samples))} samples of {count(steps)} steps: {found.engine} ({found.why}).")
    if found.chunk is not None and found.memory is not None:
        memory = found.memory
        click.echo(
            f"The fast engine computes {count(found.chunk.samples)} samples and {count(found.chunk.steps)} steps at "
            f"once in {count(memory.workers)} threads, and takes at most {number(memory.total / 2**20)} MiB."
        )
    for remark in found.remarks:
        click.echo(remark)


def _accuracy(outputs: Any, labels: Any) -> float | None:
    from snn2chip.verify.measure import predictions

    best = predictions(outputs)
    if labels is None or best is None:
        return None
    if labels.shape != best.shape:
        raise S2CError(
            f"there are {len(labels) if labels.ndim else 0} labels for {len(best)} samples",
            where="labels",
            why=f"their shape is {labels.shape}",
        )
    return float(np.mean(best == labels))


def _print(result: Any, accuracy: float | None) -> None:
    samples = len(result.outputs)
    rows = [
        (
            name,
            result.network[name].layer.kind,
            *(number(float(array.sum()) / samples) for array in vars(counts).values()),
        )
        for name, counts in result.counts.items()
        if any(array.any() for array in vars(counts).values())
    ]
    columns = ("layer", "kind", "spikes", "SynOps", "updates", "host MACs")
    print_table(columns, rows, numeric=range(2, 6))
    click.echo(f"\n{count(samples)} sample{'s' * (samples != 1)}; counts are means per sample.")
    if accuracy is not None:
        click.echo(f"Accuracy: {percent(accuracy)}")
    if result.saturated_inputs:
        click.echo(f"{count(result.saturated_inputs)} input values lay outside the input format and were clipped.")
