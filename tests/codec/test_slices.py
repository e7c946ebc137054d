"""Smooth fields on levels far apart are coded slice by slice; everything else as before."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from psc_volumetric.codec import (
    BrickOptions,
    CodecParameters,
    EncodedBrick,
    Guarantee,
    decode_brick,
    encode_brick,
)
from psc_volumetric.layers.slices import lie_far_apart

Values = NDArray[Any]


def levels() -> Values:
    """Three pressure levels of a wave, packed into 16 bits over the range of all of them."""
    y, x = np.meshgrid(np.arange(90), np.arange(110), indexing="ij")
    wave = np.stack([np.sin(x / 17 + z) * np.cos(y / 23) * (900 + 300 * z) for z in range(3)])
    heights = wave + np.array([-30000, -2000, 28000])[:, None, None]
    return np.rint(heights).astype("<i2")


def coded(values: Values, guarantee: Guarantee) -> EncodedBrick:
    return encode_brick(
        values,
        position=(0, 0, 0),
        shape=(8, 128, 128),
        mapping=None,
        parameters=CodecParameters(),
        prior=None,
        guarantee=guarantee,
        options=BrickOptions(base="none"),
    )


@pytest.mark.parametrize(
    ("guarantee", "most"),
    [
        (Guarantee("lossless", coders=("context", "zstd")), 2.2),
        (Guarantee("bounded", 10.0, coders=("context", "zstd")), 0.75),
        (Guarantee("bounded", 10.0, coders=("interpolation",)), 0.5),
    ],
)
def test_levels_far_apart_are_coded_one_by_one(guarantee: Guarantee, most: float) -> None:
    values = levels()
    brick = coded(values, guarantee)
    if guarantee.coders != ("interpolation",):  # on so few voxels it may do without
        assert brick.index.layers[-1].segment[0] == 1
    assert 8 * len(brick.data) / values.size < most
    box = slice(1, 3), slice(10, 40), slice(5, 70)
    part = decode_brick(lambda start, n: brick.data[start : start + n], selection=box).values
    assert np.abs(part.astype(int) - values[box]).max() <= (guarantee.max_error or 0)


def test_scans_and_fields_that_change_little_are_not() -> None:
    random = np.random.default_rng(2)
    noisy = (levels()[:1] + random.normal(0, 40, (6, 90, 110))).astype("<i2")
    near = np.stack([levels()[0] + 3 * z for z in range(5)])
    holes = levels().astype("<f4")
    holes[:, 20:] = np.nan
    empty = np.full((3, 8, 8), np.nan)
    assert not any(map(lie_far_apart, (noisy, near, empty, levels()[:1], levels()[:, :1])))
    assert lie_far_apart(holes)
