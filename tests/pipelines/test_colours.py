"""Photographs and other colours are seen in colour: pages, viewer, previews, notebooks, plots."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import nibabel
import numpy as np
import pydicom.data
import pytest
import tifffile
import xarray as xr
from PIL import Image
from pydicom.pixels import pixel_array
from view_page import Page

from pipelines.archive import ArchiveOptions, archive, plan
from pipelines.reporting.page import report_page
from pipelines.viewing.server import ViewServer
from psc_volumetric.archive import ArchiveReader
from psc_volumetric.archive.looks import colours_along
from psc_volumetric.errors import FormatError
from tests.pipelines.conftest import start_browser

pytest.importorskip("aiohttp")

Pixels = np.ndarray[Any, np.dtype[Any]]
ROWS, COLUMNS = 90, 120
FAR = 9  # grey levels by which a preview may be off
OFF = 3  # and decoders of JPEG and H.264 from one another


def scene() -> Pixels:
    """Smooth colours, and a corner that is red, green and blue beside one another."""
    y, x = np.indices((ROWS, COLUMNS))
    found = np.stack([y * 2, 255 - x * 2, (x + y) % 200], axis=-1)
    for n in range(3):
        found[:30, 30 * n : 30 * n + 30] = 255 * np.eye(3)[n]
    return found.astype(np.uint8)


def archived(folder: Path, source: str) -> str:
    target = str(folder / f"{source}.psc.zarr")
    archive(plan(folder / source, target, ArchiveOptions(coders="zstd", preview_size=80_000)))
    return target


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("photos")
    covered = np.full((ROWS, COLUMNS, 1), 77, np.uint8)
    Image.fromarray(scene()).save(folder / "plain.png")
    Image.fromarray(np.concatenate([scene(), covered], -1)).save(folder / "alpha.png")
    tifffile.imwrite(folder / "deep.tif", scene().astype(np.uint16) * 257, photometric="rgb")
    names = ("plain.png", "alpha.png", "deep.tif")
    return {name.split(".")[0]: archived(folder, name) for name in names}


@pytest.fixture(scope="module")
def photograph(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Pixels]:
    """A JPEG, whose values are read out of the file itself, and what another decoder has."""
    folder = tmp_path_factory.mktemp("jpeg")
    Image.fromarray(scene()).save(folder / "photo.jpg", quality=95, subsampling=0)
    return archived(folder, "photo.jpg"), np.asarray(Image.open(folder / "photo.jpg"))


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Pixels]:
    """A video whose three key frames are red, green and blue; what FFmpeg has of the middle one."""
    av = pytest.importorskip("av")
    folder = tmp_path_factory.mktemp("video")
    frames = np.zeros((3, 48, 64, 3), np.uint8)
    frames[:, :, 40:] = (20, 60, 200)  # to the right of what changes
    for n in range(3):
        frames[n, :, :40, n] = 230
    with av.open(str(folder / "film.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=5)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 64, 48, "yuv420p", 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    with av.open(str(folder / "film.mp4")) as container:
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return archived(folder, "film.mp4"), decoded[1]


@pytest.mark.parametrize("name", ["plain", "alpha", "deep"])
def test_the_viewer_draws_all_samples_at_once(
    photos: dict[str, str], page: Callable[[str], Page], name: str
) -> None:
    seen = page(photos[name]).settled(0)
    np.testing.assert_array_equal(seen.canvas("map"), scene())
    preset = "return document.getElementById('controls').elements.preset.selectedOptions[0].text"
    wanted = "colours, without alpha" if name == "alpha" else "colours"
    assert seen.run(preset) == wanted
    assert not seen.run("return document.getElementById('scale').checkVisibility()")
    assert not seen.run("return document.querySelector('[name=axis-0]').checkVisibility()")
    seen.run("document.querySelector('canvas[data-plane]').focus()")
    times = 257 if name == "deep" else 1
    y, x = ROWS // 2, COLUMNS // 2
    red, green, blue = (int(v) * times for v in scene()[y, x])
    assert f"red {red}, green {green}, blue {blue} (exact)" in seen.text("value")
    seen.set("preset", "own")
    seen.set("axis-0", 2)
    seen.set("low", 0)
    seen.set("high", 255 * times)
    seen.settled(0)
    grey = np.repeat(scene()[..., 2:], 3, -1)
    seen.until(lambda: np.array_equal(seen.canvas("map"), grey))
    seen.set("preset", "colours")
    seen.until(lambda: np.array_equal(seen.canvas("map"), scene()))
    seen.quiet()


@pytest.mark.parametrize("which", ["photograph", "film"])
def test_colours_of_jpegs_and_videos_are_seen(
    which: str, request: pytest.FixtureRequest, page: Callable[[str], Page]
) -> None:
    """In the viewer and in a report, within what decoders differ by."""
    target, wanted = request.getfixturevalue(which)
    seen = page(target).settled(0)
    drawn = seen.canvas("map")
    off = np.abs(drawn.astype(int) - wanted)
    assert off.mean() < 1 and (off > OFF).mean() < 0.005  # edges differ in libjpeg
    (picture,) = re.findall(r"data:image/png;base64,([^\"]+)", report_page(target))
    np.testing.assert_array_equal(imagecodecs.png_decode(base64.b64decode(picture)), drawn)
    if which == "photograph":
        assert np.abs(wanted.astype(int) - scene()).mean() < 3
    else:  # the middle frame: green, and something bluish beside it
        assert (drawn[:, :36, 1] > 180).all() and (drawn[:, :36, ::2] < 60).all()
        assert (drawn[:, 44:, 2] > 150).all() and (drawn[:, 44:, 0] < 70).all()
    seen.quiet()


def test_the_first_picture_is_in_colour_too(
    photos: dict[str, str], page: Callable[[str], Page]
) -> None:
    """What the preview alone shows, since no level can be had."""
    with pytest.MonkeyPatch.context() as patch:

        def refuse(*_: object) -> None:
            raise FormatError("no level", kind="bad-payload")

        patch.setattr("pipelines.viewing.server.read_shown", refuse)
        seen = page(photos["plain"])
        level = "return document.querySelector('canvas[data-plane]')?.dataset.level"
        seen.until(
            lambda: seen.run(level) == "preview" and "cannot be shown" in seen.text("status")
        )
        drawn = seen.canvas("map").astype(int)
    assert drawn.shape[:2] == (ROWS, COLUMNS)
    assert np.abs(drawn - scene()).max() <= FAR


@pytest.mark.parametrize("name", ["plain", "alpha"])
def test_pages_and_notebooks_show_it(photos: dict[str, str], name: str) -> None:
    text = report_page(photos[name])
    (picture,) = re.findall(r"data:image/png;base64,([^\"]+)", text)
    np.testing.assert_array_equal(imagecodecs.png_decode(base64.b64decode(picture)), scene())
    assert ("alpha) is not shown" in text) == (name == "alpha")
    assert "each colour is a label" not in text
    with ArchiveReader.open(photos[name]) as reader:
        shown = reader._repr_html_()
    (picture,) = re.findall(r"data:image/png;base64,([^\"]+)", shown)
    small = imagecodecs.png_decode(base64.b64decode(picture)).astype(int)
    assert np.abs(small - scene()).max() <= FAR
    with xr.open_dataset(photos[name], engine="psc") as dataset:
        figure = dataset.psc.plot()
        (axes,) = figure.axes
        np.testing.assert_allclose(axes.images[0].get_array(), scene() / 255, atol=1 / 255)
        figure = dataset.psc.plot(at={"sample": 1})
        assert figure.axes[0].images[0].get_array().ndim == 2


def test_a_volume_of_colours_has_three_planes(tmp_path: Path, page: Callable[[str], Page]) -> None:
    rng = np.random.default_rng(5)
    rgb = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
    samples = rng.integers(0, 256, (16, 20, 12, 3)).astype(np.uint8)
    volume = samples.view(rgb)[..., 0]
    nibabel.save(nibabel.Nifti1Image(volume, np.diag([-1, 1, 1, 1.0])), tmp_path / "c.nii")
    seen = page(archived(tmp_path, "c.nii")).settled(0)
    axial = samples[:, :, 6].transpose(1, 0, 2)[::-1]
    np.testing.assert_array_equal(seen.canvas("axial"), axial)
    seen.quiet()


@pytest.mark.parametrize("name", ["SC_rgb_small_odd.dcm", "SC_ybr_full_422_uncompressed.dcm"])
def test_dicom_is_mixed_as_pydicom_does(tmp_path: Path, name: str) -> None:
    source = Path(str(pydicom.data.get_testdata_file(name)))
    target = str(tmp_path / "a.psc.zarr")
    archive(plan(source, target, ArchiveOptions(coders="zstd")))
    (picture,) = re.findall(r"data:image/png;base64,([^\"]+)", report_page(target))
    drawn = imagecodecs.png_decode(base64.b64decode(picture)).astype(int)
    assert np.abs(drawn - pixel_array(source)).max() <= 1  # which makes RGB of YBR


def test_what_is_luma_is_mixed_and_what_is_no_colour_is_not() -> None:
    byte, shape = np.dtype("u1"), (3, 4, 5)
    luma = colours_along(
        ("sample", "y", "x"), shape, byte, {"photometric_interpretation": "YBR_FULL"}
    )
    assert luma is not None and luma.luma
    mixed = luma.mixed(np.array([[[76]], [[85]], [[255]]], np.uint8))
    np.testing.assert_allclose(mixed[0, 0] * 255, [254, 0, 0], atol=2)  # as JPEG says red
    dims = ("sample", "y", "x")
    for named, size, stated in (
        (dims, (4, 4, 5), "SEPARATED"),
        (dims, (4, 4, 5), "CMYK"),
        (dims, (3, 4, 5), "HSV"),
        (dims, (3, 4, 5), "MINISBLACK"),
        (dims, (2, 4, 5), ""),
        (dims, (5, 4, 5), ""),
        (("time", "y", "x"), (3, 4, 5), ""),
    ):
        attrs = {"photometric_interpretation": stated}
        assert colours_along(named, size, byte, attrs) is None
    twelve = colours_along(dims, shape, np.dtype("u2"), {"bits_stored": 12})
    assert twelve is not None and twelve.top == 4095


def test_channels_of_a_tiff_that_are_no_colours_stay_grey(tmp_path: Path) -> None:
    channels = np.moveaxis(scene(), -1, 0)
    options = {"photometric": "minisblack", "planarconfig": "separate"}
    tifffile.imwrite(tmp_path / "cells.tif", channels, **options)
    text = report_page(archived(tmp_path, "cells.tif"))
    assert "in colour" not in text and "sample = 1" in text


@pytest.mark.slow
def test_labels_inside_others_are_seen_in_three_dimensions(tmp_path: Path) -> None:
    """A blue label in a brown one in a green one: all of them colour some of the pixels."""
    labels = np.zeros((48, 48, 32), np.uint8)
    labels[6:42, 6:42, 4:28], labels[14:34, 14:34, 10:22], labels[20:28, 20:28, 13:19] = 2, 5, 9
    nibabel.save(nibabel.Nifti1Image(labels, np.diag([-2, 2, 2, 1.0])), tmp_path / "l.nii")
    words = ("use-gl=angle", "use-angle=swiftshader", "enable-unsafe-swiftshader")
    driver = start_browser(*words)
    try:
        with ViewServer(archived(tmp_path, "l.nii")) as server:
            seen = Page(driver, server.url).settled(0)
            shown = "return document.getElementById('space-canvas').dataset.shown"
            seen.until(lambda: bool(seen.run(shown)))
            time.sleep(1)
            picture = driver.find_element("id", "space-canvas").screenshot_as_png
            red, green, blue = np.moveaxis(
                imagecodecs.png_decode(picture)[..., :3].astype(int), -1, 0
            )
            assert ((blue > 0.9 * green) & (blue > 60) & (red < green)).sum() > 30
            assert ((red > 0.9 * green) & (red > 60) & (blue < 0.8 * red)).sum() > 30
            assert ((green > 1.2 * red) & (green > 1.2 * blue) & (green > 40)).sum() > 30
    finally:
        driver.quit()
