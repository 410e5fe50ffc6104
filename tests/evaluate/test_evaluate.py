"""Shards add up to the whole, whatever they are; memory is stated, kept and flat; what is wrong is said."""

from __future__ import annotations

import errno
import io
import itertools
import os
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import snn2chip
from effort import examples
from networks import graph, node, population
from process import printed
from snn2chip import machine
from snn2chip.errors import S2CError, UsageError
from snn2chip.evaluate import Evaluation, Extent, Progress, evaluate, outputs, sizing
from snn2chip.ir.layers import Linear
from snn2chip.neurons.lif import LIF
from snn2chip.simulate import simulate
from snn2chip.simulate.readout import classes
from tests.emit.random_programs import Case, cases
from tests.evaluate.conftest import Whole


@settings(max_examples=examples(60))
@given(case=cases(), data=st.data())
def test_shards_add_up_to_the_whole(case: Case, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    x = case.x[rng.integers(0, len(case.x), data.draw(st.integers(1, 12)))]
    y = rng.integers(0, classes(case.program) or 3, len(x))
    size, batch = (data.draw(st.integers(1, len(x) + 2)) for _ in range(2))
    output = tmp_path_factory.mktemp("out") / "outputs.npz"
    result = simulate(case.program, x, engine="reference")
    found = evaluate(case.program, x, y, shard_size=size, batch_size=batch, output=output)
    assert found == Evaluation.of(result, y)
    assert found.totals() == dict(result.totals())
    with np.load(output) as arrays:
        np.testing.assert_array_equal(arrays["outputs"], result.outputs)
        np.testing.assert_array_equal(arrays["outputs_int"], result.outputs_int)
        assert arrays["outputs"].dtype == result.outputs.dtype


@settings(max_examples=examples(50))
@given(cuts=st.sets(st.integers(1, 102)), seed=st.integers(0, 1000))
def test_the_order_of_shards_does_not_matter(whole: Whole, cuts: set[int], seed: int) -> None:
    edges = [0, *sorted(cuts), len(whole.x)]
    parts = [slice(a, b) for a, b in itertools.pairwise(edges)]
    np.random.default_rng(seed).shuffle(parts)  # type: ignore[arg-type]
    found = [Evaluation.of(simulate(whole.program, whole.x[part]), whole.y[part]) for part in parts]
    assert sum(found[1:], start=found[0]) == whole.evaluation


def test_the_fast_engine_and_the_machines_clock(whole: Whole) -> None:
    assert evaluate(whole.program, whole.x, whole.y, shard_size=10, engine="fast") == whole.evaluation
    clock = {"clock": "machine", "reset_interval": 4, "reset_phase": 0}
    expected = Evaluation.of(simulate(whole.program, whole.x, **clock), whole.y)
    assert evaluate(whole.program, whole.x, whole.y, shard_size=7, **clock) == expected


def test_accuracy(whole: Whole) -> None:
    best = whole.result.outputs.argmax(axis=1)
    assert snn2chip.evaluate(whole.program, whole.x, best).accuracy == 1.0
    assert evaluate(whole.program, whole.x, np.where(np.arange(103) < 26, best, (best + 1) % 3)).correct == 26
    assert evaluate(whole.program, whole.x).accuracy is None


@pytest.mark.parametrize("label", [-1, 3, 255, 1.5, np.nan])
def test_a_label_that_is_no_class(whole: Whole, label: float) -> None:
    y = np.where(np.arange(103) == 57, label, whole.y)
    with pytest.raises(S2CError, match="is no class") as refused:
        evaluate(whole.program, whole.x, y, shard_size=10)
    assert refused.value.where == "labels, sample 57"
    assert "0 to 2" in refused.value.why


def test_a_float_graph(whole: Whole, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    fc = node("fc", Linear(rng.normal(size=(3, 6)).astype(np.float32)), "x")
    net = graph((6,), fc, node("lif", population(LIF(1.0, 0.5, fire=">")), "fc"), time_steps=4)
    expected = simulate(net, whole.x)
    found = evaluate(net, whole.x, whole.y, shard_size=20, output=tmp_path / "o.npz")
    assert found == Evaluation.of(expected, whole.y)
    with np.load(tmp_path / "o.npz") as arrays:
        assert arrays.files == ["outputs"]
        np.testing.assert_array_equal(arrays["outputs"], expected.outputs)


def test_a_shard_that_does_not_divide_the_data_prepares_once(whole: Whole) -> None:
    from snn2chip.simulate.fast import prepare as preparing

    with mock.patch.object(preparing, "prepare", side_effect=preparing.prepare) as prepare:
        evaluate(whole.program, whole.x, shard_size=60, engine="fast")
        assert prepare.call_count <= 1


# --- before and during the run ---


def test_what_is_announced_and_told(whole: Whole) -> None:
    said: list[Extent] = []
    told: list[Progress] = []
    evaluate(whole.program, whole.x, shard_size=25, announce=said.append, progress=told.append)
    (extent,) = said
    assert (extent.samples, extent.steps, extent.shards, extent.workers) == (103, 4, 5, 1)
    assert extent.memory.total > 0
    assert [p.done for p in told] == [25, 50, 75, 100, 103]
    assert told[-1].remaining == 0


def test_throughput_counts_only_what_was_simulated() -> None:
    progress = Progress(done=300, resumed=100, total=1300, seconds=4.0)
    assert progress.throughput == 50
    assert progress.remaining == 20
    assert Progress(100, 100, 1300, 0.0).throughput is None
    assert Progress(100, 0, None, 4.0).remaining is None


def test_shards_shrink_to_the_memory_there_is(whole: Whole) -> None:
    said: list[Extent] = []
    needs = {}
    for size in (1, 8, 103):
        evaluate(
            whole.program, whole.x, shard_size=size, announce=lambda extent: needs.update({extent.shard_size: extent})
        )
    with mock.patch.object(sizing, "available_memory", return_value=needs[8].memory.total):
        found = evaluate(whole.program, whole.x, whole.y, announce=said.append)
        assert 1 <= said[0].shard_size <= 8
        assert said[0].memory.total <= needs[8].memory.total < needs[103].memory.total
        assert found == whole.evaluation
        with pytest.raises(S2CError, match="not enough memory for 103 samples at a time") as refused:
            evaluate(whole.program, whole.x, shard_size=103)
        assert "smaller shard size" in refused.value.fix
    with (
        mock.patch.object(sizing, "available_memory", return_value=needs[1].memory.total - 1),
        pytest.raises(S2CError, match="not enough memory for one sample at a time"),
    ):
        evaluate(whole.program, whole.x)


def test_available_memory_is_the_smallest_limit(tmp_path: Path) -> None:
    info, limit, use = (tmp_path / name for name in ("meminfo", "max", "current"))
    info.write_text("MemTotal: 900 kB\nMemAvailable:    500 kB\n")
    use.write_text("100000\n")
    files = {"_MEMORY_INFO": info, "_GROUP_FILES": ((limit, use),), "_of_process": lambda: None}
    with mock.patch.multiple(machine, **files):
        assert machine.available_memory() == 500 * 1024, "no group"
        limit.write_text("max\n")
        assert machine.available_memory() == 500 * 1024, "no limit"
        limit.write_text("350000\n")
        assert machine.available_memory() == 250000
        limit.write_text("50000\n")
        assert machine.available_memory() == 0
        info.unlink()
        limit.unlink()
        assert machine.available_memory() is None
    assert 1 << 20 < machine.resident_memory() < 1 << 40


def test_memory_is_flat_in_the_size_of_the_data(tmp_path: Path) -> None:
    """200 MiB after 10 MiB, from a mapped file, from archives and from a generator."""
    script = f"""
        import os
        from pathlib import Path
        import numpy as np
        from tests.evaluate.conftest import classifier
        from snn2chip.evaluate import evaluate
        from snn2chip.evaluate.files import open_arrays
        from process import peak

        program = classifier(np.random.default_rng(0), 5120)

        def write(folder, blocks):
            block = (np.random.default_rng(1).random((512, 4, 5120)) < 0.1).astype(np.uint8)
            (folder / "parts").mkdir(parents=True)
            x = np.lib.format.open_memmap(folder / "x.npy", "w+", np.uint8, (512 * blocks, 4, 5120))
            for i in range(blocks):
                x[512 * i : 512 * (i + 1)] = block
                np.savez(folder / "parts" / f"{{i:03d}}.npz", x=block)
            x.flush()

        def read(folder, blocks):
            child = os.fork()  # what is written counts as memory of whoever writes it
            if child == 0:
                write(folder, blocks)
                os._exit(0)
            os.waitpid(child, 0)
            how = dict(shard_size=256, engine="reference")
            kept = dict(run_folder=folder / "run", output=folder / "outputs.npz", **how)
            found = evaluate(program, open_arrays(folder / "x.npy")[0], **kept)
            assert evaluate(program, open_arrays(folder / "parts")[0], **how) == found
            blocks = (np.load(path)["x"] for path in sorted((folder / "parts").iterdir()))
            assert evaluate(program, blocks, **how) == found
            print(found.samples, peak())

        read(Path({str(tmp_path)!r}, "small"), 1)
        read(Path({str(tmp_path)!r}, "large"), 20)
    """
    few, small, many, large = map(int, printed(script, OMP_NUM_THREADS="1").split())
    assert many == 20 * few
    assert (large - small) * 1024 < many * 4 * 5120 / 4


def test_the_reference_engine_stays_below_what_is_stated() -> None:
    script = """
        import numpy as np
        from networks import node, population, program
        from snn2chip.ir.layers import Conv2d, Flatten, Linear
        from snn2chip.neurons.lif import IntegerLIF
        from snn2chip.evaluate import evaluate
        from process import peak, peak_from_now
        rng = np.random.default_rng(0)
        conv = lambda c: Conv2d(2 * rng.integers(-50, 50, (16, c, 3, 3)), padding=(1, 1))
        lif = lambda: population(IntegerLIF(200, 1000, 4096, 0))
        made = program((4, 24, 24),
            node("c1", conv(4), "x"), node("n1", lif(), "c1"), node("c2", conv(16), "n1"), node("n2", lif(), "c2"),
            node("flat", Flatten(), "n2"), node("fc", Linear(2 * rng.integers(-50, 50, (5, 9216))), "flat"))
        x = (rng.random((32, 5, 4, 24, 24)) < 0.2).astype(np.uint8)
        evaluate(made, x[:1], engine="reference")
        before = peak_from_now()
        said = []
        evaluate(made, x, engine="reference", shard_size=32, announce=said.append)
        print(peak() - before, said[0].memory.total // 1024)
    """
    grown, stated = map(int, printed(script, OMP_NUM_THREADS="1").split())
    assert grown < stated + 5_000
    assert stated < 3 * grown


# --- what is wrong ---


def test_wrong_arguments(whole: Whole, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a shard of 0 samples"):
        evaluate(whole.program, whole.x, shard_size=0)
    with pytest.raises(UsageError, match=r"a shard of 1\.5 samples"):
        evaluate(whole.program, whole.x, shard_size=1.5)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="0 workers"):
        evaluate(whole.program, whole.x, workers=0)
    with pytest.raises(UsageError, match="no clock 'wall'"):
        evaluate(whole.program, whole.x, clock="wall")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="only the machine's clock"):
        evaluate(whole.program, whole.x, registers="silicon")
    with pytest.raises(UsageError, match="a str is no network"):
        evaluate("net.nir", whole.x)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"no \.npz file"):
        evaluate(whole.program, whole.x, output=tmp_path / "outputs.txt")
    assert list(tmp_path.iterdir()) == []


class FullDisk(io.FileIO):
    """A file of which only the first 100 bytes find room."""

    def write(self, content: Any) -> int:
        room = 100 - self.tell()
        if room <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(content[:room])


def test_a_full_disk(whole: Whole, tmp_path: Path) -> None:
    with (
        mock.patch.object(outputs, "FileIO", FullDisk),
        pytest.raises(S2CError, match="could not be written") as failed,
    ):
        evaluate(whole.program, whole.x, shard_size=10, output=tmp_path / "outputs.npz")
    assert failed.value.where == str(tmp_path / "outputs.npz")
    assert failed.value.why == "No space left on device"
    assert "would be kept" in failed.value.fix
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_where_it_fails(whole: Whole, tmp_path: Path) -> None:
    x = whole.x.astype(np.float32)
    x[80, 1, 2] = 0.5
    with pytest.raises(S2CError) as failed:
        evaluate(whole.program, x, shard_size=10, output=tmp_path / "outputs.npz")
    assert "(80, 1, 2)" in failed.value.where
    assert "would be kept" in failed.value.fix
    assert list(tmp_path.iterdir()) == []
