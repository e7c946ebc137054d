"""``psc-archive report``: pages about real files, read as text and in a real browser."""

from __future__ import annotations

import base64
import re
import shutil
from pathlib import Path
from typing import Any

import imagecodecs
import nibabel
import numpy as np
import pydicom.data
import pytest
import xarray as xr
from PIL import Image

from pipelines.archive import ArchiveOptions, archive, plan
from pipelines.reporting.page import MOST_BYTES, report_page
from pipelines.reporting.pictures import draw, scale_of
from pipelines.reporting.planes import planes_of
from psc_volumetric.archive import ArchiveReader
from tests.pipelines.conftest import CONTRAST, run_in_process

QUICK = ArchiveOptions(coders="fast")


def archived(folder: Path, source: Path, options: ArchiveOptions) -> str:
    target = str(folder / f"{source.name.split('.')[0]}.psc.zarr")
    archive(plan(source, target, options))
    return target


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A volume whose corner towards right, posterior, superior is bright; x runs to the left."""
    folder = tmp_path_factory.mktemp("head")
    values = np.random.default_rng(2).integers(0, 60, (20, 24, 10)).astype(np.int16)
    values[:4, :5, -2:] = 900
    affine = np.array([[-2.0, 0, 0, 40], [0, 2, 0, -20], [0, 0, 4, -10], [0, 0, 0, 1]])
    source = folder / "head.nii.gz"
    nibabel.save(nibabel.Nifti1Image(values, affine), source)
    options = ArchiveOptions(coders="fast", max_error=4)
    return archived(folder, source, options), source


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A map that is warm in the north, with a hole, and a name that would be a script."""
    folder = tmp_path_factory.mktemp("field")
    latitude, longitude = np.linspace(-60, 60, 25), np.arange(0, 360, 10.0)
    values = 280 + latitude[None, :, None] / 4 + np.zeros((6, 25, 36))
    values += np.random.default_rng(3).normal(0, 0.5, values.shape)
    values[:, 3, 4] = np.nan
    made = xr.DataArray(
        values.astype(np.float32),
        dims=("time", "lat", "lon"),
        coords={"time": np.arange(6.0), "lat": latitude, "lon": longitude},
        attrs={"units": "K", "long_name": "<script>document.title='taken'</script>"},
    )
    source = folder / "field.nc"
    made.to_dataset(name="warm").to_netcdf(source)
    options = ArchiveOptions(mode="lossy", base="wavelet", speed=2, psnr=40)
    return archived(folder, source, options), source


EXTENTS = """return [...document.images].map(i =>
  [i.getAttribute('width') / i.getAttribute('height'), i.clientWidth, i.clientHeight])"""


def uris(page: str) -> list[np.ndarray[Any, Any]]:
    """Pictures of a page, decoded."""
    found = re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", page)
    return [imagecodecs.png_decode(base64.b64decode(text)) for text in found]


def test_page_of_a_volume_says_what_is_true(head: tuple[str, Path]) -> None:
    target, source = head
    page = report_page(target, source, peers=True)
    assert "head.psc.zarr" in page
    assert "no stored value of the level “bounded” is off by more than 4" in page
    assert "All 4,800 voxels are equal" in page  # the lossless level
    assert re.search(r"of 4,800 voxels differ; the largest difference is 4,", page)
    for title in ("axial", "coronal", "sagittal"):
        assert f"{title}, " in page
    for peer in ("PNG", "JPEG XL, effort 7", "Zstandard, level 19", "this archive"):
        assert peer in page
    assert "http" not in re.sub(r"http-equiv", "", page)  # nothing is loaded
    assert len(page) < MOST_BYTES


def test_slices_lie_as_radiologists_expect(head: tuple[str, Path]) -> None:
    """Right on the left, posterior below, superior above: where the bright corner must be."""
    with ArchiveReader.open(head[0]) as reader:
        spec = reader.spec("image")
        whole = reader.read("image")
        axial, coronal, sagittal = planes_of(reader, spec)
        assert axial.edges == ("R", "L", "A", "P")
        assert coronal.edges == ("R", "L", "S", "I")
        assert sagittal.edges == ("P", "A", "S", "I")
        top = axial.picture(whole[-1:])  # the uppermost slice
        assert top.shape == (24, 20)
        # the first x are at world x = +40: the patient's right, as RAS rises to the right
        assert (top[-5:, :4] == 900).all()
        assert (top[:-5] < 900).all()
        assert (coronal.picture(whole[:, :1])[:2, :4] == 900).all()
        assert (sagittal.picture(whole[:, :, :1])[:2, :5] == 900).all()
        assert axial.pitch == (2.0, 2.0)
        assert coronal.pitch == (4.0, 2.0)


