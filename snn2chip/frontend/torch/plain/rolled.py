"""A recording by site and step: what ran in which step of the time loop, and who reads it."""

from __future__ import annotations

from snn2chip.frontend.torch.nests import all_of
from snn2chip.frontend.torch.plain.region import Site
from snn2chip.frontend.torch.recording import Call, Recording, Ref


class Rolled:
    """A recording by site and step; what nothing comes of is left out.

    Attributes:
        calls, output: as those of the recording.
        runs: site → its call at every step; None where the first step did not run it.
        site, step: id of a call → where in ``runs`` it is.
        readers: id of a call → the calls that read it.
    """

    def __init__(self, recording: Recording, steps: int) -> None:
        self.calls, self.output, self.steps = _used(recording), recording.output, steps
        by_site: dict[Site, list[Call]] = {}
        for call in self.calls:
            if call.kind != "input" and call.site:
                by_site.setdefault((call.name, *call.site), []).append(call)
        # A site missing once did not run at the first step, where its operand was still a Python number.
        self.runs = {s: [None] * (steps - len(c)) + c for s, c in by_site.items() if len(c) in (steps, steps - 1)}
        self.site = {id(c): s for s, calls in self.runs.items() for c in calls if c is not None}
        self.step = {id(c): t for calls in self.runs.values() for t, c in enumerate(calls) if c is not None}
        self._started = 0
        self.find_readers()

    def start_with(self, constant: Call) -> None:
        """Put a constant in front of every step, behind those that were put there before."""
        self._started += 1
        self.calls.insert(self._started, constant)

    def find_readers(self) -> None:
        """Bring ``readers`` up to date with the arguments of the calls."""
        self.readers: dict[int, list[Call]] = {}
        for call in self.calls:
            for ref in call.refs():
                self.readers.setdefault(id(ref.call), []).append(call)

    def reads(self, site: Site) -> set[Site]:
        """The sites that the last step reads there."""
        call = self.runs[site][-1]
        return {self.site[id(ref.call)] for ref in call.refs() if id(ref.call) in self.site} if call else set()

    def returned(self) -> list[Ref]:
        """What the model returns."""
        return all_of(self.output, Ref)


def _used(recording: Recording) -> list[Call]:
    """The calls that something comes of at any step: what the model only looks at is no output of a neuron."""
    alike: dict[Site, list[Call]] = {}
    for call in recording.calls:
        alike.setdefault((call.name, *call.site), []).append(call)
    pending = [
        *(ref.call for ref in all_of(recording.output, Ref)),
        *(c for c in recording.calls if c.kind == "neuron"),
    ]
    used = {id(recording.input)}
    while pending:
        call = pending.pop()
        if id(call) not in used:
            used.add(id(call))
            pending += [ref.call for ref in call.refs()]
            pending += alike[(call.name, *call.site)] if call.site else ()
    return [call for call in recording.calls if id(call) in used]
