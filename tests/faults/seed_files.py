"""Small files of the formats that are kept, transcoded or decoded frame by frame."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import av
import imagecodecs
import numpy as np
from astropy.io import fits
from tifffile import imwrite

from tests.adapters.trajectory_files import write as write_trajectory
from tests.faults.sources import smooth, write_fits

__all__ = ["KEPT", "write_seeds", "write_video"]

VIDEOS = {"a.mp4": ("libx264", "yuv420p"), "b.avi": ("mjpeg", "yuvj420p")}
# Whose values are read out of the original.
KEPT = ("deep.png", "palette.png", "tiles.tif", "strips.tif", "rice.fits", "photo.jpg", "a.mp4")


def write_seeds(folder: Path) -> list[Path]:
    """Write one file of each kind into a folder that is there."""
    write_fits(folder)
    counts = (smooth((24, 20)) + 1000).astype("i4")
    packed = fits.CompImageHDU(counts, name="SCI", compression_type="RICE_1", tile_shape=(5, 20))
    fits.HDUList([fits.PrimaryHDU(), packed]).writeto(folder / "rice.fits")
    (folder / "deep.png").write_bytes(imagecodecs.png_encode(counts.astype("u2")))
    (folder / "palette.png").write_bytes(_palette())
    pixels = counts.astype("<u2")
    imwrite(folder / "plain.tif", pixels, photometric="minisblack", metadata=None)
    imwrite(folder / "strips.tif", pixels, compression="lzw", predictor=True, rowsperstrip=7)
    colours = np.stack([pixels & 255] * 3, -1).astype("u1")
    imwrite(folder / "tiles.tif", colours, compression="deflate", tile=(16, 16), byteorder=">")
    (folder / "photo.jpg").write_bytes(imagecodecs.jpeg8_encode(colours))
    for name in ("a.dcd", "a.xtc"):
        write_trajectory(folder / name, frames=3)
    write_trajectory(folder / "b.dcd", order=">", fixed=5, frames=3)
    write_trajectory(folder / "b.xtc", atoms=7, frames=3)
    for name, (codec, form) in VIDEOS.items():
        write_video(folder / name, codec, form)
    return sorted(path for path in folder.iterdir() if path.is_file())


def _palette() -> bytes:
    """Four bits a pixel, sixteen colours, one of them clear."""
    rows = b"".join(b"\0" + bytes((17 * (x + y)) % 256 for x in range(10)) for y in range(24))
    parts = {
        b"IHDR": struct.pack(">IIBBBBB", 20, 24, 4, 3, 0, 0, 0),
        b"PLTE": bytes(range(48)),
        b"tRNS": b"\0",
        b"IDAT": zlib.compress(rows),
        b"IEND": b"",
    }
    made = b"\x89PNG\r\n\x1a\n"
    for name, body in parts.items():
        made += struct.pack(">I", len(body)) + name + body
        made += struct.pack(">I", zlib.crc32(name + body))
    return made


def write_video(path: Path, codec: str = "libx264", form: str = "yuv420p") -> None:
    """Seven frames, every third a key frame, in the container of the name."""
    y, x = np.indices((48, 64))
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 64, 48, form, 3
        for number in range(7):
            colours = np.stack([4 * x, 5 * y, 20 * number + 0 * x], axis=-1).astype("u1")
            container.mux(stream.encode(av.VideoFrame.from_ndarray(colours, format="rgb24")))
        container.mux(stream.encode())
