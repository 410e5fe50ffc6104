"""A model by name: the factory's result, with weights from a file that is never executed."""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from snn2chip.cli.user_code import call
from snn2chip.errors import S2CError, UsageError

# What a factory's mapping may hold: the model, and arguments of the tracer.
_KEYS = ("model", "run", "example", "time_steps", "readout", "output", "input_time_axis", "dt", "per_step")
# Where training scripts keep the state dict inside a checkpoint.
_NESTED = ("state_dict", "model_state_dict", "model", "net")


def load_model(spec: str, weights: str | None) -> tuple[Any, dict[str, Any]]:
    """Call the factory ``spec`` names and put ``weights`` into its model; the model, and what else the factory gave.

    The factory takes no argument and returns a ``torch.nn.Module``, a pair (model, run), or a mapping with the key
    "model", and optionally "example" and arguments of :func:`snn2chip.trace` (``_KEYS``).

    Raises:
        UsageError, S2CError: the factory or the weights are wrong; the message says which and why.
    """
    if importlib.util.find_spec("torch") is None:
        raise S2CError("compiling a model needs torch", why="it is not installed", fix="pip install torch")
    import torch

    made = call(spec, "a model")
    model, given = _taken_apart(made, spec)
    if not isinstance(model, torch.nn.Module):
        raise S2CError(
            f"{spec} gave a {type(model).__name__}, not a torch.nn.Module",
            fix="return the model, (model, run), or a mapping with the key 'model'",
        )
    if weights is not None:
        _put(model, _state(Path(weights)), weights)
    model.eval()
    return model, given


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file, or of the names and contents of a folder's files."""
    place = Path(path)
    if not place.is_dir():
        return hashlib.sha256(place.read_bytes()).hexdigest()
    files = {file.name: file_digest(file) for file in sorted(place.iterdir()) if file.is_file()}
    return hashlib.sha256(repr(files).encode()).hexdigest()


def _taken_apart(made: Any, spec: str) -> tuple[Any, dict[str, Any]]:
    if isinstance(made, Mapping):
        if set(made) - set(_KEYS) or "model" not in made:
            keys = ", ".join(map(str, made))
            raise S2CError(
                f"{spec} gave a mapping with the keys {keys}", fix=f"use {', '.join(_KEYS)}; 'model' is needed"
            )
        return made["model"], {key: value for key, value in made.items() if key != "model"}
    if isinstance(made, tuple):
        if len(made) != 2 or not callable(made[1]):
            raise S2CError(
                f"{spec} gave a tuple of {len(made)}", fix="return (model, run) with run(model, x) -> output"
            )
        return made[0], {"run": made[1]}
    return made, {}


def _state(path: Path) -> Mapping[str, Any]:
    """The tensors of a safetensors file or of a state dict; nothing in the file is executed."""
    if not path.is_file():
        raise S2CError(
            "the weights cannot be read", where=str(path), why="there is no such file", fix="check --weights"
        )
    return _from_safetensors(path) if path.suffix == ".safetensors" else _from_checkpoint(path)


def _from_safetensors(path: Path) -> Mapping[str, Any]:
    if importlib.util.find_spec("safetensors") is None:
        raise S2CError("reading .safetensors needs safetensors", where=str(path), fix="pip install safetensors")
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise S2CError("the weights cannot be read", where=str(path), why=str(error), fix="save them again") from None


def _from_checkpoint(path: Path) -> Mapping[str, Any]:
    import pickle

    import torch

    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        code = re.search(r"[Uu]nsupported \w+:? (?:GLOBAL )?([\w.]+)|whose module (\w+) is blocked", str(error))
        if code is None:
            raise S2CError("the weights cannot be read", where=str(path), why=_DAMAGED, fix=_SAVE) from None
        raise S2CError(
            "the file is more than weights: reading it would execute code",
            where=str(path),
            why=f"it asks for {code.group(1) or code.group(2)}",
            fix=f"snn2chip never does that; {_SAVE}",
        ) from None
    except OSError as error:
        raise S2CError(
            "the weights cannot be read",
            where=str(path),
            why=error.strerror or str(error),
            fix="check the path given to --weights",
        ) from None
    except (RuntimeError, EOFError, ValueError, LookupError, AttributeError):
        raise S2CError("the weights cannot be read", where=str(path), why=_DAMAGED, fix=_SAVE) from None
    for key in _NESTED:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not all(hasattr(v, "shape") for v in loaded.values()):
        raise S2CError(
            "the file holds no state dict", where=str(path), why=f"it holds a {type(loaded).__name__}", fix=_SAVE
        )
    return loaded


_DAMAGED = "it is damaged, or no file of torch.save"
_SAVE = "save the weights with torch.save(model.state_dict(), path), or as safetensors"


def _put(model: Any, state: Mapping[str, Any], path: str) -> None:
    wanted = model.state_dict()
    wrong = [
        *(f"{name} is missing" for name in wanted if name not in state),
        *(f"{name} is not in the model" for name in state if name not in wanted),
        *(
            f"{name} has shape {tuple(state[name].shape)}, the model's {tuple(wanted[name].shape)}"
            for name in wanted
            if name in state and tuple(state[name].shape) != tuple(wanted[name].shape)
        ),
    ]
    if wrong:
        shown = "\n".join(wrong[:8]) + (f"\nand {len(wrong) - 8} more" if len(wrong) > 8 else "")
        raise S2CError("the weights do not fit the model", where=path, why=shown, fix="check the factory's arguments")
    model.load_state_dict(state)


def require_model(spec: str) -> None:
    """Refuse what can be told from the name alone to be no factory."""
    if spec.endswith((".pt", ".pth", ".ckpt", ".safetensors")):
        raise UsageError(
            f"{spec} holds weights, and no code that says how the network computes",
            fix="name the factory that builds the model (file.py:function) and give the file with --weights",
        )
