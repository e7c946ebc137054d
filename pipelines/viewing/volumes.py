"""What the 3-D part of `psc-archive view` draws first: a preview, as a small NIfTI file."""

from __future__ import annotations

import numpy as np

from pipelines.viewing.previews import preview_values, previews_of
from pipelines.viewing.regions import coloured_nifti, nifti_of
from pipelines.viewing.shelf import Shown
from psc_volumetric.archive.looks import PRIMARIES, colours_of
from psc_volumetric.errors import ParameterError

__all__ = ["small_volume"]


def small_volume(shown: Shown, lead: list[int], name: str) -> bytes:
    """The preview of a variable as a NIfTI file, what is nothing in it as its smallest value.

    Parameters
    ----------
    shown : Shown
        The archive.
    lead : list of int
        Places along the axes before the three of space.
    name : str
        The variable.

    Raises
    ------
    ParameterError
        No preview has three axes of more than one voxel (kind ``"no-preview"``).
    """
    spec = shown.reader.described(name)
    found = [
        p for p in previews_of(shown.reader, spec, []) if not p.slices and min(p.shape[-3:]) > 1
    ]
    if not found:
        raise ParameterError(f"{name}: no preview in space", kind="no-preview")
    preview = found[0]
    values = preview_values(shown.reader, spec, preview.path)
    mixed = colours_of(spec) is not None and len(preview.picks) >= PRIMARIES
    leads = [[n, *lead[1:]] for n in range(PRIMARIES)] if mixed else [lead]
    if preview.picks:
        values = values[[_nearest(preview.picks, wanted) for wanted in leads]]
    stored = values.astype(np.float32) * preview.scale + preview.offset
    stored[values == preview.nothing] = stored[values != preview.nothing].min(initial=np.inf)
    stored = np.nan_to_num(stored, posinf=0.0)
    if mixed:
        return coloured_nifti(spec, stored, preview.steps)
    return nifti_of(spec, stored.reshape(stored.shape[-3:]), preview.steps)


def _nearest(picks: list[list[int]], wanted: list[int]) -> int:
    """Which of the places that a preview shows is nearest to one."""
    away = [sum(abs(a - b) for a, b in zip(pick, wanted, strict=True)) for pick in picks]
    return int(np.argmin(away))
