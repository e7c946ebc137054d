"""Small source files for the rounds, written by the same libraries that users have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import netCDF4
import nibabel
import numpy as np
from astropy.io import fits
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset

__all__ = [
    "SOURCES",
    "image_dataset",
    "smooth",
    "write_dicom",
    "write_fits",
    "write_netcdf",
    "write_nifti",
]


def smooth(shape: tuple[int, ...], seed: int = 0) -> NDArray[np.int16]:
    """Smooth values with noise, between about -1000 and 1000."""
    rng = np.random.default_rng(seed)
    grids = np.meshgrid(*(np.linspace(0, 3, n) for n in shape), indexing="ij")
    values = 300 * np.sum([np.sin(g + i) for i, g in enumerate(grids)], axis=0)
    return np.rint(values + rng.normal(0, 3, shape)).astype(np.int16)


def write_nifti(folder: Path, shift: int = 0) -> Path:
    """A 4-D image: one brick per time point."""
    path = folder / "scan.nii"
    image = nibabel.Nifti1Image(
        smooth((20, 24, 8, 2)) + np.int16(shift), np.diag([2.0, 2.0, 3.0, 1.0])
    )
    image.header.set_xyzt_units("mm", "sec")
    nibabel.save(image, path)
    return path


def write_netcdf(folder: Path, shift: int = 0) -> Path:
    """Two fields on one grid, packed, with a fill value."""
    path = folder / "field.nc"
    with netCDF4.Dataset(path, "w") as nc:
        for name, size in (("time", 3), ("lat", 18), ("lon", 20)):
            nc.createDimension(name, size)
            nc.createVariable(name, "f8", (name,))[:] = np.arange(size) * 2.0
        nc["lat"].units, nc["lon"].units = "degrees_north", "degrees_east"
        nc["time"].units = "days since 2000-01-01"
        for number, name in enumerate(("t2m", "msl")):
            field = nc.createVariable(name, "i2", ("time", "lat", "lon"), fill_value=-32767)
            field.set_auto_maskandscale(False)
            field.scale_factor, field.add_offset, field.units = 0.01, 273.15, "K"
            field[:] = smooth((3, 18, 20), number) + np.int16(shift)
    return path


def image_dataset(pixels: NDArray[np.uint16], number: int, series: str) -> Dataset:
    """One slice of an MR series: 16 bits, 2.5 mm apart."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"{series}.{number + 1}"
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.Modality = "1.2.3", series, "MR"
    ds.PatientID, ds.PatientName, ds.InstanceNumber = "1", "Test^A", number + 1
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.ImagePositionPatient = ["-10", "-12", f"{2.5 * number:g}"]
    ds.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
    ds.PixelSpacing, ds.SliceThickness = ["0.8", "0.7"], "2.5"
    ds.Rows, ds.Columns = pixels.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit, ds.PixelRepresentation = 15, 0
    ds.PixelData = pixels.astype("<u2").tobytes()
    return ds


def write_dicom(folder: Path, shift: int = 0, uid: str = "1.2.3.4") -> Path:
    """A series of three slices."""
    series = folder / "series"
    series.mkdir()
    values = smooth((3, 24, 20)) + 1000 + shift
    for number, pixels in enumerate(values):
        ds = image_dataset(pixels.astype(np.uint16), number, uid)
        ds.save_as(series / f"{number}.dcm", enforce_file_format=True)
    return series


def write_fits(folder: Path, shift: int = 0) -> Path:
    """An image, one in compressed tiles, and a table."""
    counts = (smooth((24, 20)) + 1000 + shift).astype("u2")
    column = fits.Column("time", "D", array=np.arange(9.0))
    units = [
        fits.PrimaryHDU(counts, fits.Header({"CTYPE1": "FREQ", "CDELT1": 1e6})),
        fits.CompImageHDU(counts.astype("i4"), name="SCI", compression_type="RICE_1"),
        fits.BinTableHDU.from_columns([column], name="EVENTS"),
    ]
    fits.HDUList(units).writeto(folder / "exposure.fits", checksum=True)
    return folder / "exposure.fits"


SOURCES: dict[str, Callable[..., Path]] = {
    "nifti": write_nifti,
    "netcdf": write_netcdf,
    "dicom": write_dicom,
    "fits": write_fits,
}
