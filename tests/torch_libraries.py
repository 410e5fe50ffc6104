"""What four libraries and hand-written code offer: their neurons, and their ways of writing time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from torch_networks import HandLIF, T

FEATURES = 12
Shape = tuple[int, ...]


class Stage(nn.Module):
    """What feeds a neuron, for one step, and the neuron."""

    def __init__(self, synapse: list[nn.Module], neuron: nn.Module) -> None:
        super().__init__()
        self.synapse, self.neuron = nn.Sequential(*synapse), neuron


# ------------------------------------------------------------------ how time is written


class Net(nn.Module):
    """conv, conv, linear, linear; spikes are counted. The example is [T, N, ...], or as ``axis`` says."""

    axis = 0

    def __init__(self, stages: list[Stage]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)

    @property
    def neurons(self) -> dict[str, nn.Module]:
        """By the paths a graph has them under."""
        return {f"stages.{i}.neuron": stage.neuron for i, stage in enumerate(self.stages)}


class Loop(Net):
    """One step after another; the neurons keep their state."""

    def forward(self, x: Tensor) -> Tensor:
        total: Any = 0
        for frame in x.unbind(self.axis):
            for stage in self.stages:
                frame = stage.neuron(stage.synapse(frame))
            total = total + frame
        return total


class LoopSamplesFirst(Loop):
    axis = 1


class Explicit(Net):
    """The state goes in and comes out."""

    def begin(self, neuron: nn.Module) -> Any:
        return None

    def call(self, neuron: nn.Module, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        return neuron(x, state)

    def forward(self, x: Tensor) -> Tensor:
        states = [self.begin(stage.neuron) for stage in self.stages]
        spikes = []
        for t in range(len(x)):
            h = x[t]
            for i, stage in enumerate(self.stages):
                h, states[i] = self.call(stage.neuron, stage.synapse(h), states[i])
            spikes.append(h)
        return torch.stack(spikes).sum(0)


class LayerByLayer(Net):
    """All steps through one layer, then through the next: synapses on [T·N, ...]."""

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.stages:
            x = stage.neuron(stage.synapse(x.flatten(0, 1)).unflatten(0, x.shape[:2]))
            x = x[0] if isinstance(x, tuple) else x
        return x.sum(self.axis)


class LayerByLayerSamplesFirst(LayerByLayer):
    axis = 1


class Chain(Net):
    """``nn.Sequential`` of single steps."""

    container: type[nn.Module] = nn.Sequential

    def __init__(self, stages: list[Stage]) -> None:
        nn.Module.__init__(self)
        self.chain = self.container(*(m for stage in stages for m in (*stage.synapse, stage.neuron)))
        self.places = [i for i, m in enumerate(self.chain) if any(m is stage.neuron for stage in stages)]

    @property
    def neurons(self) -> dict[str, nn.Module]:
        return {f"chain.{i}": self.chain[i] for i in self.places}

    def forward(self, x: Tensor) -> Tensor:
        return sum(self.chain(frame) for frame in x)  # type: ignore[return-value]


class Folded(LayerByLayer):
    """``nn.Sequential`` on [N·T, ...]; the neurons know how many steps that is."""

    axis = 1

    def forward(self, x: Tensor) -> Tensor:
        h = x.flatten(0, 1)
        for stage in self.stages:
            h = stage.neuron(stage.synapse(h))
        return h.unflatten(0, x.shape[:2]).sum(1)


# ------------------------------------------------------------------ libraries


@dataclass
class Library:
    """What a library offers.

    Args:
        styles: classes of networks, by name.
        neurons: makers, called with the shape of a layer, and options that the style asks for.
        options: style → what its neurons are made with.
        reset: before every sample.
        membrane: of a neuron that was just called, as it stands after the reset; of all steps where it shows them.
        flat_only: neurons that take vectors only.
        only_in: neurons that not every style has.
    """

    styles: dict[str, type[Net]]
    neurons: dict[str, Callable[..., nn.Module]]
    reset: Callable[[nn.Module], Any]
    membrane: Callable[[nn.Module, Any], Tensor | None]
    options: dict[str, dict[str, Any]] = field(default_factory=dict)
    flat_only: tuple[str, ...] = ()
    only_in: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def offers(self, style: str, neuron: str) -> bool:
        return style in self.only_in.get(neuron, self.styles)


def per_feature(shape: Shape, low: float, high: float) -> Tensor:
    return torch.linspace(low, high, shape[0]).reshape(shape)


def no_membrane(neuron: nn.Module, out: Any) -> None:
    """The library keeps it to itself."""


# ------------------------------------------------------------------ snnTorch


def snntorch_library() -> Library:
    import snntorch as snn

    def of(cls: Any, *rates: float, **options: Any) -> Callable[..., nn.Module]:
        return lambda shape, **style: cls(*rates, **options, **style)

    def recurrent(cls: Any, *rates: float, **options: Any) -> Callable[..., nn.Module]:
        return lambda shape, **style: cls(*rates, linear_features=FEATURES, threshold=0.9, **options, **style)

    class States(Explicit):
        def begin(self, neuron: nn.Module) -> Any:
            state = neuron.reset_mem()
            return state if isinstance(state, tuple) else (state,)

        def call(self, neuron: nn.Module, x: Tensor, state: Any) -> tuple[Tensor, Any]:
            spike, *after = neuron(x, *state)
            # The spikes come first among the states of recurrent neurons.
            return spike, (spike, *after) if isinstance(neuron, (snn.RLeaky, snn.RSynaptic)) else tuple(after)

    def reset(net: nn.Module) -> None:
        # snntorch.utils.reset passes over layers that are not children of the network itself.
        for m in net.modules():
            if isinstance(m, snn.SpikingNeuron):
                m.reset_mem()

    return Library(
        styles={"loop": Loop, "loop over [N, T]": LoopSamplesFirst, "explicit": States, "Sequential": Chain},
        options={style: {"init_hidden": True} for style in ("loop", "loop over [N, T]", "Sequential")},
        neurons={
            "Leaky subtract": of(snn.Leaky, 0.9),
            "Leaky zero": of(snn.Leaky, 0.85, reset_mechanism="zero"),
            "Leaky zero, at once": of(snn.Leaky, 0.8, reset_mechanism="zero", reset_delay=False),
            "Leaky none": of(snn.Leaky, 0.5, reset_mechanism="none"),
            "Leaky learned": of(snn.Leaky, 0.8, learn_beta=True, threshold=0.8, learn_threshold=True),
            "Leaky clamped": of(snn.Leaky, 1.2, threshold=1.4),
            "Leaky graded": of(snn.Leaky, 0.8, graded_spikes_factor=0.7),
            "Leaky per channel": lambda shape, **style: snn.Leaky(
                per_feature(shape, 0.4, 0.9), threshold=per_feature(shape, 0.6, 1.1), learn_beta=True, **style
            ),
            "Lapicque": of(snn.Lapicque, 0.8, threshold=0.5),
            "Lapicque RC": lambda shape, **style: snn.Lapicque(R=2.0, C=0.9, time_step=0.5, **style),
            "Synaptic": of(snn.Synaptic, 0.6, 0.7),
            "Synaptic zero": of(snn.Synaptic, 0.6, 0.7, reset_mechanism="zero"),
            "RLeaky": recurrent(snn.RLeaky, 0.7),
            "RSynaptic zero": recurrent(snn.RSynaptic, 0.4, 0.7, reset_mechanism="zero"),
        },
        flat_only=("RLeaky", "RSynaptic zero"),
        reset=reset,
        membrane=lambda neuron, out: neuron.mem.clone(),
    )


# ------------------------------------------------------------------ SpikingJelly


def spikingjelly_library() -> Library:
    from spikingjelly.activation_based import functional, neuron

    kinds: dict[str, tuple[str, dict[str, Any]]] = {
        "IF hard": ("IFNode", {}),
        "IF soft": ("IFNode", {"v_reset": None, "v_threshold": 1.3}),
        "LIF hard": ("LIFNode", {"tau": 1.6, "detach_reset": True}),
        "LIF hard, reset elsewhere": ("LIFNode", {"tau": 1.7, "v_reset": -0.3, "v_threshold": 0.7}),
        "LIF soft": ("LIFNode", {"tau": 1.5, "v_reset": None}),
        "LIF undriven hard": ("LIFNode", {"tau": 2.3, "decay_input": False, "v_reset": 0.1}),
        "LIF undriven soft": ("LIFNode", {"tau": 2.5, "decay_input": False, "v_reset": None}),
        "PLIF": ("ParametricLIFNode", {"init_tau": 1.8}),
        "PLIF undriven soft": ("ParametricLIFNode", {"init_tau": 2.7, "decay_input": False, "v_reset": None}),
        "Simple LIF": ("SimpleLIFNode", {"tau": 1.9, "decay_input": True}),
        "Half threshold": ("HalfThresholdIFNode", {}),
        "QIF": ("QIFNode", {"tau": 1.5, "v_c": 0.4, "a0": 0.6, "v_reset": -0.1}),
        "CUBA-LIF": ("CUBALIFNode", {"c_decay": 0.4, "v_decay": 0.7, "v_threshold": 1.1}),
        "CUBA-LIF soft": ("CUBALIFNode", {"c_decay": 0.3, "v_reset": None}),
    }

    def of(name: str, options: dict[str, Any]) -> Callable[..., nn.Module]:
        def make(shape: Shape, step_mode: str = "s") -> nn.Module:
            made = getattr(neuron, name)(**options)
            made.step_mode = step_mode
            if step_mode == "m" and hasattr(made, "store_v_seq"):
                made.store_v_seq = True
            return made

        return make

    class SamplesFirst(LayerByLayer):
        """[N, T, ...] at the door, [T, N, ...] inside, as SpikingJelly wants it."""

        axis = 1

        def forward(self, x: Tensor) -> Tensor:
            x = x.transpose(0, 1)
            for stage in self.stages:
                x = stage.neuron(functional.seq_to_ann_forward(x, stage.synapse))
            return x.mean(0)

    return Library(
        styles={
            "loop": Loop,
            "loop over [N, T]": LoopSamplesFirst,
            "multi-step": LayerByLayer,
            "multi-step, [N, T] outside": SamplesFirst,
            "Sequential": Chain,
        },
        options={style: {"step_mode": "m"} for style in ("multi-step", "multi-step, [N, T] outside")},
        # 0.0.0.0.14 lacks some of the classes.
        neurons={kind: of(*made) for kind, made in kinds.items() if hasattr(neuron, made[0])},
        reset=functional.reset_net,
        membrane=lambda m, out: m.v.clone() if m.step_mode == "s" else getattr(m, "v_seq", None),
    )


# ------------------------------------------------------------------ Norse


def norse_library() -> Library:
    import norse.torch as norse
    from norse.torch.functional.reset import reset_subtract
    from norse.torch.module.lsnn import LSNN, LSNNCell, LSNNRecurrent, LSNNRecurrentCell

    number = torch.tensor
    lif = norse.LIFParameters(v_th=number(0.3), tau_mem_inv=number(200.0))
    shifted = norse.LIFParameters(
        tau_mem_inv=number(220.0), v_leak=number(-0.2), v_th=number(0.2), v_reset=number(-0.4), method="tanh"
    )
    box = norse.LIFBoxParameters(v_th=number(0.2), tau_mem_inv=number(300.0), v_leak=number(0.1))
    soft = norse.LIFBoxParameters(v_th=number(0.15), reset_method=reset_subtract)
    iaf = norse.IAFParameters(v_th=number(1.3), v_reset=number(0.2))
    adaptive = norse.LSNNParameters(
        v_th=number(0.2), tau_mem_inv=number(300.0), tau_adapt_inv=number(150.0), beta=number(0.15)
    )

    def of(cell: Callable[..., nn.Module], loop: Callable[..., nn.Module] | None, *args: Any) -> Callable[..., Any]:
        return lambda shape, over_time=False: (loop if over_time else cell)(*args)  # type: ignore[misc]

    def per_channel(shape: Shape, over_time: bool = False) -> nn.Module:
        p = norse.LIFParameters(v_th=per_feature(shape, 0.2, 0.4), tau_syn_inv=per_feature(shape, 100.0, 400.0))
        return norse.LIF(p) if over_time else norse.LIFCell(p)

    class States(Chain):
        container = norse.SequentialState

        def forward(self, x: Tensor) -> Tensor:
            state, total = None, torch.zeros(())
            for frame in x:
                out, state = self.chain(frame, state)
                total = total + out
            return total

    def membrane(neuron: nn.Module, out: Any) -> Tensor | None:
        state = out[1]
        return (state.lif if hasattr(state, "lif") else state).v.clone()

    wide = (FEATURES, FEATURES)
    return Library(
        styles={"explicit": Explicit, "SequentialState": States, "modules that loop": LayerByLayer},
        options={"modules that loop": {"over_time": True}},
        neurons={
            "LIF": of(norse.LIFCell, norse.LIF, lif),
            "LIF shifted": of(norse.LIFCell, norse.LIF, shifted),
            "LIF per channel": per_channel,
            "LIF heaviside": of(norse.LIFCell, norse.LIF, lif._replace(method="heaviside")),
            "LIF box": of(norse.LIFBoxCell, None, box),
            "LIF box, soft reset": of(norse.LIFBoxCell, None, soft),
            "LIF without refractory period": of(norse.LIFRefracCell, None, norse.LIFRefracParameters(lif, number(0))),
            "IAF": of(norse.IAFCell, norse.IAF, iaf),
            "LSNN": of(LSNNCell, LSNN, adaptive),
            "LIF recurrent": of(norse.LIFRecurrentCell, norse.LIFRecurrent, *wide, lif),
            "LSNN recurrent": of(LSNNRecurrentCell, LSNNRecurrent, *wide, adaptive),
        },
        flat_only=("LIF recurrent", "LSNN recurrent"),
        only_in=dict.fromkeys(
            ("LIF box", "LIF box, soft reset", "LIF without refractory period"), ("explicit", "SequentialState")
        ),
        reset=lambda net: None,
        membrane=membrane,
    )


# ------------------------------------------------------------------ Sinabs


def sinabs_library() -> Library:
    import sinabs.layers as sl
    from sinabs.activation import MaxSpike, MembraneReset, MembraneSubtract, SingleSpike

    def of(name: str, theta: float = 1.0, **options: Any) -> Callable[..., nn.Module]:
        def make(shape: Shape, squeeze: bool = False) -> nn.Module:
            sizes = {"num_timesteps": T} if squeeze else {}
            cls = getattr(sl, f"{name}Squeeze" if squeeze else name)
            return cls(**{"spike_fn": SingleSpike, "spike_threshold": torch.tensor(theta), **options, **sizes})

        return make

    def per_channel(shape: Shape, squeeze: bool = False) -> nn.Module:
        tau, theta = per_feature(shape, 2.0, 6.0), per_feature(shape, 0.2, 0.5)
        sizes = {"num_timesteps": T} if squeeze else {}
        cls = sl.LIFSqueeze if squeeze else sl.LIF
        return cls(tau_mem=tau, spike_threshold=theta, spike_fn=SingleSpike, **sizes)

    def recurrent(name: str, theta: float = 1.0, **options: Any) -> Callable[..., nn.Module]:
        return lambda shape: getattr(sl, name)(
            rec_connect=nn.Linear(FEATURES, FEATURES, bias=False),
            **{"spike_fn": SingleSpike, "spike_threshold": torch.tensor(theta), **options},
        )

    class Transposed(LayerByLayer):
        """[T, N, ...] at the door, [N, T, ...] inside, as Sinabs wants it."""

        def forward(self, x: Tensor) -> Tensor:
            x = x.transpose(0, 1)
            for stage in self.stages:
                x = stage.neuron(stage.synapse(x.flatten(0, 1)).unflatten(0, x.shape[:2]))
            return x.sum(1)

    def reset(net: nn.Module) -> None:
        # sinabs.reset_states passes over layers with layers inside, the recurrent ones.
        for m in net.modules():
            if isinstance(m, sl.StatefulLayer):
                m.reset_states()

    adaptive = ("ALIF", "ALIF with current", "ALIF without norm", "IAF recurrent", "LIF recurrent", "ALIF recurrent")
    return Library(
        styles={"[N, T]": LayerByLayerSamplesFirst, "[T, N] outside": Transposed, "[N·T]": Folded},
        options={"[N·T]": {"squeeze": True}},
        neurons={
            "IAF": of("IAF"),
            "IAF, hard reset": of("IAF", 0.8, reset_fn=MembraneReset()),
            "IAF, at most one spike": of("IAF", spike_fn=MaxSpike(1)),
            "IAF with current": of("IAF", tau_syn=2.0),
            "LIF": of("LIF", 0.4, tau_mem=3.0),
            "LIF without norm": of("LIF", tau_mem=3.0, norm_input=False, reset_fn=MembraneReset()),
            "LIF with current": of("LIF", 0.3, tau_mem=4.0, tau_syn=2.0),
            "LIF with alphas": of("LIF", tau_mem=4.0, tau_syn=3.0, train_alphas=True, norm_input=False),
            "LIF per channel": per_channel,
            "LIF subtracting its threshold": of("LIF", 0.5, tau_mem=3.0, reset_fn=MembraneSubtract(0.5)),
            "ALIF": of("ALIF", 0.3, tau_mem=3.0, tau_adapt=4.0, adapt_scale=0.9),
            "ALIF with current": of("ALIF", 0.1, tau_mem=3.0, tau_adapt=4.0, tau_syn=5.0, reset_fn=MembraneReset()),
            "ALIF without norm": of("ALIF", tau_mem=3.0, tau_adapt=4.0, tau_syn=2.0, norm_input=False),
            "IAF recurrent": recurrent("IAFRecurrent"),
            "LIF recurrent": recurrent("LIFRecurrent", tau_mem=3.0, tau_syn=2.0, norm_input=False),
            "ALIF recurrent": recurrent("ALIFRecurrent", 0.3, tau_mem=3.0, tau_adapt=4.0),
        },
        flat_only=adaptive[3:],
        only_in=dict.fromkeys(adaptive, ("[N, T]", "[T, N] outside")),
        reset=reset,
        membrane=lambda neuron, out: neuron.v_mem.clone(),
    )


# ------------------------------------------------------------------ hand-written


def handwritten_library() -> Library:
    variants: dict[str, dict[str, Any]] = {
        "hard": {},
        "hard, strict": {"strict": True, "decay": 0.7},
        "hard, elsewhere": {"v_reset": -0.25, "decay": 0.8},
        "soft": {"reset": "soft", "decay": 0.6, "threshold": 0.9},
        "soft, strict": {"reset": "soft", "decay": 0.9, "strict": True},
        "soft, integrate and fire": {"reset": "soft", "decay": 1.0},
        "hard, next step": {"reset": "gate", "decay": 0.75, "strict": True},
        "soft, next step": {"reset": "next", "decay": 0.85, "strict": True},
        "no reset": {"reset": "none", "decay": 0.5},
        "tau": {"form": "tau", "decay": 2.5, "threshold": 0.6},
        "tau, soft": {"form": "tau", "decay": 1.7, "reset": "soft", "threshold": 0.5},
        "driven": {"form": "driven", "decay": 0.4, "threshold": 0.5},
    }

    class Given(HandLIF):
        """The same, its state in the caller's hands."""

        def forward(self, x: Tensor, state: Any) -> Any:
            v, fired = state or (torch.zeros_like(x), torch.zeros_like(x))
            spike, v = self.update(x, v, fired)
            return spike, (v, spike)

    class Over(HandLIF):
        """The same, over all steps at once."""

        def __init__(self, axis: int, **options: Any) -> None:
            super().__init__(**options)
            self.axis = axis

        def forward(self, x: Tensor) -> Tensor:
            self.reset()
            return torch.stack([HandLIF.forward(self, frame) for frame in x.unbind(self.axis)], self.axis)

    def of(options: dict[str, Any]) -> Callable[..., nn.Module]:
        return lambda shape, cls=HandLIF, **style: cls(**options, **style)

    def per_channel(shape: Shape, cls: type[HandLIF] = HandLIF, **style: Any) -> nn.Module:
        return cls(decay=per_feature(shape, 0.3, 0.8), threshold=per_feature(shape, 0.7, 1.2), **style)

    def reset(net: nn.Module) -> None:
        for m in net.modules():
            if isinstance(m, HandLIF):
                m.reset()

    def membrane(neuron: nn.Module, out: Any) -> Tensor | None:
        if isinstance(neuron, Over):
            return None
        return out[1][0] if isinstance(neuron, Given) else neuron.v.clone()

    return Library(
        styles={
            "loop": Loop,
            "loop over [N, T]": LoopSamplesFirst,
            "explicit": Explicit,
            "[T, N]": LayerByLayer,
            "[N, T]": LayerByLayerSamplesFirst,
            "Sequential": Chain,
        },
        options={"explicit": {"cls": Given}, "[T, N]": {"cls": Over, "axis": 0}, "[N, T]": {"cls": Over, "axis": 1}},
        neurons={**{name: of(options) for name, options in variants.items()}, "per channel": per_channel},
        reset=reset,
        membrane=membrane,
    )


LIBRARIES: dict[str, Callable[[], Library]] = {
    "snnTorch": snntorch_library,
    "SpikingJelly": spikingjelly_library,
    "Norse": norse_library,
    "Sinabs": sinabs_library,
    "hand-written": handwritten_library,
}
