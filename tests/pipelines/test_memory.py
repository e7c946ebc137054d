"""Archiving needs the memory of some bricks, restoring that of a row of them, of any volume."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import netCDF4
import nibabel
import numpy as np
import pydicom
import pytest
from astropy.io import fits
from pydicom.data import get_testdata_file
from tifffile import imwrite

from pipelines.archiving.archive import archive, plan
from pipelines.archiving.options import ArchiveOptions
from pipelines.restoring.restore import RestoreOptions, restore
from psc_volumetric.archive.reader import ArchiveReader

SIDE = 1024
REPOSITORY = Path(__file__).resolve().parents[2]
MEASURED = """
import sys
from pathlib import Path
from pipelines.restoring.restore import RestoreOptions, restore
from psc_volumetric.threads import at_most
archive, target, roi, first = sys.argv[1:]
def now(what):
    return int(Path("/proc/self/status").read_text().split(what + ":")[1].split()[0]) / 1024
restore(archive, Path("first" + target), RestoreOptions(roi=first))  # loads every library
Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
before = now("VmRSS")
with at_most(1):  # each more has a brick in hand
    restore(archive, Path(target), RestoreOptions(roi=roi or None))
print(now("VmHWM") - before)
"""
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="asks the Linux kernel for the peak")


def planes(count: int, noisy: int) -> np.ndarray:
    """Planes that are quick to code: the first ones are noise, the others have one value each."""
    values = np.empty((count, SIDE, SIDE), np.int16)
    values[:] = 40
    values[:noisy] = np.random.default_rng(0).integers(-900, 900, (noisy, SIDE, SIDE))
    return values


def write_nifti(folder: Path, values: np.ndarray) -> Path:
    image = nibabel.Nifti1Image(values.T, np.diag([0.5, 0.5, 2, 1]))
    nibabel.save(image, folder / "image.nii")
    return folder / "image.nii"


def write_netcdf(folder: Path, values: np.ndarray) -> Path:
    with netCDF4.Dataset(folder / "field.nc", "w") as nc:
        for name, size in (("time", None), ("lat", SIDE), ("lon", SIDE)):
            nc.createDimension(name, size)
        options = {"zlib": True, "complevel": 1, "chunksizes": (4, 256, 256)}
        nc.createVariable("t", "i2", ("time", "lat", "lon"), **options)[:] = values
    return folder / "field.nc"


def write_dicom(folder: Path, values: np.ndarray) -> Path:
    series = folder / "series"
    series.mkdir()
    ds = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
    ds.Rows, ds.Columns = values.shape[1:]
    x, y, _ = ds.ImagePositionPatient
    for number, plane in enumerate(values):
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"1.2.826.0.1.{number + 1}"
        ds.InstanceNumber, ds.ImagePositionPatient = number + 1, [x, y, 5.0 * number]
        ds.PixelData = plane.tobytes()
        ds.save_as(series / f"{number:04d}.dcm", enforce_file_format=True)
    return series


def write_fits(folder: Path, values: np.ndarray) -> Path:
    fits.PrimaryHDU(values).writeto(folder / "image.fits")
    return folder / "image.fits"


def write_tiff(folder: Path, values: np.ndarray) -> Path:
    imwrite(folder / "image.tif", values, photometric="minisblack", metadata=None)
    return folder / "image.tif"


WRITERS: dict[str, Callable[[Path, np.ndarray], Path]] = {
    "dicom": write_dicom,
    "nifti": write_nifti,
    "netcdf": write_netcdf,
    "fits": write_fits,
    "images": write_tiff,
}
# Bricks (48 MiB across), a slab, what decoding needs; NetCDF: the cache of chunks, 64 MiB, too.
ROOM_MIB = {"dicom": 130, "nifti": 110, "netcdf": 180, "fits": 110, "images": 110}
TARGETS = {
    "dicom": "out",
    "nifti": "out.nii",
    "netcdf": "out.nc",
    "fits": "out.fits",
    "images": "out.tif",
}


def _slow(*cases: tuple[str, int]) -> list[Any]:
    return [pytest.param(*case, marks=pytest.mark.slow) for case in cases]


def growth_mib(kind: str, folder: Path, values: np.ndarray, roi: str = "") -> float:
    """Memory that a process needs beyond what it had when it restores a volume."""
    source = WRITERS[kind](folder, values)
    sealed = str(folder / "sealed.psc.zarr")
    chosen = plan(source, sealed, ArchiveOptions(coders="zstd"))
    archive(chosen)
    words = [sealed, TARGETS[kind], roi, f"{chosen.items[0].variables[0].spec.dims[0]}=0:1"]
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


@LINUX
@pytest.mark.parametrize(
    ("kind", "count"),
    [
        ("nifti", 70),
        *_slow(("dicom", 80), ("netcdf", 110), ("fits", 70), ("images", 70)),
    ],
)
def test_restoring_needs_less_than_the_volume(kind: str, count: int, tmp_path: Path) -> None:
    values = planes(count, 1)
    assert growth_mib(kind, tmp_path, values) < ROOM_MIB[kind] < values.nbytes / 2**20 / 1.2


@LINUX
@pytest.mark.slow
@pytest.mark.parametrize("roi", ["", "y=8:1000", "x=3:900"])
@pytest.mark.parametrize("kind", ROOM_MIB)
def test_restoring_half_a_gigabyte_needs_no_more(kind: str, roi: str, tmp_path: Path) -> None:
    if kind == "netcdf":
        roi = roi.replace("y=", "lat=").replace("x=", "lon=")
    assert growth_mib(kind, tmp_path, planes(250, 250), roi) < ROOM_MIB[kind]


LIMITED = """
import resource, sys
limit = int(sys.argv[3]) << 20
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
from pipelines.cli import main
main(["archive", sys.argv[1], sys.argv[2], "--coders", "zstd", "--quiet"])
"""
LIMIT_MIB, VOLUME_MIB = 700, 1800


def written(kind: str, folder: Path) -> Path:
    """One compressed file of `VOLUME_MIB`, or a series of that many in thousands of files."""
    if kind == "dicom":
        return write_dicom(folder, planes(VOLUME_MIB // 2, 4).reshape(-1, SIDE // 2, SIDE // 2))
    source = WRITERS[kind](folder, planes(VOLUME_MIB // 2, 4))
    if kind == "nifti":
        subprocess.run(["gzip", "-1", str(source)], check=True, timeout=300)
        source = source.with_name(source.name + ".gz")
    return source


@LINUX
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dicom", "nifti", "netcdf"])
def test_archiving_keeps_within_a_hard_limit(kind: str, tmp_path: Path) -> None:
    """The kernel gives command and reading process no more, proof and all."""
    source = written(kind, tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(source), str(tmp_path / "a.psc.zarr"), str(LIMIT_MIB)],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *sys.path]),
            "PSC_ARCHIVE_READER_MEMORY_MB": str(LIMIT_MIB),
        },
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert ArchiveReader.open(tmp_path / "a.psc.zarr").mode == "lossless"


def test_each_brick_is_decoded_once(tmp_path: Path) -> None:
    source = write_netcdf(tmp_path, planes(6, 1))
    sealed = str(tmp_path / "sealed.psc.zarr")
    chosen = plan(source, sealed, ArchiveOptions(coders="zstd"))
    archive(chosen)

    class Count:
        total = done = 0

        def begin(self, title: str, total: int) -> None:
            self.total = total

        def advance(self, count: int = 1) -> None:
            self.done += count

    shown = Count()
    restore(sealed, tmp_path / "out.nc", RestoreOptions(), shown)
    assert shown.done == shown.total == chosen.items[0].bricks > 2
