"""docs/cli.md describes every verb and option there is, and none that is not."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from snn2chip.cli import main
from snn2chip.cli.app import VERBS

_DOCS = Path(__file__).parents[2] / "docs" / "cli.md"


def section(verb: str) -> str:
    parts = re.split(r"^## (.+)$", _DOCS.read_text("utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))[verb]


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_is_described(verb: str) -> None:
    command = main.get_command(click.Context(main), verb)
    assert command is not None
    options = {name for p in command.params if isinstance(p, click.Option) for name in p.opts}
    assert options == set(re.findall(r"^\| `(--[a-z-]+)", section(verb), re.MULTILINE))
    arguments = [p.make_metavar(click.Context(command)) for p in command.params if isinstance(p, click.Argument)]
    assert f"snn2chip {' '.join([verb, *arguments])}" in section(verb)


@pytest.mark.parametrize("verb", VERBS)
def test_choices_are_described(verb: str) -> None:
    command = main.get_command(click.Context(main), verb)
    assert command is not None
    for option in command.params:
        row = re.search(rf"^\| `{option.opts[0]} ([^`]*)` \|", section(verb), re.MULTILINE)
        if row and row.group(1).startswith("{"):
            shown = row.group(1).strip("{}").split(",")
            assert isinstance(option.type, click.Choice)
            assert sorted(shown) == sorted(option.type.choices)
