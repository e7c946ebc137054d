"""A stripped copy says nothing about its source, verifies, opens and restores as derived."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import netCDF4
import nibabel
import numpy as np
import pydicom
import pytest
import xarray as xr

from psc_volumetric.archive.reader import ArchiveReader

Run = Callable[..., Any]
SECRETS = ("Meier", "Anna", "19530217", "ward-3", "secret", "PID-4711", "Charite")


def write_dicom(folder: Path, series: Path) -> Path:
    target = folder / "ward-3" / "Meier_Anna"
    target.mkdir(parents=True)
    for path in sorted(series.iterdir()):
        ds = pydicom.dcmread(path)
        ds.PatientName, ds.PatientID, ds.PatientBirthDate = "Meier^Anna", "PID-4711", "19530217"
        ds.InstitutionName, ds.SeriesDescription = "Charite", "secret of Anna"
        ds.save_as(target / path.name)
    return target


def write_nifti(folder: Path, series: Path) -> Path:
    image = nibabel.load(Path(nibabel.__file__).parent / "tests" / "data" / "functional.nii")
    header = image.header
    header["descrip"], header["aux_file"], header["db_name"] = b"Meier^Anna", b"PID-4711", b"secret"
    header["intent_name"] = b"ward-3"
    header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"Charite 19530217"))
    path = folder / "Meier_Anna_19530217.nii"
    nibabel.save(image, path)
    return path


def write_netcdf(folder: Path, series: Path) -> Path:
    path = folder / "Meier_Anna.nc"
    with netCDF4.Dataset(path, "w") as nc:
        nc.institution, nc.history = "Charite", "made by Anna Meier in ward-3"
        for name, size in (("time", 8), ("lat", 33), ("lon", 48), ("station", 3)):
            nc.createDimension(name, size)
        time = nc.createVariable("time", "f8", ("time",))
        time[:], time.units, time.comment = np.arange(8), "days since 2001-01-15", "secret"
        lat = nc.createVariable("lat", "f8", ("lat",))
        lat[:], lat.units = np.linspace(80, -80, 33), "degrees_north"
        nc.createVariable("station", str, ("station",))[:] = np.array(["ward-3", "Anna", "Meier"])
        nc.createVariable("patient", "i8", ())[...] = 19530217
        made = nc.createVariable("t2m", "i2", ("time", "lat", "lon"), fill_value=-32767)
        made.set_auto_maskandscale(False)
        made.setncatts({"scale_factor": 0.01, "add_offset": 273.15, "units": "K"})
        made.comment, made.coordinates = "PID-4711", "station patient"
        made[:] = np.random.default_rng(0).integers(-3000, 3000, (8, 33, 48))
        made[:, :4, :6] = -32767
    return path


WRITERS = {"dicom": write_dicom, "nifti": write_nifti, "netcdf": write_netcdf}
RESTORES_AS = {"dicom": "nifti", "nifti": "nifti", "netcdf": "netcdf"}


@pytest.fixture(scope="module", params=WRITERS)
def pair(request, sources, tmp_path_factory) -> tuple[str, Path, Path, Path]:
    """Kind, source, archive (with the originals kept) and its stripped copy."""
    from tests.pipelines.conftest import run_in_process

    folder = tmp_path_factory.mktemp(request.param)
    source = WRITERS[request.param](folder, sources["dicom"])
    archive, copy = folder / "full.psc.zarr", folder / "copy.psc.zarr"
    for words in (
        ("archive", source, archive, "--coders", "zstd", "--keep-original"),
        ("strip", archive, copy),
    ):
        outcome = run_in_process(*words)
        assert outcome.code == 0, outcome.err
    return request.param, source, archive, copy


def texts(archive: Path) -> Iterator[bytes]:
    """Everything an archive says: its files, and what its plain arrays hold."""
    for path in archive.rglob("*"):
        yield path.relative_to(archive).as_posix().encode()
        if path.is_file():
            yield path.read_bytes()
    with ArchiveReader.open(archive) as reader:
        source = reader.source()
        yield repr((source.document, dict(source.blobs), source.files)).encode()
        for name in (*reader.metadata.get("coordinates", ()), *reader.arrays):
            yield repr(reader.coordinate(name)).encode()


def test_nothing_of_the_source_is_said(pair) -> None:
    kind, source, archive, copy = pair
    before = b" ".join(texts(archive)).lower()
    assert sum(word.lower().encode() in before for word in SECRETS) >= 5
    with ArchiveReader.open(archive) as reader:
        digests = [file.sha256 for file in reader.source().files]
        uids = [reader.manifest.digest]
    if kind == "dicom":
        first = pydicom.dcmread(next(source.iterdir()))
        uids += [first.SeriesInstanceUID, first.StudyInstanceUID, first.SOPInstanceUID]
    for text in texts(copy):
        for word in (*SECRETS, *digests, *uids, source.name):
            assert word.lower().encode() not in text.lower(), (word, text[:200])


def test_copy_verifies_and_decodes_to_the_same_values(pair, run) -> None:
    _, _, archive, copy = pair
    outcome = run("verify", copy, "--deep", "--json")
    assert outcome.code == 0 and outcome.document["ok"], outcome.out
    with ArchiveReader.open(archive) as full, ArchiveReader.open(copy) as reader:
        assert list(full.variables) == list(reader.variables)
        assert reader.document.source.files == 0 and reader.source().files == ()
        for name, spec in full.variables.items():
            np.testing.assert_array_equal(reader.read(name), full.read(name))
            np.testing.assert_equal(reader.variables[name].affine, spec.affine)
            assert (reader.variables[name].slope, reader.variables[name].unit) == (
                spec.slope,
                spec.unit,
            )
    assert "source    left out" in run("info", copy).out


def test_copy_opens_in_xarray_with_physical_values(pair) -> None:
    _, _, archive, copy = pair
    with (
        xr.open_dataset(archive, engine="psc") as full,
        xr.open_dataset(copy, engine="psc") as found,
    ):
        for name in full.data_vars:
            if name in found.data_vars:
                np.testing.assert_array_equal(found[name].values, full[name].values)
                assert found[name].dims == full[name].dims
        assert set(found.data_vars) & set(full.data_vars)


def test_copy_restores_as_derived(pair, tmp_path, run) -> None:
    kind, _, archive, copy = pair
    target = tmp_path / ("out.nc" if kind == "netcdf" else "out.nii")
    outcome = run("restore", copy, target, "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.document["kind"] == RESTORES_AS[kind]
    assert outcome.document["outcomes"] == {"derived (source headers left out)": 1}
    assert not outcome.document["proofs"][0]["proven"]
    with ArchiveReader.open(archive) as reader:
        (name,) = [n for n in reader.variables if n != "patient"]
        spec, stored = reader.variables[name], reader.read(name)
    if kind == "netcdf":
        with xr.open_dataset(target) as found, xr.open_dataset(archive, engine="psc") as full:
            np.testing.assert_array_equal(found["t2m"].values, full["t2m"].values)
            np.testing.assert_array_equal(found["time"].values, full["time"].values)
            assert found["t2m"].units == "K" and not found.attrs
        return
    image = nibabel.load(target)
    np.testing.assert_array_equal(np.asanyarray(image.dataobj.get_unscaled()).T, stored)
    np.testing.assert_allclose(image.affine, spec.affine[:, [2, 1, 0, 3]], atol=1e-4)
    slope = 1.0 if spec.slope is None else spec.slope
    expected = stored.T * slope + (spec.intercept or 0.0)
    np.testing.assert_allclose(image.get_fdata(), expected, rtol=1e-6)
    for field in ("descrip", "aux_file", "db_name", "intent_name"):
        assert image.header[field].item() == b""


def test_a_region_of_the_copy_has_its_place(pair, tmp_path, run) -> None:
    kind, _, archive, copy = pair
    if kind == "netcdf":
        return
    outcome = run("restore", copy, tmp_path / "cut.nii", "--roi", "z=1:3,y=4:9")
    assert outcome.code == 0, outcome.err
    with ArchiveReader.open(archive) as reader:
        affine = next(iter(reader.variables.values())).affine
    corner = affine @ [1, 4, 0, 1]
    np.testing.assert_allclose(nibabel.load(tmp_path / "cut.nii").affine[:, 3], corner, atol=1e-3)


def test_the_first_archive_is_named_only_when_asked_for(pair, tmp_path, run) -> None:
    _, _, archive, copy = pair
    linked = tmp_path / "linked.psc.zarr.zip"
    outcome = run("strip", archive, linked, "--link-original", "--json")
    assert outcome.code == 0, outcome.err
    with ArchiveReader.open(archive) as full, ArchiveReader.open(linked) as reader:
        assert outcome.document["original"] == full.manifest.digest
        assert reader.metadata["provenance"]["stripped"] == {"original": full.manifest.digest}
    with ArchiveReader.open(copy) as reader:
        assert reader.metadata["provenance"]["stripped"] == {}
    assert [path.name for path in tmp_path.iterdir()] == ["linked.psc.zarr.zip"]


def test_copies_are_written_once_and_damage_is_not_copied(pair, tmp_path, run) -> None:
    _, _, archive, copy = pair
    outcome = run("strip", archive, copy)
    assert outcome.code == 6 and "error[target-exists]" in outcome.err
    (tmp_path / "mine.psc.zarr").mkdir()
    (tmp_path / "mine.psc.zarr" / "notes.txt").write_text("mine")
    assert run("strip", archive, tmp_path / "mine.psc.zarr").code == 6
    damaged = tmp_path / "damaged.psc.zarr"
    shutil.copytree(archive, damaged)
    bricks = [path for path in damaged.rglob("*/c/**/*") if path.is_file()]
    brick = next(p for p in bricks if p.relative_to(damaged).parts[0] in ("image", "t2m"))
    brick.write_bytes(brick.read_bytes()[:-1] + b"?")
    outcome = run("strip", damaged, tmp_path / "new.psc.zarr")
    assert outcome.code == 4, outcome.err
    assert not (tmp_path / "new.psc.zarr" / "manifest.json").exists()
    other = tmp_path / "other.psc.zarr"
    assert run("strip", copy, other).code == 0  # of a copy too
    (other / "manifest.json").rename(other / "partial.json")
    assert run("strip", archive, other).code == 6  # what is begun for another stays
    assert run("strip", archive, tmp_path / "new.psc.zarr").code == 0  # what was begun is finished
    assert run("verify", tmp_path / "new.psc.zarr").code == 0


def test_an_unfinished_copy_is_finished_by_the_next_run(pair, tmp_path, run) -> None:
    _, _, archive, _ = pair
    target = tmp_path / "new.psc.zarr"
    assert run("strip", archive, target).code == 0
    whole = {p.relative_to(target): p.read_bytes() for p in target.rglob("*") if p.is_file()}
    with ArchiveReader.open(archive) as reader:
        digest = reader.manifest.digest
    from pipelines.archiving.strip import head_of

    (target / "manifest.json").unlink()
    (target / "README.txt").unlink()
    (target / "partial.json").write_bytes(head_of(digest, None, "lossless"))
    assert run("strip", archive, target).code == 0
    again = {p.relative_to(target): p.read_bytes() for p in target.rglob("*") if p.is_file()}
    assert set(again) == set(whole)
    assert run("verify", target).code == 0
