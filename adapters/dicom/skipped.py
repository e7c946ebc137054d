"""What discovery says about files of a series that are not taken."""

from __future__ import annotations

from collections.abc import Sequence

from adapters.base import Skipped
from adapters.dicom.header import series_identity
from adapters.dicom.series import Series
from adapters.errors import SourceError

__all__ = ["copies_of", "cut_off_series", "shortened"]


def copies_of(series: Series) -> list[Skipped]:
    """Name the files that are left out because they are copies of others."""
    reason = "a copy of another file of its series: the same SOPInstanceUID and the same pixels"
    return [Skipped(copy.path, reason, "duplicate-copy") for copy, _ in series.copies]


def cut_off_series(errors: Sequence[SourceError]) -> set[str]:
    """Give the identities of series that lack the end of a file."""
    cut = [e.path for e in errors if e.kind == "truncated" and e.path is not None]
    return {identity for path in cut if (identity := series_identity(path)) is not None}


def shortened(series: Series) -> list[Skipped]:
    """Say that a series is left out because one of its files is cut off."""
    reason = "its series holds a truncated file"
    hint = "fetch the truncated file again, or remove it"
    return [Skipped(image.path, reason, "truncated", hint) for image in series.images]
