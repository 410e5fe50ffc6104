"""Atomic writing: success, failure, interruption and kill -9 at every moment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from snn2chip import atomic
from snn2chip.atomic import atomic_dir, atomic_file
from snn2chip.errors import S2CError


def _names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def _fill(folder: Path, version: str, files: int = 3) -> None:
    (folder / "manifest.json").write_text(version)
    (folder / "sub").mkdir()
    for index in range(files):
        (folder / "sub" / f"{index}.txt").write_text(version)


def _versions(folder: Path) -> set[str]:
    return {path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_file_appears_only_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "a.npz"
    with atomic_file(target) as temporary:
        temporary.write_text("new")
        assert temporary.suffix == ".npz"
        assert not target.exists()
    assert target.read_text() == "new"
    assert _names(target.parent) == {"a.npz"}


@pytest.mark.parametrize("exception", [RuntimeError, KeyboardInterrupt])
def test_a_failing_block_leaves_the_old_file_and_nothing_else(tmp_path: Path, exception: type[BaseException]) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(exception), atomic_file(target) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise exception
    assert target.read_text() == "old"
    assert _names(tmp_path) == {"a.txt"}


def test_a_failing_block_removes_the_parents_it_made(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), atomic_file(tmp_path / "x" / "y" / "a.txt"):
        raise RuntimeError
    assert _names(tmp_path) == set()


def test_a_symbolic_link_keeps_pointing_to_the_replaced_file(tmp_path: Path) -> None:
    real, link = tmp_path / "real.txt", tmp_path / "link.txt"
    real.write_text("old")
    link.symlink_to(real)
    with atomic_file(link) as temporary:
        temporary.write_text("new")
    assert link.is_symlink()
    assert real.read_text() == "new"


def test_devices_directories_and_unwritable_parents_are_refused(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    for path in (Path(os.devnull), tmp_path, blocker / "below"):
        with pytest.raises(S2CError), atomic_file(path) as temporary:
            temporary.write_text("x")
    assert Path(os.devnull).is_char_device()


def test_directory_is_created_and_replaced_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with atomic_dir(target) as temporary:
        _fill(temporary, "one")
        assert not target.exists()
    with atomic_dir(target) as temporary:
        (temporary / "manifest.json").write_text("two")
        assert _versions(target) == {"one"}
    assert _names(target) == {"manifest.json"}
    assert _versions(target) == {"two"}
    assert _names(tmp_path) == {"out"}


@pytest.mark.parametrize("exception", [RuntimeError, KeyboardInterrupt])
def test_a_failing_block_leaves_the_old_directory(tmp_path: Path, exception: type[BaseException]) -> None:
    target = tmp_path / "out"
    with atomic_dir(target) as temporary:
        _fill(temporary, "old")
    with pytest.raises(exception), atomic_dir(target) as temporary:  # noqa: PT012
        _fill(temporary, "half")
        raise exception
    assert _versions(target) == {"old"}
    assert _names(tmp_path) == {"out"}


def test_a_directory_that_is_not_an_earlier_output_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(S2CError, match=r"no manifest\.json"), atomic_dir(tmp_path) as temporary:
        _fill(temporary, "new")
    assert _names(tmp_path) == {"thesis.tex"}


def test_a_tree_without_its_marker_is_rejected_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"manifest\.json"), atomic_dir(tmp_path / "out"):
        pass
    assert _names(tmp_path) == set()


def test_swap_by_two_renames_where_the_file_system_cannot_exchange(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atomic, "_exchange_in_one_call", lambda new, old: False)
    for version in ("one", "two"):
        with atomic_dir(tmp_path / "out") as temporary:
            _fill(temporary, version)
    assert _versions(tmp_path / "out") == {"two"}
    assert _names(tmp_path) == {"out"}


def test_a_kill_between_the_two_renames_is_mended_by_the_next_writer(tmp_path: Path) -> None:
    workspace = tmp_path / ".out.snn2chip-00000000"
    (workspace / "out").mkdir(parents=True)
    _fill(workspace / "out", "half")
    (workspace / "out.old").mkdir()
    _fill(workspace / "out.old", "old")
    with pytest.raises(RuntimeError), atomic_dir(tmp_path / "out"):
        raise RuntimeError
    assert _versions(tmp_path / "out") == {"old"}
    assert _names(tmp_path) == {"out"}


def test_two_writers_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    with atomic_file(target) as outer:
        outer.write_text("outer")
        with atomic_file(target) as inner:
            inner.write_text("inner")
        assert target.read_text() == "inner"
    assert target.read_text() == "outer"
    assert _names(tmp_path) == {"a.txt"}


_ENDLESS_WRITER = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from snn2chip.atomic import atomic_dir, atomic_file

    root = Path(sys.argv[1])
    version = 0
    while True:
        version += 1
        with atomic_dir(root / "tree") as folder:
            for index in range(20):
                (folder / f"{index}.txt").write_text(str(version))
            (folder / "manifest.json").write_text(str(version))
        with atomic_file(root / "single.txt") as single:
            single.write_text(str(version) * 1000)
        if version == 1:
            print("started", flush=True)
    """
)


def test_kill_9_in_the_middle_leaves_whole_versions_and_the_next_writer_cleans_up(tmp_path: Path) -> None:
    for attempt in range(8):
        process = subprocess.Popen(
            [sys.executable, "-c", _ENDLESS_WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "started\n"
            time.sleep(0.003 * (attempt + 1))
        finally:
            process.send_signal(signal.SIGKILL)
            process.communicate()
        assert len(list((tmp_path / "tree").iterdir())) == 21
        assert len(_versions(tmp_path / "tree")) == 1
        single = (tmp_path / "single.txt").read_text()
        assert single == single[: len(single) // 1000] * 1000
    with atomic_dir(tmp_path / "tree") as folder:
        _fill(folder, "last")
    with atomic_file(tmp_path / "single.txt") as single_file:
        single_file.write_text("last")
    assert _names(tmp_path) == {"tree", "single.txt"}
