"""Compile the NIR paper's recurrent Braille network, trained in snnTorch, for Loihi 2, and measure what it costs.

Needs the folder ``braille`` of the conformance material (``SNN2CHIP_MATERIAL``, or ``../shared/material``), not a
part of the repository; without it, the example says so and ends.

    python examples/braille.py [out/braille]
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np

import snn2chip as s2c

MATERIAL = Path(os.environ.get("SNN2CHIP_MATERIAL", Path(__file__).parents[2] / "shared" / "material")) / "braille"


def samples() -> tuple[np.ndarray, np.ndarray]:
    """1,158 recordings [N, 256, 12] of 0 and 1, and which of seven letters was felt."""
    with np.load(MATERIAL / "samples.npz") as data:
        shape, labels = data["shape"], data["labels"]
        spikes = np.unpackbits(data["spikes_packed"])[: np.prod(shape)].reshape(shape)
    return spikes.astype(np.float32), labels.astype(np.int64)


def main() -> None:
    if not MATERIAL.is_dir():
        print(f"skipped: {MATERIAL} is not there; set SNN2CHIP_MATERIAL to the folder of recordings")
        return
    # NIR knows neither dt nor what a spike resets to: both are the network's meaning, so they are given here.
    graph = s2c.load_graph(MATERIAL / "braille_noDelay_bias_zero.nir", dt=1e-4, reset="zero")
    x, labels = samples()
    build = s2c.compile(
        graph,
        calibration=x[::9],
        data=x,
        labels=labels,
        target="loihi2",
        out=Path(sys.argv[1] if len(sys.argv) > 1 else "out/braille"),
        name="Braille, recurrent CubaLIF 12-38-7",
    )
    print(build.summary())


if __name__ == "__main__":
    main()
