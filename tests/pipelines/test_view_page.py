"""The page of ``psc-archive view`` in a real browser: what is on the canvas, and what is said."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import xarray as xr
from PIL import Image
from view_page import Page

from pipelines.archive import ArchiveOptions, archive, plan
from pipelines.reporting.measures import physical
from pipelines.reporting.pictures import _categories, _palette
from pipelines.reporting.planes import planes_of
from pipelines.viewing.regions import read_shown
from pipelines.viewing.server import ViewServer
from psc_volumetric.archive import ArchiveReader
from psc_volumetric.methods.registry import REGISTRY
from tests.pipelines.conftest import CONTRAST, REPOSITORY, start_browser

sys.path.insert(0, str(REPOSITORY / "tests" / "archive"))
from web_server import serving

pytest.importorskip("aiohttp")

Pixels = np.ndarray[Any, np.dtype[Any]]


def drawn(values: Pixels, low: float, high: float, palette: str = "grey") -> Pixels:
    """What a canvas shows of physical values."""
    share = np.clip((values - low) / (high - low), 0, 1)
    at = np.floor(np.nan_to_num(share) * 255 + 0.5).astype(np.int64)
    pixels = _palette(palette)[at]
    pixels[np.isnan(values)] = 120
    return pixels


def slice_of(target: str, number: int, level: int, **at: int) -> Pixels:
    """Physical values of a plane of the main variable, as they lie on the screen."""
    with ArchiveReader.open(target) as reader:
        (name,) = reader.variables
        spec = reader.spec(name)
        plane = planes_of(reader, spec)[number]
        box = tuple(
            slice(at[dim], at[dim] + 1) if dim in at else part
            for dim, part in zip(spec.dims, plane.selection, strict=True)
        )
        return plane.picture(physical(reader.read(name, box, level=level), spec))


def made(folder: Path, name: str, values: Pixels, options: ArchiveOptions) -> str:
    affine = np.array([[-2.0, 0, 0, 40], [0, 2, 0, -20], [0, 0, 4, -10], [0, 0, 0, 1]])
    nibabel.save(nibabel.Nifti1Image(values, affine), folder / f"{name}.nii")
    target = str(folder / f"{name}.psc.zarr")
    archive(plan(folder / f"{name}.nii", target, options))
    return target


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> str:
    values = np.random.default_rng(2).integers(0, 60, (40, 48, 10)).astype(np.int16)
    values[:8, :10, -4:] = 900
    folder = tmp_path_factory.mktemp("head")
    options = ArchiveOptions(coders="fast", max_error=4, preview_size=20_000)
    return made(folder, "head", values, options)


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A map that is warm in the north, with a hole, and a name that would be a script."""
    folder = tmp_path_factory.mktemp("field")
    latitude, longitude = np.linspace(-60, 60, 25), np.arange(0, 360, 10.0)
    values = 280 + latitude[None, :, None] / 4 + np.zeros((6, 25, 36))
    values += np.random.default_rng(3).normal(0, 0.5, values.shape)
    values[:, 3, 4] = np.nan
    dates = xr.date_range("2001-01-01", periods=6, freq="D", use_cftime=False)
    xr.DataArray(
        values.astype(np.float32),
        dims=("time", "lat", "lon"),
        coords={
            "time": dates,
            "lat": latitude,
            "lon": ("lon", longitude, {"units": "degrees_east"}),
        },
        attrs={"units": "<b>K</b>", "long_name": "<script>document.title='taken'</script>"},
    ).to_dataset(name="warm").to_netcdf(folder / "field.nc")
    target = str(folder / "field.psc.zarr")
    archive(
        plan(
            folder / "field.nc",
            target,
            ArchiveOptions(mode="lossy", base="wavelet", speed=2, psnr=40),
        )
    )
    return target


