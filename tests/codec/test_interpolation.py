"""Interpolated values stay within their bound, decode to what was promised, and resist damage."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from psc_volumetric.codec import (
    BrickOptions,
    CodecParameters,
    EncodedBrick,
    Guarantee,
    decode_brick,
    encode_brick,
)
from psc_volumetric.coders.interpolation.coder import MAX_BOUND, decode_interpolated
from psc_volumetric.coders.interpolation.fit import Order, encode_interpolated, rank_orders
from psc_volumetric.coders.interpolation.order import lattices
from psc_volumetric.errors import FormatError, LimitExceededError, ParameterError
from psc_volumetric.methods.registry import read_index

Integers = NDArray[np.int64]
TOP = (1 << 31) - 1
NUMBERS = ("u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8", "u8", "i8")


def field(shape: tuple[int, int, int], noise: float = 0.0) -> NDArray[np.float64]:
    """Waves as of weather, and noise."""
    z, y, x = np.indices(shape)
    waves = 40 * np.sin(y / 9 + z / 5) + 30 * np.cos(x / 11 - z / 7) + y + 100
    return waves + np.random.default_rng(3).normal(0, noise, shape)


def encode(values: np.ndarray, bound: float, *others: str, shape=None, **options) -> EncodedBrick:
    guarantee = Guarantee("bounded", bound, coders=("interpolation", *others))
    return encode_brick(
        values,
        position=(0,),
        shape=shape or values.shape,
        mapping=None,
        prior=None,
        parameters=CodecParameters(effort=1),
        guarantee=guarantee,
        options=BrickOptions(**options),
    )


def decode(data: bytes, selection=(slice(None),) * 3) -> np.ndarray:
    return decode_brick(lambda at, n: data[at : at + n], selection=selection).values


def coders(data: bytes) -> set[str]:
    return {layer.coder for layer in read_index(lambda at, n: data[at : at + n]).layers}


def round_trip(values: Integers, bound: int, axes: tuple[int, ...]) -> bytes:
    data = encode_interpolated(values, bound, Order(axes))
    back, fineness = decode_interpolated(data, values.shape, what="test")
    assert fineness == bound and np.abs(back - values).max() <= bound
    assert back.min() >= values.min() and back.max() <= values.max()
    return data


@settings(max_examples=25, deadline=None)
@given(
    hnp.arrays(
        np.int64,
        hnp.array_shapes(min_dims=3, max_dims=3, max_side=9),
        elements=st.integers(0, TOP) | st.integers(0, 9),
    ),
    st.integers(0, 5) | st.integers(0, MAX_BOUND),
    st.lists(st.integers(0, 2), max_size=8),
)
def test_any_integers_stay_within_any_bound(values: Integers, bound: int, axes: list[int]) -> None:
    if lattices(values.shape, tuple(axes)) is None:
        axes = []
    round_trip(values, bound, tuple(axes))


@pytest.mark.parametrize("axes", [(), (0,), (1, 2), (2, 1, 0), (1, 2) * 3, (0, 1, 2) * 2, (2,) * 4])
def test_every_order_keeps_the_bound_on_fields(axes: tuple[int, ...]) -> None:
    values = np.rint(field((9, 20, 23), noise=4) * 10).astype(np.int64)
    for bound in (0, 1, 40, 5000):
        round_trip(values, bound, axes)


def test_passes_visit_every_voxel_once() -> None:
    shape = (5, 12, 7)
    for axes in ((), (0, 1, 2), (1, 2, 1, 2, 1), (2, 2, 0, 1, 0)):
        visits = np.zeros(shape, int)
        for axis, strides, extent in lattices(shape, axes) or []:
            steps = np.stack(np.meshgrid(*map(np.arange, extent), indexing="ij"), -1).reshape(-1, 3)
            if axis < 3:
                steps = steps[steps[:, axis] % 2 == 1]
            visits[tuple((steps * strides).T)] += 1
        assert (visits == 1).all()


@pytest.mark.parametrize("bound", [1, 2.5, 1000, 1e-3, 1e30])
@pytest.mark.parametrize("code", NUMBERS)
def test_no_bound_is_violated(code: str, bound: float) -> None:
    values = field((4, 20, 24), noise=3).clip(0, 127).astype(code)
    if bound < 1 and values.dtype.kind != "f":
        bound = 1
    encoded = encode(values, bound, "zstd")
    decoded = decode(encoded.data)
    pairs = zip(decoded.reshape(-1).tolist(), values.reshape(-1).tolist(), strict=True)
    assert max(abs(Fraction(a) - Fraction(b)) for a, b in pairs) <= Fraction(bound)
    assert max(record.max_error[-1] for record in encoded.records) <= bound


@pytest.mark.parametrize("code", NUMBERS)
def test_no_bound_is_violated_at_the_ends_of_a_type(code: str) -> None:
    info = np.finfo(code) if code[0] == "f" else np.iinfo(code)
    values = np.array([info.min, info.max] * 40 + list(range(40)), code).reshape(3, 5, 8)
    bound = 2.0**20 if np.dtype(code).itemsize > 2 else 3
    decoded = decode(encode(values, bound, "zstd").data)
    pairs = zip(decoded.reshape(-1).tolist(), values.reshape(-1).tolist(), strict=True)
    assert max(abs(Fraction(a) - Fraction(b)) for a, b in pairs) <= Fraction(bound)


def test_special_values_keep_their_bits() -> None:
    values = field((4, 30, 40)).astype("f4")
    values[:, 3:9, 5:20], values[0, 0, 0], values[1, 2] = np.nan, np.inf, -9999
    encoded = encode(values, 0.5, special_values=(-9999.0,))
    decoded = decode(encoded.data)
    usual = np.isfinite(values) & (values > -9999)
    assert np.abs(decoded[usual] - values[usual]).max() <= 0.5
    assert decoded[~usual].tobytes() == values[~usual].tobytes()


def test_smooth_fields_take_it_and_noise_does_not() -> None:
    smooth = field((12, 48, 48), noise=0.5).astype("f4")
    assert coders(encode(smooth, 1.0, "context").data) == {"interpolation"}
    alone = encode(smooth, 1.0)
    context = Guarantee("bounded", 1.0, coders=("context",))
    other = encode_brick(
        smooth, position=(0,), shape=smooth.shape, mapping=None, prior=None,
        parameters=CodecParameters(effort=1), guarantee=context,
    )  # fmt: skip
    assert len(alone.data) < 0.9 * len(other.data)
    noise = np.random.default_rng(1).integers(0, 60000, (4, 32, 32)).astype("u2")
    assert coders(encode(noise, 1, "context").data) == {"context"}


def test_a_region_needs_its_segments_only() -> None:
    values = field((3, 200, 40)).astype("f4")
    data = encode(values, 0.5, shape=(4, 256, 64)).data
    layer = read_index(lambda at, n: data[at : at + n]).layers[0]
    assert layer.coder == "interpolation" and len(layer.sizes) == 2
    box = (slice(1, 3), slice(90, 130), slice(7, 31))
    np.testing.assert_array_equal(decode(data, box), decode(data)[box])


def test_a_lossless_brick_cannot_be_interpolated() -> None:
    with pytest.raises(ParameterError) as caught:
        encode_brick(
            field((2, 8, 8)), position=(0,), shape=(2, 8, 8), mapping=None, prior=None,
            parameters=CodecParameters(effort=1),
            guarantee=Guarantee("lossless", coders=("interpolation",)),
        )  # fmt: skip
    assert caught.value.kind == "no-coder"


def test_damage_is_refused_or_leaves_integers_in_range() -> None:
    values = np.rint(field((4, 18, 21), noise=2) * 10).astype(np.int64)
    good = encode_interpolated(values, 12, Order((1, 2, 0)))
    random, refused = np.random.default_rng(5), 0
    for _ in range(300):
        data = bytearray(good)
        place = int(random.integers(len(data)))
        if random.random() < 0.7:
            data[place] ^= 1 << int(random.integers(8))
        else:
            del data[place : place + int(random.integers(1, 30))]
        try:
            found, _ = decode_interpolated(bytes(data), values.shape, what="test")
        except FormatError as error:
            assert error.kind in ("truncated", "limit", "bad-payload", "bad-symbol", "bad-varint")
            refused += 1
        else:
            assert found.min() >= 0 and found.max() <= TOP
    assert refused > 250


def test_hostile_headers_are_refused() -> None:
    values = np.arange(24).reshape(2, 3, 4)
    good = encode_interpolated(values, 1, Order(()))
    assert good[:4] == bytes([1, 0, 23, 0])
    for bad in (
        b"",
        good + b"\0",
        good[:3] + bytes([25]) + good[4:],  # more axes than allowed
        good[:3] + bytes([1, 3]) + good[4:],  # no such axis
        good[:3] + bytes([1, 0, 0, 0, 6]) + good[4:],  # an axis halved: too few code bytes
        good[:3] + bytes([2, 0, 0, 0, 0, 6, 0, 0, 6]) + good[4:],  # two slices halved twice
        good[:4] + bytes([2]) + good[5:],  # a pass may be wrong by more than the whole
        good[:5] + bytes([97]) + good[6:],  # more taps than neighbours
        good[:6] + bytes([15]) + good[7:],  # more fraction bits
        bytes([1]) + b"\xff\xff\xff\xff\x07" * 2 + good[3:],  # low + top beyond the limit
    ):
        with pytest.raises(FormatError):
            decode_interpolated(bad, values.shape, what="test")
    with pytest.raises(LimitExceededError):
        decode_interpolated(good, (1 << 12, 1 << 12, 1), what="test")


def test_the_search_takes_an_order_the_shape_allows() -> None:
    for shape in ((1, 1, 1), (1, 1, 50), (50, 1, 1), (2, 3, 2)):
        values = np.arange(np.prod(shape)).reshape(shape)
        ranked, rate = rank_orders(values, 1)
        assert rate > 0
        for order in ranked:
            round_trip(values, 1, order.axes)
