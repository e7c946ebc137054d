"""Photographs and stacks through the command: pixels as other libraries decode them, files back."""

from __future__ import annotations

import io
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import xarray as xr
from PIL import Image
from tifffile import TiffFile, imread, imwrite

PLAIN = ("--coders", "zstd", "--base", "wavelet")
SHAPE = (24, 30)


def grey(shift: float = 0.0, dtype: str = "u1", shape: tuple[int, int] = SHAPE) -> np.ndarray:
    y, x = np.indices(shape)
    noise = np.random.default_rng(1).normal(0, 2, shape)
    values = 120 + 60 * np.sin(x / 7 + shift) * np.cos(y / 9) + noise
    return (values * (200 if np.dtype(dtype).itemsize == 2 else 1)).astype(dtype)


def colours(samples: int, dtype: str = "u1") -> np.ndarray:
    return np.stack([grey(n, dtype) for n in range(samples)], axis=-1)


def png(values: np.ndarray):
    return lambda path: path.write_bytes(imagecodecs.png_encode(np.ascontiguousarray(values)))


def tiff(values: np.ndarray, **options: object):
    return lambda path: imwrite(path, values, metadata=None, **options)


def palette(path: Path) -> None:
    Image.fromarray(grey()).convert("P").save(path)


def animated() -> bytes:
    """Three frames in a PNG."""
    frames, stream = [Image.fromarray(grey(n)) for n in range(3)], io.BytesIO()
    frames[0].save(stream, "PNG", save_all=True, append_images=frames[1:])
    return stream.getvalue()


STACK = np.stack([grey(n, "u2") for n in range(4)])
FILES = {
    "grey.png": png(grey()),
    "deep.png": png(grey(dtype="u2")),
    "alpha.png": png(colours(4)),
    "grey-alpha.png": png(colours(2)),
    "deep-alpha.png": png(colours(4, "u2")),
    "palette.png": palette,
    "tiny.png": png(grey(shape=(2, 3))),
    "stack.tif": tiff(STACK, photometric="minisblack", byteorder=">"),
    "colour.tif": tiff(colours(3), photometric="rgb"),
    "planar.tiff": tiff(np.moveaxis(colours(3), -1, 0), photometric="rgb", planarconfig=2),
    "packed.tif": tiff(STACK, photometric="minisblack", compression="zlib", tile=(16, 16)),
    "float.tif": tiff(grey(dtype="f4") / 3, photometric="minisblack"),
}
SLOW = {"grey.png", "grey-alpha.png", "deep-alpha.png", "planar.tiff", "colour.tif", "tiny.png"}
OWN_BYTES = {
    "stack.tif",
    "colour.tif",
    "planar.tiff",
    "float.tif",
}  # made from values, nothing kept twice


def shown(path: Path) -> np.ndarray:
    """What another library decodes, samples first."""
    values = imread(path) if path.suffix.startswith(".tif") else imagecodecs.imread(path)
    colour = values.ndim == 3 and values.shape[-1] < 5
    return np.moveaxis(values, -1, 0) if colour else values


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in FILES]
)
def test_pixels_are_shown_and_the_file_comes_back(name: str, tmp_path: Path, run) -> None:
    FILES[name](tmp_path / name)
    outcome = run("archive", tmp_path / name, tmp_path / "a.psc.zarr", *PLAIN)
    assert outcome.code == 0, outcome.err
    assert ("the original is kept" in outcome.out) == (name not in OWN_BYTES)
    with xr.open_dataset(tmp_path / "a.psc.zarr", engine="psc") as view:
        assert view["image"].dims[-2:] == ("y", "x")
        np.testing.assert_array_equal(view["image"].values, shown(tmp_path / name))
        assert view["image"].dtype == shown(tmp_path / name).dtype.newbyteorder("=")
    outcome = run("restore", tmp_path / "a.psc.zarr", tmp_path / "out", "--json")
    assert outcome.document["outcomes"] == {"identical": 1}
    assert (tmp_path / "out" / name).read_bytes() == (tmp_path / name).read_bytes()


def test_a_folder_of_like_images_is_a_stack(tmp_path: Path, run) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(3):
        png(grey(number))(folder / f"f{number}.png")
    png(colours(3))(folder / "other.png")
    outcome = run("archive", tmp_path, tmp_path / "out", *PLAIN)
    assert outcome.code == 0, outcome.err
    found = sorted(p.relative_to(tmp_path / "out").as_posix() for p in tmp_path.rglob("*.zarr"))
    assert found == ["frames.psc.zarr", "frames/other.png.psc.zarr"]
    with xr.open_dataset(tmp_path / "out/frames.psc.zarr", engine="psc") as view:
        assert view["image"].dims == ("file", "y", "x")
        np.testing.assert_array_equal(view["image"].sel(file="f1.png"), grey(1))
    assert run("restore", tmp_path / "out/frames.psc.zarr", tmp_path / "back").code == 0
    for path in folder.glob("f?.png"):
        assert (tmp_path / "back" / path.name).read_bytes() == path.read_bytes()
    words = ("--roi", "file=1:3,y=2:9,x=5:20")
    assert run("restore", tmp_path / "out/frames.psc.zarr", tmp_path / "cut", *words).code == 0
    assert sorted(p.name for p in (tmp_path / "cut").iterdir()) == ["f1.png", "f2.png"]
    np.testing.assert_array_equal(shown(tmp_path / "cut/f2.png"), grey(2)[2:9, 5:20])


