"""The papers' networks: a table of configurations, and :func:`network`, which builds one.

Names are those of the papers. Where a paper prints no layer list, it is that of the code it builds on; ``docs/zoo.md``
says which.
"""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from snn2chip.errors import UsageError
from snn2chip.zoo.layers import Parts, SpikingNetwork
from snn2chip.zoo.residual import ResNet, Stem
from snn2chip.zoo.sequential import Sequential
from snn2chip.zoo.transformers import MetaSpikeFormer, Spikformer

Shape = tuple[int, int, int]


class Layout(Protocol):
    """How a network is laid out: the classes of ``sequential.py``, ``residual.py`` and ``transformers.py``."""

    def build(self, parts: Parts, shape: Shape, classes: int, time_steps: int) -> SpikingNetwork:
        """The network for inputs (C, H, W)."""


@dataclass(frozen=True)
class Entry:
    """A network of the table: its layout, and what the papers feed it."""

    layout: Layout
    shape: Shape
    classes: int
    time_steps: int


CIFAR10: Any = {"shape": (3, 32, 32), "classes": 10, "time_steps": 4}
CIFAR100: Any = {**CIFAR10, "classes": 100}
IMAGENET: Any = {"shape": (3, 224, 224), "classes": 1000, "time_steps": 4}
EVENTS: Any = {"shape": (2, 48, 48), "classes": 10, "time_steps": 10}

_CIFAR_STEM = Stem(64)
_IMAGENET_STEM = Stem(64, kernel=7, stride=2, pool=True)
_resnet = partial(ResNet, widths=(64, 128, 256, 512), strides=(1, 2, 2, 2))
_DEPTHS: dict[int, dict[str, Any]] = {
    18: {"depths": (2, 2, 2, 2)},
    34: {"depths": (3, 4, 6, 3)},
    50: {"depths": (3, 4, 6, 3), "expansion": 4},
}


def _resnets() -> dict[str, Entry]:
    """ResNets of four stages: {plain, SEW} × {18, 34, 50} × {CIFAR stem, ImageNet stem}."""
    return {
        f"{prefix}resnet{depth}{suffix}": Entry(_resnet(stem, sew=bool(prefix), **blocks), **data)
        for prefix in ("", "sew-")
        for depth, blocks in _DEPTHS.items()
        for suffix, stem, data in (("", _IMAGENET_STEM, IMAGENET), ("-cifar", _CIFAR_STEM, CIFAR10))
    }


NETWORKS: dict[str, Entry] = {
    "vgg16": Entry(
        Sequential(((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3), "max", hidden=(4096, 4096)), **CIFAR10
    ),
    "vgg11": Entry(
        Sequential(((64,), (128,), (256, 256), (512, 512), (512, 512)), "avg", hidden=(4096,), hidden_norm=True),
        **{**EVENTS, "classes": 101},
    ),
    "vggsnn": Entry(Sequential(((64, 128), (256, 256), (512, 512), (512, 512)), "avg"), **EVENTS),
    "lenet5": Entry(
        Sequential(((6,), (16,)), "avg", hidden=(120,), kernel=5, paddings=(2, 0)), (1, 28, 28), 10, time_steps=2
    ),
    "dvsgesturenet": Entry(
        Sequential(((128,),) * 5, "max", hidden=(512, 110), votes=10), (2, 128, 128), 11, time_steps=10
    ),
    "resnet19": Entry(
        ResNet(Stem(128), widths=(128, 256, 512), depths=(3, 3, 2), strides=(1, 2, 2), hidden=(256,)),
        **{**CIFAR10, "time_steps": 2},
    ),
    "resnet20": Entry(ResNet(Stem(16), widths=(16, 32, 64), depths=(3, 3, 3), strides=(1, 2, 2)), **CIFAR100),
    **_resnets(),
    "regnetx-4gf": Entry(
        ResNet(
            Stem(32, stride=2),
            widths=(80, 240, 560, 1360),
            depths=(2, 5, 14, 2),
            strides=(2, 2, 2, 2),
            expansion=1,
            group_width=40,
        ),
        **IMAGENET,
    ),
    "spikformer-4-384": Entry(Spikformer(4, 384, heads=12, blocks=4), **CIFAR10),
    "spikformer-8-512": Entry(Spikformer(8, 512, heads=8, blocks=8), **IMAGENET),
    "spikformer-16-512": Entry(Spikformer(16, 512, heads=8, blocks=8), **IMAGENET),
    "metaspikeformer": Entry(MetaSpikeFormer((64, 256), blocks=(1, 1), heads=8), (3, 64, 64), 200, time_steps=4),
}


def network(
    name: str,
    *,
    shape: Shape | None = None,
    classes: int | None = None,
    time_steps: int | None = None,
    layout: Any = (),
    **parts: Any,
) -> SpikingNetwork:
    """A network of the table, untrained.

    Args:
        name: key of :data:`NETWORKS`.
        shape: (C, H, W) of one image or frame; the paper's by default, and so the next two.
        classes: outputs; 0: no classifier, the features that would enter it.
        time_steps: T for images; frames bring their own.
        layout: changes to the layout, by the names of its fields: ``{"pool": "avg"}`` makes the VGG-16 of S001.
        **parts: neurons, batch norm, width, …: the arguments of :class:`~snn2chip.zoo.layers.Parts`.

    Raises:
        UsageError: no network of that name, an option it does not have, or an image that does not fit it.
    """
    entry = NETWORKS.get(name)
    if entry is None:
        near = difflib.get_close_matches(name, NETWORKS, 1)
        fix = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(NETWORKS)}"
        raise UsageError(f"the zoo has no network {name!r}", fix=fix)
    for given, options in ((dict(layout), entry.layout), (parts, Parts())):
        known = list(vars(options))
        unknown = [key for key in given if key not in known]
        if unknown:
            raise UsageError(f"{name} has no option {unknown[0]!r}", fix=f"choose from {', '.join(known)}")
    changed: Layout = dataclasses.replace(entry.layout, **dict(layout))  # type: ignore[type-var]
    wanted = entry.classes if classes is None else classes
    return changed.build(Parts(**parts), shape or entry.shape, wanted, time_steps or entry.time_steps)
