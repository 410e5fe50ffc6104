"""``snn2chip simulate``: run a compiled network exactly, on a few samples or on a whole test set."""

from __future__ import annotations

import dataclasses
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from snn2chip.cli.arrays import load_data, open_data, save_arrays
from snn2chip.cli.file_options import input_shape_option
from snn2chip.cli.output import evaluation_progress, json_option, print_json, print_table, progress
from snn2chip.cli.programs import (
    clock_options,
    data_options,
    load_program,
    recording_options,
    renamed_recording,
    together,
)
from snn2chip.errors import EXIT_FAILURE, UsageError
from snn2chip.ir.program import Program
from snn2chip.report.units import count, counted, number, percent

if TYPE_CHECKING:
    from snn2chip.evaluate import Evaluation, Extent, Progress
    from snn2chip.verify import VerifyReport

_scale_options = together(
    click.option("--labels", metavar="FILE", help="Class indices (.npy), where --data holds none."),
    click.option("--run-folder", metavar="DIR", help="Keep every finished shard; the same command continues there."),
    click.option("--shard-size", type=click.IntRange(1), metavar="N", help="Samples of a shard; chosen if left out."),
    click.option("--workers", type=click.IntRange(1), metavar="N", help="Processes that simulate shards, run by Ray."),
    click.option(
        "--ray",
        is_flag=False,
        flag_value="auto",
        metavar="[ADDRESS]",
        help="Simulate on a Ray cluster: this machine's if no address is given.",
    ),
)


@click.command("simulate", short_help="Run a network on data, integer for integer.")
@click.argument("network")
@input_shape_option
@data_options
@click.option(
    "--record", metavar="NAMES", default="", help="What to record, separated by commas: u, v, spikes, a, out."
)
@click.option("--output", metavar="FILE", help="Where recordings and outputs go (.npz).")
@_scale_options
@clock_options
@click.option("--compare", metavar="FILE", help="A recording (.npz) that every u, v and spike must equal.")
@recording_options
@click.option("--batch-size", type=click.IntRange(1), default=128, show_default=True, help="Samples run together.")
@click.option(
    "--engine",
    type=click.Choice(["auto", "fast", "reference", "cuda"]),
    default="auto",
    show_default=True,
    help="The same integers from each; auto takes fast where the run repays its preparation, never the GPU (cuda).",
)
@click.option("--explain-engine", is_flag=True, help="Say which engine computes it, how, and why; run nothing.")
@json_option
def command(
    network: str,
    input_shape: tuple[int, ...] | None,
    data: str,
    data_key: str,
    label_key: str,
    axes: str | None,
    record: str,
    output: str | None,
    labels: str | None,
    run_folder: str | None,
    shard_size: int | None,
    workers: int | None,
    ray: str | None,
    compare: str | None,
    layout: str,
    rename: tuple[str, ...],
    explain_engine: bool,
    as_json: bool,
    **options: Any,
) -> int:
    """Run NETWORK (a .nir program, a .net file, or the folder of a compile) on data, integer for integer.

    With --compare the exit code is 1 if anything recorded differs.
    """
    if output is not None and not output.endswith(".npz"):
        raise UsageError(f"--output {output} is no .npz file", fix="name a file that ends in .npz")
    if record and output is None:
        raise UsageError("--record needs a place to put it", fix="give --output recordings.npz")
    program = load_program(network, input_shape)
    wanted = tuple(filter(None, record.split(",")))
    files: dict[str, Any] = {"key": data_key, "labels": label_key, "axes": axes, "label_file": labels}
    scale = {"run_folder": run_folder, "shard_size": shard_size, "workers": workers, "ray": ray}
    if explain_engine:
        _explain(program, open_data(data, **files), wanted, options, as_json)
        return 0
    report, run = None, None
    if wanted or compare is not None:
        if given := [name for name, value in scale.items() if value is not None]:
            option = f"--{given[0].replace('_', '-')}"
            raise UsageError(
                f"{option} is for whole test sets",
                why="what is recorded or compared is held in memory",
                fix=f"leave out {option}, or --record and --compare",
            )
        recording = None if compare is None else renamed_recording(compare, rename)
        found, report = _recorded(
            program, load_data(data, **files), wanted, output, recording, layout, options, as_json
        )
    else:
        x, y = open_data(data, **files)
        found, run = _evaluated(program, x, y, {**scale, **options, "output": output}, as_json)
    if as_json:
        print_json(
            {
                "network": network,
                "samples": found.samples,
                "accuracy": found.accuracy,
                "totals": found.totals(),
                "layers": found.as_dict()["counts"],
                "saturated_inputs": found.saturated_inputs,
                "output": output,
                "run": run,
                "compare": None if report is None else report.as_dict(),
            }
        )
    else:
        _print(found, program)
        if output is not None:
            click.echo(f"Written to {Path(output)}")
        if report is not None:
            click.echo(f"\n{report}")
    return EXIT_FAILURE if report is not None and not report.equal else 0


