"""The report as text: one set of Markdown tables, printed and put into the documentation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

Data = dict[str, Any]


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, text: int = 1) -> str:
    """A Markdown table; columns but the first ``text`` are of numbers."""
    lines = ["| " + " | ".join(head) + " |", "|---" * text + "|--:" * (len(head) - text) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def machine(report: Data) -> str:
    """One line."""
    found = report["machine"]
    instructions = ", ".join(f"{'with' if found[name] else 'without'} {name}" for name in ("VNNI", "look-ups"))
    versions = ", ".join(f"{name} {found[name]}" for name in ("python", "torch", "numpy", "snn2chip"))
    return (
        f"{found['processor']}, {found['cores']} cores, {found['threads']} threads, {instructions}; "
        f"{found['system']}, {versions}; {report['rounds']} rounds"
        f"{'; a quick run, of few samples' * report['quick']}."
    )


def networks(report: Data) -> str:
    """Every network's variants."""
    return "\n\n".join(_network(row) for row in report.get("networks", ()))


def _network(data: Data) -> str:
    head = f"**{data['title']}, T = {data['time_steps']}**"
    if "refused" in data:
        return f"{head}: not timed. {data['refused']}"
    program = data["program"]
    kernels = ", ".join(f"{n} × {kernel}" for kernel, n in program["kernels"].items())
    facts = (
        f"{data['samples']} samples; populations: {program['populations']}, of which {program['mean_rate']:.0%} fire "
        f"in a step (lowest: {program['lowest_rate']:.1%}); kernels of the linear layers: {kernels}."
    )
    rows = [
        (
            name,
            f"{row['ms_per_sample']:.3g}",
            " … ".join(f"{q / row['samples']:.3g}" for q in row.get("quartiles_ms", ())) or "–",
            f"{row['ratio']:.3g}",
            f"{row['same_predictions']:.0%}" if "same_predictions" in row else "–",
        )
        for name, row in data["variants"].items()
    ]
    parts = [head, facts, table(("", "ms per sample", "quartiles", "ratio", "same predictions"), rows)]
    claims = "; ".join(f"{name}: **{value:.3g}**" for name, value in data["claims"].items())
    parts.append(f"Ratios per sample: {claims}.")
    parts += [_neurons(program["neurons"])] if program.get("neurons") else []
    parts += [f"Not run: {name} ({why})." for name, why in data["skipped"].items()]
    return "\n\n".join(parts)


def _neurons(rows: list[Data]) -> str:
    moved = sum(row["bytes"] for row in rows)
    taken = sum(row["bytes"] / row["gigabytes_per_second"] for row in rows)
    copied = sum(row["bytes"] / row["copy_gigabytes_per_second"] for row in rows)
    return (
        f"Neurons: one thread moves {moved / 1e6:.3g} MB per chunk at {moved / taken:.3g} GB/s; copying blocks of the "
        f"same sizes reaches {moved / copied:.3g} GB/s."
    )


def memory(report: Data) -> str:
    """Peak memory at the largest T."""
    rows = []
    for data in report.get("memory", ()):
        found = data["variants"]
        fast = next(iter(found))
        for name, row in found.items():
            claim = data["claims"].get(f"{fast} / {name}")
            rows.append(
                (
                    f"{data['title']}, T = {data['time_steps']}, {data['samples']} samples",
                    name,
                    f"{row['added_mib']:.0f}",
                    f"{row['peak_mib']:.0f}",
                    f"{row['ms_per_sample']:.3g}",
                    "1" if claim is None else f"{claim:.3g}",
                )
            )
    head = (
        "network",
        "variant",
        "MiB added by the run",
        "of the whole process",
        "ms per sample",
        "fast engine's share",
    )
    return table(head, rows, text=2)


def tracing(report: Data) -> str:
    """Seconds of tracing and exporting."""
    data = report["tracing"]
    rows = [(name, f"{row['median_ms'] / 1000:.3g}", f"{row['ratio']:.3g}") for name, row in data["variants"].items()]
    skipped = [f"Not run: {name} ({why})." for name, why in data["skipped"].items()]
    title = f"{data['title']}, T = {data['time_steps']}:"
    return "\n\n".join([title, table(("", "seconds", "ratio"), rows), *skipped])


def sweeps(report: Data) -> str:
    """One table per sweep."""
    parts = []
    for rows in report.get("sweeps", {}).values():
        body = [
            (
                f"{row['at']:g}",
                row["variant"],
                f"{row['ms_per_sample']:.3g}",
                f"{row['added_mib']:.0f}",
            )
            for row in rows
        ]
        parts.append(table((rows[0]["axis"], "variant", "ms per sample", "MiB added by the run"), body, text=2))
    return "\n\n".join(parts)


SECTIONS = {"machine": machine, "networks": networks, "memory": memory, "tracing": tracing, "sweeps": sweeps}


def text(report: Data) -> str:
    """Everything that was measured."""
    return "\n\n".join(make(report) for name, make in SECTIONS.items() if name in report)
