"""A neuron written as plain code: its operations at every step, and a module that computes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from snn2chip.errors import S2CError
from snn2chip.frontend.torch.context import place
from snn2chip.frontend.torch.nests import all_of, mapped
from snn2chip.frontend.torch.recording import Call, Ref
from snn2chip.ir.graph import Source

Site = tuple[Any, ...]


@dataclass
class Region:
    """One neuron's operations: ``runs[t]`` are those of step t, in order.

    Args:
        inputs: per step, the tensor it reads from outside, or the sum of those.
        parts: per step, the tensors that sum is made of.
        outputs: (site, output) of what is read outside, spikes first.
    """

    runs: list[list[Call]]
    sites: dict[int, Site]
    inputs: list[Ref]
    parts: list[tuple[Ref, ...]]
    outputs: list[tuple[Site, int]]
    steps: int
    compares: bool

    @property
    def source(self) -> Source:
        return self.runs[-1][0].source

    def entry(self, step: int) -> Tensor:
        """Its input at one step, as recorded."""
        ref = self.inputs[step]
        return ref.call.values[ref.out]

    def name(self, taken: Set[str]) -> str:
        """After the module it is written in, or else after the layer that feeds it."""
        owner = self.runs[-1][0].module or self.inputs[-1].call.module
        name = f"{owner}.neuron" if owner else "neuron"
        return name if name not in taken else next(n for i in range(2, 999) if (n := f"{name}_{i}") not in taken)

    def follow(self, moved: Mapping[tuple[int, int], Ref]) -> None:
        """Read outputs of another region, by id of their call and index, where they are given now."""

        def now(refs: Iterable[Ref]) -> list[Ref]:
            return [moved.get((id(ref.call), ref.out), ref) for ref in refs]

        self.inputs, self.parts = now(self.inputs), [tuple(now(refs)) for refs in self.parts]


class StepModule(nn.Module):
    """A region as a module that is called at every step and keeps its state."""

    def __init__(self, region: Region) -> None:
        super().__init__()
        self.region = region
        self.step = 0
        self.state: dict[tuple[Site, int], Tensor] = {}

    def __deepcopy__(self, memo: Any) -> StepModule:
        return StepModule(self.region)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        region = self.region
        # The first step may be written differently: its states are Python numbers or constants.
        at = 0 if self.step == 0 else -1
        calls, parts = region.runs[at], region.parts[at]
        own = {id(c) for c in calls}
        now: dict[tuple[Site, int], Tensor] = {}
        batch = region.entry(0).shape[0]

        def value(ref: Ref) -> Tensor:
            site = region.sites.get(id(ref.call))
            if site is not None:
                known = now if id(ref.call) in own else self.state
                if (site, ref.out) not in known:
                    raise S2CError("an operation of it is left out in the first step", why=place(ref.call))
                return known[site, ref.out].clone()
            if ref in parts:
                return x if ref == parts[0] else torch.zeros_like(x)
            if ref.call.depends_on_data:
                raise S2CError("its first step begins with another value", why=place(ref.call))
            constant = ref.call.values[ref.out]
            whole = constant.ndim == x.ndim and constant.shape[0] == batch != x.shape[0]
            return (constant[: x.shape[0]] if whole else constant).clone()

        for call in calls:
            args, kwargs = mapped((call.args, call.kwargs), Ref, value)
            assert call.func is not None
            out = call.func(*args, **kwargs)
            for i, tensor in enumerate(all_of(out, Tensor)):
                now[region.sites[id(call)], i] = tensor
        self.step += 1
        self.state = now
        return tuple(now[key].to(x.dtype).broadcast_to(x.shape) for key in region.outputs)
