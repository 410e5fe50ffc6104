"""Record one real forward pass: every tensor operation and every call of a neuron, with the line it came from.

Nothing is symbolic: real tensors flow through the user's code, so Python loops, resets, shape tests and containers need
no support of their own. A ``TorchFunctionMode`` sees the operations; ``nn.Module.__call__`` is replaced while
recording, to know which module is running and to keep neurons whole.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from snn2chip.errors import S2CError
from snn2chip.frontend.torch.nests import all_of, mapped
from snn2chip.frontend.torch.opaque import Opaque, OpaqueNumber
from snn2chip.frontend.torch.recording import Call, Recording, Ref, names
from snn2chip.ir.graph import Source

# Reading data into Python: what follows could depend on it, and a graph recorded once would be wrong for other data.
_READS_DATA = names("__bool__ __int__ __float__ __index__ __complex__ __array__ is_nonzero equal allclose __contains__")
# These hand it out, and nothing need come of it.
_HANDS_OUT_DATA = names("item tolist numpy")
# Fresh tensors that only borrow a shape.
_LIKE = names("zeros_like ones_like full_like empty_like new_zeros new_ones new_full new_empty new_tensor")
RANDOM = names(
    "rand rand_like randn randn_like randint randint_like bernoulli bernoulli_ poisson normal normal_ uniform_ "
    "exponential_ multinomial randperm"
)
_OWN = __name__.rsplit(".", 1)[0]
_LIBRARIES = ("torch", "spikingjelly", "snntorch", "norse", "sinabs")


def record(model: nn.Module, run: Callable[[nn.Module, Any], Any], x: Tensor, neurons: Mapping[str, Any]) -> Recording:
    """Run ``run(model, x)`` once and write down what happens.

    Args:
        neurons: paths of the modules that are kept whole.

    Raises:
        S2CError: the model reads traced data into Python, so that its graph could depend on the data.
    """
    recorder = _Recorder(model, neurons)
    entry = recorder.enter(x)
    with torch.no_grad(), calls_through(recorder.call_module), _scripts_as_python(), recorder:
        try:
            output = run(model, entry)
        except S2CError as error:
            # What fails in the user's code only while it is recorded does so for want of a value that was handed out.
            raise recorder.handed_out[-1] if recorder.handed_out and error.__cause__ else error from None
    structure = mapped(output, Tensor, recorder.ref)
    return Recording(recorder.calls, recorder.calls[0], structure)


@contextmanager
def calls_through(handler: Callable[..., Any]) -> Iterator[None]:
    """Send every module call to ``handler(module, original call, args, kwargs)`` instead."""
    original = nn.Module.__call__

    def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return handler(module, original, args, kwargs)

    nn.Module.__call__ = call  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.__call__ = original  # type: ignore[method-assign]


@contextmanager
def _scripts_as_python() -> Iterator[None]:
    """Run ``torch.jit.script`` functions as the Python code they were made of: compiled, they hide what they do."""
    compiled: Any = torch._C.ScriptFunction
    original = compiled.__call__

    def call(function: Any, *args: Any, **kwargs: Any) -> Any:
        python = getattr(function, "_torchdynamo_inline", None)
        return original(function, *args, **kwargs) if python is None else python(*args, **kwargs)

    compiled.__call__ = call
    try:
        yield
    finally:
        compiled.__call__ = original


class _Recorder(TorchFunctionMode):
    def __init__(self, model: nn.Module, neurons: Mapping[str, Any]) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.neurons = neurons
        self.paths = {id(m): path for path, m in model.named_modules()}
        self.stack: list[str] = [""]
        self.inside = 0
        self.bound: dict[int, tuple[Ref, int]] = {}
        self.kept: list[Tensor] = []
        self.random: dict[int, Source] = {}
        self.counts: dict[str, int] = {}
        self.handed_out: list[S2CError] = []

    def enter(self, x: Tensor) -> Tensor:
        """The tensor the model is given; its own object, so that it is recognised."""
        entry = x.clone()
        self._bind(Call("input", "input", None, (), {}, [], "", Source(), depends_on_data=True), [entry])
        return entry

    def ref(self, tensor: Tensor) -> Ref:
        """Where a tensor came from; one that was never seen is a constant."""
        known = self.bound.get(id(tensor))
        if known is None:
            source = self.random.get(id(tensor), Source())
            name = "random" if id(tensor) in self.random else "const"
            self._bind(Call("const", name, None, (), {}, [], self.stack[-1], source), [tensor])
            return self.bound[id(tensor)][0]
        ref, version = known
        if _version(tensor) != version:
            if not ref.call.depends_on_data:
                del self.bound[id(tensor)]
                return self.ref(tensor)
            ref.call.modified = True
        return ref

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.inside:
            return func(*args, **kwargs)
        self.inside += 1
        try:
            return self._operation(func, args, kwargs)
        finally:
            self.inside -= 1

    def _operation(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        raw = _name(func)
        name = raw.strip("_") if _in_place(raw) and raw.startswith("__i") else raw
        leaves = pytree.tree_leaves((args, kwargs))
        for leaf in leaves:
            if isinstance(leaf, Opaque | OpaqueNumber):
                leaf.refuse()
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        if not tensors or raw in _LIKE or raw in RANDOM:
            out = func(*args, **kwargs)
            if raw in RANDOM:
                for tensor in all_of(out, Tensor):
                    self.random[id(tensor)] = self._origin()[0]
                    self.kept.append(tensor)
                    self.bound.pop(id(tensor), None)
            return out
        read = mapped((args, kwargs), Tensor, self.ref)
        depends = any(self.ref(tensor).call.depends_on_data for tensor in tensors)
        if (raw in _READS_DATA or raw in _HANDS_OUT_DATA) and depends:
            source, _ = self._origin()
            error = S2CError(
                f"the model reads a value it computed from the data into Python ({raw.strip('_')})",
                where=str(source) or self.stack[-1],
                why="what follows can differ for other data; a chip runs one fixed network",
                fix="compute it with tensor operations, move it out of forward, or remove the assertion",
            )
            if raw in _READS_DATA:
                raise error
            self.handed_out.append(error)
            return OpaqueNumber(float(func(*args, **kwargs)), error) if raw == "item" else Opaque(error)
        in_place = _in_place(raw) or kwargs.get("out") is not None
        if in_place:
            self._protect(args[0])
        out = func(*args, **kwargs)
        values = [args[0]] if raw == "__setitem__" else all_of(out, Tensor)
        # A cast that finds nothing to do returns what it was given: nothing was computed.
        unchanged = not in_place and all(any(value is given for given in tensors) for value in values)
        if not values or unchanged:
            return out
        source, site = self._origin()
        name, func, read = _masked(name, func, args, read)
        call = Call("op", name, func, read[0], read[1], [], self.stack[-1], source, site, depends_on_data=depends)
        self._bind(call, values)
        return out

    def call_module(
        self, module: nn.Module, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Stand in for ``nn.Module.__call__``."""
        path = self.paths.get(id(module))
        if self.inside or path is None:
            return original(module, *args, **kwargs)
        self.stack.append(path)
        try:
            if path not in self.neurons:
                return original(module, *args, **kwargs)
            self.inside += 1
            try:
                return self._neuron(path, module, original, args, kwargs)
            finally:
                self.inside -= 1
        finally:
            self.stack.pop()

    def _neuron(
        self,
        path: str,
        module: nn.Module,
        original: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        read = mapped((args, kwargs), Tensor, self.ref)
        out = original(module, *args, **kwargs)
        returned = all_of(out, Tensor)
        seen = {id(tensor) for tensor in returned}
        left = {name: t for name, t in tensor_attributes(module).items() if id(t) not in seen and t.ndim > 0}
        source, site = self._origin()
        index = self.counts.get(path, 0)
        self.counts[path] = index + 1
        ports = (*map(str, range(len(returned))), *(f"attr:{name}" for name in left))
        args, kwargs = read
        call = Call("neuron", type(module).__name__, None, args, kwargs, [], path, source, site, index, ports, True)
        self._bind(call, [*returned, *left.values()])
        call.values = [value.clone() for value in call.values]
        return out

    def _bind(self, call: Call, values: list[Tensor]) -> None:
        call.values = values
        self.calls.append(call)
        for i, value in reversed(list(enumerate(values))):
            self.bound[id(value)] = (Ref(call, i), _version(value))
            self.kept.append(value)

    def _protect(self, target: Any) -> None:
        """Keep the value an in-place operation is about to overwrite."""
        if isinstance(target, Tensor):
            ref = self.bound[id(target)][0]
            if ref.call.kind != "neuron":
                ref.call.values = [v.clone() if v is target else v for v in ref.call.values]

    def _origin(self) -> tuple[Source, tuple[Any, ...]]:
        """The innermost line of user code, and the key of the whole stack of user code."""
        frame: FrameType | None = sys._getframe(1)
        keys: list[Any] = [self.stack[-1]]
        file, line = "", 0
        while frame is not None:
            package = frame.f_globals.get("__name__", "")
            if package == __name__ and frame.f_code.co_name == "record":
                break
            if not package.startswith(_OWN) and package.split(".")[0] != "torch":
                keys.append((frame.f_code, frame.f_lasti))
                if not file and package.split(".")[0] not in _LIBRARIES:
                    file, line = frame.f_code.co_filename, frame.f_lineno
            frame = frame.f_back
        return Source(self.stack[-1], file, line), tuple(keys)


def _version(tensor: Tensor) -> int:
    """How often a tensor was written to; one made in inference mode cannot be, once outside of it."""
    return 0 if tensor.is_inference() else tensor._version


def _masked(name: str, func: Callable[..., Any], args: tuple[Any, ...], read: Any) -> tuple[str, Any, Any]:
    """``x[mask] = y`` and ``x[mask] = y[mask]`` are ``where(mask, y, x)``: pointwise, unlike other writes."""
    mask = args[1] if name == "__setitem__" else None
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape != args[0].shape:
        return name, func, read
    (target, where, value), _ = read
    if isinstance(value, Ref) and args[2].ndim > 0:
        chosen = value.call
        if chosen.name != "__getitem__" or chosen.args[1] != where:
            return name, func, read
        value = chosen.args[0]
    return "where", torch.where, ((where, value, target), {})


def tensor_attributes(module: nn.Module) -> dict[str, Tensor]:
    """The floating-point tensors a module holds beside its parameters, private dictionaries included, by name."""
    found: dict[str, Tensor] = {}
    for name, value in vars(module).items():
        if isinstance(value, Tensor):
            found[name] = value
        elif isinstance(value, dict) and name not in ("_parameters", "_modules"):
            found.update({k: v for k, v in value.items() if isinstance(k, str) and isinstance(v, Tensor)})
    return {name: t for name, t in found.items() if t.is_floating_point()}


def _name(func: Callable[..., Any]) -> str:
    name = getattr(func, "__name__", str(func))
    if name == "__get__":
        return "get_" + str(getattr(getattr(func, "__self__", None), "__name__", ""))
    return str(name)


def _in_place(name: str) -> bool:
    return (
        name == "__setitem__"
        or (name.endswith("_") and not name.endswith("__"))
        or (name.startswith("__i") and name not in ("__index__", "__int__", "__invert__"))
    )
