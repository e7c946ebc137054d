"""Small sealed archives of every kind, which every later version has to read.

Sources are made of integers by formulas, and hold nobody's data. What an archive gives back is
written down beside it, so that a later reader is compared with the one of its day.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import netCDF4
import nibabel
import numpy as np
from astropy.io import fits
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from tifffile import TiffWriter
from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.restoring.restore import RestoreOptions, restore
from psc_volumetric.archive.reader import ArchiveReader
from psc_volumetric.conformance.recipes import spheres

__all__ = ["SAMPLES", "Sample", "make", "said"]

OWN = "context,interpolation,zstd"  # coders that need no library of others
PLAIN = ("--base", "wavelet", "--coders", OWN)
MR_CLASS = "1.2.840.10008.5.1.4.1.1.4"


def field(shape: tuple[int, ...], top: int) -> np.ndarray:
    """Integers 0 .. top: a slope, a box and something like noise."""
    at = np.indices(shape)
    smooth = sum((3 + k) * a for k, a in enumerate(at)) + 9 * ((at[-1] > 5) & (at[-2] > 3))
    noise = (np.arange(smooth.size).reshape(shape) * 40503 >> 5) & 7
    values = 4 * smooth + noise
    return values * top // int(values.max())


def nifti(folder: Path) -> Path:
    """Four axes, big-endian, slope and intercept, an extension."""
    values = field((9, 8, 6, 3), 3000).astype(">i2")
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(">i2")
    header.set_xyzt_units("mm", "sec")
    header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"made for a test"))
    image = nibabel.Nifti1Image(values, np.diag([0.8, 0.9, 2.5, 1]), header)
    nibabel.save(image, folder / "four.nii")
    raw = bytearray((folder / "four.nii").read_bytes())
    raw[112:120] = np.array([0.5, -10.0], ">f4").tobytes()
    (folder / "four.nii").write_bytes(bytes(raw))
    return folder / "four.nii"


def image(folder: Path) -> Path:
    """One volume under gzip."""
    values = field((26, 24, 7), 2000).astype("<i2")
    nibabel.save(nibabel.Nifti1Image(values, np.diag([1, 1, 2, 1])), folder / "image.nii.gz")
    return folder / "image.nii.gz"


def soft_spheres(folder: Path) -> Path:
    """A volume large enough for a network to foresee something."""
    values = spheres((5, 61, 70)).astype("<i2").transpose(2, 1, 0)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([1, 1, 3, 1])), folder / "spheres.nii.gz")
    return folder / "spheres.nii.gz"


def labels(folder: Path) -> Path:
    """Few values, by name and by content."""
    values = (field((20, 18, 6), 8) * (field((20, 18, 6), 30) % 3 > 0)).astype("u1")
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), folder / "seg.nii")
    return folder / "seg.nii"


def dicom(folder: Path) -> Path:
    """A series of five slices, twelve bits stored of sixteen."""
    series = folder / "series"
    series.mkdir()
    for k, plane in enumerate(field((5, 18, 20), 4095).astype("<u2")):
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.SOPClassUID, ds.Modality = MR_CLASS, "MR"
        ds.SOPInstanceUID, ds.SeriesInstanceUID = f"1.2.826.0.1.3680043.8.498.9.{k + 1}", "1.2.9"
        ds.StudyInstanceUID, ds.InstanceNumber = "1.2.8", k + 1
        ds.ImagePositionPatient, ds.ImageOrientationPatient = [0, 0, 2.5 * k], [1, 0, 0, 0, 1, 0]
        ds.PixelSpacing, ds.SliceThickness = [0.8, 0.7], 2.5
        ds.Rows, ds.Columns, ds.SamplesPerPixel = *plane.shape, 1
        ds.PhotometricInterpretation, ds.PixelRepresentation = "MONOCHROME2", 0
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 12, 11
        ds.PixelData = (plane | (0x4000 if k == 2 else 0)).astype("<u2").tobytes()
        ds["PixelData"].VR = "OW"
        ds.save_as(series / f"{k}.dcm", enforce_file_format=True)
    return series


def netcdf(folder: Path) -> Path:
    """Groups, packed integers with a fill value, floats, text, an enumeration, coordinates."""
    with netCDF4.Dataset(folder / "groups.nc", "w") as nc:
        for name, size in (("time", None), ("lat", 18), ("lon", 20)):
            nc.createDimension(name, size)
        nc.title = "made for a test"
        nc.createVariable("time", "f8", ("time",))[:] = [0.5, 1.5, 2.5]
        nc.createVariable("lat", "f4", ("lat",))[:] = np.linspace(-85, 85, 18)
        nc.createVariable("lon", "f8", ("lon",))[:] = np.arange(20) * 18.0
        packed = nc.createVariable("t2m", "i2", ("time", "lat", "lon"), fill_value=-999, zlib=True)
        packed.set_auto_maskandscale(False)
        packed.scale_factor, packed.add_offset, packed.units = np.float32(0.01), 273.15, "K"
        packed[:] = np.where(field((3, 18, 20), 900) % 50, field((3, 18, 20), 900), -999)
        group = nc.createGroup("model/run1")
        wind = group.createVariable("wind", "f4", ("time", "lat", "lon"))
        wind[:] = field((3, 18, 20), 5000).astype("f4") / 64 - 20
        wind.valid_range = np.array([-50, 99], "f4")
        answer = group.createEnumType("u1", "answer", {"no": 0, "yes": 1})
        group.createVariable("flag", answer, ("lat",))[:] = np.arange(18) % 2
        group.createVariable("label", str, ("lat",))[:] = np.array(
            [f"é{i}" for i in range(18)], object
        )
    return folder / "groups.nc"


def exposure(folder: Path) -> Path:
    """Unsigned counts, packed and blank values, floats with NaN, a table and checksums."""
    counts = field((3, 18, 20), 60000).astype("u2")
    cards = fits.Header({"BUNIT": "adu", "CTYPE3": "FREQ", "CRVAL3": 1.4e9, "CDELT3": 1e6})
    real = (field((20, 22), 5000) / 64).astype("f4")
    real[2, 3] = np.nan
    packed = fits.ImageHDU(field((20, 22), 900).astype("i2"), name="PACKED")
    packed.header.update({"BSCALE": 0.5, "BZERO": 10.0, "BLANK": -1})
    column = fits.Column("LISTS", "PJ()", array=np.array([np.arange(n) for n in range(4)], object))
    table = fits.BinTableHDU.from_columns([column], name="EVENTS")
    first = fits.PrimaryHDU(counts, cards)
    made = fits.HDUList([first, fits.ImageHDU(real, name="SCI"), packed, table])
    made.writeto(folder / "exposure.fits", checksum=True)
    return folder / "exposure.fits"


def pages(folder: Path) -> Path:
    """Two TIFF pages of 16-bit colours, big-endian, interleaved, and a grey one of floats."""
    colours = np.moveaxis(field((2, 3, 18, 20), 60000), 1, -1).astype(">u2")
    with TiffWriter(folder / "pages.tif", byteorder=">") as writer:
        for page in colours:
            writer.write(page, photometric="rgb", metadata=None)
        writer.write(field((20, 22), 900).astype("f4") / 7, photometric="minisblack", metadata=None)
    return folder / "pages.tif"


def png(folder: Path) -> Path:
    """Two images of 16-bit colours in a folder, by deflate without filters."""
    photos = folder / "photos"
    photos.mkdir()
    for number, colours in enumerate(field((2, 3, 18, 20), 60000).astype(">u2")):
        rows = np.moveaxis(colours, 0, -1).reshape(18, -1)
        data = b"".join(b"\0" + row.tobytes() for row in rows)
        head = struct.pack(">IIBBBBB", 20, 18, 16, 2, 0, 0, 0)
        parts = {b"IHDR": head, b"IDAT": zlib.compress(data), b"IEND": b""}
        made = b"\x89PNG\r\n\x1a\n"
        for kind, part in parts.items():
            made += struct.pack(">I", len(part)) + kind + part
            made += struct.pack(">I", zlib.crc32(kind + part))
        (photos / f"{number}.png").write_bytes(made)
    return photos


def trajectory(folder: Path) -> Path:
    """A big-endian DCD of eleven atoms, two of them fixed, with a cell."""
    counts = np.zeros(20, ">i4")
    counts[[0, 1, 2, 8, 10, 19]] = 4, 100, 10, 2, 1, 24
    counts[9:10].view(">f4")[:] = 0.5
    titles = np.array([1], ">i4").tobytes() + b"made for a test".ljust(80)
    moving = np.arange(3, 12).astype(">i4")
    records = [b"CORD" + counts.tobytes(), titles, np.array([11], ">i4").tobytes()]
    records.append(moving.tobytes())
    for number, frame in enumerate(field((4, 3, 11), 3000) / 64):
        records.append(np.array([40, 90, 41 + number, 90, 90, 42], ">f8").tobytes())
        records += [axis[2 if number else 0 :].astype(">f4").tobytes() for axis in frame]
    lengths = [np.array(len(record), ">i4").tobytes() for record in records]
    (folder / "run.dcd").write_bytes(
        b"".join(n + record + n for n, record in zip(lengths, records, strict=True))
    )
    return folder / "run.dcd"


@dataclass(frozen=True)
class Sample:
    """One archive: how its source is made, and the words of the command that archives it.

    ``files`` says that the source files come back, byte for byte or as equal data.
    """

    source: Callable[[Path], Path]
    words: tuple[str, ...] = ()
    ending: str = ".psc.zarr.zip"
    files: bool = False


LOSSY = ("--mode", "lossy", "--step", "0.3", "--preview-size", "0")
TINY = ("--prior", "test-tiny", "--effort", "1")
SAMPLES = {
    "nifti-lossless": Sample(nifti, (*PLAIN, "--self-contained"), files=True),
    "dicom-lossless": Sample(dicom, PLAIN, files=True),
    "netcdf-lossless": Sample(netcdf, PLAIN, ending=".psc.zarr", files=True),
    "fits-lossless": Sample(exposure, PLAIN, files=True),
    "images-lossless": Sample(pages, PLAIN, files=True),
    "images-kept": Sample(png, PLAIN, files=True),
    "trajectories-lossless": Sample(trajectory, PLAIN, files=True),
    "labels-lossless": Sample(labels, PLAIN, files=True),
    "image-lossless-defaults": Sample(image, files=True),
    "image-lossless-jpegls": Sample(image, ("--coders", "jpegls"), files=True),
    "image-lossless-jpegxl": Sample(image, ("--coders", "jpegxl"), files=True),
    "image-lossless-htj2k": Sample(image, ("--coders", "htj2k"), files=True),
    "image-lossless-jpeg2000": Sample(image, ("--coders", "jpeg2000"), files=True),
    "image-original": Sample(image, (*PLAIN, "--keep-original"), files=True),
    "image-bounded-below": Sample(image, (*PLAIN, "--max-error", "4"), files=True),
    "image-neural": Sample(
        image, ("--coders", "neural,neural-refinement,zstd", "--max-error", "4"), files=True
    ),
    "nifti-bounded": Sample(nifti, (*PLAIN, "--mode", "bounded", "--max-error", "2")),
    "netcdf-bounded": Sample(netcdf, (*PLAIN, "--mode", "bounded", "--max-error", "0.5")),
    "image-wavelet": Sample(image, (*LOSSY, "--base", "wavelet", "--preview-size", "4000")),
    "image-region": Sample(image, (*LOSSY, *PLAIN, "--roi-lossless", "z=1:4,y=3:20,x=2:9")),
    "image-av1": Sample(image, (*LOSSY, "--base", "av1")),
    "image-psc": Sample(image, (*LOSSY, "--base", "psc", *TINY)),
    "image-posterior": Sample(
        image, (*LOSSY, "--base", "posterior", "--prior", "test-tiny-posterior")
    ),
    "image-foresight": Sample(
        soft_spheres, (*LOSSY, "--base", "foresight", "--prior", "test-tiny-posterior")
    ),
    "image-latent": Sample(
        image,
        (
            *LOSSY,
            "--base",
            "latent",
            "--prior",
            "test-tiny-latent",
            "--prompt",
            "CT of the head",
            "--effort",
            "1",
        ),
    ),
    "image-two-stage": Sample(
        image, (*LOSSY, "--base", "two-stage", "--prior", "test-tiny-vae", "--step", "1")
    ),
    "image-two-stage-codes": Sample(
        image, (*LOSSY, "--base", "two-stage", "--prior", "test-tiny-vq")
    ),
    "dicom-wavelet": Sample(dicom, (*LOSSY, "--base", "wavelet")),
    "netcdf-wavelet": Sample(netcdf, (*LOSSY, "--base", "wavelet")),
}


def make(name: str, folder: Path) -> Path:
    """Archive one sample into a folder that is there."""
    sample = SAMPLES[name]
    sources = folder / f"source of {name}"
    sources.mkdir()
    target = folder / (name + sample.ending)
    words = ["archive", str(sample.source(sources)), str(target), *sample.words, "--quiet"]
    done = CliRunner().invoke(app, words)
    if done.exit_code:
        raise RuntimeError(f"{name}: {done.stderr}")
    return target


def said(archive: Path, scratch: Path) -> dict[str, Any]:
    """What an archive gives back: digests of all values at every level, of sigma, of files.

    Parameters
    ----------
    archive : Path
    scratch : Path
        A folder for the files; nothing of this name is there.
    """
    found: dict[str, Any] = {"variables": {}, "arrays": {}}
    with ArchiveReader.open(archive) as reader:
        found["mode"] = reader.mode
        for name, about in reader.info()["variables"].items():
            region = [reader.read_region(name, level=n, spread=True) for n in _levels(about)]
            found["variables"][name] = {
                "dtype": region[-1].values.dtype.newbyteorder("<").str,
                "shape": list(region[-1].values.shape),
                "values": [_digest(one.values) for one in region],
                "sigma": [_digest(one.spread) for one in region if one.spread is not None],
            }
        for name in (*reader.metadata.get("coordinates", ()), *reader.arrays):
            found["arrays"][name] = _digest(reader.plain(name).values)
        if reader.kept:
            found["kept"] = {name: _digest(_all_of(reader, name)) for name in reader.kept}
        files = reader.source().files
    if SAMPLES[archive.name.split(".")[0]].files:
        scratch.mkdir()
        several = "dicom" in archive.name or "kept" in archive.name
        place = scratch / "series" if several else scratch
        report = restore(str(archive), place, RestoreOptions())
        proofs = sorted(report.proofs, key=lambda file: file.path)
        found["files"] = [[proof.outcome, proof.proven] for proof in proofs]
        found["sources"] = [file.sha256 for file in files]
    return found


def _all_of(reader: ArchiveReader, name: str) -> np.ndarray:
    array = reader.kept_array(name)
    return array[tuple(slice(0, size) for size in array.shape)]


def _levels(about: dict[str, Any]) -> range:
    return range(len(about["levels"]))


def _digest(values: np.ndarray) -> str:
    if values.dtype.kind == "O":
        return hashlib.sha256(json.dumps(values.tolist()).encode()).hexdigest()
    little = np.ascontiguousarray(values.astype(values.dtype.newbyteorder("<"), copy=False))
    return hashlib.sha256(little.tobytes()).hexdigest()
