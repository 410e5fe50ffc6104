"""The report as JSON, Markdown, HTML and text: complete, self-contained, and the same bytes every time."""

from __future__ import annotations

import copy
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from snn2chip.errors import S2CError
from snn2chip.report import document, read_report, views
from snn2chip.report.terminal import summary

Json = dict[str, Any]
_DOCS = Path(__file__).parents[2] / "docs" / "report.md"


def test_json_survives_the_file(report: Json, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(views(report)["report.json"], "utf-8")
    assert read_report(tmp_path) == read_report(tmp_path / "report.json") == report


def test_views_are_the_same_bytes_every_time(report: Json) -> None:
    assert views(report) == views(json.loads(views(report)["report.json"]))


def test_every_key_is_documented(report: Json) -> None:
    documented = set(re.findall(r"^\| `([a-z0-9_.\[\]]+)` \|", _DOCS.read_text("utf-8"), re.MULTILINE))
    top = set(report)
    nested = {f"{key}[].{inner}" for key, value in report.items() for inner in _rows(value)}
    nested |= {
        f"{key}.{inner}" for key in ("accuracy", "first_divergence", "culprit", "mapping") for inner in report[key]
    }
    assert top | nested == documented


def _rows(value: Any) -> set[str]:
    return set().union(*(row for row in value if isinstance(row, dict))) if isinstance(value, list) else set()


def test_numbers_agree_with_each_other(report: Json) -> None:
    accuracy = report["accuracy"]
    drop = accuracy["drop"]
    assert drop["both"] + drop["only_float"] + drop["only_fixed"] + drop["neither"] == accuracy["samples"] == 80
    assert drop["value"] == pytest.approx(accuracy["float"]["accuracy"] - accuracy["fixed"]["accuracy"])
    assert accuracy["float"]["correct"] == 72, "a tenth of the labels was changed"
    assert drop["interval"][0] <= drop["value"] <= drop["interval"][1]
    synops = {row["name"]: row["synops"] for row in report["operations"]}
    for cost in report["energy"]:
        if cost["table"] == "loihi1-davies2018":
            assert cost["layers"]["fc"]["synops"] == pytest.approx(23.6 * synops["fc"])
    rates = {row["name"]: row["rate_fixed"] for row in report["layers"]}
    spikes = {row["name"]: row["spikes"] for row in report["operations"]}
    assert rates["lif_2"] == pytest.approx(spikes["lif_2"] / (5 * 5))


class _Page(HTMLParser):
    """Checks nesting, and collects what would leave the page."""

    void = frozenset({"meta", "line", "rect", "circle", "path", "br", "wbr"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.outside: list[str] = []
        self.numeric: list[bool] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.void:
            self.open.append(tag)
        self.outside += [f"{tag} {k}={v}" for k, v in attrs if k in ("src", "href", "srcset", "action", "onload")]
        if tag in ("script", "link", "iframe", "img"):
            self.outside.append(tag)
        if tag == "td":
            self.numeric.append(("class", "n") in attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page_is_well_formed_and_needs_no_network(report: Json) -> None:
    text = views(report)["report.html"]
    page = _Page()
    page.feed(text)
    assert page.open == []
    assert page.outside == []
    assert any(page.numeric)
    assert not all(page.numeric)
    addresses = set(re.findall(r"https?://[^\"' )]+", text)) - {"http://www.w3.org/2000/svg"}
    assert addresses == set()
    assert "@import" not in text
    assert "url(" not in text
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text


def test_cells_break_at_the_joints_of_paths_and_lists_alone(report: Json) -> None:
    changed = copy.deepcopy(report)
    changed["network"][1]["inputs"] = ["blocks.7.attention"]
    changed["options"]["passes"] = "prune,fold_batchnorm"
    page = views(changed)["report.html"]
    assert "<td>blocks.7.<wbr>attention</td>" in page
    assert "<td>prune,<wbr>fold_batchnorm</td>" in page
    assert "<td>3.11</td>" in page


def test_names_of_the_user_are_escaped(report: Json) -> None:
    rendered = views(report)
    assert "<lif>" not in rendered["report.html"]
    assert "&lt;lif&gt; &amp; 1" in rendered["report.html"]
    assert "A remark \\| with a bar." in rendered["report.md"]


def test_every_section_is_in_both_views(report: Json) -> None:
    rendered = views(report)
    titles = [section.title for section in document(report).sections]
    assert len(titles) == 13
    for title in titles:
        assert f"<h2>{title}</h2>" in rendered["report.html"]
    for title in set(titles) - {"Spikes"}:
        assert f"## {title}\n" in rendered["report.md"]


def test_markdown_tables_have_equal_rows(report: Json) -> None:
    blocks = re.findall(r"(?:^\|.*\|\n)+", views(report)["report.md"], re.MULTILINE)
    assert len(blocks) > 8
    for block in blocks:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1


def test_results_of_oracles_are_told_apart(report: Json) -> None:
    text = views(report)["report.md"]
    assert "| lava | equal |" in text
    assert "| a recording | differs | lif\\_2: v is 3 instead of 4 |" in text
    assert "| lava-runtime | not run | lava-nc is not installed |" in text
    assert "Verified against:** 1 of 2 (lava, a recording; not run: lava-runtime)" in text


def test_weights_that_lost_nothing_are_exact_and_not_120_decibel(report: Json) -> None:
    rounded = copy.deepcopy(report)
    rounded["quantization"][0]["synapses"] = {"conv": {"sqnr_db": 120.0, "clipped": 0.0, "exponent": 0.0}}
    made = views(rounded)
    assert "| conv | &lt;lif> & 1 | exact | 0.00 % | 0 |" in made["report.md"]
    assert "120.0 dB" not in made["report.html"]


def test_what_a_table_does_not_price_is_never_zero(report: Json) -> None:
    priced = copy.deepcopy(report)
    cost = priced["energy"][0]
    cost["layers"]["fc"] = {"synops": None}
    cost["chip"], cost["unpriced"] = None, ["synops"]
    text = views(priced)["report.md"]
    assert "| fc | not in this table |" in text
    assert "Not in this table: synops." in text


def test_without_data_there_are_no_measurements(report: Json) -> None:
    bare = {**report, "accuracy": None, "layers": [], "operations": [], "energy": [], "raster": {}}
    bare |= {"first_divergence": None, "culprit": None, "verification": []}
    titles = [section.title for section in document(bare).sections]
    assert "Accuracy" not in titles
    assert "Network" in titles
    views(bare)


def test_summary_says_what_was_not_written(report: Json) -> None:
    text = summary(report)
    assert "not written: model.net: first reason (and 1 more)" in text
    assert "Accuracy in fixed point" in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "the report cannot be read"),
        ("{", "the report is damaged"),
        ("[]", "this is not a report of snn2chip"),
        ('{"format": "other"}', "this is not a report of snn2chip"),
        ('{"format": "snn2chip-report", "version": 99}', "the report has version 99"),
    ],
)
def test_unreadable_reports(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "report.json").write_text(content)
    with pytest.raises(S2CError, match=message):
        read_report(tmp_path)
