"""Nothing is sealed before it has been restored and compared with its source, read again."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import netCDF4
import nibabel
import numpy as np
import pydicom
import pytest

from adapters.errors import SourceError
from pipelines.archiving.archive import begin, encode_brick_job, finish, plan, run_item
from pipelines.archiving.item_report import ItemReport
from pipelines.archiving.options import ArchiveOptions
from pipelines.archiving.plan import ItemPlan
from pipelines.restoring.restore import RestoreOptions, restore
from pipelines.scratch import scratch_folder
from psc_volumetric.archive import ArchiveReader
from psc_volumetric.errors import StorageError

PYDICOM_FILES = Path(pydicom.__file__).parent / "data" / "test_files"
FAST = ArchiveOptions(coders="zstd")

Run = Callable[..., Any]


def write_image(path: Path, values: np.ndarray | None = None) -> Path:
    made = np.random.default_rng(0).integers(0, 900, (20, 18, 6)) if values is None else values
    nibabel.save(nibabel.Nifti1Image(made.astype(np.int16), np.diag([2.0, 2, 3, 1])), path)
    return path


def item_of(source: Path, target: Path, options: ArchiveOptions = FAST) -> ItemPlan:
    (item,) = plan(source, str(target), options).items
    return item


def made(source: Path, target: Path, options: ArchiveOptions = FAST) -> ItemReport:
    return run_item(item_of(source, target, options))


def bricks(archive: Path) -> list[Path]:
    return [path for path in sorted(archive.glob("*/c/**/*")) if path.is_file()]


def fill_not_first(path: Path) -> Path:
    """Attributes in an order that the Python package cannot write."""
    (library,) = (Path(netCDF4.__file__).parents[1] / "netcdf4.libs").glob("libnetcdf*")
    nc, size, number = ctypes.CDLL(library), ctypes.c_size_t, ctypes.c_int()
    assert nc.nc_create(str(path).encode(), 0x1000, ctypes.byref(number)) == 0
    file, dims = number.value, []
    for name, length in ((b"lat", 18), (b"lon", 20)):
        nc.nc_def_dim(file, name, size(length), ctypes.byref(number))
        dims.append(number.value)
    nc.nc_def_var(file, b"tas", 5, 2, (ctypes.c_int * 2)(*dims), ctypes.byref(number))
    variable, fill = number.value, ctypes.c_float(1e20)
    nc.nc_put_att_text(file, variable, b"units", size(1), b"K")
    nc.nc_put_att_float(file, variable, b"_FillValue", 5, size(1), ctypes.byref(fill))
    nc.nc_enddef(file)
    values = np.random.default_rng(0).random((18, 20)).astype("f4")
    nc.nc_put_var_float(file, variable, values.ctypes.data_as(ctypes.c_void_p))
    assert nc.nc_close(file) == 0
    return path


@pytest.mark.parametrize("level", ["lossless", "bounded", "lossy"])
def test_what_restore_cannot_make_again_is_kept_as_it_was(level, tmp_path):
    source = fill_not_first(tmp_path / "tas.nc")
    options = {
        "lossless": FAST,
        "bounded": ArchiveOptions(mode="bounded", max_error=1e-3, coders="zstd"),
        "lossy": ArchiveOptions(mode="lossy", base="wavelet", coders="zstd"),
    }[level]
    made(source, tmp_path / "a.psc.zarr", options)
    report = restore(str(tmp_path / "a.psc.zarr"), tmp_path / "back.nc", RestoreOptions())
    if level == "lossless":
        assert report.proofs[0].proven
        if report.proofs[0].outcome == "identical":
            assert (tmp_path / "back.nc").read_bytes() == source.read_bytes()
    with netCDF4.Dataset(source) as first, netCDF4.Dataset(tmp_path / "back.nc") as again:
        assert again["tas"].__dict__ == first["tas"].__dict__
        allowed = {"lossless": 0.0, "bounded": 1e-3, "lossy": 1.0}[level]
        assert np.abs(again["tas"][:] - first["tas"][:]).max() <= allowed


@pytest.mark.parametrize("how", ["flipped", "cut", "gone", "swapped"])
def test_brick_damaged_before_sealing_is_noticed_and_coded_again(how, tmp_path):
    values = np.random.default_rng(0).integers(0, 900, (20, 18, 6, 3))
    source = write_image(tmp_path / "a.nii", values)
    target = tmp_path / "a.psc.zarr"
    item = item_of(source, target)
    for job in begin(item):
        encode_brick_job(job)
    first, second, *_ = bricks(target)
    data = first.read_bytes()
    if how == "flipped":
        first.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    elif how == "cut":
        first.write_bytes(data[:-1])
    elif how == "gone":
        first.unlink()
    else:
        shutil.copy(second, first)
    with pytest.raises(StorageError):
        finish(item)
    assert not (target / "manifest.json").exists()
    run_item(item_of(source, target))
    back = restore(str(target), tmp_path / "back.nii", RestoreOptions())
    assert back.proofs[0].proven


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def rewrite_a_value(path: Path) -> None:
    """Other bytes, the same size and times."""
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[-40] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("change", [grow, rewrite_a_value])
@pytest.mark.parametrize("moment", ["before", "between", "after"])
def test_source_that_changes_while_it_is_archived_is_an_error(change, moment, tmp_path):
    source, target = write_image(tmp_path / "a.nii"), tmp_path / "a.psc.zarr"
    item = item_of(source, target)
    if moment == "before":
        change(source)
    with pytest.raises(SourceError) as caught:
        jobs = begin(item)
        if moment == "between":
            change(source)
        for job in jobs:
            encode_brick_job(job)
        if moment == "after":
            change(source)
        finish(item)
    assert caught.value.kind == "source-changed"
    assert not target.exists()
    assert made(source, target).state == "archived"


def test_series_that_changes_is_an_error_too(tmp_path, run):
    source = tmp_path / "in"
    shutil.copytree(PYDICOM_FILES / "dicomdirtests" / "98892001" / "CT5N", source)
    item = item_of(source, tmp_path / "a.psc.zarr")
    rewrite_a_value(sorted(source.iterdir())[2])
    with pytest.raises(SourceError) as caught:
        run_item(item)
    assert caught.value.kind == "source-changed"


def test_no_proof_is_recorded_and_said(tmp_path, run):
    source = write_image(tmp_path / "a.nii")
    outcome = run("archive", source, tmp_path / "a.psc.zarr", "--coders", "zstd", "--no-proof")
    assert outcome.code == 0
    assert "note: not proven" in outcome.out
    with ArchiveReader.open(str(tmp_path / "a.psc.zarr")) as reader:
        assert reader.source().document["proof"] == "none"
    made(source, tmp_path / "b.psc.zarr")
    with ArchiveReader.open(str(tmp_path / "b.psc.zarr")) as reader:
        assert reader.source().document["proof"] == "restored"


def test_files_to_compare_are_gone_afterwards_and_so_are_those_of_killed_runs(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    code = (
        "import sys, time\nfrom pipelines.scratch import scratch_folder\n"
        "with scratch_folder('x', 1) as folder:\n"
        "    (folder / 'face').write_text('of a patient')\n"
        "    print(folder, flush=True)\n    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        left = Path(run.stdout.readline().strip())
        with scratch_folder(str(tmp_path / "a"), 1) as mine:
            assert left.exists() and mine.exists()  # that one is at work
        run.kill()
    assert left.parent == tmp_path / "tmp" and left.exists()
    made(write_image(tmp_path / "a.nii"), tmp_path / "a.psc.zarr")
    assert list((tmp_path / "tmp").iterdir()) == []


def test_too_little_room_is_said_before_anything_is_restored(tmp_path):
    with pytest.raises(StorageError) as caught, scratch_folder(str(tmp_path / "a"), 1 << 60):
        pass
    assert caught.value.kind == "no-space"
    assert "--no-proof" in str(caught.value)


def station_data(path: Path) -> Path:
    with netCDF4.Dataset(path, "w") as nc:
        nc.createDimension("time", 12)
        nc.createVariable("t", "f4", ("time",))[:] = np.arange(12)
    return path


def text_in_hdf5(path: Path) -> Path:
    with h5py.File(path, "w") as file:
        file["words"] = np.array([b"abc", b"def"])
    return path


def structured_image(path: Path) -> Path:
    """NIfTI of RGB voxels."""
    rgb = np.zeros((8, 8, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    rgb["R"] = 7
    nibabel.save(nibabel.Nifti1Image(rgb, np.eye(4)), path)
    return path


@pytest.mark.parametrize("kind", ["dicom", "nifti", "netcdf", "series in time"])
@pytest.mark.parametrize("mode", ["lossless", "lossy"])
def test_what_can_be_made_again_is_not_kept_twice(kind, mode, tmp_path):
    if kind == "dicom":
        source = Path(
            shutil.copytree(PYDICOM_FILES / "dicomdirtests/98892001/CT5N", tmp_path / "s")
        )
    elif kind == "nifti":
        source = write_image(tmp_path / "a.nii.gz")
    else:
        source = station_data(tmp_path / "a.nc")
        if kind == "netcdf":
            with netCDF4.Dataset(source, "a") as nc:
                nc.createDimension("x", 20)
                nc.createVariable("v", "f4", ("time", "x"), zlib=True)[:] = np.eye(12, 20)
    base = {"base": "wavelet"} if mode == "lossy" else {}
    made(source, tmp_path / "a.psc.zarr", ArchiveOptions(mode=mode, coders="zstd", **base))
    with ArchiveReader.open(str(tmp_path / "a.psc.zarr")) as reader:
        assert reader.source().document["proof"] == "restored"
        assert "originals" not in reader.source().document


@pytest.mark.parametrize(
    ("make", "name"),
    [(station_data, "s.nc"), (text_in_hdf5, "t.nc"), (structured_image, "c.nii")],
)
@pytest.mark.parametrize("mode", ["lossless", "lossy"])
def test_no_file_is_refused_for_having_no_volume(make, name, mode, tmp_path, run):
    source, target = make(tmp_path / name), tmp_path / "a.psc.zarr"
    outcome = run("archive", source, target, "--coders", "zstd", "--mode", mode)
    assert outcome.code == 0, outcome.err
    assert run("verify", target, "--deep").code == 0
    assert run("info", target).code == 0
    assert run("restore", target, tmp_path / f"back{source.suffix}").code == 0
    with ArchiveReader.open(str(target)) as reader:
        kept = reader.source().kind == "original"
    if kept:
        assert "kept as it is" in outcome.out
        assert (tmp_path / f"back{source.suffix}").read_bytes() == source.read_bytes()
