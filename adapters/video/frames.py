"""Key frames of a video, found by its packets and decoded one by one through PyAV."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from adapters.base import Array, selection_bounds
from adapters.errors import SourceError

__all__ = ["KeyFrames", "Video", "video_of"]

_MOST_BYTES = 1 << 30  # of one frame
_MOST_FRAMES = 1 << 20
# Containers alone: FFmpeg also reads lists of other files, whatever their names end in.
_ONLY = {"format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi"}
_NO_SENSE = (
    ValueError,
    LookupError,
    TypeError,
    ArithmeticError,
    AttributeError,
    AssertionError,
    RuntimeError,
)


@dataclass(frozen=True)
class Video:
    """What a file says of its first video stream.

    Attributes
    ----------
    path : Path
    rows, columns : int
    deep : bool
        Whether samples have more than eight bits.
    ticks : (frames,) int64
        Time of each key frame, in units of the stream, after its start.
    seconds : (frames,) float64
    codec, container : str
    """

    path: Path
    rows: int
    columns: int
    deep: bool
    ticks: Array
    seconds: Array
    codec: str
    container: str


def video_of(path: Path) -> Video:
    """Walk the packets of a file; nothing is decoded.

    Raises
    ------
    SourceError : kind ``"extra-missing"``, ``"not-video"``, ``"damaged"``, ``"too-large"``,
        ``"no-volume"`` (no video stream, no key frame).
    """
    with _opened(path) as container:
        if not container.streams.video:
            raise SourceError("it has no video stream", kind="no-volume", path=path)
        stream = container.streams.video[0]
        context = stream.codec_context
        rows, columns = int(context.height), int(context.width)
        if rows < 1 or columns < 1 or context.format is None:
            raise SourceError(
                f"expected frames with pixels, found {columns} x {rows}", kind="damaged", path=path
            )
        deep = max(part.bits for part in context.format.components) > 8
        if rows * columns * (6 if deep else 3) > _MOST_BYTES:
            raise SourceError(f"frames of {columns} x {rows}", kind="too-large", path=path)
        start = stream.start_time or 0
        found = sorted(
            packet.pts - start
            for packet in container.demux(stream)
            if packet.is_keyframe and packet.pts is not None and packet.pts >= start
        )
        ticks = np.array(sorted(set(found)), np.int64)
        seconds = ticks * float(stream.time_base)
        name, codec = str(container.format.name), str(context.name)
    if not 0 < len(ticks) <= _MOST_FRAMES:
        kind = "too-large" if len(ticks) else "no-volume"
        raise SourceError(f"{len(ticks)} key frames", kind=kind, path=path)
    return Video(path, rows, columns, deep, ticks, seconds, codec, name)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Give an open container.

    Raises
    ------
    SourceError : kind ``"extra-missing"``; ``"not-video"``; ``"damaged"``, also for what is read in
        the block.
    """
    if find_spec("av") is None:
        raise SourceError(
            "video takes the extra 'video' of psc-archive, found no av",
            kind="extra-missing",
            path=path,
            hint="pip install 'psc-archive[video]'",
        )
    import av

    try:
        container = av.open(str(path), "r", options=_ONLY)
    except (av.error.FFmpegError, *_NO_SENSE) as error:
        raise SourceError(
            "expected a video file, FFmpeg finds none",
            kind="not-video",
            path=path,
            hint="fetch the file again from its source",
        ) from error
    with container:
        try:
            yield container
        except (av.error.FFmpegError, *_NO_SENSE) as error:
            raise SourceError(
                f"expected a sound video, FFmpeg stopped ({type(error).__name__})",
                kind="damaged",
                path=path,
                hint="fetch the file again from its source",
            ) from error


@dataclass(frozen=True, eq=False)
class KeyFrames:
    """Red, green and blue of key frames: (sample, t, y, x). See ``LazyArray``."""

    video: Video

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of every axis."""
        return (3, len(self.video.ticks), self.video.rows, self.video.columns)

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Type of a sample."""
        return np.dtype(np.uint16 if self.video.deep else np.uint8)

    def __getitem__(self, key: tuple[slice, ...]) -> Array:
        samples, frames, rows, columns = (
            slice(*pair) for pair in selection_bounds(key, self.shape)
        )
        ticks = self.video.ticks[frames]
        sizes = [part.stop - part.start for part in (samples, rows, columns)]
        found = np.empty((sizes[0], len(ticks), *sizes[1:]), self.dtype)
        with _opened(self.video.path) as container:
            for number, tick in enumerate(ticks.tolist()):
                frame = np.moveaxis(self._frame(container, tick), -1, 0)
                found[:, number] = frame[samples, rows, columns]
        return found

    def _frame(self, container: Any, tick: int) -> Array:
        """One frame: (y, x, sample)."""
        stream = container.streams.video[0]
        stream.codec_context.skip_frame = "NONKEY"
        wanted = tick + (stream.start_time or 0)
        container.seek(wanted, stream=stream)
        for frame in container.decode(stream):
            if frame.pts is not None and frame.pts >= wanted:
                pixels = np.asarray(
                    frame.to_ndarray(format="rgb48le" if self.video.deep else "rgb24")
                )
                if frame.pts == wanted and pixels.shape == (*self.shape[2:], 3):
                    return pixels
                break
        raise SourceError(
            f"expected a key frame of {self.shape[2:]} at {tick} ticks, FFmpeg finds none",
            kind="damaged",
            path=self.video.path,
            hint="fetch the file again from its source",
        )
