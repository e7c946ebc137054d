"""What is to be restored, as one record."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psc_volumetric.archive.levels import Level, check_level
from psc_volumetric.archive.quota import UNLIMITED, Quota
from psc_volumetric.errors import ParameterError
from psc_volumetric.views import ViewRequest

__all__ = ["RestoreOptions"]

DECODED = ViewRequest()


@dataclass(frozen=True)
class RestoreOptions:
    """What to restore.

    Attributes
    ----------
    roi, roi_mm, roi_coords : str or None
        A region in indices, millimetres (RAS+) or coordinate values; at most one of them.
    level : int, str or None
        Quality level: 0 is the coarsest, ``"preview"``, ``"bounded"``, ``"lossless"``; None is
        everything.
    variables : tuple of str
        Names to restore; empty is all.
    device : str
        ``"auto"``, ``"cpu"`` or ``"cuda"``; never changes a bit.
    prove : bool
        Compare the files written with the digests of their sources; a file that was promised to
        be its source and is not is an error.
    skip_damaged : bool
        Where values cannot be read, write one value and go on; a mask beside the files says where.
    identity : Path or None
        Key file that opens encrypted headers (`psc-archive strip --encrypt-headers`): what is
        restored is then the source of the archive that the copy was made from.
    quota : Quota
        What restoring may cost: bytes of bricks, headers and arrays that are read, and network
        evaluations, counted before anything is decoded; seconds.
    fill : float or None
        That value, in stored units; None: see `psc_volumetric.archive.salvage.fill_of`.
    view : ViewRequest
        The mean, or another volume that the same bytes stand for, with detail that was drawn.
    generated_dicom : bool
        Such detail may go into DICOM files.
    """

    roi: str | None = None
    roi_mm: str | None = None
    roi_coords: str | None = None
    level: Level = None
    variables: tuple[str, ...] = ()
    device: str = "auto"
    prove: bool = True
    skip_damaged: bool = False
    fill: float | None = None
    identity: Path | None = None
    quota: Quota = UNLIMITED
    view: ViewRequest = DECODED
    generated_dicom: bool = False

    @property
    def choice(self) -> dict[str, Any]:
        """What decides what is in the files, JSON-able; not where and how it is worked out."""
        return {
            "roi": [self.roi, self.roi_mm, self.roi_coords],
            "level": self.level,
            "variables": list(self.variables),
            "skip_damaged": self.skip_damaged,
            "fill": self.fill,
            "opened_headers": self.identity is not None,
            "view": [self.view.name, self.view.seed if self.view.is_generated else None],
        }

    def __post_init__(self) -> None:
        if sum(text is not None for text in (self.roi, self.roi_mm, self.roi_coords)) > 1:
            raise ParameterError(
                "expected one region, found several of --roi, --roi-mm and --roi-coords",
                kind="several-rois",
            )
        if self.identity is not None:  # workers run in other folders
            object.__setattr__(self, "identity", Path(self.identity).absolute())
        check_level(self.level)
        self.view.check_alone(self.level, skip_damaged=self.skip_damaged)
