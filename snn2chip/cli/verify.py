"""``snn2chip verify``: compare a compiled network with another execution."""

from __future__ import annotations

from typing import Any

import click

from snn2chip.cli.arrays import load_data
from snn2chip.cli.file_options import input_shape_option
from snn2chip.cli.output import json_option, print_json, progress
from snn2chip.cli.programs import (
    clock_options,
    data_options,
    load_program,
    recording_options,
    renamed_recording,
)
from snn2chip.errors import EXIT_FAILURE, UsageError


@click.command("verify", short_help="Compare a network with Lava, or with a recording.")
@click.argument("network")
@input_shape_option
@data_options
@click.option(
    "--against",
    default="lava",
    show_default=True,
    metavar="ORACLE",
    help="lava (its model classes), lava-runtime (its own runtime), fast, reference, or a recording (.npz).",
)
@click.option("--samples", type=click.IntRange(1), metavar="N", help="Use the first N samples only.")
@click.option("--timeout", type=float, default=600.0, show_default=True, metavar="SECONDS", help="For lava-runtime.")
@clock_options
@recording_options
@json_option
def command(
    network: str,
    input_shape: tuple[int, ...] | None,
    data: str,
    data_key: str,
    label_key: str,
    axes: str | None,
    against: str,
    samples: int | None,
    timeout: float,
    layout: str,
    rename: tuple[str, ...],
    as_json: bool,
    **clock: Any,
) -> int:
    """Run NETWORK here and elsewhere on the same data; every u, v and spike must be equal.

    The exit code is 1 if anything differs; the first difference is named: layer, step, neuron, both values.
    """
    from snn2chip.verify import verify

    program = load_program(network, input_shape)
    given = load_data(data, key=data_key, labels=label_key, axes=axes)
    recording = renamed_recording(against, rename) if against.endswith(".npz") else None
    if recording is None and rename:
        raise UsageError("--rename is for recordings", fix="give --against recording.npz")
    with progress(as_json) as tell:
        tell(f"verify against {against}", 0, None)
        report = verify(
            program,
            given.x[:samples],
            against if recording is None else recording,
            timeout=timeout,
            layout=layout,  # type: ignore[arg-type]
            **clock,
        )
    if as_json:
        print_json(report.as_dict())
    else:
        click.echo(str(report))
    return 0 if report.equal else EXIT_FAILURE
