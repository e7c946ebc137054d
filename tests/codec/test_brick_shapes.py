"""Which bricks a volume is cut into."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psc_volumetric.tiling import BRICK_VOXELS, DEEPEST_BRICK, WIDEST_BRICK, default_brick_shape

TILE = (8, 64, 64)
EXTENTS = st.tuples(*(st.integers(1, n) for n in (5000, 3000, 3000)))


@pytest.mark.parametrize(
    ("shape", "brick"),
    [
        ((1, 10, 10), TILE),
        ((48, 320, 320), (48, 320, 320)),
        ((80, 192, 192), (80, 192, 192)),
        ((128, 256, 256), (64, 256, 256)),
        ((24, 512, 512), (24, 512, 512)),
        ((200, 512, 512), (24, 512, 512)),
        ((30, 600, 1000), (32, 320, 512)),
    ],
)
def test_usual_volumes(shape: tuple[int, int, int], brick: tuple[int, int, int]) -> None:
    assert default_brick_shape(shape, TILE) == brick


@given(EXTENTS)
def test_bricks_are_whole_tiles_within_limits_and_alike(shape: tuple[int, int, int]) -> None:
    brick = default_brick_shape(shape, TILE)
    assert all(b % t == 0 for b, t in zip(brick, TILE, strict=True))
    assert brick[0] <= DEEPEST_BRICK and max(brick[1:]) <= WIDEST_BRICK
    assert math.prod(brick) <= BRICK_VOXELS
    for n, t, b in zip(shape, TILE, brick, strict=True):
        count = -(-n // b)
        assert b * count - n < t * count  # no brick could be a tile shorter
