"""Which layer an operation belongs to where one line serves several: the loop over layers in a loop over steps.

An operation's site is the line it stands in. ``for i, fc in enumerate(layers): mem[i] = 0.9 * mem[i] + fc(h)`` runs
each line once per layer and step, and what tells those runs apart is the weights that their operands come from.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from snn2chip.frontend.torch.recording import Call, Recording, names

_Feeders = frozenset[Any]
_WEIGHTED = names(
    "linear matmul mm bmm addmm einsum __matmul__ __rmatmul__ conv1d conv2d conv3d conv_transpose1d conv_transpose2d "
    "conv_transpose3d"
)


def told_apart(recording: Recording) -> Recording:
    """The recording with a site of its own for every layer that shares a line of code with others."""
    feeders = _feeders(recording.calls)
    runs: dict[tuple[Any, ...], dict[_Feeders, list[Call]]] = {}
    for call in recording.calls:
        if call.kind == "op" and call.site:
            runs.setdefault((call.name, *call.site), {}).setdefault(feeders[call], []).append(call)
    for found in runs.values():
        layers = _layers(found) if len(found) > 1 else []
        for i, calls in enumerate(layers):
            for call in calls:
                call.site = (*call.site, i)
    return recording


def _layers(runs: dict[_Feeders, list[Call]]) -> list[list[Call]]:
    """The runs of each layer; none unless every layer ran as often.

    In the first steps there may be nothing to feed back yet: a run fed by less belongs to the layer fed by more.
    States at rest are fed by nothing, and are taken layer by layer.
    """
    resting = runs.get(frozenset(), [])
    fed = {feeders: calls for feeders, calls in runs.items() if feeders}
    groups = list(fed.values())
    if len({len(calls) for calls in groups}) > 1:
        most = [own for own in fed if not any(own < other for other in fed)]
        groups = [[call for feeders, calls in fed.items() if feeders <= own for call in calls] for own in most]
    if groups and len(resting) % len(groups) == 0:
        groups = [[*resting[i :: len(groups)], *calls] for i, calls in enumerate(groups)]
    sizes = {len(calls) for calls in groups}
    return groups if len(groups) > 1 and len(sizes) == 1 and sizes != {1} and _each_once(groups, runs) else []


def _each_once(groups: list[list[Call]], runs: dict[_Feeders, list[Call]]) -> bool:
    shapes = [{call.values[0].shape for call in calls} for calls in groups]
    return sum(map(len, groups)) == sum(map(len, runs.values())) and all(len(found) == 1 for found in shapes)


def _feeders(calls: Iterable[Call]) -> dict[Call, _Feeders]:
    """For every call the weighted layers, neurons and inputs that its value comes from, through no other of these."""
    found: dict[Call, _Feeders] = {}
    parameters: dict[Call, _Feeders] = {}
    for call in calls:
        if not call.depends_on_data:
            own = call.kind == "const" and isinstance(call.values[0], nn.Parameter)
            parameters[call] = frozenset([id(call)]) if own else _union(parameters, call)
        if call.kind in ("neuron", "input"):
            found[call] = frozenset([(call.kind, call.module)])
        elif call.name in _WEIGHTED:
            found[call] = frozenset([(call.module, _union(parameters, call))])
        else:
            found[call] = _union(found, call)
    return found


def _union(known: dict[Call, _Feeders], call: Call) -> _Feeders:
    distinct = {known[ref.call] for ref in call.refs() if ref.call in known}
    return distinct.pop() if len(distinct) == 1 else frozenset[Any]().union(*distinct)
