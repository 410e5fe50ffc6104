"""``snn2chip inspect``: a network as text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from snn2chip.cli.file_options import file_options, flag, input_shape_option, taken
from snn2chip.cli.output import json_option, print_json, print_table
from snn2chip.cli.programs import load_program
from snn2chip.errors import UsageError
from snn2chip.ir.graph import Network
from snn2chip.ir.program import Program
from snn2chip.report.units import bits, count


@click.command("inspect", short_help="Print what a network file holds.")
@click.argument("network")
@file_options
@input_shape_option
@click.option("--cores", is_flag=True, help="Cores and memory per layer, and the target's limits that are broken.")
@json_option
def command(network: str, input_shape: tuple[int, ...] | None, cores: bool, as_json: bool, **options: Any) -> None:
    """Print NETWORK: a .nir program or graph, a .net or .onnx file, or the folder of a compile."""
    found = _load(network, input_shape, taken(options))
    if cores and not isinstance(found, Program):
        raise UsageError("--cores is for programs", why=f"{network} is a float graph", fix="compile it first")
    if as_json:
        print_json(_as_json(found, cores))
        return
    click.echo(str(found))
    if isinstance(found, Program):
        click.echo(f"\nfor {found.target.title}; made from {found.origin or 'an unnamed network'}")
        for note in found.notes:
            click.echo(f"note: {note}")
    if cores:
        _print_cores(found)  # type: ignore[arg-type]


def _load(path: str, input_shape: tuple[int, ...] | None, given: dict[str, Any]) -> Network:
    from snn2chip.frontend.load import holds_graph, load_graph

    if input_shape is None and (given or (not Path(path).is_dir() and holds_graph(path))):
        return load_graph(path, **given)
    if given:
        other = flag(next(iter(given)))
        raise UsageError(f"--input-shape is for .net files, {other} for .nir and .onnx", fix="give either")
    return load_program(path, input_shape)


def _as_json(network: Network, cores: bool) -> dict[str, Any]:
    import dataclasses

    from snn2chip.mapping import check, estimate

    shapes = network.shapes()
    entry: dict[str, Any] = {
        "kind": type(network).__name__,
        "time_steps": network.time_steps,
        "coding": network.coding,
        "layers": [
            {
                "name": node.name,
                "kind": node.layer.kind,
                "shape": list(shapes[node.name]),
                "detail": node.layer.describe(),
                "inputs": [str(edge) for edge in node.inputs],
                "placement": node.placement,
            }
            for node in network
        ],
    }
    if isinstance(network, Program):
        entry |= {"target": network.target.name, "options": dict(network.options), "notes": list(network.notes)}
        if cores:
            entry["mapping"] = dataclasses.asdict(estimate(network))
            entry["violations"] = [vars(violation) for violation in check(network)]
    return entry


def _print_cores(program: Program) -> None:
    from snn2chip.mapping import check, estimate

    placed = estimate(program)
    rows = [
        (row.name, count(row.neurons), count(row.synapses), bits(row.memory_bits), count(row.cores), row.limit)
        for row in placed.layers
    ]
    click.echo()
    print_table(("population", "neurons", "synapses", "memory", "cores", "limited by"), rows, numeric=range(1, 5))
    click.echo(f"\n{placed.cores} cores on {placed.chips} of {placed.cores_per_chip}-core chips. {placed.basis}")
    for violation in check(program):
        click.echo(f"broken limit: {violation}")
