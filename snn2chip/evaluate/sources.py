"""Where samples come from: arrays, also memory-mapped ones; torch datasets; data loaders and anything else to iterate.

A source is read once, in order, some samples at a time, and never held as a whole.
"""

from __future__ import annotations

import itertools
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from snn2chip.errors import S2CError, UsageError
from snn2chip.evaluate.files import in_memory
from snn2chip.evaluate.shard import Job, cut
from snn2chip.ir.graph import Network
from snn2chip.ir.layers import Array, Shape
from snn2chip.simulate.data import as_numpy, as_samples, check_shape, no_sample, require_dense

Piece = tuple[Array, "Array | None"]


@dataclass(frozen=True)
class Source:
    """Samples to read.

    Args:
        length: number of samples; None where only reading tells.
        sample_shape, dtype: of one sample.
        labelled: whether labels come with the samples.
        shuffled: whether every reading has its own order.
        piece_bytes: bytes the source hands over at once, where that is its own choice.
        pieces: called with the number of samples wanted at once; yields (x [n, ...], y [n] or None).
    """

    length: int | None
    sample_shape: Shape
    dtype: np.dtype[Any]
    labelled: bool
    pieces: Callable[[int], Iterator[Piece]]
    shuffled: bool = False
    piece_bytes: int = 0

    @property
    def sample_bytes(self) -> int:
        """Bytes of one sample."""
        return max(1, int(np.prod(self.sample_shape, dtype=np.int64)) * self.dtype.itemsize)

    def jobs(self, network: Network, size: int, *, free_time: bool = False) -> Iterator[Job]:
        """Shards of ``size`` samples, checked, the last one of the rest.

        Raises:
            S2CError: a sample does not fit the network or the samples before it, holds NaN, cannot be read, or the
                number of samples is not what it was; the message says which sample.
        """
        seen = 0
        for index, (x, y) in enumerate(cut(self._checked(size), size)):
            samples = as_samples(network, x, free_time=free_time, first=seen)
            yield Job(index, seen, samples, y)
            seen += len(x)
        if seen == 0:
            raise no_sample()

    def _checked(self, size: int) -> Iterator[Piece]:
        seen = 0
        for x, y in self.pieces(size):
            if x.shape[1:] != self.sample_shape:
                raise S2CError(
                    f"a sample has shape {x.shape[1:]}, the first one had {self.sample_shape}",
                    where=f"input, sample {seen}",
                    fix="bring all samples to one shape",
                )
            if (y is not None) != self.labelled:
                raise S2CError(
                    "some samples have a label and others none",
                    where=f"input, sample {seen}",
                    fix="yield (x, y) for all samples, or x for all",
                )
            yield x, None if y is None else _labels(y, len(x), seen)
            seen += len(x)
            if self.length is not None and seen > self.length:
                raise _changed(self.length, f"it goes on after sample {self.length - 1}")
        if self.length is not None and seen < self.length:
            raise _changed(self.length, f"it ended after {seen} samples")


def open_source(network: Network, data: Any, labels: Any = None, *, free_time: bool = False) -> Source:
    """Samples for ``network`` from what users have.

    - an array [N, ...] or torch tensor, or anything with a shape, a dtype and slices (a memory-mapped array, a dataset
      of h5py), with ``labels`` [N] beside it, or a pair (x, y) of them;
    - a torch ``Dataset`` or a sequence, whose items are x or (x, y);
    - a torch ``DataLoader`` or anything to iterate, which yields batches x or (x, y), or single samples.

    Args:
        network: tells a batch from a sample.
        labels: class indices [N], for arrays only.
        free_time: any number of steps is allowed (the machine's clock).

    Raises:
        S2CError: the data is of no such kind, cannot be read, or does not fit the network.
    """
    require_dense(data, "input")
    if is_array(data) and not data.shape:
        raise UsageError("a single number is no data", fix="give samples [N, ...]")
    if isinstance(data, tuple) and len(data) == 2 and labels is None and is_array(data[0]):
        data, labels = data
    rank = len(network.sample_shape)
    if is_array(data):
        source = _from_array(data, labels)
        check_shape(network, (source.length or 0, *source.sample_shape), source.dtype, free_time=free_time)
        return source
    if labels is not None:
        raise UsageError(f"labels are for arrays, and the data is a {type(data).__name__}", fix="yield (x, y) from it")
    if hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        source = _from_items(data, rank)
    elif isinstance(data, Iterable):
        source = _from_stream(data, rank)
    else:
        raise UsageError(f"a {type(data).__name__} is no data", fix="give an array, a Dataset, a DataLoader, or a list")
    check_shape(network, (source.length or 1, *source.sample_shape), source.dtype, free_time=free_time)
    return source


def gathered(data: Any) -> Piece:
    """Samples [N, ...] and labels [N] or None, in memory, of what is no array: a ``Dataset``, a list, a ``DataLoader``.

    Args:
        data: a ``Dataset`` or list holds samples, x or (x, y); a ``DataLoader`` yields batches of them.

    Raises:
        S2CError: the data is of no such kind, is empty, cannot be read, or its samples differ in shape.
    """
    if hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        source = _from_items(data, _rank_of(data[i] for i in range(min(1, len(data)))))
    elif hasattr(data, "dataset") and hasattr(data, "batch_size"):
        source = _from_stream(data, _rank_of(data) - (data.batch_size is not None or data.batch_sampler is not None))
    else:
        raise UsageError(f"a {type(data).__name__} is no data", fix="give an array, a Dataset, a DataLoader, or a list")
    samples, labels = zip(*source._checked(1), strict=True)
    return np.concatenate(samples), np.concatenate(labels) if source.labelled else None