def test_page_of_a_field_has_north_above_and_escapes_text(field: tuple[str, Path]) -> None:
    target, source = field
    page = report_page(target, source)
    assert "<script" not in page
    assert "&lt;script&gt;document.title" in page
    assert "lat 60" in page
    assert "no single value has a bound" in page
    first = uris(page)[0]  # colours: blue is cold, yellow is warm
    assert first.shape == (25, 36, 3)
    assert first[0, :, 0].mean() > first[-1, :, 0].mean()
    assert tuple(first[25 - 1 - 3, 4]) == (120, 120, 120)


def test_wrong_source_is_refused(head: tuple[str, Path], field: tuple[str, Path]) -> None:
    done = run_in_process("report", head[0], field[1], "--json")
    assert done.code == 2
    assert done.document["error"]["kind"] == "not-its-source"


def test_damage_is_shown_and_the_rest_is_there(head: tuple[str, Path], tmp_path: Path) -> None:
    target = tmp_path / "bad.psc.zarr"
    shutil.copytree(head[0], target)
    brick = target / "image" / "c" / "0" / "0" / "0"
    data = bytearray(brick.read_bytes())
    data[-20] ^= 1
    brick.write_bytes(bytes(data))
    page = tmp_path / "page.html"
    done = run_in_process("report", target, "-o", page)
    assert done.code == 0, done.err
    text = page.read_text("utf-8")
    assert "Damage was found" in text
    assert "Not everything could be read" in text
    assert "Where the bytes are" in text
    assert not list(tmp_path.glob(".page.html*"))


def test_where_nothing_can_be_decoded_the_preview_is_shown(tmp_path: Path) -> None:
    values = np.random.default_rng(6).integers(0, 60, (40, 48, 10)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "all.nii")
    options = ArchiveOptions(coders="fast", preview_size=20_000)
    target = archived(tmp_path, tmp_path / "all.nii", options)
    brick = Path(target) / "image" / "c" / "0" / "0" / "0"
    brick.write_bytes(b"\0" * brick.stat().st_size)
    page = report_page(target)
    assert "nothing could be decoded. This is the preview" in page
    (picture,) = uris(page)
    assert picture.shape == (48, 40)
    assert np.ptp(picture) > 200


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small.dcm", "SC_rgb_small_odd.dcm"])
def test_pages_of_dicom_files_name_nobody(name: str, tmp_path: Path) -> None:
    source = Path(str(pydicom.data.get_testdata_file(name)))
    page = report_page(archived(tmp_path, source, QUICK), source)
    assert uris(page)
    person = str(pydicom.dcmread(source).get("PatientName", "")).split("^")[0]
    assert person
    assert person.lower() not in page.lower()


@pytest.mark.parametrize("options", [ArchiveOptions(mode="lossy", base="wavelet"), QUICK])
def test_labels_get_colours_of_their_own(tmp_path: Path, options: ArchiveOptions) -> None:
    """Also without loss, where nobody judged them when they were archived."""
    labels = np.zeros((12, 14, 6), np.uint8)
    labels[3:9, 4:10, 1:5], labels[5:7, 5:8, 2:4] = 3, 7
    source = tmp_path / "labels.nii"
    nibabel.save(nibabel.Nifti1Image(labels, np.eye(4)), source)
    page = report_page(archived(tmp_path, source, options))
    assert "each colour is a label" in page
    colours = {tuple(pixel) for pixel in uris(page)[0].reshape(-1, 3)}
    assert len(colours) == 3
    assert (0, 0, 0) in colours


def test_captions_say_which_time_it_is_and_where_nothing_was_measured(tmp_path: Path) -> None:
    values = np.random.default_rng(4).normal(100, 9, (14, 12, 6, 5)).astype(np.float32)
    values[:5] = np.nan
    source = tmp_path / "four.nii"
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), source)
    page = report_page(archived(tmp_path, source, QUICK))
    assert "axial, t = 2, z = 3; nothing was measured where it is plain grey" in page
    nibabel.save(nibabel.Nifti1Image(values[:5, ..., 0], np.eye(4)), tmp_path / "none.nii")
    page = report_page(archived(tmp_path, tmp_path / "none.nii", QUICK))
    assert "axial, z = 3; nothing was measured<" in page


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 1), (1, 5, 1), (1, 1, 4)])
def test_one_voxel_has_a_page_and_so_have_few(tmp_path: Path, shape: tuple[int, ...]) -> None:
    source = tmp_path / "one.nii"
    nibabel.save(nibabel.Nifti1Image(np.full(shape, 7, np.int16), np.eye(4)), source)
    text = report_page(archived(tmp_path, source, QUICK), source, peers=True)
    data = base64.b64decode(re.findall(r"data:image/png;base64,([^\"]+)", text)[0])
    assert imagecodecs.png_decode(data).size
    assert "the last level is the source, bit for bit" in text


