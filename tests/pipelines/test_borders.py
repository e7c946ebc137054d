"""Borders that were made are found on their grid, and on no other."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.evaluation.borders import border_ratio, border_ratios
from pipelines.evaluation.point import CodedSize, Reference

TILE = (4, 16, 16)
SHAPE = (12, 64, 80)


def body(seed: int = 0) -> np.ndarray:
    """Edges everywhere, no two slices alike."""
    field = np.random.default_rng(seed).normal(0, 1, SHAPE)
    for axis in (1, 2):
        field = field + np.roll(field, 1, axis) + np.roll(field, 2, axis)
    return 100 * field


def tiled(values: np.ndarray, offset: float, shift: int = 0) -> np.ndarray:
    """With another offset in every tile of a grid that begins ``shift`` voxels early."""
    places = [(np.arange(n) + shift) // t for n, t in zip(values.shape, TILE, strict=True)]
    z, y, x = np.meshgrid(*places, indexing="ij")
    return values + offset * ((z * 7 + y * 3 + x * 5) % 4 - 1.5)


def test_equal_volumes_have_no_borders() -> None:
    values = body()
    assert border_ratio(values, values, TILE, len(values)) == 1
    assert border_ratio(values, 0.8 * values, TILE, len(values)) == pytest.approx(1)


@pytest.mark.parametrize("dtype", ["<i2", "<f4"])
def test_offsets_of_tiles_are_seen_on_their_grid_alone(dtype: str) -> None:
    values = body().astype(dtype)
    found = border_ratio(values, tiled(values, 60), TILE, len(values))
    assert found is not None and found > 1.05
    other = border_ratio(values, tiled(values, 60, shift=2), TILE, len(values))
    assert other is not None and other < 1


def test_borders_that_were_smoothed_away_are_below_one() -> None:
    values = body()
    smooth = values.copy()
    for at in range(16, SHAPE[2], 16):
        smooth[..., at - 1 : at + 1] = values[..., at - 1 : at + 1].mean(-1, keepdims=True)
    found = border_ratio(values, smooth, TILE, len(values))
    assert found is not None and found < 0.95


def test_edges_of_the_source_on_the_grid_are_no_borders() -> None:
    source = tiled(body(), 200)
    found = border_ratio(source, source + body(1) / 50, TILE, len(source))
    assert found == pytest.approx(1, abs=0.05)


def test_slices_of_another_volume_are_no_neighbours() -> None:
    values = body()
    decoded = values + 500.0 * (np.arange(12) // 4)[:, None, None]
    grid = (4, 64, 80)
    together = border_ratio(values, decoded, grid, 12)
    assert together is not None and together > 2
    assert border_ratio(values, decoded, grid, 4) is None


def test_what_has_no_border_inside_or_no_edges_has_no_ratio() -> None:
    values = body()
    grids = {"tiles": TILE, "bricks": SHAPE}
    assert set(border_ratios(values, values, grids, len(values))) == {"tiles"}
    flat = np.zeros(SHAPE)
    assert border_ratio(flat, values, TILE, len(values)) is None


def test_points_tell_the_grid_that_shows_most() -> None:
    values = body()
    reference = Reference(values, None, float(values.min()), float(np.ptp(values)),
                          grids={"tiles": TILE, "others": (12, 10, 10)})  # fmt: skip
    quality = reference.point(CodedSize("ours-psc", "step 1", 10), tiled(values, 60)).quality
    assert quality is not None and quality.border == quality.borders["tiles"]
