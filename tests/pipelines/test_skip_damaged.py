"""Restoring the rest of a damaged archive: files with filled regions, and masks beside them."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import xarray as xr

from pipelines.restoring.folder import Restoration, restore_complete
from pipelines.restoring.restore import RestoreOptions
from tests.pipelines.conftest import run_in_process

LOSSLESS = ("--coders", "zstd")


@pytest.fixture(scope="module")
def exact(sources: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A lossless archive of each source."""
    folder = tmp_path_factory.mktemp("exact")
    for kind, source in sources.items():
        outcome = run_in_process("archive", source, folder / f"{kind}.psc.zarr", *LOSSLESS)
        assert outcome.code == 0, outcome.err
    return {kind: folder / f"{kind}.psc.zarr" for kind in sources}


@pytest.fixture
def damaged(exact: dict[str, Path], tmp_path: Path) -> dict[str, Path]:
    return {k: Path(shutil.copytree(p, tmp_path / p.name)) for k, p in exact.items()}


def lose(archive: Path, variable: str) -> None:
    brick = next(path for path in sorted((archive / variable / "c").rglob("*")) if path.is_file())
    data = bytearray(brick.read_bytes())
    data[-1] ^= 1
    brick.write_bytes(data)


def test_nothing_damaged_is_restored_as_ever(exact, sources, tmp_path, run):
    outcome = run("restore", exact["nifti"], tmp_path / "out.nii", "--skip-damaged", "--json")
    assert outcome.code == 0 and outcome.document["outcomes"] == {"identical": 1}
    assert (tmp_path / "out.nii").read_bytes() == sources["nifti"].read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.nii"]
    assert run("restore", exact["nifti"], tmp_path / "x.nii", "--fill", "3").code == 2


def test_nifti(damaged, sources, tmp_path, run):
    lose(damaged["nifti"], "image")
    refused = run("restore", damaged["nifti"], tmp_path / "out.nii")
    assert refused.code == 4 and not (tmp_path / "out.nii").exists()
    words = ("restore", damaged["nifti"], tmp_path / "out.nii", "--skip-damaged", "--fill", "-7")
    outcome = run(*words, "--json")
    assert outcome.code == 7, outcome.err
    assert outcome.document["outcomes"] == {"derived (damaged regions filled)": 1}
    assert outcome.document["damage"]["fills"] == {"image": -7}
    assert outcome.document["damage"]["findings"][0]["world"].keys() == {"x", "y", "z"}
    assert outcome.document["damage"]["masks"] == [str(tmp_path / "out.damaged.nii.gz")]
    found, source = nibabel.load(tmp_path / "out.nii"), nibabel.load(sources["nifti"])
    mask = nibabel.load(tmp_path / "out.damaged.nii.gz")
    lost = np.asanyarray(mask.dataobj).astype(bool)
    assert mask.shape == source.shape and lost.any()
    np.testing.assert_allclose(mask.affine, source.affine, atol=1e-4)
    stored = np.asanyarray(source.dataobj.get_unscaled())
    np.testing.assert_array_equal(
        np.asanyarray(found.dataobj.get_unscaled()), np.where(lost, -7, stored)
    )
    text = run("verify", damaged["nifti"]).out
    assert "from level 0 voxels" in text and " at x=" in text


def test_a_region_of_nifti_has_its_mask_in_its_place(damaged, tmp_path, run):
    lose(damaged["nifti"], "image")
    words = ("restore", damaged["nifti"], tmp_path / "cut.nii", "--roi", "z=2:5,y=4:9,x=3:8")
    assert run(*words, "--skip-damaged").code == 7
    image, mask = nibabel.load(tmp_path / "cut.nii"), nibabel.load(tmp_path / "cut.damaged.nii.gz")
    assert image.shape == mask.shape == (5, 5, 3)
    np.testing.assert_allclose(mask.affine, image.affine, atol=1e-4)


