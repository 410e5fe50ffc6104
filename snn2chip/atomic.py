"""Write files and directory trees so that a kill at any moment leaves the old or the new version, whole.

Both context managers hand out a path inside a hidden workspace next to the target (same file system,
so the final rename is atomic). The workspace is held under an advisory lock for as long as its process
lives; workspaces whose lock nobody holds are leftovers of killed processes and are removed by the next
writer of the same target.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from snn2chip.errors import S2CError
from snn2chip.machine import expanded

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # Linux, renameat2(2)
_RENAME_SWAP = 2  # macOS, renamex_np(2)
_NOT_SUPPORTED = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP}


@contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path to write; on leaving without an exception it replaces ``path``.

    The temporary file has the target's own name (and suffix), does not exist yet, and must exist when
    the block ends. A symbolic link at ``path`` stays and its target is replaced. After an exception
    (or Ctrl-C) ``path`` is untouched and nothing is left behind.

    Raises:
        S2CError: the target is not a regular file or cannot be written.
        ValueError: the block wrote nothing.
    """
    target = expanded(path).resolve()
    with explained(target):
        if target.exists() and not target.is_file():
            raise _refusal(target, "it exists and is not a regular file", "name another output file")
    with workspace(target) as held:
        temporary = held / target.name
        yield temporary
        if not temporary.is_file():
            raise ValueError(f"nothing was written to {temporary}")
        with explained(target):
            _sync(temporary)
            os.replace(temporary, target)
            _sync(target.parent)


@contextmanager
def atomic_dir(path: str | os.PathLike[str], *, marker: str = "manifest.json") -> Iterator[Path]:
    """Yield an empty temporary directory to fill; on leaving without an exception it becomes ``path``.

    An existing tree at ``path`` is swapped with the new one in a single step and then deleted, provided
    it is empty or holds a file named ``marker``, which says that it is an earlier output and not
    somebody's own files. After an exception (or Ctrl-C) ``path`` is untouched and nothing is left behind.

    Args:
        path: the directory to create or replace; missing parents are created.
        marker: name of a file that every tree written to ``path`` contains.

    Raises:
        S2CError: the target is a file, is a directory without ``marker``, or cannot be written.
        ValueError: the block left no ``marker``.
    """
    target = expanded(path).resolve()
    with explained(target):
        _check_replaceable(target, marker)
    with workspace(target) as held:
        temporary = held / target.name
        temporary.mkdir()
        yield temporary
        if not (temporary / marker).exists():
            raise ValueError(f"{temporary} was filled without a file {marker}")
        with explained(target):
            for folder, _, files in os.walk(temporary, topdown=False):
                for name in files:
                    _sync(Path(folder, name))
                _sync(Path(folder))
            _check_replaceable(target, marker)
            if target.exists():
                _exchange(temporary, target)
            else:
                os.rename(temporary, target)
            _sync(target.parent)


def _check_replaceable(target: Path, marker: str) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise _refusal(target, "a file of that name exists", "name another output directory")
    if not (target / marker).exists() and any(target.iterdir()):
        raise _refusal(
            target,
            f"the directory holds files and no {marker}, so it is not an earlier output of this command",
            "name a new or empty directory, or remove this one yourself",
        )


@contextmanager
def workspace(target: Path) -> Iterator[Path]:
    """Yield a locked, empty sibling directory of ``target``; remove it on the way out, whatever happens.

    One that a kill leaves is removed when the next one is made for the same target.

    Raises:
        S2CError: it cannot be made.
    """
    prefix = f".{target.name}.snn2chip-"
    missing = [folder for folder in (target.parent, *target.parent.parents) if not folder.exists()]
    with explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(target, prefix)
        held, lock = _locked_directory(target.parent, prefix)
    try:
        yield held
    finally:
        shutil.rmtree(held, ignore_errors=True)
        os.close(lock)
        # A directory is removable only while empty, so after a success this removes nothing.
        with suppress(OSError):
            for folder in missing:
                folder.rmdir()


def _locked_directory(parent: Path, prefix: str) -> tuple[Path, int]:
    while True:
        made = parent / f"{prefix}{secrets.token_hex(4)}"
        made.mkdir(0o700)
        lock = os.open(made, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Another writer may take the directory for a leftover between mkdir and flock, and remove it.
        if made.exists():
            return made, lock
        os.close(lock)


def _remove_leftovers(target: Path, prefix: str) -> None:
    for entry in target.parent.iterdir():
        if not entry.name.startswith(prefix):
            continue
        try:
            lock = os.open(entry, os.O_RDONLY)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            retired = _retired(entry / target.name)
            if retired.exists() and not target.exists():
                os.rename(retired, target)
            shutil.rmtree(entry, ignore_errors=True)
        except BlockingIOError:
            continue
        finally:
            os.close(lock)


def _exchange(new: Path, old: Path) -> None:
    """Swap two directories in one system call; where the file system cannot, in two renames.

    A kill between the two renames is mended by the next writer, which finds the retired tree.
    """
    if _exchange_in_one_call(new, old):
        return
    retired = _retired(new)
    os.rename(old, retired)
    try:
        os.rename(new, old)
    except BaseException:
        os.rename(retired, old)
        raise


def _retired(temporary: Path) -> Path:
    return temporary.with_name(temporary.name + ".old")


def _exchange_in_one_call(new: Path, old: Path) -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "renameat2"):
        status = libc.renameat2(_AT_FDCWD, os.fsencode(new), _AT_FDCWD, os.fsencode(old), _RENAME_EXCHANGE)
    elif hasattr(libc, "renamex_np"):
        status = libc.renamex_np(os.fsencode(new), os.fsencode(old), _RENAME_SWAP)
    else:
        return False
    code = ctypes.get_errno()
    if status != 0 and code not in _NOT_SUPPORTED:
        raise OSError(code, os.strerror(code), str(old))
    return bool(status == 0)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def explained(target: Path) -> Iterator[None]:
    """Whatever the system refuses while ``target`` is written, as a message about it."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise _refusal(target, reason, "check the path, its permissions and the free space") from error


def _refusal(target: Path, why: str, fix: str) -> S2CError:
    return S2CError("The output could not be written.", where=str(target), why=why, fix=fix)