def test_pixels_are_the_decoded_values_at_every_level_slice_and_window(
    head: str, page: Callable[[str], Page]
) -> None:
    seen = page(head).settled(1)
    seen.set("low", 0)
    seen.set("high", 100)
    for number, plane in enumerate(("axial", "coronal", "sagittal")):
        wanted = drawn(slice_of(head, number, 1), 0, 100)
        np.testing.assert_array_equal(seen.canvas(plane), wanted)
    seen.set("level", 0)
    seen.settled(0)
    coarse = slice_of(head, 0, 0)
    assert (coarse != slice_of(head, 0, 1)).any()
    np.testing.assert_array_equal(seen.canvas("axial"), drawn(coarse, 0, 100))
    seen.set("axis-0", 8)
    seen.settled(0)
    np.testing.assert_array_equal(seen.canvas("axial"), drawn(slice_of(head, 0, 0, z=8), 0, 100))
    seen.set("low", -20)
    seen.set("high", 950)
    np.testing.assert_array_equal(seen.canvas("axial"), drawn(slice_of(head, 0, 0, z=8), -20, 950))
    assert "no WebGL 2" in seen.text("space-text")
    seen.quiet()


def test_overlays_show_sigma_and_the_difference_to_the_best_level(
    head: str, page: Callable[[str], Page]
) -> None:
    seen = page(head).settled(1)
    seen.set("low", 0)
    seen.set("high", 100)
    seen.set("level", 0)
    seen.settled(0)
    plain = seen.canvas("axial")
    seen.set("strength", 1)
    seen.set("overlay", "difference")
    seen.until(lambda: not seen.run("return document.getElementById('overlay-scale').hidden"))
    seen.settled(0)
    difference = slice_of(head, 0, 0) - slice_of(head, 0, 1)
    shown = seen.canvas("axial")
    np.testing.assert_array_equal((shown != plain).any(-1) & (difference == 0), False)
    assert (shown != plain).any()
    top = float(seen.text("overlay-high").split()[0])
    assert 0 < top <= 4
    largest = np.abs(difference) >= top
    np.testing.assert_array_equal(
        shown[largest], np.broadcast_to([252, 250, 190], (largest.sum(), 3))
    )
    seen.set("overlay", "sigma")
    seen.until(lambda: "stored units" in seen.text("overlay-high"))
    seen.set("overlay", "")
    seen.settled(0)
    np.testing.assert_array_equal(seen.canvas("axial"), plain)
    seen.quiet()


def test_values_under_the_cursor_have_place_unit_and_sigma(
    head: str, page: Callable[[str], Page]
) -> None:
    from selenium.webdriver.common.keys import Keys

    seen = page(head).settled(1)
    canvas = seen.browser.find_element("css selector", 'canvas[data-plane="axial"]')
    seen.run("arguments[0].focus()", canvas)
    canvas.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_DOWN, Keys.PAGE_UP)
    seen.settled(1)
    canvas.send_keys("+")
    seen.settled(1)
    assert seen.text("zoom-text") == "2 ×"
    # to the left of the patient and to the back, and one slice down the array
    with ArchiveReader.open(head) as reader:
        spec = reader.spec("image")
        at = (4, 23, 21)
        value = reader.read("image", tuple(slice(n, n + 1) for n in at)).item()
        x, y, z = (np.asarray(spec.affine) @ [*at, 1])[:3]
    text = seen.text("value")
    assert f"z {at[0]}, y {at[1]}, x {at[2]}" in text
    assert f"x {x:.1f}, y {y:.1f}, z {z:.1f} mm" in text
    assert f" {value} stored units (exact)" in text
    seen.set("level", 0)
    seen.settled(0)
    canvas.send_keys(Keys.ARROW_LEFT)
    seen.settled(0)
    assert "(one sigma)" in seen.text("value")
    assert seen.canvas("axial").shape == (24, 20, 3)  # what is in sight
    seen.quiet()


