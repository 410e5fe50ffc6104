"""The command line: ``snn2chip VERB``, one file a verb."""

from __future__ import annotations

import click

from snn2chip.cli.app import App
from snn2chip.version import __version__


@click.group(cls=App, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="snn2chip")
def main() -> None:
    """Compile trained spiking neural networks for neuromorphic chips, and verify what comes out.

    Exit codes: 0 done, 1 failure (or a verification that found a difference), 2 wrong usage, 130 interrupted.
    """
