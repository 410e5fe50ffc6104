"""snn2chip: a trained PyTorch spiking neural network, on a neuromorphic chip, with proof of what happened on the way.

The functions below are the public interface; each is imported when it is first used, so that ``import snn2chip`` is
quick and needs no torch::

    graph   = snn2chip.trace(model, example, time_steps=4)
    program = snn2chip.quantize(graph, target="loihi2", calibration=x)
    result  = snn2chip.simulate(program, x, record=("u", "v", "spikes"))
    report  = snn2chip.verify(program, x, against="lava")
    build   = snn2chip.compile(model, example, time_steps=4, calibration=x, out="out/")
"""

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

from snn2chip.version import __version__ as __version__

if TYPE_CHECKING:
    from snn2chip.api import Build as Build
    from snn2chip.api import compile as compile  # noqa: A004
    from snn2chip.api import evaluate as evaluate
    from snn2chip.api import load as load
    from snn2chip.api import load_graph as load_graph
    from snn2chip.api import quantize as quantize
    from snn2chip.api import simulate as simulate
    from snn2chip.api import trace as trace
    from snn2chip.api import verify as verify
    from snn2chip.errors import S2CError as S2CError

_FACE = {
    "Build": "snn2chip.api",
    "S2CError": "snn2chip.errors",
    "compile": "snn2chip.api",
    "evaluate": "snn2chip.api",
    "load": "snn2chip.api",
    "load_graph": "snn2chip.api",
    "quantize": "snn2chip.api",
    "simulate": "snn2chip.api",
    "trace": "snn2chip.api",
    "verify": "snn2chip.api",
}
__all__ = [*_FACE]


class _Face(types.ModuleType):
    """This package, its public functions looked up on the class.

    ``simulate``, ``quantize`` and ``verify`` are also names of subpackages. The import system stores a subpackage in
    its parent when it is first imported, which would hide the function; a property of the class is stronger than that.
    """


def _on_first_use(name: str) -> property:
    def get(_: types.ModuleType) -> Any:
        return getattr(importlib.import_module(_FACE[name]), name)

    def ignore(_: types.ModuleType, value: object) -> None:
        """What the import system would store here stays reachable through ``sys.modules``."""

    return property(get, ignore)


for _name in _FACE:
    setattr(_Face, _name, _on_first_use(_name))
sys.modules[__name__].__class__ = _Face