def test_maps_have_axes_dates_north_above_and_nothing_that_runs(
    field: str, page: Callable[[str], Page]
) -> None:
    seen = page(field).settled(0)
    seen.set("low", 260)
    seen.set("high", 300)
    wanted = drawn(slice_of(field, 0, 0), 260, 300, "field")
    np.testing.assert_array_equal(seen.canvas("map"), wanted)
    assert tuple(wanted[25 - 1 - 3, 4]) == (120, 120, 120)
    assert wanted[0, :, 0].mean() > wanted[-1, :, 0].mean()
    ticks = seen.run(
        "return ['down', 'across'].map(way => [...document.querySelectorAll(`.ticks.${way} span`)]"
        ".map(s => [s.textContent, s.style.top || s.style.left]))"
    )
    down, across = ({text: float(at.rstrip("%")) / 100 for text, at in way} for way in ticks)
    assert set(down) == {"50", "0", "-50"}
    assert set(across) == {"0°", "90°", "180°", "270°"}  # round, whatever the last place is
    assert across["90°"] == pytest.approx(9.5 / 36, abs=1e-4)  # of 36 places, ten degrees apart
    assert down["0"] == pytest.approx(0.5, abs=1e-4)
    assert down["50"] == pytest.approx((2 + 0.5) / 25, abs=1e-4)  # north is above
    assert seen.run("return document.querySelector('.names').textContent") == "↑ lat, → lon"
    seen.set("axis-0", 1)
    seen.settled(0)
    np.testing.assert_array_equal(
        seen.canvas("map"), drawn(slice_of(field, 0, 0, time=1), 260, 300, "field")
    )
    assert "2001-01-02" in seen.text("sliders")
    assert "<b>K</b>" in seen.text("scale-high")
    assert seen.browser.title == "field.psc.zarr"
    seen.quiet()


def test_the_page_is_readable_and_fits_a_phone(
    head: str, field: str, page: Callable[[str], Page]
) -> None:
    for target, level in ((head, 1), (field, 0)):
        seen = page(target).settled(level)
        least, where = seen.run(CONTRAST)
        assert least >= 4.5, where
        for width in (500, 1200):
            seen.browser.set_window_size(width, 900)
            sizes = "return [document.scrollingElement.scrollWidth, window.innerWidth]"
            found, given = seen.run(sizes)
            assert found <= given, "the page is wider than the window"
        nameless = seen.run(
            "return [...document.querySelectorAll('input, select, button, canvas')].filter("
            "e => !e.labels?.length && !e.textContent.trim() && !e.ariaLabel).map(e => e.name)"
        )
        assert nameless == []


def test_damage_is_marked_and_the_rest_is_shown(
    head: str, tmp_path: Path, page: Callable[[str], Page]
) -> None:
    target = tmp_path / "bad.psc.zarr"
    shutil.copytree(head, target)
    brick = target / "image" / "c" / "0" / "0" / "0"
    data = bytearray(brick.read_bytes())
    data[-20] ^= 1  # in the lossless layer
    brick.write_bytes(bytes(data))
    for preview in target.glob("preview/image/*/c/0/0/0"):
        preview.write_bytes(b"")
    seen = page(str(target)).settled(1)
    states = seen.run("return [...document.querySelectorAll('.state.bad')].map(p => p.textContent)")
    assert any("cannot be read" in state for state in states)
    seen.set("level", 0)
    seen.settled(0)
    seen.set("low", 0)
    seen.set("high", 100)
    np.testing.assert_array_equal(seen.canvas("axial"), drawn(slice_of(head, 0, 0), 0, 100))
    assert "preview" in seen.text("trouble")


