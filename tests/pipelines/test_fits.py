"""FITS through the command: archived, seen by xarray as by astropy, restored byte for byte."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from astropy.wcs import WCS

from tests.adapters import fits_files
from tests.pipelines.test_skip_damaged import lose

PLAIN = ("--coders", "zstd", "--base", "wavelet")
NAMES = {"exposure": "a.fits", "cube": "a.fits.gz", "unsigned": "a.fit", "tiles": "a.fits.fz"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("fits")
    for layout, name in NAMES.items():
        fits_files.write(place / layout / name, layout)
    return place


def archived(run, folder: Path, layout: str, target: Path, *words: str) -> Path:
    outcome = run("archive", folder / layout / NAMES[layout], target, *PLAIN, *words)
    assert outcome.code == 0, outcome.err
    return target


@pytest.mark.parametrize("layout", NAMES)
def test_xarray_shows_what_astropy_shows_and_the_file_comes_back(layout, folder, tmp_path, run):
    source = folder / layout / NAMES[layout]
    archive = archived(run, folder, layout, tmp_path / "a.psc.zarr")
    with xr.open_dataset(archive, engine="psc") as view, fits.open(source, uint=True) as units:
        images = [u for u in units if u.data is not None and not isinstance(u, fits.BinTableHDU)]
        shown = [v for name, v in view.data_vars.items() if not name.startswith("EVENTS")]
        assert len(shown) == len(images)
        for found, unit in zip(shown, images, strict=True):
            values = found.values
            assert values.dtype.kind == unit.data.dtype.kind
            np.testing.assert_array_equal(values, unit.data)
            cards = {key: value for key, value in found.attrs.items() if key.isupper()}
            assert WCS(fits.Header(cards)).wcs.compare(WCS(unit.header).wcs)
            assert found.attrs.get("units") == unit.header.get("BUNIT")
    outcome = run("restore", archive, tmp_path / "out", "--json")
    wanted = "identical after decompression" if source.suffix == ".gz" else "identical"
    assert outcome.document["outcomes"] == {wanted: 1}
    assert wanted != "identical" or (tmp_path / "out" / source.name).read_bytes() == (
        source.read_bytes()
    )


def test_the_gzip_stream_itself_comes_back_where_it_was_kept(folder, tmp_path, run):
    archive = archived(run, folder, "cube", tmp_path / "a.psc.zarr", "--keep-original")
    assert run("restore", archive, tmp_path / "out").code == 0
    assert (tmp_path / "out/a.fits.gz").read_bytes() == (folder / "cube/a.fits.gz").read_bytes()


def test_values_stay_within_their_bound_and_special_ones_are_exact(folder, tmp_path, run):
    words = ("--mode", "bounded", "--max-error", "2")
    archive = archived(run, folder, "exposure", tmp_path / "a.psc.zarr", *words)
    assert run("verify", archive, "--deep").code == 0
    assert run("restore", archive, tmp_path / "b.fits").code == 0
    with fits.open(tmp_path / "b.fits") as found, fits.open(folder / "exposure/a.fits") as full:
        found.verify("exception")
        for name in ("SCI", "ERR"):
            away = np.abs(found[name].data - full[name].data)
            assert 0 < np.nanmax(away) <= 2
            np.testing.assert_array_equal(np.isnan(found[name].data), np.isnan(full[name].data))
        np.testing.assert_array_equal(found["DQ"].data, full["DQ"].data)
        assert found["EVENTS"].data["HITS"][3].tolist() == [0, 1, 2]


def test_lossy_archives_of_tiles_do_not_carry_the_original(folder, tmp_path, run):
    words = ("--mode", "bounded", "--max-error", "2", "--preview-size", "0")
    archive = archived(run, folder, "tiles", tmp_path / "a.psc.zarr", *words)
    size = sum(path.stat().st_size for path in archive.rglob("*") if path.is_file())
    assert size < (folder / "tiles/a.fits.fz").stat().st_size
    assert run("restore", archive, tmp_path / "b.fits").code == 0
    with fits.open(tmp_path / "b.fits") as found, fits.open(folder / "tiles/a.fits.fz") as full:
        assert np.nanmax(np.abs(found["LOSSY"].data - full["LOSSY"].data)) <= 2


def test_a_damaged_archive_gives_the_rest_and_a_mask(folder, tmp_path, run):
    archive = archived(run, folder, "exposure", tmp_path / "a.psc.zarr")
    lose(archive, "SCI")
    assert run("restore", archive, tmp_path / "out.fits").code == 4
    assert run("restore", archive, tmp_path / "out.fits", "--skip-damaged").code == 7
    with fits.open(tmp_path / "out.fits") as found, fits.open(folder / "exposure/a.fits") as full:
        np.testing.assert_array_equal(found["ERR"].data, full["ERR"].data)
        assert np.isnan(found["SCI", 1].data).all()
    with xr.open_dataset(tmp_path / "out.damaged.nc") as mask:
        assert mask["SCI"].dims == ("y", "x") and bool((mask["SCI"] == 1).all())


def test_headers_alone_are_kept(tmp_path, run):
    fits.PrimaryHDU(header=fits_files.header(OBJECT="none")).writeto(tmp_path / "a.fits")
    outcome = run("archive", tmp_path / "a.fits", tmp_path / "a.psc.zarr")
    assert outcome.code == 0 and "original" not in outcome.out
    with xr.open_dataset(tmp_path / "a.psc.zarr", engine="psc") as view:
        assert view.attrs["OBJECT"] == "none"
    assert run("restore", tmp_path / "a.psc.zarr", tmp_path / "b.fits").code == 0
    assert (tmp_path / "b.fits").read_bytes() == (tmp_path / "a.fits").read_bytes()
