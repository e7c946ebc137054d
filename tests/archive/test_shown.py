"""Archives as notebooks show them: the reader's HTML, and pictures of datasets."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from types import SimpleNamespace

import imagecodecs
import numpy as np
import pytest
import xarray as xr

from psc_volumetric.archive import ArchiveReader
from psc_volumetric.archive.orientation import upright, world_axes
from psc_volumetric.errors import ParameterError
from psc_volumetric.xarray_plot import _window

# index (z, y, x): x to the patient's left, y to the front, z upwards
AFFINE = np.array([[0.0, 0, -2, 40], [0, 2, 0, -20], [4, 0, 0, -10], [0, 0, 0, 1]])


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory, make: SimpleNamespace) -> Path:
    """A volume whose corner towards right, posterior, superior is bright."""
    values = np.random.default_rng(1).integers(0, 60, (12, 40, 48)).astype(np.int16)
    values[-8:, :10, :12] = 900
    path = tmp_path_factory.mktemp("head") / "<b>head.psc.zarr"
    make.build(path, values, affine=AFFINE, spacing_mm=(4.0, 2.0, 2.0), unit="<i>HU</i>")
    return path


def test_slices_stand_upright() -> None:
    values = np.arange(6).reshape(2, 3)
    axes = world_axes(AFFINE)
    assert axes == [(2, True), (1, True), (0, False)]
    axial = upright(values, axes[1], axes[2])  # the front is above, x runs to the left already
    np.testing.assert_array_equal(axial, values[::-1])
    np.testing.assert_array_equal(upright(values.T, axes[2], axes[1]), axial)
    np.testing.assert_array_equal(upright(values, (2, False), (0, True)), values[:, ::-1])
    assert world_axes(np.ones((4, 4))) is None


def test_html_has_thumbnail_levels_and_promise_and_escapes_text(head: Path) -> None:
    with ArchiveReader.open(head) as reader:
        text = reader._repr_html_()
        info = reader.info()
    assert "<b>head" not in text.replace("<b>/", "") and "&lt;b&gt;head" in text
    assert "&lt;i&gt;HU&lt;/i&gt;" in text and "<script" not in text
    assert f"{info['bytes']['total']:,} bytes" in text
    assert "the last level is the source, bit for bit" in text
    assert text.count("<tr>") == 1 + len(info["variables"]["volume"]["levels"])
    (data,) = re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", text)
    picture = imagecodecs.png_decode(base64.b64decode(data))
    assert picture.shape == (40, 48)
    assert (picture[-10:, :12] > 200).all()  # right and back: lower left
    assert (picture[:-10] < 60).all()


def test_html_of_a_damaged_archive_says_what_is_wrong(folder: Path) -> None:
    reader = ArchiveReader.open(folder)
    next(p for p in folder.glob("tiles/volume/c/*") if p.is_file()).write_bytes(b"")
    text = reader._repr_html_()
    assert "expected" in text and "tiles/volume" in text


def test_plot_draws_three_upright_planes(head: Path) -> None:
    pytest.importorskip("matplotlib")
    with xr.open_dataset(head, engine="psc") as dataset:
        figure = dataset.psc.plot()
        images = [axis.images[0] for axis in figure.axes if axis.images]
        titles = [axis.get_title() for axis in figure.axes if axis.images]
        assert [title.split(",")[0] for title in titles] == [
            "volume: axial", "volume: coronal", "volume: sagittal",
        ]  # fmt: skip
        axial = images[0].get_array()
        np.testing.assert_array_equal(axial, dataset["volume"].values[6, ::-1])
        coronal = dataset.psc.plot(at={"y": 2}).axes[1].images[0].get_array()
        np.testing.assert_array_equal(coronal, dataset["volume"].values[::-1, 2])
        with pytest.raises(ParameterError) as caught:
            dataset.psc.plot("other")
        assert caught.value.kind == "unknown-variable"


def test_pictures_of_a_plot_share_one_window() -> None:
    few = [np.array([[np.nan, 0.0]]), np.array([[np.inf, 10.0]])]
    assert _window(few, is_ct=False) == pytest.approx((0.05, 9.95))
    assert _window([np.full((2, 2), np.nan)], is_ct=False) == (0.0, 1.0)
    assert _window(few, is_ct=True) == (-160.0, 240.0)


def test_plot_draws_maps_with_north_above_and_sigma(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from pipelines.archive import ArchiveOptions, archive, plan

    latitude, longitude = np.linspace(-60, 60, 25), np.arange(0, 360, 10.0)
    values = 280 + latitude[None, :, None] / 4 + np.zeros((3, 25, 36))
    values += np.random.default_rng(3).normal(0, 0.5, values.shape)
    values[:, 0, 0] = np.nan
    coordinates = {"lat": latitude, "lon": longitude}
    made = xr.DataArray(values.astype("f4"), coordinates, ("time", "lat", "lon"), name="warm")
    made.to_netcdf(tmp_path / "field.nc")
    target = str(tmp_path / "field.psc.zarr")
    options = ArchiveOptions(mode="lossy", base="wavelet", speed=2, psnr=40)
    archive(plan(tmp_path / "field.nc", target, options))
    with xr.open_dataset(target, engine="psc", uncertainty=True) as dataset:
        figure = dataset.psc.plot()
        first, sigma = (axis.images[0] for axis in figure.axes if axis.images)
        np.testing.assert_array_equal(first.get_array(), dataset["warm"].values[1, ::-1])
        assert first.get_extent() == [0.0, 350.0, -60.0, 60.0]
        assert float(sigma.get_array().max()) > 0
        figure.savefig(tmp_path / "field.png")
        assert len([a for a in dataset.psc.plot(sigma=False).axes if a.images]) == 1
