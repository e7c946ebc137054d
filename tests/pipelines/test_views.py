"""Views from the command line and through xarray: the same values, labelled, and not in DICOM."""

from __future__ import annotations

import nibabel
import numpy as np
import pydicom
import pytest
import xarray as xr

from psc_volumetric.archive import ArchiveReader
from psc_volumetric.errors import ParameterError

WAVELET = ("--mode", "lossy", "--base", "wavelet", "--step", "0.5")
LABEL = "generated detail (view sample, seed 5)"


@pytest.fixture(scope="module")
def smooth(sources, tmp_path_factory):
    """Archives of the wavelet, of every format."""
    from tests.pipelines.conftest import run_in_process

    folder = tmp_path_factory.mktemp("smooth")
    for kind in ("nifti", "netcdf", "dicom"):
        outcome = run_in_process("archive", sources[kind], folder / f"{kind}.psc.zarr", *WAVELET)
        assert outcome.code == 0, outcome.err
    return folder


def test_xarray_and_restore_give_one_view(smooth, tmp_path, run):
    archive = smooth / "nifti.psc.zarr"
    target = tmp_path / "sample.nii"
    words = ("--view", "sample", "--seed", "5")
    outcome = run("restore", archive, target, *words)
    assert outcome.code == 0, outcome.err
    assert f"note: {LABEL}: drawn, not measured" in outcome.out
    image = nibabel.load(target)
    assert b"generated" in image.header["descrip"].item() or any(
        LABEL.encode() in extension.get_content() for extension in image.header.extensions
    )
    stored = np.asanyarray(image.dataobj.get_unscaled()).T
    options = {"engine": "psc", "mask_and_scale": False}
    with xr.open_dataset(archive, view="sample", seed=5, **options) as drawn:
        assert drawn.attrs["psc_view"] == drawn["image"].attrs["psc_view"] == LABEL
        assert np.array_equal(drawn["image"].values, stored)
        part = drawn["image"][2:4, 5:30, 7:9].values
    assert np.array_equal(part, stored[2:4, 5:30, 7:9])
    with xr.open_dataset(archive, **options) as mean, ArchiveReader.open(archive) as reader:
        assert "psc_view" not in mean.attrs
        assert np.array_equal(mean["image"].values, reader.read("image"))
        assert not np.array_equal(mean["image"].values, stored)
        off = stored.astype(float) - mean["image"].values
        sigma = reader.read("image", spread=True)
    assert 0.3 < np.sqrt(np.mean(off**2)) / np.sqrt(np.mean(sigma**2.0)) < 1.1


def test_missing_values_of_a_field_stay_missing(smooth, tmp_path, run):
    archive = smooth / "netcdf.psc.zarr"
    with (
        xr.open_dataset(archive, engine="psc", view="sample") as drawn,
        xr.open_dataset(archive, engine="psc") as mean,
    ):
        assert np.array_equal(np.isnan(drawn["t2m"].values), np.isnan(mean["t2m"].values))
    target = tmp_path / "field.nc"
    assert run("restore", archive, target, "--view", "sample", "--quiet").code == 0
    with xr.open_dataset(target) as restored:
        assert any("generated detail" in str(value) for value in restored.attrs.values())


def test_dicom_takes_generated_detail_only_by_name(smooth, tmp_path, run):
    archive = smooth / "dicom.psc.zarr"
    refused = run("restore", archive, tmp_path / "a", "--view", "sample")
    assert refused.code == 2
    assert "generated-dicom" in refused.err
    assert not (tmp_path / "a").exists()
    target = tmp_path / "b"
    words = ("--view", "sample", "--seed", "5", "--generated-dicom")
    assert run("restore", archive, target, *words).code == 0
    for path in target.iterdir():
        assert LABEL in pydicom.dcmread(path).DerivationDescription


def test_exact_archives_have_one_view(sources, tmp_path, run):
    archive, target = tmp_path / "a.psc.zarr", tmp_path / "back.nii"
    assert run("archive", sources["nifti"], archive, "--coders", "zstd").code == 0
    outcome = run("restore", archive, target, "--view", "sample")
    assert outcome.code == 0
    assert "generated" not in outcome.out
    assert target.read_bytes() == sources["nifti"].read_bytes()


def test_views_stand_alone(smooth, tmp_path, run):
    archive = smooth / "nifti.psc.zarr"
    for more in (("--level", "0"), ("--skip-damaged",)):
        assert run("restore", archive, tmp_path / "x.nii", "--view", "sample", *more).code == 2
    assert run("restore", archive, tmp_path / "x.nii", "--view", "loud").code == 2
    with pytest.raises(ParameterError) as caught:
        xr.open_dataset(archive, engine="psc", view="sample", level=0)
    assert caught.value.kind == "bad-view"


def test_views_are_evaluated_beside_the_mean(sources, run):
    words = ("--ours", "wavelet,wavelet@sample", "--step", "0.5", "--peers", "sperr")
    outcome = run("evaluate", sources["nifti"], *words, "--bpv", "1", "--perception", "--json")
    assert outcome.code == 0, outcome.err
    (result,) = outcome.document["volumes"]
    mean, sample = (
        next(p for p in result["points"] if p["codec"] == f"ours-{name}")
        for name in ("wavelet", "wavelet@sample")
    )
    assert mean["nbytes"] == sample["nbytes"]
    assert mean["psnr_db"] - 3 < sample["psnr_db"] < mean["psnr_db"]
