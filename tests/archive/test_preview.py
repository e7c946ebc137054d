"""The plain picture beside the bricks: what it shows, what it takes, and who opens it."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import zarr
from ome_zarr_models.v05 import BioFormats2Raw, Image

from psc_volumetric.archive import ArchiveReader, ArchiveWriter
from psc_volumetric.archive.preview import preview_room

Values = np.ndarray[Any, np.dtype[Any]]


def sealed(
    make: SimpleNamespace, path: Path, values: Values, limit: int | None, **more: Any
) -> Any:
    """The previews of an archive: wide slices and volume, as Zarr arrays, or None."""
    writer = make.begin(path, values, **more)
    make.write_bricks(writer, {"volume": values})
    writer.write_source("nifti", {"shape": [1, 2]}, {}, make.files)
    writer.seal(preview_bytes=limit)
    found = []
    for group in ("preview/volume/middle", "preview/volume"):
        there = (path / group / "zarr.json").is_file()
        found.append(zarr.open_group(path / group, mode="r") if there else None)
    return found


def stored_of(array: Any) -> Values:
    stored: Values = array[...] * array.attrs["scale_factor"] + array.attrs["add_offset"]
    return stored


def test_preview_is_ome_zarr_of_block_means(kept: Path, values: np.ndarray) -> None:
    group = zarr.open_group(kept / "preview" / "volume", mode="r")
    (scales,) = group.attrs["ome"]["multiscales"]
    assert group.attrs["ome"]["version"] == "0.5"
    assert [axis["name"] for axis in scales["axes"]] == ["z", "y", "x"]
    assert {axis["unit"] for axis in scales["axes"]} == {"millimeter"}
    first = group[scales["datasets"][0]["path"]]
    assert first.metadata.dimension_names == ("z", "y", "x")
    assert first.shape == (11, 10, 18)
    means = values[:, :, :68].reshape(11, 10, 4, 17, 4).mean(axis=(2, 4))
    step, low = first.attrs["scale_factor"], first.attrs["add_offset"]
    np.testing.assert_allclose(first[...][:, :, :17] * step + low, np.rint(means), atol=step / 2)
    assert first.dtype == np.uint8 and step < (values.max() - values.min()) / 200
    scale, shift = scales["datasets"][0]["coordinateTransformations"]
    assert scale == {"type": "scale", "scale": [4.0, 6.0, 8.0]}
    assert shift == {"type": "translation", "translation": [0.0, 2.25, 3.0]}


def test_preview_leaves_special_values_out(tmp_path: Path, make: SimpleNamespace) -> None:
    values = np.full((4, 32, 32), 10, np.int16)
    values[:, :, :2] = -1000
    values[:, 16:, 16:] = -1000
    make.build(tmp_path / "a.psc.zarr", values, special_values=(-1000,))
    shown = zarr.open_array(tmp_path / "a.psc.zarr" / "preview" / "volume" / "0", mode="r")
    assert shown.attrs["_FillValue"] == 255
    preview = shown[...]
    assert (preview[:, :4] * shown.attrs["scale_factor"] + shown.attrs["add_offset"] == 10).all()
    assert (preview[:, 4:, 4:] == 255).all()


def test_wide_slices_are_an_image_of_their_own(tmp_path: Path, make: SimpleNamespace) -> None:
    values = make.values((20, 560, 600))
    spacing = {"spacing_mm": (3.0, 2.0, 1.0), "brick_shape": (8, 288, 304)}
    group, _ = sealed(make, tmp_path / "a.psc.zarr", values, 1 << 20, **spacing)
    shown = group["0"]
    slices = [2, 4, 6, 8, 10, 12, 14, 16, 18]
    assert group.attrs["psc_archive"]["slices"] == slices
    assert shown.shape == (9, 280, 300)
    means = values[slices].reshape(9, 280, 2, 300, 2).mean(axis=(2, 4))
    step = shown.attrs["scale_factor"]
    np.testing.assert_allclose(stored_of(shown), np.rint(means), atol=step / 2)
    (image,) = group.attrs["ome"]["multiscales"]
    scale, shift = image["datasets"][0]["coordinateTransformations"]
    assert scale["scale"] == [6.0, 4.0, 2.0]
    assert shift["translation"] == [6.0, 1.0, 0.5]  # the middle of slice 2, and of its blocks


def test_a_wide_slice_goes_before_many_slices_and_grey_levels(
    tmp_path: Path, make: SimpleNamespace
) -> None:
    """With less room there are fewer slices, then fewer grey levels, and only then fewer pixels."""
    rng = np.random.default_rng(3)
    values = rng.integers(0, 4000, (18, 256, 256)).astype(np.int16)
    seen = []
    for limit in (1_500_000, 500_000, 130_000, 76_000, 40_000, 6_000):
        path = tmp_path / f"{limit}.psc.zarr"
        wide, _ = sealed(make, path, values, limit, brick_shape=(20, 256, 256))
        with ArchiveReader.open(path) as reader:
            assert reader.info()["bytes"]["preview"] <= limit
        if wide is None:
            seen.append((0, 0, 0))
            continue
        levels = np.unique(wide["0"][...])
        grey = 1 << (len(levels) - 1).bit_length()  # noise may leave one out
        seen.append((wide["0"].shape[0], wide["0"].shape[-1], grey))
        assert levels.max() >= 248  # whoever looks at the numbers alone sees white
        if wide["0"].shape[-1] == 256:
            error = np.abs(stored_of(wide["0"]) - values[wide.attrs["psc_archive"]["slices"]])
            assert error.max() <= 4000 / (len(levels) - 1) / 2 + 1
    assert seen == [
        (9, 256, 256), (3, 256, 256), (1, 256, 256), (1, 256, 64), (1, 128, 256), (0, 0, 0)
    ]  # fmt: skip


@pytest.mark.parametrize("reason", ["few values: a label map", ""])
def test_labels_are_never_averaged(tmp_path: Path, make: SimpleNamespace, reason: str) -> None:
    """Whether the archive says that they are labels, or there are but a few whole numbers."""
    values = np.zeros((8, 64, 64), np.uint8)
    values[:, 10:50, 3:37], values[:, 21:33, 17:29] = 3, 200
    more = {"parameters": {"reason": reason} if reason else {}}
    wide, volume = sealed(make, tmp_path / "a.psc.zarr", values, 1 << 20, **more)
    for group in (wide, volume):
        assert set(np.unique(stored_of(group["0"]))) == {0, 3, 200}


@pytest.mark.parametrize("shape", [(3, 96, 64), (4, 96, 64), (3, 5, 96, 64)])
def test_colours_are_channels(
    tmp_path: Path, make: SimpleNamespace, shape: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(4)
    values = rng.integers(0, 256, shape).astype(np.uint8)
    dims = ("sample", "frame", "y", "x") if len(shape) == 4 else ("sample", "y", "x")
    plain = {"dims": dims, "affine": None, "spacing_mm": None, "unit": None}
    wide, volume = sealed(make, tmp_path / "a.psc.zarr", values, 1 << 20, **plain)
    (image,) = wide.attrs["ome"]["multiscales"]
    assert image["axes"][0] == {"name": "c", "type": "channel"}
    colours = [channel["color"] for channel in wide.attrs["ome"]["omero"]["channels"]]
    assert colours == ["FF0000", "00FF00", "0000FF"]
    samples = values[:3] if len(shape) == 3 else values[:, [1, 2, 3]]
    assert wide["0"].shape == samples.shape
    np.testing.assert_allclose(stored_of(wide["0"]), samples, atol=0.51)
    assert volume["0"].shape[0] == shape[0]
    for group in (wide, volume):
        Image.from_zarr(group)
        channels = group.attrs["ome"]["omero"]["channels"]
        assert len(channels) == group["0"].shape[0]  # napari takes no other number
        seen = [channel["label"] for channel in channels if channel["active"]]
        assert seen == ["red", "green", "blue"]  # and not how much is covered


def test_the_room_leaves_archives_within_three_hundredths_of_their_bricks() -> None:
    for nbytes in (16_000, 200_000, 1_040_000, 3_000_000, 30_000_000):
        for beside in (2_300, 20_000, 200_000):
            room = preview_room(nbytes, beside)
            assert room >= 0.015 * nbytes
            assert room == 0.015 * nbytes or room + beside <= 0.0275 * nbytes
    assert preview_room(16_000) == 0.015 * 16_000  # small lossy archives do not grow
    assert preview_room(1_040_000) > 20_000  # a slice of 256 x 256 in 32 grey levels and more
    assert preview_room(30_000_000) == 0.015 * 30_000_000  # nor do large ones


def test_root_and_previews_are_images_of_ome_zarr(tmp_path: Path, make: SimpleNamespace) -> None:
    """By the models of the specification: root and `preview/` are images, and that lists all."""
    path = tmp_path / "a.psc.zarr"
    make.build(path, make.values((9, 300, 320)))
    listed = zarr.open_group(path / "preview", mode="r")
    BioFormats2Raw.from_zarr(listed)
    assert listed.attrs["ome"]["bioformats2raw.layout"] == 3
    series = listed["OME"].attrs["ome"]["series"]
    assert series == ["volume/middle", "volume"]
    document = ElementTree.parse(path / "preview" / "OME" / "METADATA.ome.xml").getroot()
    named = [image.attrib["ID"].removeprefix("Image:") for image in document]
    assert named == series and document.tag.endswith("}OME")  # as napari-ome-zarr reads them
    sizes = [dict(image[0].attrib) for image in document]
    for name, size in zip(series, sizes, strict=True):
        shape = listed[f"{name}/0"].shape
        assert tuple(int(size[f"Size{axis}"]) for axis in "ZYX") == shape[-3:]
    root = zarr.open_group(path, mode="r", use_consolidated=False)  # the copies leave previews out
    for group in (root, listed, *(listed[name] for name in series)):
        image = Image.from_zarr(group)
        (scales,) = image.ome_attributes.multiscales
        assert group[scales.datasets[0].path][...].max() > 0
    with ArchiveReader.open(path) as reader:
        assert "ome" not in reader.attrs  # which are the source's
    text = (path / "zarr.json").read_text()
    (path / "zarr.json").write_text(text.replace('"psc_archive.psc"', '"nobody.knows"'))
    with pytest.raises(ValueError, match=r"nobody\.knows"):  # decision 0058, until Zarr waits
        zarr.open_group(path, mode="r")


def test_a_preview_is_small_beside_its_bricks(tmp_path: Path, make: SimpleNamespace) -> None:
    """Blocks grow until what is written is small; nothing is where nothing small is to be had."""
    values = make.values((32, 128, 128))
    make.write_bricks(make.begin(tmp_path / "begun.psc.zarr", values), {"volume": values})
    shapes = {}
    for limit in (None, 0, 6_500, 1 << 20):
        target = shutil.copytree(tmp_path / "begun.psc.zarr", tmp_path / f"{limit}.psc.zarr")
        ArchiveWriter.open_partial(target).seal(preview_bytes=limit)
        level = tmp_path / f"{limit}.psc.zarr" / "preview" / "volume" / "0"
        with ArchiveReader.open(tmp_path / f"{limit}.psc.zarr") as reader:
            sizes = reader.info()["bytes"]
        most = preview_room(sizes["bricks"]) if limit is None else limit
        assert sizes["preview"] <= most
        shapes[limit] = zarr.open_array(level, mode="r").shape if sizes["preview"] else None
    assert shapes[0] is None and shapes[1 << 20] == (32, 32, 32)
    assert shapes[6_500] == (8, 32, 32)  # fewer slices, and as wide
