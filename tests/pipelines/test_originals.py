"""Originals back: real files through a lossless archive, and the proof that they are the same."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import netCDF4
import nibabel
import numpy as np
import pydicom
import pytest
import xarray as xr

from adapters import EQUAL_DATA, IDENTICAL, IDENTICAL_UNPACKED
from pipelines.archiving.options import ArchiveOptions
from pipelines.restoring.restore import RestoreOptions, restore
from pipelines.roundtrip import round_trip, table_lines
from psc_volumetric.archive import ArchiveReader

PYDICOM_FILES = Path(pydicom.__file__).parent / "data" / "test_files"
NIBABEL_FILES = Path(nibabel.__file__).parent / "tests" / "data"

FILES = {
    "signed CT with private tags": (PYDICOM_FILES / "CT_small.dcm", IDENTICAL),
    "big endian": (PYDICOM_FILES / "MR_small_bigendian.dcm", IDENTICAL),
    "colour": (PYDICOM_FILES / "SC_rgb_small_odd.dcm", IDENTICAL),
    "subsampled colour": (PYDICOM_FILES / "SC_ybr_full_422_uncompressed.dcm", IDENTICAL),
    "one bit": (PYDICOM_FILES / "liver_expb_1frame.dcm", IDENTICAL),
    "palette": (PYDICOM_FILES / "examples_palette.dcm", IDENTICAL),
    "32-bit dose": (PYDICOM_FILES / "rtdose.dcm", IDENTICAL),
    "overlay": (PYDICOM_FILES / "examples_overlay.dcm", IDENTICAL),
    "JPEG 2000": (PYDICOM_FILES / "MR_small_jp2klossless.dcm", EQUAL_DATA),
    "deflated": (PYDICOM_FILES / "image_dfl.dcm", EQUAL_DATA),
    "big-endian NIfTI": (NIBABEL_FILES / "anatomical.nii", IDENTICAL),
    "scaled NIfTI": (NIBABEL_FILES / "functional.nii", IDENTICAL),
    "compressed NIfTI": (NIBABEL_FILES / "standard.nii.gz", IDENTICAL_UNPACKED),
}


def archived(run, source: Path, target: Path, *words: str):
    outcome = run("archive", source, target, "--coders", "fast", *words, "--json")
    assert outcome.code == 0, outcome.err
    return outcome.document


def restored(run, archive: Path, target: Path, *words: str):
    outcome = run("restore", archive, target, *words, "--json")
    assert outcome.code == 0, outcome.err
    return outcome.document


@pytest.mark.parametrize("case", FILES)
def test_lossless_by_default_and_proven(case, tmp_path, run):
    source, outcome = FILES[case]
    made = archived(run, source, tmp_path / "a.psc.zarr")
    assert {row["mode"] for row in made["archives"][0]["variables"]} == {"lossless"}
    assert made["archives"][0]["prior"] is None
    suffix = "".join(source.suffixes) if source.parent == NIBABEL_FILES else ""
    document = restored(run, tmp_path / "a.psc.zarr", tmp_path / f"back{suffix}")
    (proof,) = document["proofs"]
    assert (proof["outcome"], proof["proven"]) == (outcome, True)
    assert (proof["differs"] is None) == (outcome == IDENTICAL)
    back = Path(proof["path"]).read_bytes()
    if outcome == IDENTICAL:
        assert back == source.read_bytes()
    elif outcome == IDENTICAL_UNPACKED:
        assert gzip.decompress(back) == gzip.decompress(source.read_bytes())
    else:
        again, first = pydicom.dcmread(proof["path"]), pydicom.dcmread(source)
        np.testing.assert_array_equal(again.pixel_array, first.pixel_array)
        assert again.SOPInstanceUID == first.SOPInstanceUID


@pytest.mark.parametrize("case", ["JPEG 2000", "deflated", "compressed NIfTI"])
def test_kept_originals_come_back_bit_by_bit(case, tmp_path, run):
    source, _ = FILES[case]
    archived(run, source, tmp_path / "a.psc.zarr", "--keep-original")
    suffix = "".join(source.suffixes) if source.parent == NIBABEL_FILES else ""
    document = restored(run, tmp_path / "a.psc.zarr", tmp_path / f"back{suffix}")
    assert document["outcomes"] == {IDENTICAL: 1}
    assert Path(document["files"][0]).read_bytes() == source.read_bytes()


def test_netcdf_comes_back_with_equal_data_or_as_it_was(sources, tmp_path, run):
    source = sources["netcdf"]
    archived(run, source, tmp_path / "a.psc.zarr")
    document = restored(run, tmp_path / "a.psc.zarr", tmp_path / "back.nc")
    assert document["outcomes"] == {EQUAL_DATA: 1}
    with netCDF4.Dataset(source) as first, netCDF4.Dataset(tmp_path / "back.nc") as again:
        first.set_auto_mask(False)
        again.set_auto_mask(False)
        assert again.dimensions["time"].isunlimited()
        for name, variable in first.variables.items():
            np.testing.assert_array_equal(again[name][:], variable[:])
            assert again[name].__dict__ == variable.__dict__
    archived(run, source, tmp_path / "b.psc.zarr", "--keep-original")
    restored(run, tmp_path / "b.psc.zarr", tmp_path / "kept.nc")
    assert (tmp_path / "kept.nc").read_bytes() == source.read_bytes()


def test_a_series_comes_back_slice_by_slice_and_a_cut_is_no_original(sources, tmp_path, run):
    archived(run, sources["dicom"], tmp_path / "a.psc.zarr")
    document = restored(run, tmp_path / "a.psc.zarr", tmp_path / "some", "--roi", "z=1:3")
    assert document["outcomes"] == {IDENTICAL: 2}
    for path in map(Path, document["files"]):
        assert path.read_bytes() == (sources["dicom"] / path.name).read_bytes()
    document = restored(run, tmp_path / "a.psc.zarr", tmp_path / "cut", "--roi", "y=4:12")
    assert set(document["outcomes"]) == {"derived (part of the source)"}
    cut = pydicom.dcmread(document["files"][0])
    assert cut.ImageType[0] == "DERIVED" and "LossyImageCompression" not in cut


def test_source_that_had_lost_something_is_never_called_lossless(tmp_path, run):
    source = PYDICOM_FILES / "SC_rgb_jpeg_dcmtk.dcm"
    archived(run, source, tmp_path / "a.psc.zarr")
    outcome = run("restore", tmp_path / "a.psc.zarr", tmp_path / "back")
    assert "already compressed with loss" in outcome.out
    (path,) = (tmp_path / "back").iterdir()
    assert pydicom.dcmread(path).LossyImageCompression == "01"


def test_file_that_is_not_its_source_is_an_error_and_does_not_stay(tmp_path, run, monkeypatch):
    archived(run, NIBABEL_FILES / "anatomical.nii", tmp_path / "a.psc.zarr")
    source = ArchiveReader.source

    def another(self):
        record = source(self)
        files = tuple(type(f)(f.name, f.size, "0" * 64) for f in record.files)
        return type(record)(record.kind, record.document, record.blobs, files)

    monkeypatch.setattr(ArchiveReader, "source", another)
    outcome = run("restore", tmp_path / "a.psc.zarr", tmp_path / "out" / "back.nii")
    assert outcome.code == 7
    assert "error[not-the-source]" in outcome.err
    assert not (tmp_path / "out").exists()
    document = restored(run, tmp_path / "a.psc.zarr", tmp_path / "back.nii", "--unproven")
    assert [proof["proven"] for proof in document["proofs"]] == [False]


def test_lossy_files_are_never_compared(archives, tmp_path, run):
    document = restored(run, archives["dicom"], tmp_path / "back")
    assert set(document["outcomes"]) == {"derived (lossy)"}
    assert not any(proof["proven"] for proof in document["proofs"])


def test_gzip_may_come_and_go(tmp_path, run):
    archived(run, NIBABEL_FILES / "standard.nii.gz", tmp_path / "a.psc.zarr")
    document = restored(run, tmp_path / "a.psc.zarr", tmp_path / "back.nii")
    assert (document["proofs"][0]["outcome"], document["proofs"][0]["proven"]) == (
        IDENTICAL_UNPACKED,
        True,
    )
    whole = gzip.decompress((NIBABEL_FILES / "standard.nii.gz").read_bytes())
    assert (tmp_path / "back.nii").read_bytes() == whole


def test_folders_are_compared_item_by_item(sources, tmp_path):
    folder = tmp_path / "in"
    shutil.copytree(sources["dicom"], folder / "series")
    shutil.copy(sources["netcdf"], folder)
    for name in ("CT_small.dcm", "MR_small_RLE.dcm", "MR_truncated.dcm"):
        shutil.copy(PYDICOM_FILES / name, folder)
    rows = list(round_trip([folder], ArchiveOptions(coders="fast")))
    assert sorted((row.state, row.files) for row in rows) == [
        ("ok", 1),
        ("ok", 1),
        ("ok", 1),
        ("ok", 5),
        ("skipped", 1),
    ]
    text = "\n".join(table_lines(rows))
    assert "4 items of 8 files" in text and "0 failed, 1 files skipped" in text
    assert "truncated: expected 8192 bytes" in text


@pytest.mark.slow
@pytest.mark.parametrize("part", ["climate", "ct", "mr"])
def test_all_real_volumes_come_back(part, data_folder):
    rows = list(round_trip([data_folder / part], ArchiveOptions(coders="fast")))
    assert [row for row in rows if row.state == "FAILED"] == []
    assert any(row.state == "ok" for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize("folder", [PYDICOM_FILES, NIBABEL_FILES])
def test_all_bundled_files_come_back(folder):
    rows = list(round_trip([folder], ArchiveOptions(coders="fast")))
    assert [row for row in rows if row.state == "FAILED"] == []
    assert sum(row.state == "ok" for row in rows) >= 10


def test_python_function_says_the_same(sources, tmp_path, run):
    archived(run, sources["nifti"], tmp_path / "a.psc.zarr")
    report = restore(str(tmp_path / "a.psc.zarr"), tmp_path / "back.nii", RestoreOptions())
    assert report.lossless and [proof.proven for proof in report.proofs] == [True]


def test_a_netcdf_file_without_variables_shows_its_attributes_and_groups(run, tmp_path):
    source, archive, back = (tmp_path / name for name in ("a.nc", "a.psc.zarr", "back.nc"))
    with netCDF4.Dataset(source, "w") as nc:
        nc.title = "only this"
        nc.createDimension("x", 3)
        group = nc.createGroup("model")
        group.grid = "G"
        group.createGroup("run").seed = np.int32(3)
    archived(run, source, archive)
    with xr.open_datatree(archive, engine="psc") as found, xr.open_datatree(source) as expected:
        xr.testing.assert_identical(found, expected)
    with xr.open_dataset(archive, engine="psc") as found, xr.open_dataset(source) as expected:
        xr.testing.assert_identical(found, expected)
    assert restored(run, archive, back)["outcomes"] == {"identical": 1}
    assert back.read_bytes() == source.read_bytes()
    assert run("strip", archive, tmp_path / "b.psc.zarr").code == 2


def test_a_fits_file_without_data_shows_its_header(run, tmp_path):
    fits = pytest.importorskip("astropy.io.fits")
    source, archive = tmp_path / "a.fits", tmp_path / "a.psc.zarr"
    primary = fits.PrimaryHDU()
    primary.header["OBJECT"] = "M31"
    primary.writeto(source)
    archived(run, source, archive)
    with xr.open_dataset(archive, engine="psc") as found:
        assert found.attrs["OBJECT"] == "M31"
    restored(run, archive, tmp_path / "back.fits")
    assert (tmp_path / "back.fits").read_bytes() == source.read_bytes()
