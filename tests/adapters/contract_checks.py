"""Values and places of every format, compared with what the format's own library says of them."""

from __future__ import annotations

import chemfiles
import imagecodecs
import nibabel
import numpy as np
import pydicom
import tifffile
from astropy.io import fits
from astropy.wcs import WCS
from opened_items import whole
from pydicom.pixels import pixel_array

__all__ = ["CHECKS", "corners", "world"]


def world(affine, index):
    return affine @ np.array([*index, 1.0])


def corners(shape):
    return [np.array(p) for p in np.ndindex(2, 2, 2)] * np.maximum(np.array(shape[-3:]) - 1, 0)


def check_dicom(item, candidate):
    if len(candidate.paths) == 1 and item.document["files"][0]["frames"] > 1:
        return  # frame order is tested in test_dicom.py
    (volume,) = item.volumes
    for k, path in enumerate(candidate.paths):
        dataset = pydicom.dcmread(path)
        planes = whole(volume)[..., k, :, :]
        shown = np.moveaxis(planes, 0, -1) if planes.ndim == 3 else planes
        np.testing.assert_array_equal(shown, pixel_array(dataset, raw=True))
        if volume.affine is None:
            continue
        row, column = np.array(dataset.ImageOrientationPatient).astype(float).reshape(2, 3)
        spacing = [float(v) for v in dataset.PixelSpacing]
        for y, x in ((0, 0), (0, dataset.Columns - 1), (dataset.Rows - 1, 0)):
            lps = np.array(dataset.ImagePositionPatient, float)
            lps = lps + row * spacing[1] * x + column * spacing[0] * y
            expected = lps * [-1, -1, 1]
            np.testing.assert_allclose(world(volume.affine, (k, y, x))[:3], expected, atol=2e-3)


def check_nifti(item, candidate):
    image = nibabel.load(candidate.paths[-1])
    (volume,) = item.volumes
    stored = np.asarray(image.dataobj.get_unscaled())
    while stored.ndim < 3:
        stored = stored[..., None]
    np.testing.assert_array_equal(whole(volume), stored.T)
    mm = 1000.0 if volume.attrs["spatial_unit"] == "meter" else 1.0
    scale = np.diag([mm, mm, mm, 1.0])
    for z, y, x in corners(volume.array.shape):
        expected = scale @ image.affine @ [x, y, z, 1]
        np.testing.assert_allclose(world(volume.affine, (z, y, x)), expected, atol=1e-6)
    slope, inter = image.dataobj.slope, image.dataobj.inter
    assert ((volume.slope or 1.0), (volume.intercept or 0.0)) == (slope, inter)


def check_netcdf(item, candidate):
    import xarray

    groups = xarray.open_groups(
        candidate.paths[0], engine="netcdf4", mask_and_scale=False, decode_times=False
    )
    for volume in item.volumes:
        *path, name = volume.name.split("/")
        group = groups["/" + "/".join(path)]
        assert group[name].dtype == volume.array.dtype
        np.testing.assert_array_equal(whole(volume), group[name].values)
    for array in item.arrays:
        *path, name = array.name.split("/")
        found = groups["/" + "/".join(path)].variables[name]
        assert found.dims == array.dims or array.array.dtype == "S1"
        if array.array.dtype != "S1":
            values = array.array[tuple(slice(0, n) for n in array.array.shape)]
            np.testing.assert_array_equal(values, found.values)


def check_images(item, candidate):
    (volume,), (path,) = item.volumes, candidate.paths
    shown = imagecodecs.imread(path) if path.suffix == ".png" else tifffile.imread(path)
    shown = np.moveaxis(shown, -1, 0) if path.suffix == ".png" else shown
    np.testing.assert_array_equal(whole(volume), shown)


def check_fits(item, candidate):
    with fits.open(candidate.paths[0], uint=True) as units:
        for volume in item.volumes:
            name, _, version = volume.name.partition("_")
            unit = units[name, int(version or 1)] if name != "PRIMARY" else units[0]
            shown, values = unit.data, whole(volume)
            assert (shown.dtype.kind == "f") == (
                values.dtype.kind == "f" or volume.slope is not None
            )
            if volume.slope is not None:
                blank = np.isin(values, volume.special_values)
                values = np.where(blank, np.nan, values * volume.slope + volume.intercept)
            np.testing.assert_array_equal(values, shown)
            assert volume.unit == unit.header.get("BUNIT")
            sky = WCS(fits.Header({k: v for k, v in volume.attrs.items() if k.isupper()}))
            assert sky.wcs.compare(WCS(unit.header).wcs)


def check_trajectories(item, candidate):
    (volume,), (path,) = item.volumes, candidate.paths
    values = whole(volume) * (volume.slope or 1.0) * (10 if volume.unit == "nm" else 1)
    with chemfiles.Trajectory(str(path)) as frames:
        assert frames.nsteps == volume.array.shape[1]
        for number in range(frames.nsteps):
            frame = frames.read_step(number)
            np.testing.assert_allclose(values[:, number].T, frame.positions, rtol=1e-6)


CHECKS = {
    "dicom": check_dicom,
    "nifti": check_nifti,
    "netcdf": check_netcdf,
    "fits": check_fits,
    "images": check_images,
    "trajectories": check_trajectories,
}