def _evaluated(
    program: Program, x: Any, y: Any, options: dict[str, Any], as_json: bool
) -> tuple[Evaluation, dict[str, Any]]:
    """A test set of any size, a shard at a time; and how it ran."""
    from snn2chip.evaluate import evaluate

    extents: list[Extent] = []
    told: list[Progress] = []

    def announce(extent: Extent) -> None:
        extents.append(extent)
        if not as_json:
            click.echo(_announcement(extent), err=True)

    # Data sets print what they like, and Ray that a worker died: stdout is for the result.
    with evaluation_progress(as_json) as tell, redirect_stdout(sys.stderr):

        def progress(now: Progress) -> None:
            told[:] = [now]
            tell(now)

        found = evaluate(program, x, y, announce=announce, progress=progress, **options)
    (extent,), (last,) = extents, told
    if last.resumed and not as_json:
        click.echo(f"{count(last.resumed)} samples were there from an earlier run.", err=True)
    if last.damaged and not as_json:
        damaged = "A shard was" if last.damaged == 1 else f"{count(last.damaged)} shards were"
        click.echo(f"{damaged} damaged, and computed again.", err=True)
    return found, {
        **dataclasses.asdict(extent),
        "peak_memory": extent.memory.total,
        "resumed": last.resumed,
        "damaged": last.damaged,
    }


def _announcement(extent: Extent) -> str:
    known = "Any number of" if extent.samples is None else count(extent.samples)
    samples = f"{known} sample{'s' * (extent.samples != 1)}"
    shards = "" if extent.samples == extent.shard_size else f", {count(extent.shard_size)} to a shard"
    workers = "" if extent.workers == 1 else f" in {count(extent.workers)} workers"
    free = "" if extent.available is None else f"; {number(extent.available / 2**20)} MiB are free"
    return (
        f"{samples} of {count(extent.steps)} step{'s' * (extent.steps != 1)}{shards}, {extent.engine} engine{workers}: "
        f"takes at most {number(extent.memory.total / 2**20)} MiB more{free}."
    )


def _recorded(
    program: Program,
    data: Any,
    wanted: tuple[str, ...],
    output: str | None,
    recording: Any,
    layout: str,
    options: dict[str, Any],
    as_json: bool,
) -> tuple[Evaluation, VerifyReport | None]:
    """A few samples with everything that was asked for, held in memory."""
    from snn2chip.evaluate import Evaluation
    from snn2chip.simulate import simulate
    from snn2chip.verify import verify

    clock = {name: value for name, value in options.items() if name not in ("batch_size", "engine")}
    report = None
    with progress(as_json) as tell:
        tell("simulate", 0, len(data.x))
        result = simulate(
            program, data.x, record=wanted, progress=lambda n: tell("simulate", n, len(data.x)), **options
        )
        if recording is not None:
            tell("compare", 0, None)
            report = verify(program, data.x, recording, layout=layout, **clock)  # type: ignore[arg-type]
    found = Evaluation.of(result, data.y)
    if output is not None:
        arrays = {
            f"{name}.{quantity}": array
            for name, recorded in result.recordings.items()
            for quantity, array in vars(recorded).items()
            if array is not None
        }
        integers = {} if result.outputs_int is None else {"outputs_int": result.outputs_int}
        save_arrays(output, {"outputs": result.outputs, **integers, **arrays})
    return found, report


def _explain(
    program: Program, data: tuple[Any, Any], record: tuple[str, ...], options: dict[str, Any], as_json: bool
) -> None:
    from snn2chip.evaluate.sizing import SHARD_SAMPLES
    from snn2chip.evaluate.sources import open_source
    from snn2chip.simulate.engine import machine_clock
    from snn2chip.simulate.explain import explain_engine

    machine = machine_clock(*(options[name] for name in ("clock", "reset_interval", "reset_phase", "registers")))
    source = open_source(program, *data, free_time=machine is not None)
    samples = SHARD_SAMPLES if source.length is None else source.length
    steps = source.sample_shape[0] if program.coding == "steps" else program.time_steps or 0
    found = explain_engine(
        program,
        samples,
        steps,
        engine=options["engine"],
        machine=machine,
        wanted=frozenset(record),
        batch_size=options["batch_size"],
    )
    if as_json:
        print_json(dataclasses.asdict(found))
        return
    if found.rows:
        print_table(("layer", "kind", "kernel", "why", "proved"), [dataclasses.astuple(row) for row in found.rows])
        click.echo()
    click.echo(f"Taken for {count(samples)} samples of {count(steps)} steps: {found.engine} ({found.why}).")
    memory = "" if found.memory is None else f", and takes at most {number(found.memory.total / 2**20)} MiB"
    if found.how:
        click.echo(f"The {found.engine} engine computes {found.how}{memory}.")
    if found.chunk is not None and found.memory is not None:
        click.echo(
            f"The fast engine computes {count(found.chunk.samples)} samples and {count(found.chunk.steps)} steps at "
            f"once in {counted(found.memory.workers, 'thread')}{memory}."
        )
    for remark in found.remarks:
        click.echo(remark)


def _print(found: Evaluation, program: Program) -> None:
    samples = found.samples
    rows = [
        (name, program[name].layer.kind, *(number(total / samples) for total in dataclasses.astuple(totals)))
        for name, totals in found.counts.items()
        if any(dataclasses.astuple(totals))
    ]
    columns = ("layer", "kind", "spikes", "SynOps", "updates", "host MACs")
    print_table(columns, rows, numeric=range(2, 6))
    click.echo(f"\n{count(samples)} sample{'s' * (samples != 1)}; counts are means per sample.")
    if found.accuracy is not None:
        click.echo(f"Accuracy: {percent(found.accuracy)}")
    if found.saturated_inputs:
        click.echo(f"{count(found.saturated_inputs)} input values lay outside the input format and were clipped.")
