"""Numbers that left torch while a model was recorded: a model may keep and show them, but not go by them."""

from __future__ import annotations

from typing import Any, NoReturn

from torch import Tensor

from snn2chip.errors import S2CError


class Opaque:
    """What ``.item()``, ``.tolist()`` or ``.numpy()`` of traced data gives while recording.

    Spike counts are often logged inside ``forward``. That is harmless as long as nothing comes of it: an opaque number
    can be stored, added up and printed. Whatever would need its value raises ``error``.
    """

    def __init__(self, error: S2CError) -> None:
        self._error = error

    def refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Say that the value would be needed here."""
        raise self._error

    def _kept(self, *others: Any, **kwargs: Any) -> Opaque:
        if any(isinstance(other, Tensor) for other in (*others, *kwargs.values())):
            raise self._error
        return self

    def __getattr__(self, name: str) -> Opaque:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __repr__(self) -> str:
        return "(a value of the data)"

    def __format__(self, spec: str) -> str:
        return repr(self)

    __hash__ = None  # type: ignore[assignment]
    __bool__ = __float__ = __int__ = __index__ = __complex__ = __len__ = __iter__ = __contains__ = refuse
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __array__ = refuse
    __call__ = __getitem__ = __round__ = __neg__ = __pos__ = __abs__ = _kept
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __pow__ = __rpow__ = _kept
    __truediv__ = __rtruediv__ = __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = _kept


class OpaqueNumber(float):
    """What ``.item()`` gives: as opaque, and a number that ``torch.FloatTensor(counts)`` takes without asking.

    A tensor made so is a constant that differs with the data. Should the deployed output use it, another graph comes of
    other data, and the tracer refuses that.
    """

    def __new__(cls, value: float, error: S2CError) -> OpaqueNumber:
        """The number itself, and what is raised where it is asked for."""
        made = super().__new__(cls, value)
        made._error = error
        return made

    def refuse(self) -> NoReturn:
        """Say that the value would be needed here."""
        raise self._error

    _error: S2CError
    __hash__ = None  # type: ignore[assignment]


# All but what makes a sequence of it.
for _name in vars(Opaque).keys() & (vars(float).keys() | {"_kept"}) - {"__new__", "__init__", "__doc__", "__hash__"}:
    setattr(OpaqueNumber, _name, vars(Opaque)[_name])
for _name in ("__trunc__", "__floor__", "__ceil__", "__divmod__", "__rdivmod__"):
    setattr(OpaqueNumber, _name, Opaque.refuse)
