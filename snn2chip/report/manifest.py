"""``manifest.json``: what a compile read and wrote, by which versions and options."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from snn2chip.atomic import atomic_file
from snn2chip.errors import S2CError
from snn2chip.report.files import views
from snn2chip.version import __version__

MANIFEST = "manifest.json"
_MANIFEST_FORMAT, _MANIFEST_VERSION = "snn2chip-manifest", 1

# Distributions whose version can change a number or a byte of what is written.
_VERSIONED = ("numpy", "h5py", "nir", "torch", "snntorch", "spikingjelly", "lava-nc", "lava-dl")


def write_manifest(folder: Path, report: Mapping[str, Any]) -> None:
    """Note what went in, what came out, by which versions and options.

    Args:
        folder: complete but for the manifest.
        report: as :func:`snn2chip.report.collect` made it.
    """
    manifest = {
        "format": _MANIFEST_FORMAT,
        "version": _MANIFEST_VERSION,
        "snn2chip": report["snn2chip"],
        "model": report["subject"]["model"],
        "target": report["target"]["name"],
        "options": report["options"],
        "versions": report["versions"],
        "inputs": report["inputs"],
        "outputs": dict(hashes(folder)),
    }
    (folder / MANIFEST).write_text(_as_json(manifest), "utf-8")


def rewrite_views(folder: Path, report: Mapping[str, Any]) -> None:
    """Render the views of an earlier compile again from its ``report.json``, and note their hashes in its manifest.

    Raises:
        S2CError: the folder has no manifest, or cannot be written.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise S2CError(
            "the manifest cannot be read",
            where=str(folder / MANIFEST),
            why=str(error),
            fix="give a folder that `snn2chip compile` wrote, or compile the network again",
        ) from None
    for name, text in views(dict(report)).items():
        with atomic_file(folder / name) as temporary:
            temporary.write_text(text, "utf-8")
    manifest["outputs"] = dict(hashes(folder))
    with atomic_file(folder / MANIFEST) as temporary:
        temporary.write_text(_as_json(manifest), "utf-8")


def versions() -> dict[str, str]:
    """Name → version of Python, snn2chip, and every distribution here that can change a number of the output."""
    found = {"python": platform.python_version(), "snn2chip": __version__}
    for name in _VERSIONED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def hashes(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Path → size and SHA-256 of every file below ``folder`` but the manifest, in order."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != MANIFEST:
            content = path.read_bytes()
            yield (
                path.relative_to(folder).as_posix(),
                {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)},
            )


def _as_json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"
