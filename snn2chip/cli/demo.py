"""``snn2chip demo``: train a small network on handwritten digits, and do everything to it."""

from __future__ import annotations

import importlib.util

import click

from snn2chip.cli.output import json_option, print_build, progress
from snn2chip.cli.user_code import blamed, load_module
from snn2chip.errors import S2CError
from snn2chip.resources import examples_dir

_EXAMPLE = examples_dir() / "digits.py"


@click.command("demo", short_help="The whole job on handwritten digits.")
@click.option("--out", default="out/demo", show_default=True, metavar="DIR", help="Folder to write.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seeds the training.")
@json_option
def command(out: str, seed: int, as_json: bool) -> int:
    """Train a conv–BN–LIF network on handwritten digits, compile it for Loihi 2, verify it in Lava, and report.

    Takes a minute or two; runs examples/digits.py.
    """
    for package, name in (("torch", "torch"), ("sklearn", "scikit-learn")):
        if importlib.util.find_spec(package) is None:
            raise S2CError(f"the demo needs {name}", why="it is not installed", fix=f"pip install {name}")
    if not _EXAMPLE.is_file():
        raise S2CError(
            "the demo's example is not here",
            where=str(_EXAMPLE),
            why="snn2chip was installed without its examples",
            fix="install snn2chip again, or run make demo in a checkout of the repository",
        )
    from snn2chip.api import compile as compile_model

    with progress(as_json) as tell, blamed("the demo failed"):
        tell("train", 0, None)
        digits = load_module(_EXAMPLE)
        model = digits.train(seed=seed)
        images, labels = digits.test_data()
        build = compile_model(
            model,
            images[:1],
            digits.TIME_STEPS,
            calibration=digits.calibration_data(),
            data=images,
            labels=labels,
            against=("lava", "lava-runtime"),
            seed=seed,
            out=out,
            name="examples/digits.py",
            progress=tell,
        )
    return print_build(build, as_json)