def _rank_of(items: Iterable[Any]) -> int:
    """Axes of the first thing that is handed over; 0 if nothing is."""
    with _blamed("sample 0"):
        first = next(iter(items), None)
    return 0 if first is None else _taken_apart(first, "sample 0")[0].ndim


# --- arrays ---


def is_array(value: Any) -> bool:
    """Whether a value has what an array is read by."""
    return hasattr(value, "shape") and hasattr(value, "dtype") and hasattr(value, "__getitem__")


def _from_array(x: Any, y: Any) -> Source:
    if not is_array(y) and y is not None:
        y = as_numpy(y, "labels")
    samples = len(x)
    if y is not None and tuple(y.shape) != (samples,):
        raise S2CError(
            f"labels of shape {tuple(y.shape)} do not fit {samples} samples",
            where="labels",
            fix="give the class index of each sample, [N]",
        )

    def pieces(size: int) -> Iterator[Piece]:
        for start in range(0, samples, size):
            stop = min(samples, start + size)
            with _blamed(f"samples {start} to {stop - 1}"):
                piece = in_memory(x[start:stop]), None if y is None else in_memory(y[start:stop])
            yield piece

    with _blamed("the data"):
        dtype = as_numpy(x[:0]).dtype
    return Source(samples, tuple(x.shape[1:]), dtype, y is not None, pieces)


# --- datasets ---


def _from_items(items: Any, rank: int) -> Source:
    length = len(items)
    if length == 0:
        raise no_sample()

    def item(index: int) -> Piece:
        with _blamed(f"sample {index}"):
            try:
                got = items[index]
            except IndexError as error:
                if len(items) == length:
                    raise
                raise _changed(length, f"it has {len(items)} now, and none of number {index}") from error
        x, y = _taken_apart(got, f"sample {index}")
        if x.ndim != rank:
            raise S2CError(
                f"an item of shape {x.shape} is no sample",
                where=f"sample {index}",
                why=f"a sample has {rank} axes",
                fix="yield one sample, without a batch axis, or let a loader make batches",
            )
        return x[None], None if y is None else y[None]

    def pieces(size: int) -> Iterator[Piece]:
        for index in range(length):
            yield item(index)
            if len(items) != length:
                raise _changed(length, f"it has {len(items)} now")

    x, y = item(0)
    return Source(length, x.shape[1:], x.dtype, y is not None, pieces)


# --- loaders and iterators ---


def _from_stream(stream: Any, rank: int) -> Source:
    with _blamed("the first batch"):
        iterator = iter(stream)
    length = _loader_length(stream)
    batches = _batches(iterator, rank)
    first = next(batches, None)
    if first is None:
        raise no_sample()
    x, y = first

    def pieces(size: int) -> Iterator[Piece]:
        yield from itertools.chain([first], batches)
        if (now := _loader_length(stream)) != length:
            raise _changed(length or 0, f"it has {now} now")

    sampler = type(getattr(stream, "sampler", None)).__name__
    return Source(
        length,
        x.shape[1:],
        x.dtype,
        y is not None,
        pieces,
        shuffled=sampler in ("RandomSampler", "WeightedRandomSampler", "SubsetRandomSampler"),
        piece_bytes=x.nbytes,
    )


def _batches(iterator: Iterator[Any], rank: int) -> Iterator[Piece]:
    seen = 0
    while True:
        with _blamed(f"samples from {seen} on"):
            try:
                got = next(iterator)
            except StopIteration:
                return
        x, y = _taken_apart(got, f"samples from {seen} on")
        if x.ndim == rank:
            x, y = x[None], None if y is None else y[None]
        if x.ndim != rank + 1:
            raise S2CError(
                f"a batch of shape {x.shape} is none for this network",
                where=f"samples from {seen} on",
                why=f"a sample has {rank} axes, a batch {rank + 1}",
                fix="yield batches whose samples are shaped as the network's input",
            )
        yield x, y
        seen += len(x)


def _loader_length(loader: Any) -> int | None:
    """The samples a torch DataLoader will yield; None for anything else, and where its sampler does not say."""
    size = getattr(loader, "batch_size", None)
    if getattr(loader, "sampler", None) is None or (size is None and loader.batch_sampler is not None):
        return None
    try:
        samples = len(loader.sampler)
    except TypeError:
        return None
    return samples - samples % size if size and loader.drop_last else samples


# --- what users hand over ---


def _taken_apart(item: Any, where: str) -> Piece:
    if isinstance(item, tuple | list) and len(item) == 2:
        return as_numpy(item[0], where), as_numpy(item[1], where)
    array = as_numpy(item, where)
    if array.dtype.kind == "O":
        raise S2CError(f"an item of type {type(item).__name__} is no sample", where=where, fix="yield x or (x, y)")
    return array, None


def _labels(y: Array, samples: int, first: int) -> Array:
    if y.shape != (samples,) or y.dtype.kind not in "biuf":
        raise S2CError(
            f"the labels of {samples} samples have shape {y.shape} and type {y.dtype}",
            where=f"input, sample {first}",
            fix="give the class index of each sample",
        )
    return y


@contextmanager
def _blamed(where: str) -> Iterator[None]:
    """Whatever reading raises becomes a message that names the samples and the line that raised."""
    try:
        yield
    except S2CError:
        raise
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        last = str(error).strip().splitlines()[-1:] or [""]
        raise S2CError(
            "the data cannot be read",
            where=where,
            why=f"{type(error).__name__}: {last[0]} ({frame.filename}:{frame.lineno} in {frame.name})",
        ) from error


def _changed(length: int, now: str) -> S2CError:
    return S2CError(
        "the number of samples changed while they were read",
        where=f"the data announced {length} samples",
        why=now,
        fix="give data that stays as it is, or iterate over it if its length is not known: iter(data)",
    )
