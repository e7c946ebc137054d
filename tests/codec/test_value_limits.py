"""Decoded values never leave what their format can hold: every method, layer and reader."""

from __future__ import annotations

import numpy as np
import pytest

from psc_volumetric.archive.preview_values import block_means
from psc_volumetric.codec import (
    BrickOptions,
    CodecParameters,
    Guarantee,
    IntensityMapping,
    decode_brick,
    encode_brick,
)
from psc_volumetric.errors import ParameterError
from psc_volumetric.layers.guarantee import LOSSY
from psc_volumetric.methods.registry import read_index
from psc_volumetric.prior import load_prior

SHAPE = (8, 64, 64)


def clipped(dtype: str, low: int, high: int, *, seed: int = 0) -> np.ndarray:
    """A noisy field that is cut off at both ends of a range."""
    z, y, x = np.indices(SHAPE)
    wave = np.sin(x / 5.0 + z) * np.cos(y / 7.0)
    noise = np.random.default_rng(seed).normal(size=SHAPE) * 0.05
    middle, half = (low + high) / 2, (high - low) / 2
    return np.clip(np.rint(middle + 1.5 * half * (wave + noise)), low, high).astype(dtype)


def code(values, *, base="none", step=1.0, guarantee=LOSSY, **options) -> bytes:
    network = load_prior("test-tiny") if base == "psc" else None
    return encode_brick(
        values,
        position=(0, 0, 0),
        shape=SHAPE,
        parameters=CodecParameters(effort=1, step=step),
        mapping=IntensityMapping(float(values.min()), float(values.max())),
        prior=network,
        guarantee=guarantee,
        options=BrickOptions(base=base, **options),
    ).data


def decode(data: bytes, level: int | None = None) -> np.ndarray:
    return decode_brick(
        lambda at, n: data[at : at + n],
        selection=(slice(None),) * 3,
        level=level,
        prior=lambda digest: load_prior("test-tiny"),
    ).values


@pytest.mark.parametrize("base", ["psc", "av1", "wavelet"])
@pytest.mark.parametrize(
    ("dtype", "low", "high"), [("u2", 0, 4095), ("i2", -2048, 2047), ("u1", 0, 255)]
)
def test_lossy_values_stay_within(base: str, dtype: str, low: int, high: int) -> None:
    values = clipped(dtype, low, high)
    free, limited = (code(values, base=base, limits=ends) for ends in (None, (low, high)))
    loose, tight = decode(free).astype(int), decode(limited).astype(int)
    if dtype != "u1":
        assert loose.min() < low or loose.max() > high  # what the limits are for
    assert low <= tight.min() and tight.max() <= high
    assert np.abs(tight - values).max() <= np.abs(loose - values).max()
    np.testing.assert_array_equal(tight, np.clip(loose, low, high))


@pytest.mark.parametrize("coder", ["zstd", "interpolation"])
@pytest.mark.parametrize("bound", [1.0, 7.0, 700.0])
def test_bounded_values_stay_within(coder: str, bound: float) -> None:
    values = clipped("u2", 0, 4095)
    guarantee = Guarantee("bounded", bound, coders=(coder,))
    found = decode(code(values, limits=(0, 4095), guarantee=guarantee)).astype(int)
    assert found.min() >= 0 and found.max() <= 4095
    assert np.abs(found - values).max() <= bound


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8"])
def test_the_ends_of_every_dtype_do_not_wrap(dtype: str) -> None:
    info = np.iinfo(dtype)
    values = np.full((2, 8, 8), info.max, dtype)
    values[:, ::2] -= np.arange(8, dtype=dtype)
    values[1] = info.min + np.arange(8, dtype=dtype)
    guarantee = Guarantee("bounded", 5.0)
    data = encode_brick(
        values, position=(0, 0, 0), shape=(2, 8, 8), mapping=None, prior=None,
        parameters=CodecParameters(), guarantee=guarantee,
    ).data  # fmt: skip
    found, source = decode(data).astype(object), values.astype(object)
    assert np.abs(found - source).max() <= 5


def test_levels_below_and_differences_stay_within_and_agree() -> None:
    values = clipped("u2", 0, 1023)
    guarantee = Guarantee("lossless", 60.0, "base", ("zstd",))
    data = code(values, base="wavelet", limits=(0, 1023), guarantee=guarantee)
    for level in (0, 1):
        found = decode(data, level).astype(int)
        assert found.min() >= 0 and found.max() <= 1023
    np.testing.assert_array_equal(decode(data), values)


def test_special_values_lie_where_they_like() -> None:
    values = clipped("i2", 0, 4095)
    values[0, :4] = -32768
    data = code(values, base="wavelet", limits=(0, 4095), special_values=(-32768,))
    found = decode(data)
    assert (found[0, :4] == -32768).all()
    measured = found[values != -32768]
    assert measured.min() >= 0 and measured.max() <= 4095


def test_values_outside_widen_the_limits_of_their_brick() -> None:
    values = clipped("i2", -2048, 2047)
    values[3, 5, 6] = 9000
    data = code(values, base="wavelet", step=0.01, limits=(-2048, 2047))
    index = read_index(lambda at, n: data[at : at + n], len(data))
    assert index.limits is not None
    assert (index.limits.least, index.limits.largest) == (-2048, 9000)
    assert abs(int(decode(data)[3, 5, 6]) - 9000) < 200


def test_limits_that_say_nothing_cost_nothing() -> None:
    values = clipped("u1", 0, 255)
    assert code(values, base="wavelet", limits=(0, 255)) == code(values, base="wavelet")
    assert code(values, base="wavelet", limits=(-9, 999)) == code(values, base="wavelet")


@pytest.mark.parametrize("ends", [(5, 5), (9, 3), (float("nan"), 3), (0, float("inf"))])
def test_limits_that_are_none_are_refused(ends: tuple[float, float]) -> None:
    with pytest.raises(ParameterError) as caught:
        code(clipped("u2", 0, 4095), base="wavelet", limits=ends)
    assert caught.value.kind == "bad-limits"


def test_floats_take_limits_rounded_to_their_type() -> None:
    values = np.clip(clipped("f4", -100, 100) / 37, -0.1, 0.3).astype("f4")
    data = code(values, base="wavelet", limits=(-0.1, 0.3))
    found = decode(data)
    assert found.min() >= np.float32(-0.1) and found.max() <= np.float32(0.3)


@pytest.mark.parametrize("dtype", ["u8", "i8", "u4", "i4", "u2", "i1"])
def test_previews_do_not_wrap_at_the_ends(dtype: str) -> None:
    info = np.iinfo(dtype)
    for end in (info.min, info.max):
        values = np.full((4, 8, 8), end, dtype)
        small = block_means(values, (2, 4, 4), special=(), dtype=np.dtype(dtype))
        assert abs(int(small[0, 0, 0]) - int(end)) <= abs(int(end)) >> 52
