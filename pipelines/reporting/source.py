"""The file that an archive was made from, as the reference of its errors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from adapters.base import Volume
from adapters.isolation import discover, open_source
from pipelines.reporting.measures import Reference, Region, Values
from psc_volumetric.archive.layout import VariableSpec
from psc_volumetric.errors import ParameterError

__all__ = ["references_of"]


def references_of(source: Path, specs: Mapping[str, VariableSpec]) -> dict[str, Reference]:
    """Readers of the volumes of a source that variables of an archive were made from.

    Raises
    ------
    ParameterError : kind ``"not-its-source"``, nothing in the source has the shape and dtype.
    SourceError : it cannot be read.
    """
    found: dict[str, Reference] = {}
    seen = []
    for candidate in discover(source).candidates:
        if len(found) == len(specs):
            break
        for volume in open_source(candidate).volumes:
            seen.append(f"{volume.name} {volume.array.shape} {volume.array.dtype}")
            spec = specs.get(volume.name)
            if spec is None or volume.name in found:
                continue
            if volume.array.shape == spec.shape and volume.array.dtype == spec.dtype:
                found[volume.name] = _reading(volume)
    if specs and not found:
        wanted = ", ".join(f"{s.name} {s.shape} {s.dtype}" for s in specs.values())
        raise ParameterError(
            f"{source}: expected what the archive holds ({wanted}), found "
            f"{', '.join(seen) or 'no volume'}",
            kind="not-its-source",
            hint="give the file or folder that was archived, or none",
        )
    return found


def _reading(volume: Volume) -> Reference:
    def read(region: Region) -> Values:
        return np.asarray(volume.array[region])

    return read
