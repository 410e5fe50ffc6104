"""``snn2chip targets``: the chips that are known, and every figure with its source."""

from __future__ import annotations

import dataclasses

import click

from snn2chip.cli.output import json_option, print_json, print_table
from snn2chip.ir.target import Target, available, load_target


@click.command("targets", short_help="List the chips, every value with its source.")
@click.argument("name", required=False)
@json_option
def command(name: str | None, as_json: bool) -> None:
    """List the targets, or every value of one with where it was read. NAME may be a .toml file of your own."""
    if name is None:
        known = [load_target(target) for target in available()]
        if as_json:
            print_json([{"name": t.name, "title": t.title, "energy": [e.name for e in t.energy]} for t in known])
        else:
            rows = [(t.name, t.title, ", ".join(e.name for e in t.energy)) for t in known]
            print_table(("name", "chip", "energy tables"), rows)
        return
    target = load_target(name)
    rows = _values(target)
    if as_json:
        entries = [{"entry": entry, "value": value, "source": source} for entry, value, source in rows]
        print_json({"name": target.name, "title": target.title, "values": entries})
    else:
        click.echo(f"{target.title} ({target.name})\n")
        print_table(("entry", "value", "source"), rows)


def _values(target: Target) -> list[tuple[str, str, str]]:
    """Every sourced entry of a target, by its dotted name."""
    values: dict[str, object] = {}
    for part in ("arithmetic", "weights", "limits", "cores"):
        for field in dataclasses.fields(getattr(target, part)):
            values[f"{part}.{field.name}"] = getattr(getattr(target, part), field.name)
    for name, registers in target.registers.items():
        values |= {f"registers.{name}.{key}": value for key, value in registers.items()}
    for table in target.energy:
        prefix = f"energy.{table.name}.picojoules."
        values |= {prefix + key: f"{value:g} pJ" for key, value in table.picojoules.items()}
    return [(entry, str(value), target.sources.get(entry, "")) for entry, value in values.items() if value is not None]
