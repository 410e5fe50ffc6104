"""Options for what a ``.nir``, ``.onnx`` or ``.net`` file cannot say: the same on every verb that reads one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

from snn2chip.errors import UsageError


def _by_name(allowed: Sequence[str]) -> Callable[[click.Context, click.Parameter, tuple[str, ...]], Any]:
    """A callback: one value for all, or a dict by name from NAME=VALUE; ``allowed`` values, or any where empty."""

    def merged(context: click.Context, option: click.Parameter, given: tuple[str, ...]) -> Any:
        # A value may itself hold "=" (the fire test), so that the name is what stands before the first.
        pairs: list[Any] = [
            (None, text) if text in allowed or "=" not in text else tuple(text.split("=", 1)) for text in given
        ]
        for _, value in pairs:
            if allowed and value not in allowed:
                raise click.BadParameter(f"{value!r} is not one of {', '.join(allowed)}.", context, option)
        if not pairs or (len(pairs) == 1 and pairs[0][0] is None):
            return pairs[0][1] if pairs else None
        if any(name is None for name, _ in pairs):
            raise click.BadParameter("give one value for all, or NAME=VALUE for each.", context, option)
        return dict(pairs)

    return merged


def _named(flag: str, allowed: Sequence[str], says: str) -> Callable[[Any], Any]:
    shown = f"{'|'.join(allowed)} or NAME=…"
    return click.option(flag, multiple=True, metavar=shown, callback=_by_name(allowed), help=says)


_OPTIONS = (
    click.option("--dt", type=float, help="Seconds per time step; needed for a .nir model."),
    _named(
        "--reset",
        ("zero", "v_reset", "subtract", "none"),
        "What a spike does to the membrane, for a .nir model. This and the options up to --input-gain: for all, or "
        "by population (repeatable).",
    ),
    _named("--reset-timing", ("same", "gate", "next"), "When, for a .nir model."),
    _named("--fire", (">", ">="), "The fire test, for a .nir model."),
    _named("--integrator-gain", ("r", "r*dt"), "What an input of 1 adds to I and IF, for a .nir model."),
    _named("--input-gain", ("equation", "impulse"), "What an input adds to other neurons, for a .nir model."),
    click.option(
        "--integration",
        type=click.Choice(["euler", "exponential", "rockpool"]),
        help="How time constants become steps, for a .nir model.",
    ),
    click.option(
        "--states",
        multiple=True,
        metavar="IN=OUT",
        help="A state of an .onnx model of one step: input=output. Repeatable.",
    ),
    click.option(
        "--start",
        multiple=True,
        metavar="VALUE or NAME=VALUE",
        callback=_by_name(()),
        help="The states at the start of a sample: a number for an .onnx model of one step; zero, v_reset or v_leak "
        "for a .nir model.",
    ),
    click.option(
        "--coding", type=click.Choice(["steps", "direct"]), help="Whether the data of a file has a time axis."
    ),
    click.option("--output-node", metavar="NAME", help="The output that is deployed, where a file has several."),
    click.option(
        "--readout",
        type=click.Choice(["sum", "mean", "last", "max", "none"]),
        help="What becomes of the T outputs, where the model does not say.",
    ),
)


def _sizes(context: click.Context, option: click.Parameter, text: str | None) -> tuple[int, ...] | None:
    try:
        return None if text is None else tuple(int(size) for size in text.split(","))
    except ValueError:
        raise click.BadParameter(f"{text!r} is no shape: write C,H,W, e.g. 2,34,34.", context, option) from None


input_shape_option = click.option(
    "--input-shape",
    metavar="C,H,W",
    callback=_sizes,
    help="Shape of the input, for a .net file without an input layer.",
)


def file_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def taken(options: dict[str, Any]) -> dict[str, Any]:
    """Take the options out of a command's arguments; those that were given, as ``load_graph`` calls them."""
    found = {name: options.pop(name) for name in _NAMES}
    found["states"] = _pairs(found["states"])
    found["start"] = _numbers(found["start"])
    found["output"] = found.pop("output_node")
    return {name: value for name, value in found.items() if value is not None}


def flag(name: str) -> str:
    """How an argument of ``load_graph`` is spelled on the command line."""
    return "--output-node" if name == "output" else f"--{name.replace('_', '-')}"


_NAMES = (
    *("dt", "reset", "reset_timing", "fire", "integrator_gain", "input_gain", "integration"),
    *("states", "start", "coding", "output_node", "readout"),
)


def _pairs(states: tuple[str, ...]) -> dict[str, str] | None:
    """State input → output, from IN=OUT; None where nothing is given."""
    for pair in states:
        if pair.count("=") != 1 or pair.startswith("=") or pair.endswith("="):
            raise UsageError(f"--states {pair!r} names no pair", fix="give input=output, e.g. --states mem_in=mem_out")
    return dict(pair.split("=") for pair in states) or None


def _numbers(given: Any) -> Any:
    """Text that is a number as one, also inside a dict."""
    if isinstance(given, dict):
        return {name: _numbers(value) for name, value in given.items()}
    try:
        return None if given is None else float(given)
    except ValueError:
        return given
