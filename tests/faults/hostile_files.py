"""Source files made to hurt: one function each, writing one file (or link) into a folder."""

from __future__ import annotations

import gzip
import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import imagecodecs
import netCDF4
import nibabel
import numpy as np
from astropy.io import fits
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.filewriter import write_file_meta_info
from pydicom.sequence import Sequence as Items
from tifffile import imwrite

from tests.faults.sources import image_dataset, smooth

__all__ = ["HOSTILE"]

Writer = Callable[[Path], None]

# --- DICOM ----------------------------------------------------------------------------------------


def _dicom(change: Callable[[Dataset], None]) -> Writer:
    """A good image with something changed, in a series of its own."""

    def write(folder: Path) -> None:
        ds = image_dataset(smooth((24, 20)).astype("<u2"), 0, "9.9.9.1")
        change(ds)
        ds.save_as(folder / "hostile.dcm", enforce_file_format=True)

    return write


def _set(**values: Any) -> Writer:
    def change(ds: Dataset) -> None:
        for name, value in values.items():
            setattr(ds, name, value)

    return _dicom(change)


def _deep_sequences(folder: Path) -> None:
    """Sequences 20,000 deep, of undefined length, behind the pixels."""
    _dicom(lambda ds: None)(folder)
    start = struct.pack("<HH2sHI", 0x7FE1, 0x1001, b"SQ", 0, 0xFFFFFFFF)
    start += struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    with (folder / "hostile.dcm").open("ab") as file:
        file.write(start * 20_000)


def _many_items(ds: Dataset) -> None:
    ds.ReferencedImageSequence = Items([Dataset() for _ in range(20_000)])


def _no_fragments(ds: Dataset) -> None:
    ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.70"
    ds.PixelData = bytes.fromhex("feff00e000000000 feffdde000000000")
    ds["PixelData"].is_undefined_length = True


def _huge_jpeg2000(ds: Dataset) -> None:
    """A code stream whose header names 2^31 columns."""
    siz = struct.pack(">H8IH3B", 0, 1 << 31, 1 << 31, 0, 0, 1 << 30, 1 << 30, 0, 0, 1, 15, 1, 1)
    data = b"\xff\x4f\xff\x51" + struct.pack(">H", len(siz) + 2) + siz + b"\xff\xd9"
    ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.90"
    ds.PixelData = encapsulate([data])
    ds["PixelData"].is_undefined_length = True


def _rle_bomb(ds: Dataset) -> None:
    ds.Rows = ds.Columns = 65535
    ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.5"
    header = struct.pack("<16I", 2, 64, 64 + (1 << 18), *[0] * 13)
    ds.PixelData = encapsulate([header + b"\x81\0" * (1 << 18)])
    ds["PixelData"].is_undefined_length = True


def _deflated_bomb(folder: Path) -> None:
    """Deflated transfer syntax: 2.5 GiB of zeros in one private element."""
    ds = image_dataset(smooth((24, 20)).astype("<u2"), 0, "9.9.9.2")
    ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
    meta = io.BytesIO()
    write_file_meta_info(meta, ds.file_meta)
    packer = zlib.compressobj(1, wbits=-15)
    body = packer.compress(struct.pack("<HH2sHI", 0x0009, 0x1001, b"OB", 0, 0xA0000000))
    body += b"".join(packer.compress(bytes(1 << 24)) for _ in range(160)) + packer.flush()
    (folder / "hostile.dcm").write_bytes(bytes(128) + b"DICM" + meta.getvalue() + body)


def _endless_element(folder: Path) -> None:
    """An element that claims 4 GB."""
    _dicom(lambda ds: None)(folder)
    with (folder / "hostile.dcm").open("ab") as file:
        file.write(struct.pack("<HH2sHI", 0x7FE1, 0x1001, b"OB", 0, 0xFFFFFFFE) + bytes(100))


# --- NIfTI ----------------------------------------------------------------------------------------


def _nifti(offset: int, data: bytes, *, packed: bool = False) -> Writer:
    """A good image with some bytes of the header replaced."""

    def write(folder: Path) -> None:
        raw = bytearray(_plain_nifti())
        raw[offset : offset + len(data)] = data
        if packed:
            (folder / "hostile.nii.gz").write_bytes(gzip.compress(bytes(raw)))
        else:
            (folder / "hostile.nii").write_bytes(raw)

    return write


