"""NIfTI through engine="psc": values, places and axes are those that nibabel gives."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import xarray as xr

AFFINE = np.array([[-2.0, 0, 0, 20], [0, 2.2, 0, -30], [0, 0, 3.0, 5], [0, 0, 0, 1]])


def image(dtype: str, shape: tuple[int, ...], slope: float, inter: float) -> nibabel.Nifti1Image:
    values = np.random.default_rng(1).integers(0, 200, shape).astype(dtype)
    made = nibabel.Nifti1Image(values, AFFINE)
    made.header.set_xyzt_units("mm", "sec")
    if len(shape) > 3:
        made.header["pixdim"][4], made.header["toffset"] = 2.5, 10
    made.header.set_slope_inter(slope, inter)
    return made


@pytest.mark.parametrize(
    ("dtype", "slope", "inter"),
    [("u1", 1, 0), ("i2", 0.25, -100), ("u2", np.nan, np.nan), ("i4", 3, 7), ("f4", 1, 0),
     ("f4", 0.5, 1), ("f8", 1, 0), ("f8", 0.1, 2)],
)  # fmt: skip
def test_values_are_those_of_get_fdata(dtype, slope, inter, tmp_path: Path, run) -> None:
    path = tmp_path / "scan.nii.gz"
    image(dtype, (20, 18, 7), slope, inter).to_filename(path)
    assert run("archive", path, tmp_path / "a.psc.zarr", "--coders", "zstd").code == 0
    expected = nibabel.load(path).get_fdata()
    with xr.open_dataset(tmp_path / "a.psc.zarr", engine="psc") as view:
        found = view["image"].transpose("x", "y", "z")
        if found.dtype.itemsize == 8:
            np.testing.assert_array_equal(found.values, expected)
        else:  # as CF decodes small numbers; nibabel computes in double precision
            np.testing.assert_allclose(found.values, expected, rtol=2**-22)
        for axis, name in enumerate("xyz"):
            steps = AFFINE[axis, axis] * np.arange(found.sizes[name]) + AFFINE[axis, 3]
            np.testing.assert_allclose(np.abs(found[name].values), np.abs(steps), atol=1e-3)


def test_time_is_an_axis_with_its_values(tmp_path: Path, run) -> None:
    path = tmp_path / "epi.nii"
    image("i2", (20, 18, 7, 4), 1, 0).to_filename(path)
    assert run("archive", path, tmp_path / "a.psc.zarr", "--coders", "zstd").code == 0
    with xr.open_dataset(tmp_path / "a.psc.zarr", engine="psc") as view:
        np.testing.assert_allclose(view["t"].values, [10, 12.5, 15, 17.5])
        assert view["t"].attrs["units"] == "sec"
    part = tmp_path / "part.nii"
    assert run("restore", tmp_path / "a.psc.zarr", part, "--roi", "t=1:3,x=2:9").code == 0
    found = nibabel.load(part)
    assert found.shape == (7, 18, 7, 2) and found.header["toffset"] == 12.5


@pytest.mark.parametrize("dtype", ["c8", "c16"])
def test_complex_values_have_an_axis_of_parts(dtype, tmp_path: Path, run) -> None:
    r = np.random.default_rng(2)
    values = (r.normal(size=(20, 18, 17)) + 1j * r.normal(size=(20, 18, 17))).astype(dtype)
    nibabel.save(nibabel.Nifti1Image(values, AFFINE), tmp_path / "k.nii")
    outcome = run("archive", tmp_path / "k.nii", tmp_path / "a.psc.zarr", "--mode", "lossy",
                  "--base", "wavelet", "--coders", "zstd")  # fmt: skip
    assert outcome.code == 0, outcome.err
    with xr.open_dataset(tmp_path / "a.psc.zarr", engine="psc") as view:
        parts = view["image"].transpose("complex", "x", "y", "z")
        assert parts["complex"].values.tolist() == ["real", "imag"]
        np.testing.assert_array_equal(parts.sel(complex="real"), values.real)
        np.testing.assert_array_equal(parts.sel(complex="imag"), values.imag)
    assert run("restore", tmp_path / "a.psc.zarr", tmp_path / "b.nii").code == 0
    assert (tmp_path / "b.nii").read_bytes() == (tmp_path / "k.nii").read_bytes()


@pytest.mark.parametrize("code", [1, 0, 666])
def test_a_type_without_numbers_is_kept_as_it_is(code: int, tmp_path: Path, run) -> None:
    data = bytearray(image("u1", (20, 18, 7), 1, 0).to_bytes())
    data[70:72] = code.to_bytes(2, "little")
    path = tmp_path / "bits.nii"
    path.write_bytes(data)
    outcome = run("archive", path, tmp_path / "a.psc.zarr")
    assert outcome.code == 0, outcome.err
    assert run("restore", tmp_path / "a.psc.zarr", tmp_path / "b.nii").code == 0
    assert (tmp_path / "b.nii").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("half", ["a.hdr", "a.img"])
def test_both_halves_of_an_analyze_image_are_kept(half: str, tmp_path: Path, run) -> None:
    values = np.random.default_rng(3).integers(0, 99, (20, 18, 7)).astype("i2")
    nibabel.save(nibabel.AnalyzeImage(values, np.eye(4)), tmp_path / "a.img")
    outcome = run("archive", tmp_path / half, tmp_path / "a.psc.zarr")
    assert outcome.code == 0, outcome.err
    assert run("restore", tmp_path / "a.psc.zarr", tmp_path / "back").code == 0
    for name in ("a.hdr", "a.img"):
        assert (tmp_path / "back" / name).read_bytes() == (tmp_path / name).read_bytes()
