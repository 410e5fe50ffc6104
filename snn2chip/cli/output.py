"""What the verbs print: results on stdout, progress on stderr while it is a terminal."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from snn2chip.errors import EXIT_FAILURE
from snn2chip.evaluate.progress import Progress as EvaluationProgress
from snn2chip.report.units import count, number

if TYPE_CHECKING:
    from snn2chip.api import Build

Tell = Callable[[str, int, "int | None"], None]

# Seconds between two lines of progress where stderr is no terminal: a log stays short, and a run shows that it lives.
_LINE_EVERY = 30.0

json_option = click.option("--json", "as_json", is_flag=True, help="Print the result (or the error) as JSON.")


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    click.echo(json.dumps(value, ensure_ascii=False, indent=1))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[int] = ()) -> None:
    """Rows under columns on stdout; ``numeric`` columns flush right."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for i, name in enumerate(columns):
        table.add_column(name, justify="right" if i in numeric else "left", no_wrap=i in numeric, overflow="fold")
    for row in rows:
        table.add_row(*row)
    # Piped into a file, lines are as long as they need to be.
    Console(file=sys.stdout, width=None if sys.stdout.isatty() else 200, highlight=False, markup=False).print(table)


def print_build(build: Build, as_json: bool) -> int:
    """What was compiled and where it is; the exit code says whether it was verified."""
    if as_json:
        print_json({**build.report, "out": str(build.out)})
    else:
        click.echo(f"{build.summary()}\n\nWritten to {build.out}; open {build.out / 'report.html'}")
    return 0 if build.verified else EXIT_FAILURE


@contextmanager
def progress(quiet: bool = False) -> Iterator[Tell]:
    """A function ``tell(stage, done, total)`` that draws one bar a stage; silent where stderr is no terminal."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield lambda stage, done, total: None
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        tasks: dict[str, Any] = {}

        def tell(stage: str, done: int, total: int | None) -> None:
            if stage not in tasks:
                for earlier in tasks.values():
                    bars.stop_task(earlier)
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done)

        yield tell


@contextmanager
def evaluation_progress(quiet: bool = False) -> Iterator[Callable[[EvaluationProgress], None]]:
    """A function that draws a bar with throughput and time left; lines now and then where stderr is no terminal."""
    console = Console(stderr=True)
    if quiet:
        yield lambda progress: None
        return
    if not console.is_terminal:
        told = time.monotonic()

        def line(progress: EvaluationProgress) -> None:
            nonlocal told
            if time.monotonic() - told >= _LINE_EVERY:
                told = time.monotonic()
                total = "" if progress.total is None else f" of {count(progress.total)}"
                click.echo(f"{count(progress.done)}{total} samples, {_pace(progress)}", err=True)

        yield line
        return
    columns = (
        SpinnerColumn(),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        task = bars.add_task("", total=None)
        yield lambda progress: bars.update(
            task, completed=progress.done, total=progress.total, description=_pace(progress)
        )


def _pace(progress: EvaluationProgress) -> str:
    if progress.throughput is None:
        return "nothing simulated yet"
    left = progress.remaining
    duration = "" if left is None else f", {int(left // 3600)}:{int(left // 60 % 60):02}:{int(left % 60):02} left"
    return f"{number(progress.throughput)} samples/s{duration}"
