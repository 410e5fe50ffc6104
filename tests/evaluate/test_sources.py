"""The same samples from every kind of source, and sources that are not what they seem."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from snn2chip.errors import S2CError, UsageError
from snn2chip.evaluate import evaluate
from snn2chip.evaluate.files import open_arrays
from snn2chip.evaluate.sources import gathered, open_source
from tests.evaluate.conftest import Whole

torch = pytest.importorskip("torch")


class Items(torch.utils.data.Dataset):  # type: ignore[misc]
    """A torch Dataset that does something odd when sample ``at`` is asked for."""

    def __init__(self, whole: Whole, at: int = -1, odd: Callable[[Items], Any] = lambda items: None) -> None:
        self.x, self.y, self.at, self.odd = whole.x, whole.y, at, odd
        self.length = len(whole.x)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        if index == self.at:
            found = self.odd(self)
            if found is not None:
                return found
        return torch.from_numpy(self.x[index]), int(self.y[index])


def npy(whole: Whole, folder: Path) -> tuple[Any, Any]:
    np.save(folder / "x.npy", whole.x)
    np.save(folder / "y.npy", whole.y)
    return open_arrays(folder / "x.npy")[0], open_arrays(folder / "y.npy")[0]


def npz(whole: Whole, folder: Path, save: Callable[..., None] = np.savez) -> tuple[Any, Any]:
    save(folder / "xy.npz", x=whole.x, y=whole.y)
    return open_arrays(folder / "xy.npz")


def parts(whole: Whole, folder: Path) -> tuple[Any, Any]:
    for i, (start, stop) in enumerate(((0, 40), (40, 41), (41, 103))):
        np.savez(folder / f"{i}.npz", x=whole.x[start:stop], y=whole.y[start:stop])
    return open_arrays(folder)


def hdf5(whole: Whole, folder: Path) -> tuple[Any, Any]:
    file = h5py.File(folder / "xy.h5", "w")
    return file.create_dataset("x", data=whole.x), file.create_dataset("y", data=whole.y)


def loader(whole: Whole, **options: Any) -> Any:
    return torch.utils.data.DataLoader(Items(whole), **options)


def one_by_one(whole: Whole) -> Iterator[Any]:
    yield from zip(whole.x, whole.y, strict=True)


SOURCES: dict[str, Callable[[Whole, Path], tuple[Any, Any]]] = {
    "arrays": lambda whole, folder: (whole.x, whole.y),
    "pair": lambda whole, folder: ((whole.x, whole.y), None),
    "labels as a list": lambda whole, folder: (whole.x, whole.y.tolist()),
    "tensors": lambda whole, folder: (torch.from_numpy(whole.x), torch.from_numpy(whole.y)),
    "npy": npy,
    "npz": npz,
    "compressed npz": lambda whole, folder: npz(whole, folder, np.savez_compressed),
    "Fortran npz": lambda whole, folder: npz(
        Whole(whole.program, np.asfortranarray(whole.x), whole.y, whole.result), folder
    ),
    "folder": parts,
    "hdf5": hdf5,
    "Dataset": lambda whole, folder: (Items(whole), None),
    "list": lambda whole, folder: (list(zip(whole.x, whole.y, strict=True)), None),
    "DataLoader": lambda whole, folder: (loader(whole, batch_size=16), None),
    "DataLoader without batches": lambda whole, folder: (loader(whole, batch_size=None), None),
    "shuffled DataLoader": lambda whole, folder: (loader(whole, batch_size=9, shuffle=True), None),
    "generator": lambda whole, folder: (one_by_one(whole), None),
}


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("size", [1, 20, 200])
def test_every_source_gives_the_same(whole: Whole, tmp_path: Path, kind: str, size: int) -> None:
    data, labels = SOURCES[kind](whole, tmp_path)
    assert evaluate(whole.program, data, labels, shard_size=size) == whole.evaluation


@pytest.mark.parametrize("kind", ["Dataset", "list", "DataLoader", "DataLoader without batches"])
def test_what_is_no_array_is_gathered_without_a_network(whole: Whole, tmp_path: Path, kind: str) -> None:
    x, y = gathered(SOURCES[kind](whole, tmp_path)[0])
    np.testing.assert_array_equal(x, whole.x)
    np.testing.assert_array_equal(y, whole.y)
    samples, none = gathered(list(whole.x))
    np.testing.assert_array_equal(samples, whole.x)
    assert none is None


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "a NoneType is no data"),
        (iter([np.zeros((4, 6))]), "is no data"),
        ([], "nothing to simulate"),
        ([np.zeros((4, 6)), np.zeros((4, 7))], "a sample has shape (4, 7), the first one had (4, 6)"),
        ([(np.zeros(3), 1), np.zeros(3)], "some samples have a label"),
        ([{"x": 1}], "no sample"),
    ],
)
def test_what_cannot_be_gathered(data: Any, message: str) -> None:
    with pytest.raises(S2CError) as refused:
        gathered(data)
    assert message in refused.value.what


def test_lengths(whole: Whole) -> None:
    lengths = {
        103: loader(whole, batch_size=10),
        100: loader(whole, batch_size=10, drop_last=True),
        None: loader(whole, batch_sampler=[[0, 1], [2]]),
    }
    for length, data in lengths.items():
        source = open_source(whole.program, data)
        assert source.length == length
        assert sum(len(job.x) for job in source.jobs(whole.program, 7)) == (length or 3)


def test_what_was_read_of_a_mapped_file_is_let_go(whole: Whole, tmp_path: Path) -> None:
    """A private mapping keeps the changes that were made to it, a read-only one has none."""
    np.save(tmp_path / "x.npy", whole.x)
    changed = np.load(tmp_path / "x.npy", mmap_mode="c")
    changed[:] = 0
    silent = evaluate(whole.program, changed, shard_size=10)
    assert silent.counts["fc1"].synops == 0
    assert evaluate(whole.program, changed, shard_size=10) == silent


def raises(items: Items) -> None:
    raise ValueError("corrupt recording\nof 2019")


def shrinks(items: Items) -> None:
    items.length = 60
    raise IndexError


def grows(items: Items) -> None:
    items.length = 110


def wrong(x: Any) -> Callable[[Items], Any]:
    return lambda items: (torch.as_tensor(x), 0)


@pytest.mark.parametrize(
    ("odd", "what", "where"),
    [
        (raises, "cannot be read", "sample 70"),
        (shrinks, "number of samples changed", "103"),
        (grows, "number of samples changed", "103"),
        (wrong(np.full((4, 6), np.nan)), "NaN", "sample 70"),
        (wrong(np.full((4, 6), 0.5)), "holds 0.5", "(70, 0, 0)"),
        (wrong(np.zeros((4, 5))), "shape (4, 5)", "sample 70"),
        (wrong(np.zeros((4, 6, 1))), "is no sample", "sample 70"),
        (lambda items: items.x[0], "some samples have a label", "sample 70"),
        (lambda items: (items.x[0], np.zeros(3)), "the labels of 1 samples have shape (1, 3)", "sample 70"),
        (lambda items: (items.x[0], "cat"), "the labels of 1 samples", "sample 70"),
    ],
)
@pytest.mark.parametrize("how", ["Dataset", "DataLoader"])
def test_odd_samples_are_named(whole: Whole, tmp_path: Path, odd: Any, what: str, where: str, how: str) -> None:
    items = Items(whole, 70, odd)
    data = items if how == "Dataset" else torch.utils.data.DataLoader(items, batch_size=5)
    with pytest.raises(S2CError) as refused:
        evaluate(whole.program, data, shard_size=10, run_folder=tmp_path / "run")
    if how == "Dataset":
        assert what in refused.value.what
        assert where in refused.value.where
    assert "of 11 shards are kept" in refused.value.fix
    # Nothing that was done is lost: with the samples mended it goes on.
    simulated = []
    found = evaluate(
        whole.program,
        Items(whole),
        run_folder=tmp_path / "run",
        progress=lambda p: simulated.append(p.done - p.resumed),
    )
    assert found == whole.evaluation
    assert simulated[-1] <= 103 - 60


def test_the_line_that_raised_is_named(whole: Whole) -> None:
    with pytest.raises(S2CError) as refused:
        evaluate(whole.program, Items(whole, 70, raises))
    assert "ValueError: of 2019" in refused.value.why
    assert "test_sources.py" in refused.value.why
    assert "in raises" in refused.value.why


def test_a_loader_that_yields_fewer_or_more_than_it_says(whole: Whole) -> None:
    fewer = loader(whole, batch_size=10, collate_fn=lambda items: np.stack([x for x, _ in items[:2]]))
    more = loader(whole, batch_size=10, collate_fn=lambda items: np.stack([x for x, _ in items * 2]))
    with pytest.raises(S2CError, match="number of samples changed") as refused:
        evaluate(whole.program, fewer)
    assert "ended after 22 samples" in refused.value.why
    with pytest.raises(S2CError, match="number of samples changed") as refused:
        evaluate(whole.program, more)
    assert "goes on after sample 102" in refused.value.why
    assert evaluate(whole.program, iter(more)).samples == 206


@pytest.mark.parametrize(
    ("data", "labels", "message"),
    [
        (3, None, "a int is no data"),
        (np.float32(3), None, "a single number is no data"),
        (torch.zeros(5, 4, 6).to_sparse(), None, "cannot be read"),
        (np.ma.masked_array(np.zeros((5, 4, 6)), np.eye(6, dtype=bool)[:4] & np.ones((5, 4, 6), bool)), None, "20 of"),
        ([np.ma.masked_equal(np.arange(24).reshape(4, 6), 3)] * 2, None, "1 of 24 values are masked"),
        (np.zeros((5, 4, 6)), np.ma.masked_equal([0, 1, 2, 0, 1], 2), "1 of 5 values are masked"),
        ([[[1], [2, 3], [4]]], None, "cannot be read as an array"),
        (np.zeros((2, 4, 6)), [[1], [2, 3]], "cannot be read as an array"),
        ([], None, "nothing to simulate"),
        (iter(()), None, "nothing to simulate"),
        (np.zeros((0, 4, 6)), None, "nothing to simulate"),
        (np.zeros((5, 4, 7)), None, "shape (5, 4, 7)"),
        ([np.zeros((4, 7))] * 5, None, "shape (5, 4, 7)"),
        ([{"x": 1}], None, "no sample"),
        (np.zeros((5, 4, 6)), np.zeros(4), "labels of shape (4,) do not fit 5 samples"),
        (np.zeros((5, 4, 6)), np.zeros((5, 3)), "labels of shape (5, 3) do not fit 5 samples"),
        (np.zeros((5, 4, 6)), np.array(list("abcde")), "labels of 5 samples"),
        ([np.zeros((4, 6))] * 5, np.zeros(5), "labels are for arrays"),
        (iter([np.zeros((2, 2, 4, 6))]), None, "is none for this network"),
    ],
)
def test_no_data(whole: Whole, data: Any, labels: Any, message: str) -> None:
    with pytest.raises(S2CError) as refused:
        evaluate(whole.program, data, labels)
    assert message in refused.value.what


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
def test_nested_tensors(whole: Whole, layout: torch.layout) -> None:
    nested = torch.nested.nested_tensor([torch.zeros(4, 6), torch.zeros(3, 6)], layout=layout)
    with pytest.raises(S2CError, match="is a nested tensor") as refused:
        evaluate(whole.program, nested)
    assert "to_padded_tensor" in refused.value.fix


def test_a_mask_of_nothing_is_none(whole: Whole) -> None:
    """Readers of scientific files hand out masked arrays whether or not a value is missing."""
    assert evaluate(whole.program, np.ma.masked_invalid(whole.x), whole.y) == whole.evaluation


def test_a_shuffled_data_set_has_no_run_folder(whole: Whole, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="shuffled"):
        evaluate(whole.program, loader(whole, shuffle=True), run_folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["npy", "npz", "compressed npz"])
def test_a_file_that_ends_too_soon(whole: Whole, tmp_path: Path, kind: str) -> None:
    SOURCES[kind](whole, tmp_path)
    file = max(tmp_path.iterdir(), key=lambda path: path.stat().st_size)
    content = file.read_bytes()
    damaged = content[: len(content) // 2] if kind == "npy" else content[:900] + bytes(64) + content[964:]
    file.write_bytes(damaged)
    with pytest.raises(S2CError, match="cannot be read"):
        evaluate(whole.program, open_arrays(file)[0], shard_size=10)


def test_folders_that_do_not_belong_together(whole: Whole, tmp_path: Path) -> None:
    with pytest.raises(S2CError, match="holds no data"):
        open_arrays(tmp_path)
    np.save(tmp_path / "a.npy", whole.x)
    np.savez(tmp_path / "b.npz", x=whole.x, y=whole.y)
    with pytest.raises(S2CError, match="have labels and others none"):
        open_arrays(tmp_path)
    np.save(tmp_path / "b.npy", whole.x[:, :3])
    (tmp_path / "b.npz").unlink()
    with pytest.raises(S2CError, match="do not belong together"):
        open_arrays(tmp_path)
