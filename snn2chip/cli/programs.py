"""What the verbs that run compiled networks share: finding the network, its data, clock and recordings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from snn2chip.cli.arrays import load_arrays
from snn2chip.errors import S2CError, UsageError
from snn2chip.ir.layers import Array
from snn2chip.ir.program import Program

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def together(*options: Decorator) -> Decorator:
    """Several options as one decorator."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


data_options = together(
    click.option("--data", required=True, metavar="DATA", help="Samples: .npz (x, y), .npy or file.py:function."),
    click.option("--data-key", default="x", show_default=True, help="Name of the samples in an .npz."),
    click.option("--label-key", default="y", show_default=True, help="Name of the labels in an .npz."),
    click.option("--axes", metavar="LETTERS", help="The data's axes as letters of NTCHW, e.g. WHCT; N may be missing."),
)

clock_options = together(
    click.option("--clock", type=click.Choice(["sample", "machine"]), default="sample", show_default=True),
    click.option("--reset-interval", type=click.IntRange(1), metavar="STEPS", help="Machine steps between resets."),
    click.option("--reset-phase", type=int, default=0, show_default=True, metavar="STEPS", help="First reset."),
    click.option("--registers", metavar="NAME", help="Register convention of the target, e.g. silicon."),
)

recording_options = together(
    click.option(
        "--layout",
        type=click.Choice(["program", "lava"]),
        default="program",
        show_default=True,
        help="Axes of the recording: N T C H W, or W H C T.",
    ),
    click.option(
        "--rename",
        multiple=True,
        metavar="LAYER=NAME",
        help="What a layer is called in the recording, e.g. layer.1=conv-0. Repeatable.",
    ),
)


def load_program(path: str, input_shape: tuple[int, ...] | None = None) -> Program:
    """A program by its file, or by the folder of a compile.

    Args:
        input_shape: for a ``.net`` file that does not say it.

    Raises:
        S2CError: it cannot be read; the message says why.
    """
    from snn2chip.frontend.load import load

    place = Path(path)
    if place.is_dir():
        if not (place / "model.nir").is_file():
            raise S2CError(
                "the folder holds no compiled network",
                where=path,
                why="it has no model.nir",
                fix="give the folder that `snn2chip compile` wrote, a .nir program or a .net file",
            )
        place = place / "model.nir"
    return load(place, **({} if input_shape is None else {"input_shape": input_shape}))


def renamed_recording(path: str, renames: tuple[str, ...]) -> dict[str, Array]:
    """The arrays of a recording under the names of the program's layers.

    ``layer=name`` gives the layer's name to every array called ``name``, or ``name`` followed by a mark and a letter.

    Raises:
        UsageError, S2CError: the recording cannot be read, or holds nothing of a name.
    """
    arrays = load_arrays(path)
    for rename in renames:
        layer, equals, name = rename.partition("=")
        if not equals or not layer or not name:
            raise UsageError(
                f"--rename {rename} is not LAYER=NAME",
                fix="name the layer, then its name in the recording: --rename conv1=net.conv1.lif",
            )
        found = [key for key in arrays if key == name or (key.startswith(name) and key[len(name)] in "-._/")]
        if not found:
            raise S2CError(
                f"the recording holds nothing called {name!r}", where=path, fix=f"it holds {', '.join(arrays)}"
            )
        for key in found:
            arrays[layer + key[len(name) :]] = arrays.pop(key)
    return arrays
