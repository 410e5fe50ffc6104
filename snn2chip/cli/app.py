"""The command line's frame: verbs that are guessed when mistyped, and every failure as a message with an exit code."""

from __future__ import annotations

import difflib
import importlib
import json
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import click

from snn2chip.errors import EXIT_FAILURE, EXIT_USAGE, S2CError, UsageError

EXIT_INTERRUPTED = 130

# Verb → the module that holds its command, imported when it is asked for.
VERBS = {
    "compile": "compile",
    "simulate": "simulate",
    "verify": "verify",
    "report": "report",
    "inspect": "inspect",
    "targets": "targets",
    "doctor": "doctor",
    "demo": "demo",
}


class App(click.Group):
    """The group of verbs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs in the order a newcomer meets them."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a verb."""
        if cmd_name not in VERBS:
            return None
        command: click.Command = importlib.import_module(f"snn2chip.cli.{VERBS[cmd_name]}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with a guess at what was meant."""
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            near = difflib.get_close_matches(name, VERBS, 1)
            known = f"the verbs are {', '.join(VERBS)}"
            raise UsageError(f"there is no verb {name!r}", fix=f"did you mean {near[0]!r}?" if near else known)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a verb; what snn2chip warns about is told in one line, without a place in its code."""
        with _plain_warnings():
            return super().invoke(ctx)

    def main(self, args: Sequence[str] | None = None, *rest: Any, **options: Any) -> NoReturn:
        """Run a verb; end the process with 0 (done), 1 (failure), 2 (wrong usage) or 130 (interrupted)."""
        given = list(sys.argv[1:] if args is None else args)
        options["standalone_mode"] = False
        try:
            _refuse_null_bytes(given)
            status = super().main(given, *rest, **options)
            sys.exit(status if isinstance(status, int) else 0)
        except BrokenPipeError:
            # Whoever read the output has left; the interpreter must not complain on its way out.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(EXIT_FAILURE)
        except click.exceptions.NoArgsIsHelpError as shown:
            click.echo(shown.format_message(), err=True)
            sys.exit(EXIT_USAGE)
        except (KeyboardInterrupt, click.Abort) as interruption:
            # click makes an Abort of the interruption, which may say what was kept.
            told = str(interruption.__cause__ or interruption)
            click.echo(told or "Interrupted; nothing was written.", err=True)
            sys.exit(EXIT_INTERRUPTED)
        except Exception as error:  # every failure becomes a message
            _tell(_explained(error), as_json="--json" in given)


def _refuse_null_bytes(arguments: Sequence[str]) -> None:
    """No shell passes one; a program that calls the command line may."""
    for argument in arguments:
        if "\0" in argument:
            raise UsageError(f"the argument {argument!r} holds a null byte", fix="give it without; no name has one")


@contextmanager
def _plain_warnings() -> Iterator[None]:
    usual = warnings.formatwarning
    ours = str(Path(__file__).parents[1])

    def formatted(message: Warning | str, category: type[Warning], filename: str, *rest: Any, **more: Any) -> str:
        if category is UserWarning and filename.startswith(ours):
            return f"warning: {message}\n"
        return usual(message, category, filename, *rest, **more)

    warnings.formatwarning = formatted
    try:
        yield
    finally:
        warnings.formatwarning = usual


def _explained(error: Exception) -> S2CError:
    if isinstance(error, S2CError):
        return error
    if isinstance(error, click.NoSuchOption):
        near = difflib.get_close_matches(error.option_name, error.possibilities or _options(error.ctx), 1)
        fix = f"did you mean {near[0]}?" if near else _see_help(error.ctx)
        return UsageError(f"there is no option {error.option_name}", fix=fix)
    if isinstance(error, click.ClickException):
        ctx = getattr(error, "ctx", None)
        return UsageError(error.format_message().rstrip("."), fix=_see_help(ctx))
    if isinstance(error, MemoryError):
        return S2CError("there is not enough memory", fix="give fewer samples, or a smaller --batch-size")
    if isinstance(error, OSError):
        return S2CError(error.strerror or str(error), where=str(error.filename or ""))
    frame = traceback.extract_tb(error.__traceback__)[-1]
    if os.environ.get("SNN2CHIP_TRACEBACK"):
        traceback.print_exception(error)
    return S2CError(
        "snn2chip failed in a way it should not",
        where=f"{os.path.basename(frame.filename)}:{frame.lineno}",  # noqa: PTH119
        why=f"{type(error).__name__}: {error}",
        fix="this is a bug; please report it with the output of SNN2CHIP_TRACEBACK=1",
    )


def _options(ctx: click.Context | None) -> list[str]:
    return [] if ctx is None else [name for param in ctx.command.params for name in param.opts]


def _see_help(ctx: click.Context | None) -> str:
    return f"see `{ctx.command_path if ctx else 'snn2chip'} --help`"


def _tell(error: S2CError, as_json: bool) -> NoReturn:
    if as_json:
        click.echo(json.dumps({"error": error.as_dict()}, ensure_ascii=False, indent=1))
    else:
        click.echo(f"{click.style('error:', fg='red', bold=True)} {error}", err=True)
    sys.exit(error.exit_code if error.exit_code in (EXIT_FAILURE, EXIT_USAGE) else EXIT_FAILURE)