def test_a_method_that_is_not_known_is_told_and_not_shown(
    field: str, page: Callable[[str], Page]
) -> None:
    known = {name: one for name, one in REGISTRY.entries.items() if name != "wavelet"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(REGISTRY.__dict__, "entries", known)
        seen = page(field)
        seen.until(lambda: "cannot be shown" in seen.text("status"))
    text = seen.run("return document.querySelector('.state.bad').textContent")
    assert "unknown method" in text


def test_labels_one_slice_and_four_axes(tmp_path: Path, page: Callable[[str], Page]) -> None:
    labels = np.zeros((12, 14, 6), np.uint8)
    labels[3:9, 4:10, 1:5], labels[5:7, 5:8, 2:4] = 3, 7
    target = made(tmp_path, "labels", labels, ArchiveOptions(coders="fast"))
    seen = page(target).settled(0)
    stored = slice_of(target, 0, 0).astype(np.int64)
    colours = _categories()[stored % 12]
    colours[stored == 0] = 0
    np.testing.assert_array_equal(seen.canvas("axial"), colours)
    assert seen.run("return document.getElementById('controls').elements.preset.value") == "labels"
    assert not seen.run("return document.getElementById('scale').checkVisibility()")
    assert not seen.run("return document.getElementById('space-canvas').checkVisibility()")
    rng = np.random.default_rng(1)
    thin = rng.integers(0, 200, (20, 30, 1), np.int16)
    one = made(tmp_path, "one", thin, ArchiveOptions(coders="fast"))
    seen = page(one).settled(0)
    seen.set("low", 0)
    seen.set("high", 200)
    np.testing.assert_array_equal(seen.canvas("axial"), drawn(slice_of(one, 0, 0), 0, 200))
    values = rng.integers(0, 200, (20, 18, 4, 5), np.int16)
    four = made(tmp_path, "four", values, ArchiveOptions(coders="fast"))
    seen = page(four).settled(0)
    seen.set("axis-0", 4)
    seen.settled(0)
    seen.set("low", 0)
    seen.set("high", 200)
    np.testing.assert_array_equal(seen.canvas("axial"), drawn(slice_of(four, 0, 0, t=4), 0, 200))
    seen.quiet()


def test_a_folder_is_a_list_with_filters(
    head: str, field: str, tmp_path: Path, page: Callable[[str], Page]
) -> None:
    for target in (head, field):
        shutil.copytree(target, tmp_path / Path(target).name)
    seen = page(str(tmp_path))
    names = "return [...document.querySelectorAll('#rows a')].map(a => a.textContent)"
    seen.until(lambda: len(seen.run(names)) == 2)
    choose = """
    const part = document.getElementById('filters').elements[arguments[0]];
    part.value = arguments[1]; part.dispatchEvent(new Event('input', { bubbles: true }));
    """
    for name, value, found in (
        ("mode", "lossy", ["field.psc.zarr"]),
        ("mode", "", ["field.psc.zarr", "head.psc.zarr"]),
        ("from", "2199-01-01", []),
        ("from", "2001-01-01", ["field.psc.zarr", "head.psc.zarr"]),
        ("most", "0.000001", []),
    ):
        seen.run(choose, name, value)
        seen.until(lambda found=found: seen.run(names) == found)  # type: ignore[misc]
    seen.run(choose, "most", "")
    seen.until(lambda: len(seen.run(names)) == 2)
    seen.run("document.querySelectorAll('#rows a')[1].click()")
    seen.settled(1)
    assert seen.browser.title == "head.psc.zarr"
    seen.quiet()


def test_the_first_picture_comes_at_once(head: str, page: Callable[[str], Page]) -> None:
    mark = "return performance.getEntriesByName('first-picture')[0].startTime / 1000"
    with serving(Path(head).parent) as web:
        for target, limit in ((head, 1.0), (f"{web.url}/{Path(head).name}", 2.0)):
            times = []
            for _ in range(3):  # the machine may be busy with other tests
                times.append(page(target).settled(1).run(mark))
                if times[-1] < limit:
                    break
            assert min(times) < limit


@pytest.mark.slow
def test_niivue_shows_the_volume_in_three_dimensions(head: str) -> None:
    words = ("use-gl=angle", "use-angle=swiftshader", "enable-unsafe-swiftshader")
    driver = start_browser(*words)
    try:
        with ViewServer(head) as server:
            seen = Page(driver, server.url).settled(1)
            shown = "return document.getElementById('space-canvas').dataset.shown"
            seen.until(lambda: seen.run(shown) == "preview")
            seen.run("document.querySelector('[name=sharpen]').click()")
            seen.until(lambda: seen.run(shown) == "1")
            seen.run(
                "const l = document.querySelector('[name=layout]'); l.value = 'planes';"
                "l.dispatchEvent(new Event('change'))"
            )
            time.sleep(1)
            picture = seen.browser.find_element("id", "space-canvas").screenshot_as_png
            import imagecodecs

            pixels = imagecodecs.png_decode(picture)[..., :3]
            assert (pixels.max(-1) > 100).mean() > 0.005
            seen.quiet()
    finally:
        driver.quit()


def test_the_page_says_that_a_decoder_is_compiled(
    head: str, page: Callable[[str], Page], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which nothing else can be told from, and which comes but once."""
    may_go, read = threading.Event(), read_shown

    def slow(*words: Any, **named: Any) -> Any:
        assert may_go.wait(60)
        return read(*words, **named)

    monkeypatch.setattr("pipelines.viewing.server.read_shown", slow)
    monkeypatch.setattr("pipelines.viewing.server.BEING_MADE", making := ["loop"])
    seen = page(head)
    seen.until(lambda: "compiling the decoder for this machine" in seen.text("status"))
    assert seen.text("status").startswith("loading level 0")
    making.clear()
    seen.until(lambda: "compiling" not in seen.text("status"))
    may_go.set()
    seen.settled(1).quiet()


def test_a_slice_that_is_too_large_keeps_its_preview_until_a_part_is_looked_at(
    head: str, page: Callable[[str], Page], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.viewing.regions.MOST_VOXELS", 1000)  # of 40 x 48
    seen = page(head)
    seen.until(lambda: "shown in part" in seen.text("status"))
    said = "[...document.querySelectorAll('.pane .state')].map(e => e.textContent)"
    texts = seen.run(f"return {said}")
    assert (
        "40 × 48 is too large to be decoded at once, this is the preview; zoom in to see a part "
        "decoded" in texts
    )
    assert "level 1 of 1 (lossless)" in texts  # the other planes are small enough
    assert seen.canvas("axial").max() > 0
    seen.run("document.querySelector('#controls [name=in]').click()")
    seen.settled(1)
    assert not seen.run("return document.getElementById('trouble').checkVisibility()")


def test_a_line_of_pixels_is_drawn_so_that_it_can_be_seen(
    tmp_path: Path, page: Callable[[str], Page]
) -> None:
    Image.fromarray(np.arange(3000, dtype=np.uint8).reshape(1000, 3)).save(tmp_path / "l.png")
    target = str(tmp_path / "l.psc.zarr")
    archive(plan(tmp_path / "l.png", target, ArchiveOptions(coders="fast")))
    seen = page(target).settled(0)
    wide, high = seen.run(
        "const { width, height } = document.querySelector('canvas[data-plane]')"
        ".getBoundingClientRect(); return [width, height]"
    )
    assert wide > 20 and high < 900
    assert "not to scale" in seen.run("return document.querySelector('.names').textContent")


def test_an_archive_without_values_says_so_and_no_more(
    tmp_path: Path, page: Callable[[str], Page]
) -> None:
    Image.fromarray(np.zeros((9, 9, 4), np.uint8), "CMYK").save(tmp_path / "inks.jpg")
    target = str(tmp_path / "inks.psc.zarr")
    archive(plan(tmp_path / "inks.jpg", target, ArchiveOptions()))
    seen = page(target)
    seen.until(lambda: "holds no volume" in seen.text("status"))
    assert not seen.run("return document.getElementById('controls').checkVisibility()")
