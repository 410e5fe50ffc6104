"""``snn2chip report``: show the report of a compile, or draw its views again."""

from __future__ import annotations

from pathlib import Path

import click

from snn2chip.cli.output import json_option, print_json
from snn2chip.errors import UsageError

_VIEWS = {"md": "report.md", "html": "report.html", "json": "report.json"}


@click.command("report", short_help="Print and redraw a compile's report.")
@click.argument("build", metavar="DIR")
@click.option("--format", "view", type=click.Choice(sorted(_VIEWS)), help="Print this view instead of a summary.")
@click.option("--output", metavar="FILE", help="Write the view to a file instead.")
@json_option
def command(build: str, view: str | None, output: str | None, as_json: bool) -> None:
    """Summarize the report in DIR (the folder of a compile, or a report.json) and draw report.md and report.html again.

    With --format one view is printed, or written to --output, and DIR is left as it is.
    """
    from snn2chip.atomic import atomic_file
    from snn2chip.report import read_report, views
    from snn2chip.report.manifest import rewrite_views
    from snn2chip.report.terminal import summary

    report = read_report(build)
    if view is None and output is not None:
        view = next((name for name, file in _VIEWS.items() if output.endswith(Path(file).suffix)), None)
        if view is None:
            raise UsageError(f"--output {output} has no ending that says what it is", fix="use .md, .html or .json")
    if view is not None and output is not None:
        with atomic_file(output) as temporary:
            temporary.write_text(views(report)[_VIEWS[view]], "utf-8")
        click.echo(f"Written to {output}")
    elif as_json:
        print_json(report)
    elif view is not None:
        click.echo(views(report)[_VIEWS[view]], nl=False)
    else:
        click.echo(summary(report))
        if Path(build).is_dir():
            rewrite_views(Path(build), report)
            click.echo(f"\nDrawn again: {Path(build) / 'report.html'} and report.md")
