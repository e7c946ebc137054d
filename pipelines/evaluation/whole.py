"""Whole sealed archives as one of our codecs: every byte of every object counts.

The archive is made of the source file as anybody makes it, with headers, coordinates, tables,
previews and manifest, proven and sealed, and its volumes are read from it. Of a file with several
volumes each has its own bricks, and of what lies beside them the same share as of all bricks.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters.base import Candidate
from pipelines.archiving.archive import run_item
from pipelines.archiving.options import ArchiveOptions
from pipelines.archiving.plan import plan_item
from pipelines.evaluation.ours import OurChoice, OurVolume
from pipelines.evaluation.point import cpu_seconds
from psc_volumetric.archive.reader import ArchiveReader
from psc_volumetric.methods.registry import AUTO

__all__ = ["Archives"]

CODING = "whole archive"


@dataclass
class Archives:
    """Archives of one source; the latest is kept, since its volumes are asked for in turn.

    Attributes
    ----------
    candidate : Candidate
    """

    candidate: Candidate
    _options: ArchiveOptions | None = field(default=None, init=False)
    _folder: tempfile.TemporaryDirectory[str] | None = field(default=None, init=False)
    _seconds: float = field(default=0.0, init=False)

    def volume(
        self,
        name: str,
        values: NDArray[Any],
        measured: NDArray[np.bool_],
        choice: OurChoice,
    ) -> OurVolume:
        """One variable of the archive that is made with a choice.

        Parameters
        ----------
        name : str
            Of the variable.
        values, measured : arrays of one shape
            Stored values, and where they are measurements.
        choice : OurChoice
            Its base is taken by lossy archives alone; views are not looked at.

        Raises
        ------
        SourceError, ParameterError, StorageError : as for archiving.
        """
        with ArchiveReader.open(self._made(_options(choice))) as reader:
            info = reader.info()
            begin = cpu_seconds()
            decoded = reader.read(name)
            read = cpu_seconds() - begin
        own, sizes = info["variables"][name], info["bytes"]
        nbytes = round(own["bytes"] * sizes["total"] / sizes["bricks"])
        error = decoded.astype(np.float64)[measured] - values.astype(np.float64)[measured]
        return OurVolume(
            decoded.astype(values.dtype, copy=False),
            [nbytes],
            [float((error**2).sum())],
            [float(np.abs(error).max(initial=0.0))],
            {CODING: (own["bricks"], nbytes)},
            self._seconds * own["bytes"] / sizes["bricks"],
            read,
        )

    def close(self) -> None:
        """Remove what was made."""
        if self._folder is not None:
            self._folder.cleanup()
        self._folder, self._options = None, None

    def _made(self, options: ArchiveOptions) -> Path:
        """Where the archive with some options is, made now unless it is there."""
        if self._folder is None or self._options != options:
            self.close()
            self._folder = tempfile.TemporaryDirectory(prefix="psc-evaluate-")
            begin = cpu_seconds()
            item = plan_item(self.candidate, self._target(), options)
            named = None if item.candidate.kind == "dicom" else item.candidate.paths[0].name
            run_item(replace(item, source_path=named))
            self._seconds, self._options = cpu_seconds() - begin, options
        return Path(self._target())

    def _target(self) -> str:
        assert self._folder is not None
        return str(Path(self._folder.name) / "whole.psc.zarr")


def _options(choice: OurChoice) -> ArchiveOptions:
    """The options of ``psc-archive archive`` for a choice."""
    is_lossy = choice.mode == "lossy"
    return replace(
        choice.archive,
        mode=choice.mode,
        base=choice.base if is_lossy else AUTO,
        step=choice.archive.step if is_lossy else None,
        max_error=choice.max_error,
    )
