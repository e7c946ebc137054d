"""Special values are those a voxel can hold; nothing else is taken for one."""

from __future__ import annotations

import numpy as np
import pytest

from psc_volumetric.codec import (
    BrickOptions,
    CodecParameters,
    Guarantee,
    IntensityMapping,
    decode_brick,
    encode_brick,
)
from psc_volumetric.layers.grid import choose_grid
from psc_volumetric.layers.guarantee import LOSSY
from psc_volumetric.values.special import SpecialMap


@pytest.mark.parametrize("special", [70000, -1, 4464.5])
def test_values_the_dtype_cannot_hold_mark_no_voxel(special):
    values = np.array([[[4464, 65535, 7]]], np.uint16)  # 70000 and -1 modulo 2^16 are here
    assert SpecialMap.find(values, (special,)) is None


def test_fill_value_is_found_and_put_back():
    values = np.array([[[1, -9999, 3]]], np.int16)
    found = SpecialMap.find(values, (-9999,))
    assert found is not None
    filled = found.fill(values, 0)
    assert filled.tolist() == [[[1, 1, 3]]]
    found.apply(filled, (slice(None),) * 3)
    assert np.array_equal(filled, values)


def test_every_nan_is_special_without_being_named():
    values = np.array([[[1.0, np.nan, np.inf]]], np.float32)
    found = SpecialMap.find(values, ())
    assert found is not None
    assert (found.index > 0).tolist() == [[[False, True, True]]]


def code(values, guarantee, special_values, base="none", step=1.0):
    return encode_brick(
        values,
        position=(0, 0, 0),
        shape=values.shape,
        parameters=CodecParameters(effort=1, step=step),
        mapping=IntensityMapping(float(values.min()), float(values.max())),
        prior=None,
        guarantee=guarantee,
        options=BrickOptions(base=base, special_values=special_values),
    ).data


def decode(data, shape, level=None):
    everything = tuple(slice(0, size) for size in shape)
    return decode_brick(lambda at, n: data[at : at + n], selection=everything, level=level).values


def field(low: int, high: int, dtype: str) -> np.ndarray:
    z, y, x = np.indices((2, 32, 32))
    noise = np.random.default_rng(0).normal(size=z.shape) * 0.1
    wave = np.sin(x / 5 + z) * np.cos(y / 7) * 1.2 + noise
    return np.clip(np.rint((low + high) / 2 + (high - low) / 2 * wave), low, high).astype(dtype)


# of bytes with the fill value amid them, at one end, and of a field that has none of it
@pytest.mark.parametrize("marked", [True, False])
@pytest.mark.parametrize(
    ("dtype", "low", "high", "special", "bound"),
    [
        ("i2", -300, 300, (0,), 2.0),
        ("i2", -300, 300, (-295, 0, 7), 1.0),
        ("u1", 1, 255, (0,), 3.0),
        ("i2", -32767, 32767, (-32768,), 300.0),
        ("f4", -300, 300, (0.0, 5.0), 2.0),
        ("u8", 1, 900, (0, 500), 4.0),
    ],
)
@pytest.mark.parametrize("coders", [("zstd",), ("interpolation",)])
@pytest.mark.parametrize("mode", ["bounded", "lossless"])
def test_no_bounded_value_is_taken_for_a_fill_value(
    mode, coders, dtype, low, high, special, bound, marked
):
    values = field(low, high, dtype)
    values[np.isin(values, special)] += 1
    if marked:
        values[:, ::9, ::7] = special[0]
    every = (*coders, "zstd")
    data = code(values, Guarantee(mode, bound, "none", every), special)
    for level in (0, None):
        found = decode(data, values.shape, level)
        np.testing.assert_array_equal(np.isin(found, special), np.isin(values, special))
        assert np.abs(found.astype("f8") - values.astype("f8")).max() <= bound


def test_the_grid_of_a_bounded_level_passes_by_what_is_reserved():
    values = np.arange(0, 100, dtype=np.int16).reshape(1, 10, 10)
    assert choose_grid(values, 2.0).offset == choose_grid(values, 2.0, (3,)).offset == 0
    assert choose_grid(values, 2.0, (0, 51)).offset == 2
    assert choose_grid(values, 1.0, (0, 1, 2)).offset == 0  # every grid has one of them
    top = np.full((1, 1, 4), 255, np.uint8)
    assert choose_grid(top, 2.0, (255,)).offset == 255


@pytest.mark.parametrize(
    ("dtype", "low", "high", "special"),
    [("u1", 1, 254, (0, 255)), ("i2", -32767, 32767, (-32768,))],
)
def test_no_lossy_value_is_taken_for_a_fill_value_past_the_ends(dtype, low, high, special):
    values = field(low, high, dtype)
    free = code(values, LOSSY, (), "wavelet", 4.0)
    data = code(values, LOSSY, special, "wavelet", 4.0)
    assert np.isin(decode(free, values.shape), special).any()
    assert not np.isin(decode(data, values.shape), special).any()


def test_fill_values_far_away_cost_a_lossy_brick_nothing():
    values = field(-300, 300, "i2")
    assert code(values, LOSSY, (-32768,), "wavelet") == code(values, LOSSY, (), "wavelet")
