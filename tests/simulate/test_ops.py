"""Every layer's arithmetic against torch's own kernels: integers exactly, floats to rounding."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st

from snn2chip.errors import S2CError
from snn2chip.ir.layers import (
    AvgPool,
    BatchNorm,
    Concat,
    Conv1d,
    Conv2d,
    Delay,
    Flatten,
    Gather,
    Linear,
    MatMul,
    MaxPool,
    Permute,
    Rescale,
    Scale,
    SumPool,
)
from snn2chip.simulate import sums
from snn2chip.simulate.ops import NumpyOps, apply
from snn2chip.simulate.torch_ops import TorchOps

OPS = NumpyOps()


@given(
    seed=st.integers(0, 10**6),
    size=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    groups=st.sampled_from([1, 2, 4]),
    per_place=st.booleans(),
)
def test_integer_convolution_is_torchs(seed, size, kernel, stride, padding, dilation, groups, per_place) -> None:  # type: ignore[no-untyped-def]
    assume(all(n + 2 * p >= d * (k - 1) + 1 for n, p, d, k in zip(size, padding, dilation, kernel, strict=True)))
    rng = np.random.default_rng(seed)
    x = rng.integers(-300, 300, (2, 4, *size))
    w, b = rng.integers(-256, 256, (8, 4 // groups, *kernel)), rng.integers(-9, 9, 8)
    theirs = F.conv2d(*(torch.from_numpy(a.astype(np.float64)) for a in (x, w, b)), stride, padding, dilation, groups)
    layer = Conv2d(w, b, stride, padding, dilation, groups)
    if per_place:
        more = rng.integers(-9, 9, theirs.shape[1:])
        layer, theirs = dataclasses.replace(layer, bias=b.reshape(-1, 1, 1) + more), theirs + torch.from_numpy(more)
        assert layer.output_shape(x.shape[1:]) == more.shape
        float_too = apply(layer, [torch.from_numpy(x.astype(np.float64))], TorchOps())
        np.testing.assert_array_equal(float_too, theirs.numpy())
    ours = apply(layer, [x], OPS)
    assert ours.dtype == np.int64
    np.testing.assert_array_equal(ours, theirs.numpy())


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
@pytest.mark.parametrize("largest", [254, 2**20, 2**40])
@pytest.mark.parametrize(
    "layer", [Conv2d(np.zeros((6, 4, 3, 3), np.int32), None, (2, 1), (1, 1)), Linear(np.zeros((5, 7), np.int32))]
)
def test_sums_of_any_width_are_exact(layer, largest, dtype, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(sums, "_WORTHWHILE", 0)
    rng = np.random.default_rng(largest)
    weight = rng.integers(-largest, largest, layer.weight.shape)
    layer = dataclasses.replace(layer, weight=weight if largest > 2**31 else weight.astype(np.int32))
    x = rng.integers(0, 200, (3, 4, 8, 8) if isinstance(layer, Conv2d) else (3, 7)).astype(dtype)
    wide = [torch.from_numpy(a.astype(np.int64)) for a in (x, weight)]
    theirs = F.linear(*wide) if isinstance(layer, Linear) else F.conv2d(*wide, None, layer.stride, layer.padding)
    found = sums.exact_sums(layer, x)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, theirs.numpy())


def test_integer_products_stay_exact_beyond_float64() -> None:
    x, w = np.array([[2**40 + 1, 1]]), np.array([[2**21 + 1, 3]])
    assert apply(Linear(w), [x], OPS)[0, 0] == (2**40 + 1) * (2**21 + 1) + 3


@given(
    seed=st.integers(0, 10**6),
    size=st.integers(1, 9),
    kernel=st.integers(1, 4),
    stride=st.integers(1, 4),
    padding=st.integers(0, 2),
    ceil=st.booleans(),
    include=st.booleans(),
)
def test_pooling_is_torchs(seed, size, kernel, stride, padding, ceil, include) -> None:  # type: ignore[no-untyped-def]
    assume(padding <= kernel // 2)
    assume(size + 2 * padding >= kernel)
    x = np.random.default_rng(seed).normal(size=(2, 3, size, size + 1)).astype(np.float32)
    t = torch.from_numpy(x)
    shape = ((kernel,) * 2, (stride,) * 2, (padding,) * 2, ceil)
    np.testing.assert_array_equal(
        apply(MaxPool(*shape), [x], OPS), F.max_pool2d(t, kernel, stride, padding, ceil_mode=ceil)
    )
    np.testing.assert_allclose(
        apply(AvgPool(*shape, count_include_pad=include), [x], OPS),
        F.avg_pool2d(t, kernel, stride, padding, ceil, include),
        rtol=1e-4,
        atol=1e-6,
    )


def test_the_remaining_layers() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(2, 4, 6)).astype(np.float32)
    t = torch.from_numpy(x)
    w = rng.normal(size=(5, 4, 3)).astype(np.float32)
    np.testing.assert_allclose(
        apply(Conv1d(w, None, (2,), (1,)), [x], OPS), F.conv1d(t, torch.from_numpy(w), None, 2, 1), rtol=1e-5, atol=1e-5
    )
    bn = BatchNorm(*(rng.uniform(0.5, 1, 4).astype(np.float32) for _ in range(4)))
    expected = F.batch_norm(t, *(torch.from_numpy(a) for a in (bn.mean, bn.var, bn.weight, bn.bias)))
    np.testing.assert_allclose(apply(bn, [x], OPS), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(apply(Flatten(), [x], OPS), t.flatten(1))
    np.testing.assert_array_equal(apply(Permute((1, 0)), [x], OPS), t.permute(0, 2, 1))
    np.testing.assert_array_equal(apply(Concat(1), [x, x], OPS), torch.cat([t, t], 2))
    part = Gather(np.arange(24).reshape(4, 6)[1:, ::2])
    padded = Gather(np.pad(np.arange(24).reshape(4, 6), ((0, 0), (2, 1)), constant_values=-1))
    for data, ops in ((x, OPS), (t, TorchOps())):
        np.testing.assert_array_equal(apply(part, [data], ops), t[:, 1:, ::2])
        np.testing.assert_array_equal(apply(padded, [data], ops), F.pad(t, (2, 1)))
    np.testing.assert_array_equal(apply(Scale(np.float32(2.0)), [x], OPS), t * 2)
    np.testing.assert_allclose(apply(MatMul(), [x, x.transpose(0, 2, 1)], OPS), t @ t.transpose(1, 2), rtol=1e-5)
    np.testing.assert_array_equal(
        apply(SumPool((2, 2), (2, 2), (0, 0)), [np.arange(16).reshape(1, 1, 4, 4)], OPS), [[[[10, 18], [42, 50]]]]
    )


def test_rescale_rounds_half_up() -> None:
    assert apply(Rescale(2), [np.array([[5, 6, -6, -7, 1]])], OPS).tolist() == [[1, 2, -1, -2, 0]]
    assert apply(Rescale(0), [np.array([[5, -7]])], OPS).tolist() == [[5, -7]]


def test_torch_operations_are_torchs_bit_for_bit() -> None:
    rng = np.random.default_rng(2)
    x, w = rng.normal(size=(3, 4, 7, 7)).astype(np.float32), rng.normal(size=(6, 4, 3, 3)).astype(np.float32)
    t, ops = torch.from_numpy(x), TorchOps()
    assert torch.equal(apply(Conv2d(w), [t], ops), F.conv2d(t, torch.from_numpy(w)))
    assert torch.equal(apply(AvgPool((2, 2), (2, 2), (0, 0)), [t], ops), F.avg_pool2d(t, 2))


def test_a_layer_with_state_is_refused() -> None:
    with pytest.raises(S2CError, match="cannot be computed by itself"):
        apply(Delay(1), [np.zeros((1, 1))], OPS)