def _plain_nifti() -> bytes:
    image = nibabel.Nifti1Image(smooth((12, 10, 8)), np.diag([2.0, 2.0, 3.0, 1.0]))
    return bytes(image.to_bytes())


def _dims(*sizes: int) -> bytes:
    return struct.pack("<8h", len(sizes), *sizes, *[1] * (7 - len(sizes)))


def _gzip_bomb(folder: Path) -> None:
    """2.5 GiB of zeros in 3 MB, behind a header that claims 8 GiB."""
    raw = bytearray(_plain_nifti()[:352])
    raw[40:56] = _dims(2048, 2048, 1024)
    with gzip.open(folder / "hostile.nii.gz", "wb", compresslevel=1) as file:
        file.write(bytes(raw))
        for _ in range(160):
            file.write(bytes(16 << 20))


def _gzip_of_more(folder: Path) -> None:
    """A small image and 2.5 GiB of zeros behind it."""
    with gzip.open(folder / "hostile.nii.gz", "wb", compresslevel=1) as file:
        file.write(_plain_nifti())
        for _ in range(160):
            file.write(bytes(16 << 20))


def _cut_gzip(folder: Path) -> None:
    data = gzip.compress(_plain_nifti())
    (folder / "hostile.nii.gz").write_bytes(data[: len(data) // 2])


def _extension(folder: Path) -> None:
    """A header extension that claims 2 GB."""
    raw = _plain_nifti()
    extension = struct.pack("<4Bii", 1, 0, 0, 0, 0x7FFFFFF0, 6)
    (folder / "hostile.nii").write_bytes(raw[:348] + extension + raw[352:])


# --- NetCDF ---------------------------------------------------------------------------------------


def _netcdf(change: Callable[[netCDF4.Dataset], None], **options: Any) -> Writer:
    """A good grid with something more."""

    def write(folder: Path) -> None:
        with netCDF4.Dataset(folder / "hostile.nc", "w", **options) as nc:
            for name, size in (("lat", 18), ("lon", 20)):
                nc.createDimension(name, size)
                nc.createVariable(name, "f8", (name,))[:] = np.arange(size)
            field = nc.createVariable("t2m", "i2", ("lat", "lon"))
            field[:] = smooth((18, 20))
            change(nc)

    return write


def _huge_side_variable(nc: netCDF4.Dataset) -> None:
    """64 GiB that were never written."""
    nc.createDimension("many", 1 << 33)
    nc.createVariable("side", "f8", ("many",), chunksizes=(1 << 16,), zlib=True)


def _huge_field(nc: netCDF4.Dataset) -> None:
    """A field of 2^45 values that were never written."""
    nc.createDimension("time", 1 << 25)
    nc.createDimension("y", 1 << 10)
    nc.createDimension("x", 1 << 10)
    nc.createVariable("big", "f4", ("time", "y", "x"), chunksizes=(1, 512, 512), zlib=True)


def _huge_attribute(nc: netCDF4.Dataset) -> None:
    nc.setncattr("long", "x" * (48 << 20))


def _deflate_bomb(nc: netCDF4.Dataset) -> None:
    """One chunk of 2 GiB of zeros."""
    nc.createDimension("many", 1 << 31)
    side = nc.createVariable("side", "i1", ("many",), chunksizes=(1 << 26,), zlib=True)
    for start in range(0, 1 << 31, 1 << 27):
        side[start : start + (1 << 27)] = np.zeros(1 << 27, "i1")


def _deep_groups(nc: netCDF4.Dataset) -> None:
    group = nc
    for _ in range(300):
        group = group.createGroup("g")
    group.createDimension("x", 2)
    group.createVariable("v", "f4", ("x",))


def _many_variables(nc: netCDF4.Dataset) -> None:
    for number in range(3000):
        nc.createVariable(f"s{number}", "i4", ())


def _hdf5(change: Callable[[h5py.File], None]) -> Writer:
    """A good grid, then changed with HDF5's own means."""

    def write(folder: Path) -> None:
        _netcdf(lambda nc: None)(folder)
        with h5py.File(folder / "hostile.nc", "a") as file:
            change(file)

    return write


def _link_cycle(file: h5py.File) -> None:
    file.create_group("g")
    for name in "abcdefgh":
        file["g"][name] = file["g"]


def _external_link(file: h5py.File) -> None:
    file["outside"] = h5py.ExternalLink("/etc/hostname", "/")


def _external_data(file: h5py.File) -> None:
    """A variable whose values lie in a device that never ends."""
    file.create_dataset("zeros", (1 << 31,), "i1", external=[("/dev/zero", 0, 1 << 31)])


def _virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((1 << 30, 64), "f4")
    layout[:64] = h5py.VirtualSource("hostile.nc", "virtual", (64, 64))
    file.create_virtual_dataset("virtual", layout)


def _half_floats(file: h5py.File) -> None:
    file["half"] = np.ones((18, 20), "f2")


def _odd_names(file: h5py.File) -> None:
    for name in ("..", "a\\b", " ", "x" * 2000, "caf\u00e9\u202e", "zarr.json", "c"):
        file[name] = np.arange(4.0)


def _classic(offset: int, data: bytes) -> Writer:
    """A NetCDF-3 file with some bytes replaced."""

    def write(folder: Path) -> None:
        _netcdf(lambda nc: None, format="NETCDF3_CLASSIC")(folder)
        path = folder / "hostile.nc"
        raw = bytearray(path.read_bytes())
        raw[offset : offset + len(data)] = data
        path.write_bytes(raw)

    return write


# --- FITS -----------------------------------------------------------------------------------------


def _fits(change: Callable[[fits.Header], None], *, tiles: bool = False) -> Writer:
    """A good image whose header says something else."""

    def write(folder: Path) -> None:
        unit = fits.CompImageHDU(
            smooth((24, 20)).astype("i4"), name="SCI", compression_type="RICE_1"
        )
        plain = fits.ImageHDU(smooth((24, 20)).astype("i2"), name="SCI")
        made = io.BytesIO()
        fits.HDUList([fits.PrimaryHDU(), unit if tiles else plain]).writeto(made)
        raw = made.getvalue()
        start = raw.index(b"XTENSION")
        end = raw.index(b"END" + b" " * 77, start) // 2880 * 2880 + 2880
        cards = fits.Header.fromstring(raw[start:end])
        change(cards)
        (folder / "hostile.fits").write_bytes(raw[:start] + cards.tostring().encode() + raw[end:])

    return write


def _fits_axes(*sizes: int) -> Writer:
    def change(cards: fits.Header) -> None:
        cards["NAXIS"] = len(sizes)
        for number, size in enumerate(sizes):
            cards[f"NAXIS{number + 1}"] = size

    return _fits(change)


def _fits_set(*, tiles: bool = False, **values: Any) -> Writer:
    return _fits(lambda cards: cards.update(values), tiles=tiles)


def _endless_header(folder: Path) -> None:
    """Cards without an END, 64 MB of them."""
    first = b"SIMPLE  =                    T".ljust(80)
    (folder / "hostile.fits").write_bytes(first + b"COMMENT ".ljust(80) * 800_000)


def _many_units(folder: Path) -> None:
    """20,000 header units."""
    unit = fits.ImageHDU().header.tostring().encode()
    (folder / "hostile.fits").write_bytes(fits.Header.tostring(fits.PrimaryHDU().header).encode())
    with (folder / "hostile.fits").open("ab") as file:
        for _ in range(20_000):
            file.write(unit)


def _fits_bomb(folder: Path) -> None:
    """A small image and 2.5 GiB of zeros behind it, under gzip."""
    made = io.BytesIO()
    fits.PrimaryHDU(smooth((24, 20)).astype("i2")).writeto(made)
    with gzip.open(folder / "hostile.fits.gz", "wb", compresslevel=1) as file:
        file.write(made.getvalue())
        for _ in range(160):
            file.write(bytes(16 << 20))


# --- images ---------------------------------------------------------------------------------------


def _png(offset: int, data: bytes) -> Writer:
    """A good PNG with some bytes replaced."""

    def write(folder: Path) -> None:
        raw = bytearray(imagecodecs.png_encode(smooth((24, 20)).astype("u2")))
        raw[offset : offset + len(data)] = data
        (folder / "hostile.png").write_bytes(raw)

    return write


def _tiff(tag: int, kind: int, count: int, value: int) -> Writer:
    """A good TIFF with one entry of its first directory replaced."""

    def write(folder: Path) -> None:
        path = folder / "hostile.tif"
        imwrite(path, smooth((24, 20)).astype("<u2"), photometric="minisblack", metadata=None)
        raw = bytearray(path.read_bytes())
        (start,) = struct.unpack_from("<I", raw, 4)
        (entries,) = struct.unpack_from("<H", raw, start)
        for at in range(start + 2, start + 2 + 12 * entries, 12):
            if struct.unpack_from("<H", raw, at)[0] == tag:
                struct.pack_into("<HHII", raw, at, tag, kind, count, value)
        path.write_bytes(raw)

    return write


def _tiff_loop(folder: Path) -> None:
    """A directory that follows itself."""
    path = folder / "hostile.tif"
    imwrite(path, smooth((24, 20)).astype("<u2"), photometric="minisblack", metadata=None)
    raw = bytearray(path.read_bytes())
    (start,) = struct.unpack_from("<I", raw, 4)
    (entries,) = struct.unpack_from("<H", raw, start)
    struct.pack_into("<I", raw, start + 2 + 12 * entries, start)
    path.write_bytes(raw)


def _jpeg(cut: int | None, **parts: bytes) -> Writer:
    def write(folder: Path) -> None:
        raw = imagecodecs.jpeg8_encode(smooth((24, 20)).astype("u1"))
        (folder / "hostile.jpg").write_bytes(raw[:cut] + parts.get("more", b""))

    return write


# --- any format -----------------------------------------------------------------------------------


def _file(name: str, data: bytes) -> Writer:
    return lambda folder: (folder / name).write_bytes(data) and None


def _link(name: str, to: str) -> Writer:
    return lambda folder: (folder / name).symlink_to(to)


def _odd_file_names(folder: Path) -> None:
    for name in ("new\nline.nii", "\u202egnp.nii", "-rf.nii", "x" * 240 + ".nii"):
        (folder / name).write_bytes(_plain_nifti())
    (Path(os.fsdecode(os.fsencode(folder) + b"/\xff\xfe.nii"))).write_bytes(_plain_nifti())


HOSTILE: dict[str, Writer] = {
    "dicom: -1 frames": _set(NumberOfFrames="-1"),
    "dicom: 2^31 - 1 frames": _set(NumberOfFrames="2147483647"),
    "dicom: 65535 x 65535": _set(Rows=65535, Columns=65535),
    "dicom: 0 rows": _set(Rows=0),
    "dicom: 13 bits allocated": _set(BitsAllocated=13),
    "dicom: 64 bits allocated": _set(BitsAllocated=64, BitsStored=64, HighBit=63),
    "dicom: high bit 200": _set(HighBit=200),
    "dicom: no orientation": _set(ImageOrientationPatient=["0"] * 6),
    "dicom: position of text": _set(ImageType="\0" * 5000),
    "dicom: sequences 20000 deep": _deep_sequences,
    "dicom: 20000 items": _dicom(_many_items),
    "dicom: no fragments": _dicom(_no_fragments),
    "dicom: JPEG 2000 of 2^31 columns": _dicom(_huge_jpeg2000),
    "dicom: RLE bomb": _dicom(_rle_bomb),
    "dicom: deflate bomb": _deflated_bomb,
    "dicom: element of 4 GB": _endless_element,
    "nifti: -1 voxels": _nifti(40, _dims(-1, 10, 8)),
    "nifti: 32767^7 voxels": _nifti(40, _dims(*[32767] * 7)),
    "nifti: 9 axes": _nifti(40, struct.pack("<h", 9)),
    "nifti: data at infinity": _nifti(108, struct.pack("<f", float("inf"))),
    "nifti: data at NaN": _nifti(108, struct.pack("<f", float("nan"))),
    "nifti: data before the file": _nifti(108, struct.pack("<f", -400.0)),
    "nifti: data at 2^60": _nifti(108, struct.pack("<f", 2.0**60)),
    "nifti: type 9999": _nifti(70, struct.pack("<h", 9999)),
    "nifti: NaN in the affine": _nifti(280, struct.pack("<f", float("nan")) * 4),
    "nifti: spacing 0": _nifti(76, bytes(32)),
    "nifti: extension of 2 GB": _extension,
    "nifti: gzip bomb": _gzip_bomb,
    "nifti: gzip with 2.5 GiB behind": _gzip_of_more,
    "nifti: gzip cut": _cut_gzip,
    "nifti: 32767^7 voxels, packed": _nifti(40, _dims(*[32767] * 7), packed=True),
    "netcdf: side variable of 64 GiB": _netcdf(_huge_side_variable),
    "netcdf: field of 128 TiB": _netcdf(_huge_field),
    "netcdf: attribute of 48 MB": _netcdf(_huge_attribute),
    "netcdf: deflate bomb": _netcdf(_deflate_bomb),
    "netcdf: 300 groups deep": _netcdf(_deep_groups),
    "netcdf: 3000 scalars": _netcdf(_many_variables),
    "netcdf: link cycle": _hdf5(_link_cycle),
    "netcdf: link to another file": _hdf5(_external_link),
    "netcdf: values in /dev/zero": _hdf5(_external_data),
    "netcdf: virtual of itself": _hdf5(_virtual),
    "netcdf: half floats": _hdf5(_half_floats),
    "netcdf: odd names": _hdf5(_odd_names),
    "netcdf-3: 2^32 - 1 records": _classic(4, b"\xff\xff\xff\xff"),
    "netcdf-3: 2^31 dimensions": _classic(12, b"\x7f\xff\xff\xff"),
    "netcdf-3: long name": _classic(16, b"\x7f\xff\xff\xf0"),
    "fits: 2^62 pixels": _fits_axes(1 << 31, 1 << 31),
    "fits: 999 axes": _fits_axes(*[2] * 999),
    "fits: -1 pixels": _fits_axes(-1, 24),
    "fits: BITPIX 12": _fits_set(BITPIX=12),
    "fits: NAXIS1 of text": _fits_set(NAXIS1="many"),
    "fits: heap of 2^60 bytes": _fits_set(PCOUNT=1 << 60),
    "fits: WCS without sense": _fits_set(CTYPE1="RA---TAN", CTYPE2="RA---TAN", CDELT1=0.0),
    "fits: tables of coordinates": _fits_set(CTYPE1="WAVE-TAB", PS1_0="NOWHERE", PV1_3=1),
    "fits: name of another place": _fits_set(EXTNAME="../../zarr.json"),
    "fits: BSCALE of infinity": _fits_set(BSCALE=1e308, BZERO=-1e308),
    "fits: tiles of 2^40 pixels": _fits_set(tiles=True, ZNAXIS1=1 << 20, ZNAXIS2=1 << 20),
    "fits: one tile of 2^28 pixels": _fits_set(
        tiles=True, ZNAXIS1=1 << 14, ZNAXIS2=1 << 14, ZTILE1=1 << 14, ZTILE2=1 << 14
    ),
    "fits: tiles of another code": _fits_set(tiles=True, ZCMPTYPE="HCOMPRESS_1"),
    "fits: tiles of 0 pixels": _fits_set(tiles=True, ZTILE1=0),
    "fits: block of 0 numbers": _fits_set(tiles=True, ZVAL1=0),
    "fits: table without columns": _fits_set(tiles=True, TFIELDS=0),
    "fits: header without end": _endless_header,
    "fits: 20000 units": _many_units,
    "fits: gzip with 2.5 GiB behind": _fits_bomb,
    "png: 2^31 x 2^31": _png(16, b"\x7f\xff\xff\xff" * 2),
    "png: 16384 x 16384": _png(16, struct.pack(">II", 1 << 14, 1 << 14)),
    "png: 0 columns": _png(16, bytes(4)),
    "png: chunk of 2^31 bytes": _png(33, b"\x7f\xff\xff\xfftEXt"),
    "png: noise for pixels": _png(50, os.urandom(200)),
    "tiff: 2^32 - 1 columns": _tiff(256, 4, 1, 0xFFFFFFFF),
    "tiff: 12 bits": _tiff(258, 3, 1, 12),
    "tiff: compression 65535": _tiff(259, 3, 1, 65535),
    "tiff: 2^31 samples": _tiff(277, 4, 1, 1 << 31),
    "tiff: strips at 2^32 - 1": _tiff(273, 4, 1, 0xFFFFFFFF),
    "tiff: 2^30 strips": _tiff(273, 4, 1 << 30, 8),
    "tiff: directory that follows itself": _tiff_loop,
    "jpeg: cut": _jpeg(300),
    "jpeg: bytes behind": _jpeg(None, more=b"behind" * 1000),
    "any: empty file": _file("hostile.nii", b""),
    "any: noise": _file("hostile.dcm", bytes(128) + b"DICM" + os.urandom(4096)),
    "any: HDF5 signature only": _file("hostile.nc", b"\x89HDF\r\n\x1a\n" + bytes(500)),
    "any: link to itself": _link("hostile.nii", "hostile.nii"),
    "any: link to /dev/zero": _link("hostile.nii", "/dev/zero"),
    "any: pipe": lambda folder: os.mkfifo(folder / "hostile.nii"),
    "any: folder with a file's name": lambda folder: (folder / "hostile.nii").mkdir(),
    "any: odd file names": _odd_file_names,
}
