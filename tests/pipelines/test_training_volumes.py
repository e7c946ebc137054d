"""Training sees tiles as the codec does: same mapping, same filling, same edges."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import netCDF4
import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view

from pipelines.training.recipe import RECIPES, Recipe
from pipelines.training.train import TileSampler, TrainingSettings, TrainingVolume, spread_times
from pipelines.training.volumes import load_volumes, split_volumes
from psc_volumetric.errors import ParameterError
from psc_volumetric.tiling import TileGrid, default_brick_shape

TILE = (8, 64, 64)
PLAIN = TrainingSettings().unaugmented(seed=4)
FILL = 1e20


def noise(shape: tuple[int, ...]) -> np.ndarray:
    """Whole 2048ths, as all normalised samples are."""
    return np.random.default_rng(0).integers(-2048, 4096, shape).astype(np.float32) / 2048


def orientations(tile: np.ndarray) -> list[np.ndarray]:
    """A tile under every flip and exchange of its two in-plane axes."""
    turned = [tile, tile.transpose(0, 2, 1)]
    for axis in range(3):
        turned += [np.flip(t, axis) for t in turned]
    return turned


def is_window_of(tile: np.ndarray, whole: np.ndarray) -> bool:
    windows = sliding_window_view(whole, tile.shape)
    return any((windows == t).all(axis=(3, 4, 5)).any() for t in orientations(tile))


@pytest.mark.parametrize("shape", [(1, 40, 64), (5, 46, 72), (12, 64, 20), (8, 64, 64)])
def test_tiles_are_cut_from_volumes_extended_as_when_coding(shape):
    values = noise(shape)
    extended = TileGrid(shape, TILE).extend(values)
    sampler = TileSampler([TrainingVolume("v", values, False)], TILE, PLAIN)
    assert all(is_window_of(tile, extended) for tile in sampler.batch(3))


def test_axes_of_cubic_voxels_are_exchanged_only_where_whole_tiles_remain():
    values = noise((12, 64, 64))
    sampler = TileSampler([TrainingVolume("v", values, True)], TILE, PLAIN)
    extended = TileGrid(values.shape, TILE).extend(values)
    assert all(is_window_of(tile, extended) for tile in sampler.batch(6))
    cube = noise((64, 64, 64))
    batch = TileSampler([TrainingVolume("v", cube, True)], TILE, PLAIN).batch(12)
    inside = [is_window_of(tile, cube) for tile in batch]
    assert any(inside) and not all(inside)


def test_values_below_low_survive_without_gamma():
    values = np.full((8, 64, 64), -1.04, np.float32)
    values[:, :20] = 1.5
    batch = TileSampler([TrainingVolume("v", values, False)], TILE, PLAIN).batch(2)
    np.testing.assert_allclose(np.unique(batch), [-1.04, 1.5], rtol=1e-5)


def test_ct_augmentation_keeps_hounsfield_units():
    settings = Recipe.load("ct-body").settings
    values = np.full((8, 96, 96), -1.0, np.float32)
    values[:, ::2] = 0.0
    settings = replace(settings, rescaled=0.0, noise=0.0)
    batch = TileSampler([TrainingVolume("v", values, False)], TILE, settings).batch(16)
    water, air = batch[batch > -0.5], batch[batch < -0.5]
    assert abs(water).max() <= 0.026 and abs(air + 1).max() <= 0.011  # 33 and 14 HU
    assert water.std() > 0


def test_resampled_tiles_keep_level_and_size():
    y = np.linspace(-1, 1, 128, dtype=np.float32)
    values = np.broadcast_to(y[:, None], (8, 128, 128)).copy()
    settings = replace(PLAIN, rescaled=1.0, rescale_range=(0.8, 1.25))
    batch = TileSampler([TrainingVolume("v", values, False)], TILE, settings).batch(8)
    assert batch.shape == (8, *TILE)
    assert batch.min() >= -1 and batch.max() <= 1
    slopes = [max(abs(np.diff(t[0], axis=a)).mean() for a in (0, 1)) for t in batch]
    one_to_one = float(np.diff(y).mean())
    assert min(slopes) < 0.95 * one_to_one and max(slopes) > 1.05 * one_to_one


def test_times_are_spread_over_the_batch():
    times = spread_times(8, torch.Generator().manual_seed(0)).numpy()
    np.testing.assert_array_equal(np.floor(times * 8), np.arange(8))
    assert not np.array_equal(times, spread_times(8, torch.Generator().manual_seed(1)).numpy())


@pytest.fixture
def climate(tmp_path: Path) -> Path:
    """Two times x three levels of 20 x 640, a patch and columns 315..323 missing."""
    values = np.random.default_rng(3).normal(280, 10, (2, 3, 20, 640)).astype(np.float32)
    values[..., 5:9, :40] = FILL
    values[..., 10, 315:324] = FILL
    with netCDF4.Dataset(tmp_path / "climate.nc", "w") as nc:
        for name, size in zip(("time", "level", "lat", "lon"), values.shape, strict=True):
            nc.createDimension(name, size)
        for name in ("ta", "tb"):
            variable = nc.createVariable(
                name, "f4", ("time", "level", "lat", "lon"), fill_value=FILL
            )
            variable[:] = values
        flags = nc.createVariable("flags", "i1", ("lat", "lon"))
        flags.flag_values = np.array([0, 1], np.int8)
        flags[:] = np.arange(20 * 640).reshape(20, 640) % 2
    return tmp_path / "climate.nc"


def stored(path: Path) -> np.ndarray:
    with netCDF4.Dataset(path) as nc:
        nc.set_auto_mask(False)
        return nc["ta"][:]


def test_every_frame_of_every_variable_is_trained_on(climate):
    recipe = Recipe.load("climate-grid")
    names = [v.name for _, v in load_volumes([climate], recipe)]
    assert sorted(names) == ["climate.ta"] * 2 + ["climate.tb"] * 2  # no flags
    assert len(load_volumes([climate], replace(recipe, frames=1))) == 2


def test_missing_voxels_are_filled_as_in_a_brick(climate):
    values = stored(climate)
    measured = values < FILL / 2
    loaded = load_volumes([climate], Recipe.load("climate-grid"))
    got = np.stack([v.values for _, v in loaded if v.name == "climate.ta"])
    assert got.shape == values.shape and got.min() == -1
    a, b = np.polyfit(values[measured], got[measured], 1)
    np.testing.assert_allclose(got[measured], a * values[measured] + b, atol=1e-3)
    np.testing.assert_array_equal(got[..., 5:9, :40], np.repeat(got[..., 5:9, 40:41], 40, -1))
    # what is missing at the start of a brick has no left neighbour
    assert default_brick_shape(values.shape[-3:], (8, 64, 64))[2] == 320
    row = got[..., 10, 314:325]
    np.testing.assert_array_equal(row[..., 1:6], np.repeat(row[..., :1], 5, -1))
    np.testing.assert_array_equal(row[..., 6:10], np.repeat(row[..., 10:], 4, -1))


def test_a_hounsfield_recipe_leaves_other_volumes_out(sources):
    recipe = Recipe.load("ct-body")
    assert load_volumes([sources["nifti"]], recipe) == []
    assert len(load_volumes([sources["nifti"]], replace(recipe, hounsfield=False))) == 1
    ((_, ct),) = load_volumes([sources["dicom"]], recipe)
    assert ct.values.min() > -1  # the padding of -2000 took its neighbours' values


def test_split_is_by_path_and_refuses_an_empty_side():
    recipe = Recipe.load("ct-body")
    volume = TrainingVolume("v", np.zeros((8, 64, 64), np.float32), False)
    named = [("/data/lidc-idri-0001/1.dcm", volume), ("/data/rider-0117/1.dcm", volume)]
    training, held = split_volumes(recipe, named)
    assert len(training) == len(held) == 1
    with pytest.raises(ParameterError) as caught:
        split_volumes(recipe, named[:1])
    assert caught.value.kind == "empty-split"


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.json")), ids=lambda p: p.stem)
def test_shipped_recipes_load_and_name_their_licences(path):
    recipe = Recipe.load(path.stem)
    assert recipe.name == path.stem
    assert recipe.synthetic or (recipe.held_out and recipe.data_notes)
    assert Recipe.from_dict(recipe.to_dict()) == recipe


def test_a_recipe_of_real_volumes_asks_for_data(run, tmp_path):
    outcome = run("prior", "train", "ct-body", "--out", tmp_path / "new", "--json")
    assert outcome.code == 2
    assert outcome.document["error"]["kind"] == "empty-split"
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_the_test_prior_trains_without_data(run, tmp_path):
    outcome = run(
        "prior", "train", "test-tiny", "--out", tmp_path / "new", "--minutes", "0.02", "--json"
    )
    assert outcome.code == 0, outcome.err
    assert outcome.document["name"] == "test-tiny"
    card = (tmp_path / "new" / "docs" / "README.md").read_text()
    assert "synthetic-0" in card and outcome.document["digest"] in card
