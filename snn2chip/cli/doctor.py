"""``snn2chip doctor``: what is installed, what is missing, and the command that mends it."""

from __future__ import annotations

import click

from snn2chip.cli.output import json_option, print_json, print_table
from snn2chip.errors import EXIT_FAILURE


@click.command("doctor", short_help="Say what is installed and how to mend the rest.")
@json_option
def command(as_json: bool) -> int:
    """Look at this Python, at every package snn2chip can use, and at what Lava needs.

    The exit code is 1 if something is missing that nothing works without.
    """
    from snn2chip.verify.doctor import run_checks

    checks = run_checks()
    if as_json:
        print_json([vars(check) for check in checks])
    else:
        rows = [
            ("ok" if c.ok else ("MISSING" if c.required else "absent"), c.name, c.detail, c.purpose, c.command)
            for c in checks
        ]
        print_table(("", "what", "found", "used for", "to mend it"), rows)
    return 0 if all(check.ok for check in checks if check.required) else EXIT_FAILURE
