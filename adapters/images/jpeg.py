"""JPEG files: kept as a JPEG XL transcode, which gives them back; pixels as libjxl decodes it."""

from __future__ import annotations

import hashlib
import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from adapters.base import Array, Candidate, SourceItem, Volume, selection_bounds
from adapters.errors import SourceError
from adapters.kept import Kept
from adapters.source_files import file_records, open_plain

__all__ = ["check_jpeg", "open_jpeg"]

_LARGEST = 256 << 20
_MOST_BYTES = 1 << 30
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # markers that tell the size
_BARE = frozenset((0x01, *range(0xD0, 0xD9)))  # markers without a length
_SCAN, _END = 0xDA, b"\xff\xd9"
_BLOB = "jpegxl"


def check_jpeg(path: Path) -> None:
    """Look at the first bytes and the size.

    Raises
    ------
    SourceError : kind ``"not-image"``, ``"truncated"``, ``"too-large"`` or ``"unreadable"``.
    """
    try:
        with open_plain(path) as stream:
            start = stream.read(3)
            whole = start != b"\xff\xd8\xff" or _is_whole(stream)
    except OSError as error:
        raise SourceError(f"cannot read: {error.strerror}", kind="unreadable", path=path) from error
    if start != b"\xff\xd8\xff":
        raise SourceError(
            f"expected a JPEG, the file begins with {start!r}", kind="not-image", path=path
        )
    if path.stat().st_size > _LARGEST:
        raise SourceError(
            f"expected a JPEG of at most {_LARGEST >> 20} MiB", kind="too-large", path=path
        )
    if not whole:
        raise SourceError(
            f"expected a JPEG with its end, found none in {path.stat().st_size} bytes",
            kind="truncated",
            path=path,
            hint="fetch the file again from its source",
        )


def _is_whole(stream: BinaryIO) -> bool:
    """Whether the end of the image follows its first scan; coded data never look like that end."""
    with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at = 2
        while at + 4 <= len(data) and data[at] == 0xFF:
            marker = data[at + 1]
            if marker == _SCAN:
                return data.find(_END, at) >= 0
            alone = marker in _BARE or marker == 0xFF
            at += (1 if marker == 0xFF else 2) if alone else 2 + _length(data, at)
        return at + 4 <= len(data)  # no chain of segments: libjxl may say what it is


def open_jpeg(candidate: Candidate) -> SourceItem:
    """Transcode a file and compare what comes back.

    Raises
    ------
    SourceError : kind ``"unsupported-pixels"``: libjxl does not take it.
    """
    (path,) = candidate.paths
    (record,) = file_records([path])
    data = path.read_bytes()
    packed, same = _transcoded(data)
    if not same or hashlib.sha256(data).hexdigest() != record.sha256:
        raise SourceError(
            "libjxl does not take this kind of JPEG", kind="unsupported-pixels", path=path
        )
    shape = _shape(data)
    return SourceItem(
        kind="images",
        name=candidate.name,
        volumes=() if shape is None else (_volume(path, shape),),
        document={"document_version": 0, "names": [path.name], "jpegxl": _BLOB},
        blobs={_BLOB: packed},
        files=(record,),
        suggested_prior=None,
        notes=("a JPEG is kept exactly, as a JPEG XL transcode",),
        groups={"": {"format": "JPEG"}},
    )


def _transcoded(data: bytes) -> tuple[bytes, bool]:
    import imagecodecs

    try:
        packed = bytes(imagecodecs.jpegxl_encode_jpeg(data))
        return packed, imagecodecs.jpegxl_decode_jpeg(packed, numthreads=1) == data
    except (ValueError, RuntimeError):
        return b"", False


def _shape(data: bytes) -> tuple[int, int, int] | None:
    """Samples, rows and columns; None where they are none that can be shown."""
    at = 2
    while at + 9 < len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker in _FRAMES:
            rows, columns = (int.from_bytes(data[at + n : at + n + 2], "big") for n in (5, 7))
            shape = (data[at + 9], rows, columns)
            small = 0 < rows * columns * shape[0] <= _MOST_BYTES
            return shape if small and shape[0] in (1, 3) else None
        alone = marker in _BARE or marker == 0xFF
        at += (1 if marker == 0xFF else 2) if alone else 2 + _length(data, at)
    return None


def _length(data: bytes | mmap.mmap, at: int) -> int:
    return int.from_bytes(data[at + 2 : at + 4], "big")


def _volume(path: Path, shape: tuple[int, int, int]) -> Volume:
    grey = shape[0] == 1
    return Volume(
        name="image",
        array=_Pixels(path, shape[1:] if grey else shape),
        dims=("y", "x") if grey else ("sample", "y", "x"),
        affine=None,
        spacing_mm=None,
        unit=None,
        slope=None,
        intercept=None,
        special_values=(),
        coordinates=(),
        attrs={"format": "JPEG", "comment": "decoded by libjxl; other decoders differ a little"},
        exact_only="a JPEG has its loss behind it",
        kept=Kept("jpegxl", None if grey else "last", ((_BLOB, 0),)),
    )


@dataclass(frozen=True)
class _Pixels:
    """Pixels of a JPEG as the archive will show them: ([sample], y, x). See ``LazyArray``."""

    path: Path
    shape: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Type of a number."""
        return np.dtype(np.uint8)

    def __getitem__(self, key: tuple[slice, ...]) -> Array:
        import imagecodecs

        box = tuple(slice(*pair) for pair in selection_bounds(key, self.shape))
        packed, same = _transcoded(self.path.read_bytes())
        if not same:
            raise SourceError("the file has changed", kind="source-changed", path=self.path)
        pixels = imagecodecs.jpegxl_decode(packed, keeporientation=True, numthreads=1)
        pixels = np.moveaxis(pixels, -1, 0) if len(self.shape) == 3 else pixels.squeeze()
        if pixels.shape != self.shape:
            raise SourceError(
                f"expected pixels of {self.shape}, found {pixels.shape}",
                kind="damaged",
                path=self.path,
            )
        return np.array(pixels[box], order="C")
