"""MP4, Matroska, WebM, AVI and QuickTime: the file as it is, its key frames as a volume.

A video has its loss behind it, and no coder of still frames comes near its size: the file is kept
in every mode, and key frames are read out of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adapters.base import (
    EQUAL_DATA,
    Candidate,
    Coordinate,
    Discovery,
    Promise,
    RestoredVolume,
    RestoreInfo,
    Skipped,
    SourceItem,
    Volume,
    WrittenFile,
)
from adapters.errors import SourceError
from adapters.kept import Kept
from adapters.originals import original_blob
from adapters.source_files import file_records, safe_name
from adapters.video.frames import KeyFrames, Video, video_of

__all__ = ["VideoAdapter"]

_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi")
_LARGEST = 2 << 30  # the file is read into memory
_CODED = "how its frames are compressed"


class VideoAdapter:
    """Keeps video files; see ``adapters.base.Adapter``."""

    kind = "video"

    def sniff(self, path: Path) -> bool:
        """Tell by name; whether the name speaks the truth is checked in discovery."""
        return path.name.lower().endswith(_SUFFIXES)

    def discover(self, files: Sequence[Path]) -> Discovery:
        """Give one candidate per file that FFmpeg reads."""
        candidates, skipped = [], []
        for path in files:
            try:
                if path.stat().st_size > _LARGEST:
                    raise SourceError(
                        f"expected a video of at most {_LARGEST >> 20} MiB",
                        kind="too-large",
                        path=path,
                    )
                video_of(path)
            except SourceError as error:
                skipped.append(Skipped.of(path, error))
                continue
            name = safe_name(path.stem, "video")
            candidates.append(Candidate(self.kind, name, (path,), path.as_posix()))
        return Discovery(tuple(candidates), tuple(skipped))

    def open(self, candidate: Candidate) -> SourceItem:
        """Find the key frames; they are decoded later."""
        (path,) = candidate.paths
        video = video_of(path)
        promise = Promise(EQUAL_DATA, _CODED)
        return SourceItem(
            kind=self.kind,
            name=candidate.name,
            volumes=(_volume(video),),
            document={"document_version": 0, "names": [path.name]},
            blobs={},
            files=tuple(record.promising(promise) for record in file_records([path])),
            suggested_prior=None,
            notes=("a video is kept as it is; its key frames are shown",),
            groups={"": {"format": video.container, "codec": video.codec}},
            bytes_beyond_remaking=(_CODED,),
        )

    def restore(
        self,
        document: dict[str, Any],
        blobs: Mapping[str, bytes],
        volumes: Sequence[RestoredVolume],
        target: Path,
        info: RestoreInfo,
    ) -> list[WrittenFile]:
        """Refuse: whole files are written by `adapters.originals`, and there are no parts.

        Raises
        ------
        SourceError : kind ``"bad-region"``.
        """
        raise SourceError(
            "a video comes back as a whole: a part would have to be compressed anew, with loss",
            kind="bad-region",
            hint="leave the region out; xr.open_dataset shows its key frames",
        )

    def content_sha256(self, path: Path) -> str:
        """Digest of the bytes."""
        return file_records([path])[0].sha256


def _volume(video: Video) -> Volume:
    array = KeyFrames(video)
    return Volume(
        name="key_frames",
        array=array,
        dims=("sample", "t", "y", "x"),
        affine=None,
        spacing_mm=None,
        unit=None,
        slope=None,
        intercept=None,
        special_values=(),
        coordinates=(Coordinate("t", ("t",), video.seconds, {"units": "s"}),),
        attrs={"comment": "red, green, blue of key frames, as FFmpeg converts them; not turned"},
        exact_only="a video has its loss behind it",
        kept=Kept("video", "last", tuple((original_blob(0), n) for n in video.ticks.tolist())),
    )