@pytest.mark.parametrize("name", ["alpha.png", "stack.tif"])
def test_values_stay_within_their_bound(name: str, tmp_path: Path, run) -> None:
    FILES[name](tmp_path / name)
    words = ("--mode", "bounded", "--max-error", "3")
    outcome = run("archive", tmp_path / name, tmp_path / "a.psc.zarr", *PLAIN, *words)
    assert outcome.code == 0, outcome.err
    assert run("restore", tmp_path / "a.psc.zarr", tmp_path / "out").code == 0
    away = shown(tmp_path / "out" / name).astype(int) - shown(tmp_path / name)
    assert 0 < np.abs(away).max() <= 3
    if name == "stack.tif":
        with TiffFile(tmp_path / "out" / name) as file:
            assert "largest error 3" in file.pages[0].description


def test_pages_of_several_shapes_are_several_variables(tmp_path: Path, run) -> None:
    path = tmp_path / "a.tif"
    imwrite(path, STACK, photometric="minisblack", metadata=None)
    imwrite(path, grey(dtype="f4"), photometric="minisblack", metadata=None, append=True)
    assert run("archive", path, tmp_path / "a.psc.zarr", *PLAIN).code == 0
    with xr.open_dataset(tmp_path / "a.psc.zarr", engine="psc") as view:
        assert view["image_0"].shape == STACK.shape and view["image_1"].shape == SHAPE
    assert run("restore", tmp_path / "a.psc.zarr", tmp_path / "b.tif").code == 0
    assert (tmp_path / "b.tif").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("mode", ["lossless", "lossy"])
def test_a_jpeg_is_kept_exactly_in_less_room(mode: str, tmp_path: Path, run) -> None:
    values = np.kron(colours(3), np.ones((8, 8, 1), "u1"))
    (tmp_path / "photo.jpg").write_bytes(imagecodecs.jpeg8_encode(values, level=90))
    target = tmp_path / "a.psc.zarr"
    outcome = run("archive", tmp_path / "photo.jpg", target, *PLAIN, "--mode", mode)
    assert outcome.code == 0, outcome.err
    document = (target / "source" / "document").stat().st_size
    assert document < 0.95 * (tmp_path / "photo.jpg").stat().st_size
    assert run("verify", target, "--deep").code == 0
    with xr.open_dataset(target, engine="psc") as view:
        assert view["image"].dims == ("sample", "y", "x")
        away = view["image"].values.astype(int) - shown(tmp_path / "photo.jpg")
        assert np.abs(away).max() <= 3  # libjxl and libjpeg
        part = view["image"][1, 5:9, 7:20]
        np.testing.assert_array_equal(part, view["image"].values[1, 5:9, 7:20])
    words = ("--roi", "y=2:9,x=5:20")
    refused = run("restore", target, tmp_path / "part.jpg", *words)
    assert refused.code != 0 and "bad-region" in refused.err
    assert run("restore", target, tmp_path / "out.jpg").code == 0
    assert (tmp_path / "out.jpg").read_bytes() == (tmp_path / "photo.jpg").read_bytes()


PHOTO = imagecodecs.jpeg8_encode(np.kron(colours(3), np.ones((4, 4, 1), "u1")), level=90)
ANIMATED = animated()
PNG_FILE = imagecodecs.png_encode(grey())


@pytest.mark.parametrize(
    ("name", "data", "kind"),
    [
        ("a.png", b"", "not-image"),
        ("a.png", b"\xff\xd8\xff" + bytes(90), "not-image"),
        ("a.png", PNG_FILE[:20], "damaged"),
        ("a.png", PNG_FILE[:200], "truncated"),
        ("a.png", PNG_FILE[:-1], "truncated"),
        ("a.png", ANIMATED[: len(ANIMATED) * 2 // 3], "truncated"),
        ("a.jpg", PHOTO[:-1], "truncated"),
        ("a.jpg", PHOTO[: len(PHOTO) // 2], "truncated"),
        ("a.jpg", PHOTO[:30], "truncated"),
        ("a.png", PNG_FILE[:16] + b"\x7f\xff\xff\xff" * 2 + PNG_FILE[24:], "too-large"),
        ("a.jpg", PNG_FILE, "not-image"),
        ("a.tif", b"II*\0" + b"\xff" * 60, "truncated"),
        ("a.tif", b"no TIFF at all", "not-image"),
    ],
)
def test_damage_is_named(name: str, data: bytes, kind: str, tmp_path: Path, run) -> None:
    (tmp_path / name).write_bytes(data)
    outcome = run("archive", tmp_path / name, tmp_path / "a.psc.zarr", *PLAIN)
    assert outcome.code != 0 and f"error[{kind}]" in outcome.err
    assert not (tmp_path / "a.psc.zarr").exists()


def test_a_tiff_that_ends_before_its_pixels_is_truncated(tmp_path: Path, run) -> None:
    FILES["colour.tif"](tmp_path / "a.tif")
    data = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(data[:-100])
    outcome = run("archive", tmp_path / "a.tif", tmp_path / "a.psc.zarr", *PLAIN)
    assert outcome.code != 0 and "error[truncated]" in outcome.err


@pytest.mark.parametrize("name", ["deep.png", "packed.tif"])
def test_an_archive_is_hardly_larger_than_its_source(name: str, tmp_path: Path, run) -> None:
    large = np.kron(grey(dtype="u2"), np.ones((9, 9), "u2")) + grey(0, "u1", (216, 270))
    if name == "deep.png":
        png(large)(tmp_path / name)
    else:
        tiff(large, photometric="minisblack", compression="zlib")(tmp_path / name)
    target = tmp_path / "a.psc.zarr.zip"
    assert run("archive", tmp_path / name, target, *PLAIN).code == 0
    for command in ("ls", "info"):
        assert "read out of the original" in run(command, target).out
    assert run("restore", target, tmp_path / "out", "--level", "0").code == 0
    assert (tmp_path / "out" / name).read_bytes() == (tmp_path / name).read_bytes()
    source = (tmp_path / name).stat().st_size
    assert target.stat().st_size < source + 6000