def test_dicom(damaged, sources, tmp_path, run):
    lose(damaged["dicom"], "image")
    outcome = run("restore", damaged["dicom"], tmp_path / "out", "--skip-damaged", "--json")
    assert outcome.code == 7, outcome.err
    (mask,) = outcome.document["damage"]["masks"]
    assert mask == str(tmp_path / "out.damaged.nii.gz")
    assert np.asanyarray(nibabel.load(mask).dataobj).any()
    uids = {pydicom.dcmread(path).SOPInstanceUID for path in sources["dicom"].iterdir()}
    for path in (tmp_path / "out").iterdir():
        dataset = pydicom.dcmread(path)
        assert dataset.SOPInstanceUID not in uids and dataset.ImageType[0] == "DERIVED"
        assert "FILLED" in dataset.DerivationDescription


def test_masks_of_many_archives_stand_beside_their_files(damaged, tmp_path):
    for kind, variable in (("dicom", "image"), ("nifti", "image")):
        lose(damaged[kind], variable)
        one = Restoration(str(damaged[kind]), str(tmp_path / "out" / kind))
        report = restore_complete(one, RestoreOptions(skip_damaged=True))
        assert report is not None and report.damage
    found = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.gz"))
    assert found == ["dicom.damaged.nii.gz", "nifti/oblique.damaged.nii.gz"]


def test_netcdf_and_what_stands_beside_its_fields(damaged, sources, tmp_path, run):
    lose(damaged["netcdf"], "t2m")
    next(path for path in (damaged["netcdf"] / "lat" / "c").rglob("*") if path.is_file()).unlink()
    outcome = run("restore", damaged["netcdf"], tmp_path / "out.nc", "--skip-damaged", "--json")
    assert outcome.code == 7, outcome.err
    damage = outcome.document["damage"]
    assert {finding["variable"] for finding in damage["findings"]} == {"t2m", "lat"}
    assert damage["fills"] == {"t2m": -32767}
    (mask,) = damage["masks"]
    assert mask == str(tmp_path / "out.damaged.nc")
    with (
        xr.open_dataset(tmp_path / "out.nc") as found,
        xr.open_dataset(sources["netcdf"]) as source,
        xr.open_dataset(mask) as masks,
    ):
        lost = masks.t2m.values.astype(bool)
        assert masks.t2m.dims == source.t2m.dims and lost.any()
        assert np.isnan(found.lat.values).all()
        np.testing.assert_array_equal(found.t2m.values, np.where(lost, np.nan, source.t2m.values))
        np.testing.assert_array_equal(found.lon.values, source.lon.values)


def test_damaged_tables_do_not_matter_and_a_mask_is_never_replaced(damaged, tmp_path, run):
    table = next(path for path in (damaged["nifti"] / "tiles").rglob("c/**/*") if path.is_file())
    table.unlink()
    lose(damaged["nifti"], "image")
    (tmp_path / "out.damaged.nii.gz").write_bytes(b"mine")
    outcome = run("restore", damaged["nifti"], tmp_path / "out.nii", "--skip-damaged")
    assert outcome.code == 6 and "error[target-exists]" in outcome.err
    assert (tmp_path / "out.damaged.nii.gz").read_bytes() == b"mine"
    assert not (tmp_path / "out.nii").exists()
    outcome = run("restore", damaged["nifti"], tmp_path / "other.nii", "--skip-damaged")
    assert outcome.code == 7 and "mask      " in outcome.out, outcome.err


def test_lost_headers_are_left_out_by_strip(damaged, tmp_path, run):
    (damaged["nifti"] / "source" / "document").unlink()
    outcome = run("restore", damaged["nifti"], tmp_path / "out.nii", "--skip-damaged")
    assert outcome.code == 4 and "source/document" in outcome.err
    assert run("strip", damaged["nifti"], tmp_path / "s.psc.zarr").code == 0
    assert run("restore", tmp_path / "s.psc.zarr", tmp_path / "s.nii").code == 0
