"""The drawings are sound XML, and their lengths and places are the numbers."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from snn2chip.report import svg

_NS = {"s": "http://www.w3.org/2000/svg"}


def parsed(drawing: str) -> ElementTree.Element:
    return ElementTree.fromstring(drawing)


def test_bars_are_as_long_as_their_values() -> None:
    root = parsed(svg.bars(["a", "b", "zero"], [10.0, 5.0, 0.0], ["10", "5", "0"], title="t"))
    widths = [float(bar.attrib["width"]) for bar in root.findall("s:rect", _NS)]
    assert widths[0] == 2 * widths[1] > 0
    assert widths[2] == 0
    assert [t.text for t in root.findall("s:text", _NS)] == ["a", "10", "b", "5", "zero", "0"]


def test_long_names_stay_apart() -> None:
    names = [f"encoder.blocks.{i}.attention.{part}.neuron" for i in (7, 9) for part in ("query", "value")]
    root = parsed(svg.bars(names, [1.0] * 4, [""] * 4, title="t"))
    labels = [t.text for t in root.findall("s:text", _NS) if t.text]
    assert labels == [f"e.b.{i}.attention.{part}.neuron" for i in (7, 9) for part in ("query", "value")]
    (flat,) = parsed(svg.bars(["n" * 50], [1.0], [""], title="t")).findall("s:text", _NS)[:1]
    assert flat.text == "…" + "n" * 27


def test_pairs_share_one_axis() -> None:
    root = parsed(svg.pairs(["x"], [20.0], [40.0], names=("float", "fixed"), title="t"))
    lines = [line for line in root.findall("s:line", _NS) if line.attrib["class"] == "g"]
    zero, top = (float(lines[i].attrib["x1"]) for i in (0, -1))
    first, second = (float(c.attrib["cx"]) for c in root.findall("s:circle", _NS)[:2])
    assert abs((second - zero) - 2 * (first - zero)) < 0.2
    assert abs(second - top) < 0.2, "40 is a round number, so the axis ends there"


def test_raster_draws_every_spike_once() -> None:
    root = parsed(svg.raster([("a", "4 neurons", [(0, 0), (1, 3), (2, 1)], 4), ("b", "", [], 2)], 3, title="t"))
    paths = [p.attrib["d"] for p in root.findall("s:path", _NS)]
    assert [len(re.findall("M", d)) for d in paths] == [3, 0]


def test_histogram_marks_the_threshold_in_place() -> None:
    root = parsed(svg.histogram([1, 0, 4, 9], -2.0, 2.0, 1.0, title="t"))
    (mark,) = [line for line in root.findall("s:line", _NS) if line.attrib["class"] == "m"]
    bars = root.findall("s:rect", _NS)
    assert len(bars) == 3, "an empty bin has no bar"
    assert abs(float(mark.attrib["x1"]) - (8 + 284 * 0.75)) < 0.1


def test_nothing_at_all_can_be_drawn() -> None:
    for drawing in (svg.bars([], [], [], title="t"), svg.pairs([], [], [], names=("a", "b"), title="t")):
        parsed(drawing)


def test_names_are_escaped_and_long_ones_cut() -> None:
    root = parsed(svg.bars(["<b>&", "features.encoder.stage.block.3.lif"], [1.0, 1.0], ["1", "1"], title="<t>"))
    texts = [t.text or "" for t in root.findall("s:text", _NS)]
    assert texts[0] == "<b>&"
    assert texts[2] == "f.encoder.stage.block.3.lif"
