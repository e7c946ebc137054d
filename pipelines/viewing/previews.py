"""Small pictures that an archive carries beside its bricks: what they show, and their values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.archive import ArchiveReader
from psc_volumetric.archive.layout import METADATA_KEY, VariableSpec
from psc_volumetric.archive.plain_arrays import readable
from psc_volumetric.errors import FormatError, LimitExceededError, ParameterError, PscError

__all__ = ["Preview", "preview_values", "previews_of"]


MOST_BYTES = 1 << 26  # of a preview


@dataclass(frozen=True)
class Preview:
    """Block means of a variable, or of one of its slices.

    Attributes
    ----------
    path : str
        Of the Zarr array inside the archive.
    shape : tuple of int
        With the axis of ``picks`` in front where there is one.
    steps : (z, y, x)
        Voxels in a block.
    first : (z, y, x)
        Voxel at which the first block begins.
    slices : list of int
        Whole slices along the axis before the last two, which are all it has; empty of a volume.
    inside : list of int
        Indices of the axes before z at which slices were taken; empty where ``picks`` say it.
    picks : list of list of int
        Indices of the axes before z, y, x that are shown; empty without such axes.
    scale, offset : float
        Stored value = shown * scale + offset.
    nothing : int
        Shown where nothing was measured.
    """

    path: str
    shape: tuple[int, ...]
    steps: tuple[float, float, float]
    first: tuple[float, float, float]
    slices: list[int]
    inside: list[int]
    picks: list[list[int]]
    scale: float
    offset: float
    nothing: int

    def text(self) -> dict[str, Any]:
        """For a page."""
        return {**vars(self), "shape": list(self.shape)}


def previews_of(reader: ArchiveReader, spec: VariableSpec, damage: list[str]) -> list[Preview]:
    """The finest level of each pyramid of a variable, large slices first.

    Parameters
    ----------
    reader : ArchiveReader
    spec : VariableSpec
    damage : list of str
        What cannot be read is told here.
    """
    found: list[Preview] = []
    for group in _groups(reader, spec):
        try:
            found.append(_preview(reader, spec, group))
        except PscError as error:
            damage.append(str(error))
    return sorted(found, key=lambda preview: preview.steps[1] * preview.steps[2])


def preview_values(reader: ArchiveReader, spec: VariableSpec, path: str) -> NDArray[Any]:
    """Values of a preview of a variable, as uint8.

    Raises
    ------
    ParameterError : kind ``"no-preview"``, it is none of this variable.
    FormatError : it is damaged, or larger than what is looked at.
    """
    if not any(path == f"{group}/0" for group in _groups(reader, spec)):
        raise ParameterError(f"{spec.name}: no preview {path!r}", kind="no-preview")
    array = reader.sealed.open_array(path)
    if array.nbytes > MOST_BYTES:
        raise LimitExceededError(
            f"{reader.name}: {path}: expected a preview of at most {MOST_BYTES} bytes, found "
            f"{array.nbytes}",
            kind="limit",
            hint="the archive is damaged or was made to do harm",
        )
    with readable(f"{reader.name}: {path}"):
        return np.asarray(array[...])


def _groups(reader: ArchiveReader, spec: VariableSpec) -> Iterator[str]:
    for path in (f"preview/{spec.node}/middle", f"preview/{spec.node}"):
        wanted = {f"{path}/{METADATA_KEY}", f"{path}/0/{METADATA_KEY}"}
        if wanted <= reader.manifest.entries.keys():
            yield path


def _preview(reader: ArchiveReader, spec: VariableSpec, group: str) -> Preview:
    about = reader.sealed.read_json(f"{group}/{METADATA_KEY}")
    level = reader.sealed.read_json(f"{group}/0/{METADATA_KEY}")
    spacing = spec.spacing_mm or (1.0, 1.0, 1.0)
    try:
        first = about["attributes"]["ome"]["multiscales"][0]["datasets"][0]
        scale, shift = (one[one["type"]] for one in first["coordinateTransformations"])
        steps = [float(s) / w for s, w in zip(scale[-3:], spacing, strict=True)]
        starts = [
            float(t) / w - (step - 1) / 2
            for t, w, step in zip(shift[-3:], spacing, steps, strict=True)
        ]
        values = level["attributes"]
        said = about["attributes"]["psc_archive"]
        picks = [[int(n) for n in pick] for pick in said["leading_indices"]]
        slices, inside = _taken(spec, group, said)
        shape = tuple(int(n) for n in level["shape"])
        if shape[:-3] != ((len(picks),) if picks else ()) or len(shape) < 3:
            raise ValueError(f"{len(picks)} indices for the shape {shape}")
        if any(len(pick) != spec.lead for pick in (*picks, *([inside] if inside else []))):
            raise ValueError(f"indices of other axes than the {spec.lead} before z")
        if slices and len(slices) != shape[-3]:
            raise ValueError(f"{len(slices)} slices for the shape {shape}")
        return Preview(
            f"{group}/0",
            shape,
            (steps[0], steps[1], steps[2]),
            (starts[0], starts[1], starts[2]),
            slices,
            inside,
            picks,
            float(values["scale_factor"]),
            float(values["add_offset"]),
            int(values["_FillValue"]),
        )
    except (LookupError, TypeError, ValueError, ArithmeticError) as error:
        raise FormatError(
            f"{reader.name}: {group}: no preview that can be shown ({error!r})", kind="bad-metadata"
        ) from error


def _taken(spec: VariableSpec, group: str, said: dict[str, Any]) -> tuple[list[int], list[int]]:
    """Slices of an image of whole slices, and where they are along the axes before.

    Archives of before show the middle slice and do not say so.
    """
    if not group.endswith("/middle"):
        return [], []
    middle = [size // 2 for size in spec.shape[:-2]]
    slices = said.get("slices") or middle[-1:] or [0]
    inside = [] if said["leading_indices"] else said.get("inside") or middle[: spec.lead]
    return [int(n) for n in slices], [int(n) for n in inside]
