"""Values that are read out of kept originals, as everything but ``xr.open_dataset`` meets them."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import tifffile
import xarray as xr
import zarr
from PIL import Image, PngImagePlugin

from pipelines.viewing.describe import archive_text, levels_of, variable_text
from pipelines.viewing.previews import preview_values
from pipelines.viewing.regions import read_shown
from pipelines.viewing.shelf import Shown
from psc_volumetric.archive.kept import KeptVariable
from psc_volumetric.archive.kept_preview import Pictured
from psc_volumetric.archive.layout import VariableSpec
from psc_volumetric.archive.reader import ArchiveReader
from psc_volumetric.errors import ParameterError

ROWS, COLUMNS = 210, 330
ROOM = ("--preview-size", "60000", "--coders", "zstd")


def colours() -> np.ndarray:
    y, x = np.indices((ROWS, COLUMNS))
    return np.stack([(y + x) % 256, (2 * y) % 256, (3 * x) % 256], axis=-1).astype("u1")


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> tuple[np.ndarray, Path]:
    """A photograph whose author is named, and its archive."""
    from tests.pipelines.conftest import run_in_process

    folder = tmp_path_factory.mktemp("photo")
    words = PngImagePlugin.PngInfo()
    words.add_text("Author", "Meier, Anna")
    Image.fromarray(colours()).save(folder / "anna.png", pnginfo=words)
    outcome = run_in_process("archive", folder / "anna.png", folder / "a.psc.zarr", *ROOM)
    assert outcome.code == 0, outcome.err
    return colours().transpose(2, 0, 1), folder / "a.psc.zarr"


def test_they_have_a_preview(photo) -> None:
    values, archive = photo
    group = zarr.open_group(archive, path="preview/image", mode="r")
    assert group.attrs["ome"]["multiscales"][0]["axes"][-1]["name"] == "x"
    level = group["0"]
    factor = -(-COLUMNS // level.shape[-1])
    small = values[:, : ROWS // factor * factor, : COLUMNS // factor * factor].astype(float)
    rows, columns = (size // factor for size in small.shape[1:])
    means = small.reshape(3, rows, factor, columns, factor).mean((2, 4))
    seen = level[...] * level.attrs["scale_factor"] + level.attrs["add_offset"]
    found = seen.reshape(3, *seen.shape[-2:])[:, :rows, :columns]
    assert np.abs(found - means).max() <= 1
    root = zarr.open_group(archive, mode="r").attrs["ome"]["multiscales"][0]
    assert root["datasets"][0]["path"].startswith("preview/image/")


def test_plain_zarr_says_where_they_are(photo) -> None:
    _, archive = photo
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert xr.open_zarr(archive).attrs["psc_values"].startswith("image: in the source file")
    assert "image: uint8, sample=3" in (archive / "README.txt").read_text()
    with xr.open_dataset(archive, engine="psc") as view:
        assert "psc_values" not in view.attrs


def test_a_page_and_a_viewer_show_them(photo, tmp_path: Path, run) -> None:
    values, archive = photo
    outcome = run("report", archive, "-o", tmp_path / "a.html")
    assert outcome.code == 0, outcome.err
    page = (tmp_path / "a.html").read_text()
    assert page.count("data:image/png;base64,") == 1 and "Not everything" not in page
    assert "The source file itself (png)" in page
    with ArchiveReader.open(archive) as reader:
        shown = Shown("a", reader)
        assert [one["name"] for one in archive_text(shown)["variables"]] == ["image"]
        about = variable_text(shown, "image")
        assert about["palette"] == "grey" and not about["damage"]
        path = about["previews"][0]["path"]
        assert preview_values(reader, reader.described("image"), path).any()
        levels = levels_of(shown, "image")
        assert [row["max_error"] for row in levels["levels"]] == [0.0]
        box = (slice(1, 2), slice(0, 9), slice(5, 60))
        np.testing.assert_array_equal(read_shown(shown, "image", box, 0).values, values[box])
        np.testing.assert_array_equal(reader.read("image"), values)
        assert not reader.read("image", box, spread=True).any()
        assert "read out of the source file" in reader._repr_html_()


def test_a_copy_without_headers_stores_them(photo, tmp_path: Path, run) -> None:
    values, archive = photo
    outcome = run("strip", archive, tmp_path / "copy.psc.zarr")
    assert outcome.code == 0, outcome.err
    with ArchiveReader.open(tmp_path / "copy.psc.zarr") as reader:
        assert not reader.kept
        np.testing.assert_array_equal(reader.read("image"), values)
        said = repr((reader.source().document, dict(reader.source().blobs)))
    everything = [p.read_bytes() for p in (tmp_path / "copy.psc.zarr").rglob("*") if p.is_file()]
    assert not re.search("anna|meier", said + b"".join(everything).decode("latin-1"), re.I)
    assert run("verify", tmp_path / "copy.psc.zarr", "--deep").code == 0
    assert run("restore", tmp_path / "copy.psc.zarr", tmp_path / "back.nc").code == 0
    with xr.open_dataset(tmp_path / "back.nc") as back:
        np.testing.assert_array_equal(back["image"], values)


def test_pages_of_many_bricks_are_stored_in_their_places(tmp_path: Path, run) -> None:
    pages = np.random.default_rng(0).integers(0, 9, (11, 70, 90)).astype("u2")
    tifffile.imwrite(tmp_path / "a.tif", pages, photometric="minisblack", compression="zlib")
    assert run("archive", tmp_path / "a.tif", tmp_path / "a.psc.zarr", *ROOM).code == 0
    outcome = run("strip", tmp_path / "a.psc.zarr", tmp_path / "copy.psc.zarr")
    assert outcome.code == 0, outcome.err
    with ArchiveReader.open(tmp_path / "copy.psc.zarr") as reader:
        np.testing.assert_array_equal(reader.read("image"), pages)


def test_a_copy_of_nothing_is_refused(tmp_path: Path, run) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.ones((20, 30), "c8"))
    assert run("archive", tmp_path / "a.tif", tmp_path / "a.psc.zarr").code == 0
    outcome = run("strip", tmp_path / "a.psc.zarr", tmp_path / "copy.psc.zarr")
    assert outcome.code == 2 and "error[cannot-strip]" in outcome.err
    assert not (tmp_path / "copy.psc.zarr").exists()


@pytest.mark.parametrize("shape", [(3, 300, 40, 9000), (2, 5, 6), (40, 50), (2, 3, 4, 40, 50)])
def test_every_value_is_looked_at_once(shape: tuple[int, ...]) -> None:
    dims = tuple(f"d{n}" for n in range(len(shape)))
    samples = "last" if len(shape) != 5 else None
    spec = VariableSpec("a", shape, np.dtype("u1"), dims, (1, *shape[-2:]), (1, *shape[-2:]))
    one = Pictured(KeptVariable(spec, "png", samples if len(shape) > 2 else None, ()), 0)
    seen = sum(np.prod([part.stop - part.start for part in box]) for box, _ in one.parts())
    assert seen == np.prod(shape)
    positions = [position for _, bricks in one.parts() for position, _ in bricks]
    assert sorted(positions) == sorted(one.spec.positions())


def test_unknown_names_are_refused_as_ever(photo) -> None:
    with ArchiveReader.open(photo[1]) as reader, pytest.raises(ParameterError) as caught:
        reader.read("other")
    assert caught.value.kind == "unknown-variable"
