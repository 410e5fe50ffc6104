"""``snn2chip compile``: from a trained model to a folder of verified artefacts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from snn2chip.cli.arrays import Data, load_data
from snn2chip.cli.file_options import file_options, flag, taken
from snn2chip.cli.output import json_option, print_build, progress
from snn2chip.errors import UsageError


@click.command("compile", short_help="Compile a trained network, verify it, and report.")
@click.argument("model")
@click.option("--weights", metavar="FILE", help="Weights: .safetensors, or a .pt state dict (never executed).")
@click.option("--data", metavar="DATA", help="Samples to measure on: .npz (x, y), .npy or file.py:function.")
@click.option("--calibration", metavar="DATA", help="Samples that choose scales; the first 128 of --data if left out.")
@click.option(
    "--example", metavar="DATA", help="One batch as the model takes it; some calibration samples if left out."
)
@click.option("--time-steps", type=click.IntRange(1), metavar="T", help="Time steps of a sample.")
@click.option("--target", default="loihi2", show_default=True, help="A target's name, or a .toml file.")
@click.option("--weight-bits", type=click.IntRange(2, 16), default=8, show_default=True, help="Width of the weights.")
@click.option(
    "--encoder",
    type=click.Choice(["host", "chip"]),
    default="host",
    show_default=True,
    help="Where a direct-coded first layer runs.",
)
@click.option(
    "--per-step-norm", is_flag=True, help="Take norms that differ from step to step (TEBN, BNTT) into the neurons."
)
@click.option("--passes", metavar="PIPELINE", help="Rewrites to run, in order, separated by commas.")
@click.option("--approximate", metavar="NAMES", default="", help="Approximations to allow, separated by commas.")
@click.option(
    "--host", metavar="NAMES", default="", help="What the host may compute between the chip's layers: products, pools."
)
@click.option(
    "--against",
    multiple=True,
    metavar="ORACLE",
    help="What to verify against: lava, lava-runtime, fast, reference, none. Repeatable. [default: lava]",
)
@click.option("--verify-samples", type=click.IntRange(1), default=2, show_default=True, help="Samples to verify.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seeds torch, numpy and random.")
@file_options
@click.option("--out", default="out", show_default=True, metavar="DIR", help="Folder to write; replaced as a whole.")
@json_option
def command(
    model: str,
    weights: str | None,
    data: str | None,
    calibration: str | None,
    example: str | None,
    out: str,
    as_json: bool,
    passes: str | None,
    approximate: str,
    host: str,
    against: tuple[str, ...],
    seed: int,
    time_steps: int | None,
    per_step_norm: bool,
    **options: Any,
) -> int:
    """Compile MODEL and leave model.nir, model.net, lava/, the report and a manifest in a folder.

    MODEL is file.py:function or package.module:function, or a .nir or .onnx file of another tool. The function takes no
    argument and returns a torch module, a pair (module, run) where run(module, x) runs one batch, or a mapping with the
    key model and arguments of snn2chip.trace.
    """
    from snn2chip.api import compile as compile_model
    from snn2chip.api import seed_everything
    from snn2chip.cli.models import file_digest
    from snn2chip.cli.user_code import blamed

    of_file = taken(options)
    seed_everything(seed)
    tested = None if data is None else load_data(data)
    calibrating = _calibration(calibration, tested)
    hashes = {name: d.sha256 for name, d in (("data file", tested), ("calibration file", calibrating)) if d}
    if per_step_norm and model.endswith((".nir", ".onnx")):
        raise UsageError("--per-step-norm is for torch models", fix="leave it out: a file holds one step")
    network, named = _network(model, weights, time_steps, of_file)
    named |= {"per_step": True} if per_step_norm else {}
    if weights is not None:
        hashes["weights file"] = file_digest(weights)
    from_factory = named.pop("example", None)
    batch = from_factory if example is None else load_data(example).x
    if passes is not None:
        options["passes"] = passes
    with progress(as_json) as tell, blamed(f"{model} failed while it was traced"):
        build = compile_model(
            network,
            batch,
            time_steps or named.pop("time_steps", None),
            run=named.pop("run", None),
            trace_options=named,
            calibration=calibrating.x,
            data=None if tested is None else tested.x,
            labels=None if tested is None else tested.y,
            approximate=tuple(filter(None, approximate.split(","))),
            host=tuple(filter(None, host.split(","))),
            against=tuple(a for a in against or ("lava",) if a != "none"),
            seed=seed,
            out=out,
            name=Path(model).name,
            inputs={name: sha for name, sha in hashes.items() if sha},
            progress=tell,
            **options,
        )
    return print_build(build, as_json)


# Calibration samples taken from --data; more refine nothing that 8-bit weights can show.
_FROM_DATA = 128


def _calibration(spec: str | None, tested: Data | None) -> Data:
    if spec is not None:
        return load_data(spec)
    if tested is None:
        raise UsageError(
            "there is no data to choose scales with",
            fix="give --calibration (samples of the training data; 64 are plenty), or --data",
        )
    return Data(tested.x[:_FROM_DATA], None, tested.sha256)


def _network(
    model: str, weights: str | None, time_steps: int | None, given: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """The Graph of a file or the model of a factory, and what the factory said beside it."""
    from snn2chip.api import load_graph
    from snn2chip.cli.models import load_model, require_model

    if model.endswith((".nir", ".onnx")):
        if weights is not None:
            raise UsageError(f"a {Path(model).suffix} file has its weights inside", fix="leave out --weights")
        return load_graph(model, time_steps=time_steps, **given), {}
    if foreign := [flag(name) for name in given if name not in ("dt", "readout")]:
        kind = ".onnx" if "states" in given else ".nir and .onnx" if given.keys() & {"start", "coding"} else ".nir"
        raise UsageError(f"{', '.join(foreign)} is for {kind} models", fix="a torch model says this itself")
    require_model(model)
    network, traced = load_model(model, weights)
    return network, {**traced, **given}
