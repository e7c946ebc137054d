"""What microscopes and maps say of the axes of a TIFF file, beside its pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from tifffile import TiffWriter, imread, imwrite

from tests.pipelines.test_tiff import BOUNDED, PLAIN, next_directory, stack

SHAPE = (2, 3, 4, 20, 24)  # t, z, c, y, x
OME = {
    "axes": "TZCYX",
    "PhysicalSizeX": 0.25,
    "PhysicalSizeY": 0.5,
    "PhysicalSizeZ": 2.0,
    "TimeIncrement": 30.0,
    "Channel": {"Name": ["DAPI", "GFP µ", "红", "far red"]},
}
IMAGEJ = {"axes": "TZCYX", "spacing": 2.0, "unit": "micron", "finterval": 30.0}
MAP = [
    (33550, 12, 3, (10.0, 20.0, 0.0), True),
    (33922, 12, 6, (0.0, 0.0, 0.0, 440720.0, 3751320.0, 0.0), True),
    (34735, 3, 16, (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32611), True),
    (42113, 2, 6, "-9999", True),
]


@pytest.mark.parametrize("kind", ["ome", "packed ome", "imagej"])
def test_a_hyperstack_unfolds_by_its_coordinates(kind: str, tmp_path: Path, run) -> None:
    path, values = tmp_path / "a.ome.tif", stack(24).reshape(SHAPE)
    options: dict[str, object] = {"ome": True, "metadata": OME}
    if kind == "imagej":
        path = tmp_path / "a.tif"
        options = {"imagej": True, "metadata": IMAGEJ, "resolution": (4, 2)}
    elif kind == "packed ome":
        options["compression"] = "zlib"
    imwrite(path, values, photometric="minisblack", **options)
    assert run("archive", path, tmp_path / "a.psc.zarr", *PLAIN).code == 0
    with xr.open_dataset(tmp_path / "a.psc.zarr", engine="psc") as view:
        assert view["image"].dims == ("page", "y", "x")
        unfolded = view["image"].set_index(page=["t", "z", "c"]).unstack("page")
        wanted = unfolded.transpose("t", "z", "c", "y", "x")
        np.testing.assert_array_equal(wanted.values, values)
        assert wanted["z"].values.tolist() == [0, 2, 4] and wanted["t"].values.tolist() == [0, 30]
        assert view["x"].values[3] == 0.75 and view["y"].values[3] == 1.5
        assert [view[axis].attrs["units"] for axis in "xyzt"] == ["um", "um", "um", "s"]
        if kind != "imagej":
            assert view["channel"].values[:4].tolist() == OME["Channel"]["Name"]  # type: ignore[index]
    assert run("restore", tmp_path / "a.psc.zarr", tmp_path / "out").code == 0
    assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("mode", [BOUNDED, ("--mode", "lossy", "--psnr", "30")], ids=lambda m: m[1])
def test_a_lossy_hyperstack_has_its_axes(mode: tuple[str, ...], tmp_path: Path, run) -> None:
    path, values = tmp_path / "a.tif", stack(24)
    shown = values.reshape(SHAPE)
    imwrite(path, shown, imagej=True, metadata=IMAGEJ, resolution=(4, 2))
    outcome = run("archive", path, tmp_path / "a.psc.zarr", *PLAIN, *mode)
    assert outcome.code == 0, outcome.err
    assert "original is kept" not in outcome.out
    with xr.open_dataset(tmp_path / "a.psc.zarr", engine="psc") as view:
        assert set("tzcyx") <= set(view.coords) and view["z"].values[4] == 2
    assert run("restore", tmp_path / "a.psc.zarr", tmp_path / "b.tif").code == 0
    assert imread(tmp_path / "b.tif").shape == values.shape


def test_images_of_one_file_have_axes_of_their_own(tmp_path: Path, run) -> None:
    path = tmp_path / "a.ome.tif"
    with TiffWriter(path, ome=True) as writer:
        size = {"PhysicalSizeX": 0.25, "PhysicalSizeXUnit": "mm"}
        writer.write(stack(3), photometric="minisblack", metadata={"axes": "ZYX", **size})
        writer.write(stack(2)[:, :9, :8], photometric="minisblack", metadata={"axes": "CYX"})
    assert run("archive", path, tmp_path / "a.psc.zarr", *PLAIN).code == 0
    with xr.open_dataset(tmp_path / "a.psc.zarr", engine="psc") as view:
        assert view["z_0"].dims == ("page_0",) and view["c_1"].dims == ("page_1",)
        assert view["x_0"].attrs["units"] == "mm" and "x_1" not in view.coords
        np.testing.assert_array_equal(view["image_1"].values, stack(2)[:, :9, :8])


def test_planes_behind_one_directory_have_axes(tmp_path: Path, run) -> None:
    path = tmp_path / "a.tif"
    imwrite(path, stack(6).reshape(2, 3, 20, 24), imagej=True, metadata={"axes": "ZCYX"})
    path.write_bytes(next_directory(path.read_bytes(), 0, 0))
    assert run("archive", path, tmp_path / "a.psc.zarr", *PLAIN).code == 0
    with xr.open_dataset(tmp_path / "a.psc.zarr", engine="psc") as view:
        assert view["z"].values.tolist() == [0, 0, 0, 1, 1, 1]
        assert view["c"].values.tolist() == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize("mode", [(), BOUNDED], ids=["lossless", "bounded"])
def test_a_map_has_its_coordinates_and_its_value_for_none(mode, tmp_path: Path, run) -> None:
    values = (stack(1)[0] / 7).astype(np.float32)
    values[:5, :7] = -9999
    imwrite(tmp_path / "a.tif", values, extratags=MAP, metadata=None, photometric="minisblack")
    outcome = run("archive", tmp_path / "a.tif", tmp_path / "a.psc.zarr", *PLAIN, *mode)
    assert outcome.code == 0, outcome.err
    with xr.open_dataset(tmp_path / "a.psc.zarr", engine="psc") as view:
        assert view["x"].values[:2].tolist() == [440725, 440735]
        assert view["y"].values[:2].tolist() == [3751310, 3751290]
        assert view["image"].attrs["epsg"] == 32611 and view["image"].attrs["nodata"] == -9999
        seen = view["image"].values
        np.testing.assert_array_equal(seen == -9999, values == -9999)
        assert np.abs(seen - values).max() <= (2 if mode else 0)
    if mode:
        assert "original is kept" not in outcome.out
        assert run("restore", tmp_path / "a.psc.zarr", tmp_path / "b.tif").code == 0
        restored = imread(tmp_path / "b.tif")
        np.testing.assert_array_equal(restored == -9999, values == -9999)


@pytest.mark.parametrize("words", ["-1.7976931348623157e+308", "nan", "n/a", "-9999"])
def test_a_value_for_none_that_no_number_can_be_is_none(words: str, tmp_path: Path, run) -> None:
    values = stack(1)[0].astype(np.float32 if words != "-9999" else np.uint8)
    tag = (42113, 2, len(words) + 1, words, True)
    imwrite(tmp_path / "a.tif", values, extratags=[tag], metadata=None, photometric="minisblack")
    assert run("archive", tmp_path / "a.tif", tmp_path / "a.psc.zarr", *PLAIN).code == 0
    with xr.open_dataset(tmp_path / "a.psc.zarr", engine="psc") as view:
        assert "nodata" not in view["image"].attrs
        np.testing.assert_array_equal(view["image"].values, values)


@pytest.mark.parametrize("suffix", [".ome.tf8", ".BTF", ".ome.tf2"])
def test_other_names_of_tiff_are_known(suffix: str, tmp_path: Path, run) -> None:
    path = tmp_path / f"a{suffix}"
    imwrite(path, stack(3), bigtiff=suffix != ".ome.tf2", photometric="minisblack", metadata=None)
    assert run("archive", path, tmp_path / "a.psc.zarr", *PLAIN).code == 0
    assert run("restore", tmp_path / "a.psc.zarr", tmp_path / "out").code == 0
    assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()


def test_words_that_make_no_sense_do_not_stop_a_file(tmp_path: Path, run) -> None:
    for name, words in (
        ("a", '<?xml version="1.0"?><OME xmlns="x"><Image><Pixels SizeX="a"/></Image></OME>'),
        ("b", "ImageJ=1.11a\nimages=3\nslices=-3\nspacing=nan\nunit=\\u00B5m\nfinterval=inf\n"),
        ("c", '<?xml version="1.0"?><OME xmlns="x"><Image>'),
    ):
        path = tmp_path / f"{name}.tif"
        imwrite(path, stack(3), photometric="minisblack", metadata=None, description=words.encode())
        outcome = run("archive", path, tmp_path / f"{name}.psc.zarr", *PLAIN)
        assert outcome.code == 0, outcome.err
        with xr.open_dataset(tmp_path / f"{name}.psc.zarr", engine="psc") as view:
            np.testing.assert_array_equal(view["image"].values, imread(path, key=range(3)))
