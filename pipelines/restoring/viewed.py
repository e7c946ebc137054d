"""Restoring a view: detail that was drawn, labelled wherever it goes."""

from __future__ import annotations

from dataclasses import replace

from adapters.base import RestoreInfo
from psc_volumetric.archive.reader import ArchiveReader
from psc_volumetric.archive.viewed import Viewer
from psc_volumetric.errors import ParameterError
from psc_volumetric.views import ViewRequest

__all__ = ["as_view", "viewer_of"]


def as_view(info: RestoreInfo, view: ViewRequest, kind: str, *, allows_dicom: bool) -> RestoreInfo:
    """What is known of values, when they are those of a view; exact ones have no other views.

    Raises
    ------
    ParameterError : the files would be DICOM (kind ``"generated-dicom"``).
    """
    if not view.is_generated or info.lossless:
        return info
    if kind == "dicom" and not allows_dicom:
        raise ParameterError(
            f"view {view.name}: expected another format than DICOM for detail that was not "
            "measured, found DICOM",
            kind="generated-dicom",
            hint="restore the mean; if generated detail is what you want, add --generated-dicom",
        )
    bound = None if info.max_error is None else 2 * info.max_error
    return replace(info, max_error=bound, generated=view.label)


def viewer_of(reader: ArchiveReader, view: ViewRequest) -> Viewer | None:
    """What reads the view; None for the mean, which the reader itself reads."""
    return Viewer(reader, view) if view.is_generated else None