def test_large_slices_are_drawn_from_blocks() -> None:
    values = np.zeros((1300, 900))
    values[1299, 899] = 5.0
    picture = draw(values, scale_of(values, zero=True), "heat", (1.0, 2.0))
    assert (picture.width, picture.height) == (300, 217)
    drawn = imagecodecs.png_decode(base64.b64decode(picture.uri.partition(",")[2]))
    assert max(drawn.shape[:2]) <= 600
    assert tuple(drawn[-1, -1]) == (252, 250, 190)  # the largest value of a block is kept


PIXEL = """
const image = document.querySelectorAll('figure img')[0], canvas = document.createElement('canvas');
canvas.width = image.naturalWidth; canvas.height = image.naturalHeight;
const c = canvas.getContext('2d'); c.drawImage(image, 0, 0);
return Array.from(c.getImageData(0, 0, canvas.width, canvas.height).data);
"""


@pytest.mark.parametrize("which", ["head", "field"])
def test_pages_are_sound_in_a_browser(
    which: str, browser: Any, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    target, source = request.getfixturevalue(which)
    page = tmp_path / "page.html"
    assert run_in_process("report", target, source, "-o", page).code == 0
    for width in (390, 1200):
        browser.set_window_size(width, 900)
        browser.get(page.as_uri())
        sizes = "return [document.scrollingElement.scrollWidth, window.innerWidth]"
        found, given = browser.execute_script(sizes)
        assert found <= given, "the page is wider than the window"
        for ratio, width, height in browser.execute_script(EXTENTS):  # of voxels, not of pixels
            assert abs(width - ratio * height) <= 1 + ratio
    assert browser.get_log("browser") == []
    assert browser.title == f"{which}.psc.zarr"  # no text became a script
    least, where = browser.execute_script(CONTRAST)
    assert least >= 4.5, where
    nameless = "return [...document.images].filter(i => !i.alt || !i.naturalWidth).length"
    assert browser.execute_script(nameless) == 0
    loaded = (
        "return performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:'))"
    )
    assert browser.execute_script(loaded) == []


def test_pixels_in_the_browser_are_the_decoded_values(
    head: tuple[str, Path], browser: Any, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    page.write_text(report_page(head[0], head[1]), "utf-8")
    browser.get(page.as_uri())
    with ArchiveReader.open(head[0]) as reader:
        planes = planes_of(reader, reader.spec("image"))
        pictures = [plane.picture(reader.read("image", plane.selection)) for plane in planes]
    values = pictures[0].astype(np.float64)
    scale = scale_of(np.concatenate([picture.ravel() for picture in pictures]))  # of all planes
    wanted = np.rint(np.clip((values - scale.low) / (scale.high - scale.low) * 255, 0, 255))
    pixels = np.array(browser.execute_script(PIXEL)).reshape(*values.shape, 4)
    np.testing.assert_array_equal(pixels[..., 0], wanted)


def test_pictures_are_left_out_of_a_page_that_would_be_too_large(
    head: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is lowered to below what its pictures take; what is counted stays."""
    whole = report_page(head[0], head[1])
    monkeypatch.setattr("pipelines.reporting.page.MOST_BYTES", 1000)
    small = report_page(head[0], head[1])
    assert uris(whole) and not uris(small)
    assert len(small) < len(whole) - 1000
    for text in ("Where the bytes are", "All 4,800 voxels are equal"):
        assert text in whole and text in small


GREY = r'<span>([^<]+)</span><i class="grey"></i><span>([^<]+)</span>'


def test_all_planes_have_one_window(head: tuple[str, Path], tmp_path: Path) -> None:
    """That of soft tissue for CT, as in the viewer and in plots."""
    for source in (head[1], None):
        found = re.findall(GREY, report_page(head[0], source))
        assert len(found) >= 3 and len(set(found)) == 1
    source = Path(str(pydicom.data.get_testdata_file("CT_small.dcm")))
    assert set(re.findall(GREY, report_page(archived(tmp_path, source, QUICK)))) == {
        ("-160", "240 HU")
    }


def test_a_source_without_values_is_said_to_be_kept(tmp_path: Path) -> None:
    inks = np.zeros((20, 30, 4), np.uint8)
    Image.fromarray(inks, "CMYK").save(tmp_path / "inks.jpg")
    page = report_page(archived(tmp_path, tmp_path / "inks.jpg", QUICK))
    assert "The source is kept as it was; no values can be read out of it." in page
    assert "the source files" in page and "headers of the source" not in page
