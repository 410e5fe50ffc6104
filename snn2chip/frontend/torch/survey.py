"""One run with an eye on every module: which are neurons, and how many steps each of them makes."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from snn2chip.errors import S2CError
from snn2chip.frontend.torch.adapters import ADAPTERS
from snn2chip.frontend.torch.cells import Cell, registered
from snn2chip.frontend.torch.doubts import Doubt
from snn2chip.frontend.torch.identify import Probe, identify, identify_integrator
from snn2chip.frontend.torch.nests import all_of
from snn2chip.frontend.torch.recorder import calls_through, tensor_attributes

_LAYERS: tuple[type[nn.Module], ...] = (
    nn.modules.conv._ConvNd,
    nn.Linear,
    nn.Flatten,
    nn.modules.batchnorm._BatchNorm,
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
)


@dataclass
class Survey:
    """What the first run showed.

    Args:
        cells: path → neuron.
        calls: path → how often a neuron called at every step was called.
        loops: path → steps a neuron that loops over time went through.
        lines: line of code that compares data outside any of these → how often it ran.
        doubts: path → why a module that behaves like a neuron could not be identified.
    """

    cells: dict[str, Cell] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    loops: dict[str, int] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    doubts: dict[str, Doubt] = field(default_factory=dict)

    @property
    def steps(self) -> list[int]:
        """The numbers of steps seen, likeliest first. Plain code counts where there is no neuron module."""
        modules = [*self.calls.values(), *self.loops.values()]
        counted = Counter(modules or self.lines.values())
        return sorted(counted, key=lambda steps: (-counted[steps], steps))


@dataclass
class _Seen:
    module: nn.Module
    args: tuple[Any, ...]
    known: Cell | None
    calls: int = 0
    alike: bool = True
    spiking: bool = True
    changes: bool = False
    chains: dict[int, tuple[Tensor, int]] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """Calls in one place of the network: a module that is handed its state may serve several."""
        longest = max((step for _, step in self.chains.values()), default=1)
        return longest if longest > 1 and self.calls % longest == 0 else self.calls


def survey(model: nn.Module, run: Callable[[nn.Module, Any], Any], x: Tensor) -> Survey:
    """Run the model once and look at every module that might be a neuron.

    Raises:
        S2CError: a neuron of a known library uses a feature that cannot be represented.
    """
    paths = {id(m): path for path, m in model.named_modules()}
    seen: dict[str, _Seen] = {}
    inside = 0

    def handler(
        module: nn.Module, original: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        nonlocal inside
        path = paths.get(id(module))
        if inside or path is None or not args or not isinstance(args[0], Tensor):
            return original(module, *args, **kwargs)
        if path not in seen:
            known = _known(module, path)
            if known is None and not _eligible(module, path):
                return original(module, *args, **kwargs)
            seen[path] = _Seen(module if known else _pristine(module), (*args, *kwargs.values()), known)
        entry = seen[path]
        inside += entry.known is not None
        try:
            out = original(module, *args, **kwargs)
        finally:
            inside -= entry.known is not None
        _note(entry, args, kwargs, out)
        return out

    with torch.no_grad(), calls_through(handler):
        run(model, x)
    return _judged(seen)


def _judged(seen: Mapping[str, _Seen]) -> Survey:
    found = Survey()
    known = [path for path, entry in seen.items() if entry.known is not None]
    for path, entry in sorted(seen.items()):
        # A module around a known neuron is no neuron of its own: what else it does is traced like any code.
        around = any(inner.startswith(f"{path}.") for inner in known)
        candidate = entry.known is not None or (entry.alike and entry.changes and not around)
        if not candidate or any(path.startswith(f"{outer}.") for outer in found.cells):
            continue
        cell = entry.known
        if cell is None:
            probe = Probe(entry.module, entry.args, entry.steps)
            try:
                cell = identify(probe) if entry.spiking else identify_integrator(probe)
            except S2CError as error:
                graded = "" if entry.spiking else "its output is no spike, and "
                reason = f"{graded}{error.what}{': ' + error.why if error.why else ''}"
                found.doubts[path] = Doubt(reason, entry.spiking)
                continue
        found.cells[path] = cell
        if cell.time_axis is None:
            found.calls[path] = entry.steps
        else:
            found.loops[path] = int(cell.unfolded(entry.args[0]).shape[cell.time_axis])
    return found


def _known(module: nn.Module, path: str) -> Cell | None:
    cell = registered(module, path)
    for adapter in ADAPTERS if cell is None else ():
        try:
            cell = adapter.cell(module)
        except S2CError as error:
            raise S2CError(error.what, where=error.where or path, why=error.why, fix=error.fix) from None
        if cell is not None:
            break
    return cell


def _eligible(module: nn.Module, path: str) -> bool:
    own = isinstance(module, torch.jit.ScriptModule) or not type(module).__module__.startswith("torch.")
    return bool(path) and own and not any(isinstance(m, _LAYERS) for m in module.modules())


def _note(entry: _Seen, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> None:
    entry.calls += 1
    x, returned = args[0], all_of(out, Tensor)
    given = [entry.chains[id(leaf)][1] for leaf in pytree.tree_leaves((args[1:], kwargs)) if id(leaf) in entry.chains]
    # The tensors are held, so that no other can take their ids.
    entry.chains.update({id(leaf): (leaf, max(given, default=0) + 1) for leaf in returned})
    first = next(iter(returned), None)
    if first is None or first.shape != x.shape or not first.is_floating_point():
        entry.alike = False
        return
    # Straight-through estimators add a value and take it away again: a spike may be off by a rounding.
    peak = float(first.abs().max()) if first.numel() else 0.0
    near_zero, near_peak = first.abs() < 1e-5, (first.abs() - peak).abs() < 1e-5 * max(peak, 1.0)
    entry.spiking &= bool((near_zero | near_peak).all())
    entry.changes |= not torch.equal(first, x)


def _pristine(module: nn.Module) -> nn.Module:
    """A copy with the state the model's reset left; tensors with autograd history cannot be copied as they are."""
    history = [t for m in module.modules() for t in tensor_attributes(m).values() if t.grad_fn is not None]
    return copy.deepcopy(module, {id(t): t.detach().clone() for t in history})
