"""TIFF files as microscopes and scanners leave them: whole ones, cut ones, and odd ones."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from tifffile import COMPRESSION, TiffFile, imread, imwrite

PLAIN = ("--coders", "zstd", "--base", "wavelet")
BOUNDED = ("--mode", "bounded", "--max-error", "2")


def stack(planes: int = 5) -> np.ndarray:
    """Waves with noise, another one in each plane."""
    n, y, x = np.indices((planes, 20, 24))
    noise = np.random.default_rng(3).normal(0, 2, n.shape)
    return (500 + 90 * np.sin(x / 5 + n) + 60 * np.cos(y / 6) + noise).astype(np.uint16)


def next_directory(data: bytes, number: int, offset: int) -> bytes:
    """The file with another offset of what follows its page ``number``."""
    at = struct.unpack_from("<I", data, 4)[0]
    for _ in range(number):
        at = struct.unpack_from("<I", data, at + 2 + 12 * struct.unpack_from("<H", data, at)[0])[0]
    place = at + 2 + 12 * struct.unpack_from("<H", data, at)[0]
    return data[:place] + struct.pack("<I", offset) + data[place + 4 :]


def with_tag(path: Path, code: int, value: int) -> None:
    """Give a tag of the first page another number."""
    with TiffFile(path) as file:
        tag = file.pages[0].tags[code]
        place, form = tag.valueoffset, {3: "<H", 4: "<I"}[int(tag.dtype)]
    data = bytearray(path.read_bytes())
    struct.pack_into(form, data, place, value)
    path.write_bytes(data)


def cut(path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])


def one_byte_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def leads_back(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(next_directory(data, 1, struct.unpack_from("<I", data, 4)[0]))


PACKED = {"compression": "zlib", "photometric": "minisblack", "metadata": None}
BAD: dict[str, tuple[str, dict[str, object], Callable[[Path], None]]] = {
    "pages-missing": ("truncated", {"imagej": True}, lambda path: cut(path, 0.6)),
    "jpeg-cut": ("truncated", {"compression": "jpeg"}, lambda path: cut(path, 0.95)),
    "lzw-cut": ("truncated", {"compression": "lzw"}, one_byte_short),
    "half-cut": ("truncated", {}, one_byte_short),
    "bits-cut": ("truncated", {}, one_byte_short),
    "leads-back": ("damaged", {"imagej": True}, leads_back),
    "strips-missing": ("damaged", dict(PACKED), lambda path: with_tag(path, 257, 60_000)),
    "no-columns": ("damaged", {}, lambda path: with_tag(path, 256, 0)),
    "other": ("not-image", {}, lambda path: path.write_bytes(b"hello")),
}


@pytest.mark.parametrize("name", list(BAD))
def test_a_file_that_is_cut_or_senseless_is_left_out(name: str, tmp_path: Path, run) -> None:
    kind, options, spoil = BAD[name]
    dtype = {"half-cut": "f2", "bits-cut": "?", "jpeg-cut": "u1"}.get(name, "u2")
    values = stack().astype(dtype)
    shown = values if options.get("imagej") else values[0]
    imwrite(tmp_path / "bad.tif", shown, **{"photometric": "minisblack", **options})
    spoil(tmp_path / "bad.tif")
    imwrite(tmp_path / "good.tif", stack(), photometric="minisblack")
    outcome = run("archive", tmp_path, tmp_path / "out", *PLAIN, "--json")
    assert outcome.code == 8, outcome.err
    assert [left["kind"] for left in outcome.document["skipped"]] == [kind]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good.tif.psc.zarr"]
    outcome = run("archive", tmp_path / "bad.tif", tmp_path / "a.psc.zarr", *PLAIN)
    assert outcome.code == 3 and kind in outcome.err
    assert not (tmp_path / "a.psc.zarr").exists()


@pytest.mark.parametrize("mode", [(), BOUNDED], ids=["lossless", "bounded"])
def test_planes_behind_one_directory_are_all_there(mode: tuple[str, ...], tmp_path, run) -> None:
    """ImageJ writes one directory where a stack is larger than 4 GiB."""
    path, values = tmp_path / "a.tif", stack()
    imwrite(path, values, imagej=True, photometric="minisblack")
    path.write_bytes(next_directory(path.read_bytes(), 0, 0))
    with TiffFile(path) as file:
        assert len(file.pages) == 1 and file.series[0].shape == values.shape
    outcome = run("archive", path, tmp_path / "a.psc.zarr", *PLAIN, *mode)
    assert outcome.code == 0, outcome.err
    with xr.open_dataset(tmp_path / "a.psc.zarr", engine="psc") as view:
        away = np.abs(view["image"].values.astype(int) - values)
    assert run("restore", tmp_path / "a.psc.zarr", tmp_path / "b.tif").code == 0
    if mode:
        assert 0 < away.max() <= 2
        assert np.abs(imread(tmp_path / "b.tif").astype(int) - values).max() <= 2
    else:
        assert not away.any() and (tmp_path / "b.tif").read_bytes() == path.read_bytes()


def test_a_stack_of_planes_that_is_cut_is_told(tmp_path: Path, run) -> None:
    path = tmp_path / "a.tif"
    imwrite(path, stack(), imagej=True, photometric="minisblack")
    data = next_directory(path.read_bytes(), 0, 0)
    with TiffFile(path) as file:
        path.write_bytes(data[: file.pages[3].dataoffsets[0] + 8])
    outcome = run("archive", path, tmp_path / "a.psc.zarr", *PLAIN)
    assert outcome.code == 3 and "truncated" in outcome.err and "page 3" in outcome.err


@pytest.mark.parametrize(
    ("photometric", "samples"), [("miniswhite", 0), ("separated", 4), ("cielab", 3)]
)
def test_what_numbers_mean_stays_with_them(photometric: str, samples: int, tmp_path, run) -> None:
    values = stack(samples or 1).astype(np.uint8)
    shown = np.moveaxis(values, 0, -1) if samples else values[0]
    imwrite(tmp_path / "a.tif", shown, photometric=photometric, metadata=None)
    outcome = run("archive", tmp_path / "a.tif", tmp_path / "a.psc.zarr", *PLAIN, *BOUNDED)
    assert outcome.code == 0, outcome.err
    with xr.open_dataset(tmp_path / "a.psc.zarr", engine="psc") as view:
        assert view["image"].attrs["photometric_interpretation"] == photometric.upper()
    assert run("restore", tmp_path / "a.psc.zarr", tmp_path / "b.tif").code == 0
    with TiffFile(tmp_path / "b.tif") as file:
        assert file.pages[0].photometric.name == photometric.upper()
        assert np.abs(file.asarray().astype(int) - shown).max() <= 2


def test_white_and_black_zeros_are_not_mixed(tmp_path: Path, run) -> None:
    for number, kind in enumerate(("minisblack", "miniswhite")):
        imwrite(tmp_path / "a.tif", stack()[0], photometric=kind, metadata=None, append=number > 0)
    assert run("archive", tmp_path / "a.tif", tmp_path / "a.psc.zarr", *PLAIN).code == 0
    with xr.open_dataset(tmp_path / "a.psc.zarr", engine="psc") as view:
        assert "photometric_interpretation" not in view["image_0"].attrs
        assert view["image_1"].attrs["photometric_interpretation"] == "MINISWHITE"


@pytest.mark.parametrize("mode", [(), BOUNDED], ids=["lossless", "bounded"])
def test_a_compression_that_nobody_here_knows_is_kept(mode, tmp_path: Path, run) -> None:
    path = tmp_path / "a.tif"
    imwrite(path, stack()[0], **PACKED)
    with_tag(path, 259, int(COMPRESSION.THUNDERSCAN))
    outcome = run("archive", path, tmp_path / "a.psc.zarr", *PLAIN, *mode)
    assert outcome.code == 0 and "32809" in outcome.out
    assert run("restore", tmp_path / "a.psc.zarr", tmp_path / "b.tif").code == 0
    assert (tmp_path / "b.tif").read_bytes() == path.read_bytes()
