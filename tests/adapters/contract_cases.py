"""One source of every format and flavour, for the suite that every adapter must pass.

A case is a path, the name of one of pydicom's test files, or a function that writes files into a
folder ``t`` with the makers ``m`` of ``conftest.py``, found by the kind of what they write.
"""

from pathlib import Path

import imagecodecs
import nibabel
import numpy as np
from tifffile import imwrite

NIFTI_FILES = Path(nibabel.__file__).parent / "tests" / "data"


def noise(dtype: str, *shape: int) -> np.ndarray:
    """Numbers of a type."""
    return np.random.default_rng(8).integers(0, 250, shape).astype(dtype)


def imwrite_png(path: Path, dtype: str, samples: int) -> None:
    """Write a PNG with several samples."""
    path.write_bytes(imagecodecs.png_encode(noise(dtype, 20, 24, samples)))


CASES = {
    "dicom-axial": lambda t, m: m["series"](
        t, RescaleSlope=2, RescaleIntercept=-1024, Modality="CT", PixelPaddingValue=-2000
    ),
    "dicom-oblique-12-bit": lambda t, m: m["series"](
        t,
        values=np.random.default_rng(5).integers(0, 4096, (5, 21, 19)).astype(np.uint16),
        orientation=(0.96, 0.28, 0.0, -0.224, 0.768, -0.6),
        BitsStored=12,
        HighBit=11,
    ),
    "dicom-tilted": lambda t, m: m["series"](
        t, positions=[np.array([-90.5, 12.25 + 0.6 * k, -310 + 2.5 * k]) for k in range(6)]
    ),
    "dicom-8-bit-odd": lambda t, m: m["series"](
        t, values=np.random.default_rng(6).integers(0, 256, (3, 17, 19)).astype(np.uint8)
    ),
    "dicom-irregular": lambda t, m: m["series"](
        t, positions=[np.array([0.0, 0.0, z]) for z in (0, 2, 4, 7.1, 9, 30)]
    ),
    "dicom-enhanced-4d": lambda t, m: m["enhanced"](
        t / "e.dcm",
        [
            ((1.0, 0, 0, 0, 1.0, 0), (-9.0, 4.5, 3.0 * z), {"TemporalPositionIndex": time})
            for z in (2, 0, 3, 1)
            for time in (2, 1)
        ],
    ),
    "dicom-big-endian": "MR_small_bigendian.dcm",
    "dicom-implicit": "MR_small_implicit.dcm",
    "dicom-trailing-bytes": "CT_small.dcm",
    "dicom-rle": "MR_small_RLE.dcm",
    "dicom-jpeg2000": "MR_small_jp2klossless.dcm",
    "dicom-deflated": "image_dfl.dcm",
    "dicom-colour": "examples_rgb_color.dcm",
    "dicom-colour-planar-big-endian": "ExplVR_BigEnd.dcm",
    "dicom-colour-16-bit": "SC_rgb_rle_16bit.dcm",
    "dicom-colour-jpeg": "SC_rgb_jpeg_dcmtk.dcm",
    "dicom-colour-jpeg2000": "examples_jpeg2k.dcm",
    "dicom-ybr-422": "SC_ybr_full_422_uncompressed.dcm",
    "dicom-palette": "examples_palette.dcm",
    "dicom-mask": "liver_1frame.dcm",
    "dicom-mask-big-endian": "liver_expb_1frame.dcm",
    "dicom-float": lambda t, m: m["float"](t, np.float32),
    "dicom-double": lambda t, m: m["float"](t, np.float64),
    "dicom-dose": "rtdose.dcm",
    "dicom-dose-big-endian": "rtdose_expb.dcm",
    "dicom-series": "dicomdirtests/98892003/MR1/4919",
    "nifti-oblique": lambda t, m: m["nifti"](t / "a.nii"),
    "nifti-4d-gz": lambda t, m: m["nifti"](t / "a.nii.gz", shape=(20, 18, 7, 3)),
    "nifti-5d": lambda t, m: m["nifti"](t / "a.nii", shape=(16, 17, 5, 2, 3), dtype="<f4"),
    "nifti-2d": lambda t, m: m["nifti"](t / "a.nii", shape=(20, 18), dtype="|u1"),
    "nifti-pair": lambda t, m: m["nifti"](t / "a.img", kind=nibabel.Nifti1Pair),
    "nifti-2": lambda t, m: m["nifti"](t / "a.nii", kind=nibabel.Nifti2Image, dtype="<u4"),
    "nifti-metres": lambda t, m: m["nifti"](
        t / "a.nii", edit=lambda header: header.set_xyzt_units("meter")
    ),
    "nifti-big-endian": NIFTI_FILES / "anatomical.nii",
    "nifti-slope": NIFTI_FILES / "functional.nii",
    "nifti-bundled-gz": NIFTI_FILES / "example4d.nii.gz",
    "nifti-no-unit": NIFTI_FILES / "standard.nii.gz",
    "netcdf-groups": lambda t, m: m["netcdf"](t / "a.nc"),
    "netcdf-4-classic": lambda t, m: m["netcdf"](t / "a.nc4", "NETCDF4_CLASSIC"),
    "netcdf-classic": lambda t, m: m["netcdf"](t / "a.cdf", "NETCDF3_CLASSIC"),
    "netcdf-64-bit": lambda t, m: m["netcdf"](t / "a.nc", "NETCDF3_64BIT_DATA", fill=None),
    "fits-exposure": lambda t, m: m["fits"](t / "a.fits", "exposure"),
    "fits-unsigned-gz": lambda t, m: m["fits"](t / "a.fit.gz", "unsigned"),
    "fits-cube": lambda t, m: m["fits"](t / "a.fts", "cube"),
    "fits-tiles": lambda t, m: m["fits"](t / "a.fits.fz", "tiles"),
    "images-png-alpha": lambda t, m: imwrite_png(t / "a.png", "u2", 4),
    "images-tiff-pages": lambda t, m: imwrite(
        t / "a.tif", noise("u2", 5, 20, 24), photometric="minisblack", byteorder=">", metadata=None
    ),
    "trajectories-dcd": lambda t, m: m["trajectory"](t / "a.dcd"),
    "trajectories-dcd-big-endian": lambda t, m: m["trajectory"](t / "a.dcd", order=">"),
    "trajectories-dcd-fixed-atoms": lambda t, m: m["trajectory"](t / "a.dcd", fixed=5),
    "trajectories-xtc": lambda t, m: m["trajectory"](t / "a.xtc"),
    "trajectories-xtc-few-atoms": lambda t, m: m["trajectory"](t / "a.xtc", atoms=7),
    "trajectories-xtc-precisions": lambda t, m: m["trajectory"](t / "a.xtc", precisions=(1e3, 1e2)),
}
