"""Kept originals made to do harm: refused before memory is taken, and no crash but a child's."""

from __future__ import annotations

import gzip
import io
import resource
import struct
import time
import zlib

import imagecodecs
import numpy as np
import pytest
from astropy.io import fits
from tifffile import imwrite

from psc_volumetric.archive import kept_process
from psc_volumetric.archive.kept_decoders import Part
from psc_volumetric.archive.kept_part import decoded
from psc_volumetric.errors import FormatError, LimitExceededError

PIXELS = np.arange(480, dtype="u2").reshape(20, 24)
SMALL = Part((20, 24), np.dtype("u2"))


def png(columns: int, rows: int) -> bytes:
    """A PNG of 16 bits that says it is of this size, and holds a row of zeros."""
    head = struct.pack(">IIBBBBB", columns, rows, 16, 0, 0, 0, 0)
    made = b"\x89PNG\r\n\x1a\n"
    for name, body in ((b"IHDR", head), (b"IDAT", zlib.compress(bytes(49))), (b"IEND", b"")):
        made += struct.pack(">I", len(body)) + name + body
        made += struct.pack(">I", zlib.crc32(name + body))
    return made


def tiff(columns: int, rows: int) -> bytes:
    """A TIFF in tiles of deflate that says it is of this size."""
    made = io.BytesIO()
    imwrite(made, PIXELS, compression="deflate", tile=(16, 16), metadata=None)
    data = bytearray(made.getvalue())
    (start,) = struct.unpack_from("<I", data, 4)
    (entries,) = struct.unpack_from("<H", data, start)
    for at in range(start + 2, start + 2 + 12 * entries, 12):
        tag = struct.unpack_from("<H", data, at)[0]
        if tag in (256, 257):
            struct.pack_into("<HHII", data, at, tag, 4, 1, columns if tag == 256 else rows)
    return bytes(data)


def tiles(change: bytes | None = None) -> bytes:
    """FITS tiles by gzip, the first of which is another stream."""
    unit = fits.CompImageHDU(PIXELS.astype("i2"), compression_type="GZIP_1", tile_shape=(20, 24))
    made = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), unit]).writeto(made)
    data = bytearray(made.getvalue())
    if change is not None:
        at = data.index(b"\x1f\x8b")
        struct.pack_into(">i", data, data.index(b"END" + b" " * 77, 2880) // 2880 * 2880 + 2880,
                         len(change))  # fmt: skip
        data[at : at + len(change)] = change
    return bytes(data)


@pytest.mark.parametrize(
    ("name", "number", "data"),
    [
        ("png", 0, png(1 << 20, 1 << 20)),
        ("png", 0, png(30_000, 30_000)),
        ("jpegxl", 0, imagecodecs.jpegxl_encode(np.zeros((3000, 3000), "u2"))),
        ("tiff", 0, tiff(1 << 31, 1 << 31)),
        ("tiff", 0, tiff(1 << 15, 1 << 15)),
        ("tiff", 1 << 40, tiff(24, 20)),
        ("fits", 1, tiles(gzip.compress(bytes(64 << 20), 9)[:40_000])),
        ("fits", 7, tiles()),
        ("video", 0, b"\0\0\0\x20ftypisom" + bytes(400)),
    ],
    ids=lambda value: str(value)[:8] if not isinstance(value, bytes) else f"{len(value)} bytes",
)
def test_files_that_say_they_are_more_are_refused(name: str, number: int, data: bytes) -> None:
    start = time.process_time()
    with pytest.raises(FormatError) as caught:
        decoded(name, data, number, SMALL, "here")
    assert caught.value.kind == "bad-payload" and "here: it cannot be" in str(caught.value)
    assert time.process_time() - start < 5


def test_good_ones_are_read_and_files_stay_with_the_child() -> None:
    data = tiff(24, 20)
    for _ in range(2):
        np.testing.assert_array_equal(decoded("tiff", data, 0, SMALL, "here"), PIXELS)
    part = Part((20, 24), np.dtype("i2"))
    np.testing.assert_array_equal(decoded("fits", tiles(), 1, part, "here"), PIXELS)
    assert kept_process._running[0].sent != data


def test_a_child_that_crashes_is_an_error_and_replaced() -> None:
    kept_process._close()
    kept_process._child().process.kill()
    with pytest.raises(FormatError, match="its library crashed"):
        decoded("tiff", tiff(24, 20), 0, SMALL, "here")
    decoded("tiff", tiff(24, 20), 0, SMALL, "here")
    kept_process._child().process.kill()  # by what an earlier file did, maybe: asked once more
    np.testing.assert_array_equal(decoded("tiff", tiff(24, 20), 0, SMALL, "here"), PIXELS)


def test_a_child_that_takes_too_much_memory_is_an_error() -> None:
    decoded("tiff", tiff(24, 20), 0, SMALL, "here")
    most = 160 << 20
    resource.prlimit(kept_process._running[0].process.pid, resource.RLIMIT_DATA, (most, most))
    with pytest.raises(LimitExceededError, match="too much memory"):
        decoded("tiff", tiff(1 << 14, 1 << 14), 0, Part((1 << 14, 1 << 14), SMALL.dtype), "here")
    kept_process._close()


def test_a_child_that_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_process, "SECONDS", 0.0)
    monkeypatch.setattr(kept_process, "BYTES_PER_S", 1e12)
    with pytest.raises(LimitExceededError, match="too long"):
        decoded("tiff", tiff(24, 20), 0, SMALL, "here")
