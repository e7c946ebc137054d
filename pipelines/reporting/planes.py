"""Which slices of a variable a page shows, and how they lie on the screen.

Volumes with an affine are shown as radiologists look at them: axial, coronal and sagittal slices
through the middle, the patient's right on the left of the picture, superior and anterior above.
Everything else is shown as a map of its last two axes, in the middle of the others, with the
direction in which its coordinates rise; the first row of a FITS image is the lowest, as
astronomers look at it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.archive import ArchiveReader
from psc_volumetric.archive.layout import VariableSpec
from psc_volumetric.archive.looks import PRIMARIES, Colours, colours_of
from psc_volumetric.archive.skeleton import PlainCoordinate
from psc_volumetric.errors import PscError

__all__ = ["TITLES", "Plane", "coordinates_of", "planes_of"]

Coordinates = Mapping[str, PlainCoordinate]

SIDES = (("L", "R"), ("P", "A"), ("I", "S"))  # of the world's axes, RAS+
RISING = {"fits"}  # kinds of source whose rows are counted upwards
TITLES = {2: "axial", 1: "coronal", 0: "sagittal"}


@dataclass(frozen=True)
class Plane:
    """One slice of an array, and the way it is drawn.

    Attributes
    ----------
    title : str
    selection : tuple of slice
        One slice of extent 1 per axis, but for the two axes of the picture.
    axes : (int, int)
        Array axes that run downwards and to the right.
    flips : (bool, bool)
        Whether they run against the array.
    pitch : (float, float)
        Distance of neighbouring voxels along them, in any unit.
    edges : (str, str, str, str)
        What is written at the left, right, upper and lower edge.
    """

    title: str
    selection: tuple[slice, ...]
    axes: tuple[int, int]
    flips: tuple[bool, bool]
    pitch: tuple[float, float]
    edges: tuple[str, str, str, str]

    def picture(self, values: NDArray[Any]) -> NDArray[Any]:
        """Turn the values of ``selection`` into rows and columns of a picture."""
        down, right = self.axes
        others = tuple(axis for axis in range(values.ndim) if axis not in self.axes)
        flat = values.transpose(*others, down, right).reshape(values.shape[down], -1)
        rows = slice(None, None, -1 if self.flips[0] else 1)
        return np.ascontiguousarray(flat[rows, :: -1 if self.flips[1] else 1])

    @property
    def in_colour(self) -> tuple[slice, ...]:
        """The selection with all samples of colours."""
        return (slice(0, PRIMARIES), *self.selection[1:])

    def coloured(self, values: NDArray[Any], colours: Colours) -> NDArray[np.float64]:
        """Turn the stored values of `in_colour` into rows, columns and red, green, blue."""
        samples = [self.picture(values[n : n + 1]) for n in range(PRIMARIES)]
        return colours.mixed(np.stack(samples))


def planes_of(
    reader: ArchiveReader, spec: VariableSpec, coordinates: Coordinates | None = None
) -> list[Plane]:
    """Slices that show a variable, the most telling one first.

    ``coordinates`` are those of the variable where somebody has read them already.
    """
    if spec.affine is not None and spec.ndim >= 3 and np.isfinite(spec.affine).all():
        return _anatomical(spec, np.asarray(spec.affine, np.float64))
    found = coordinates_of(reader, spec, []) if coordinates is None else coordinates
    kind = reader.metadata.get("provenance", {}).get("source_kind")
    return [_map(spec, found, rises=kind in RISING)]


def coordinates_of(reader: ArchiveReader, spec: VariableSpec, damage: list[str]) -> Coordinates:
    """Coordinates of a variable that can be read; what is wrong with the others is told."""
    found = {}
    for name in spec.coordinates:
        try:
            found[name] = reader.coordinate(name)
        except PscError as error:
            damage.append(str(error))
    return found


def _anatomical(spec: VariableSpec, affine: NDArray[np.float64]) -> list[Plane]:
    from nibabel.orientations import io_orientation

    directions = io_orientation(affine)
    lead = spec.ndim - 3
    pitch = np.linalg.norm(affine[:3, :3], axis=0)
    array_axis = {}
    for axis, (world, sign) in enumerate(directions):
        if not np.isnan(world):
            array_axis[int(world)] = (lead + axis, sign < 0, float(pitch[axis]) or 1.0)
    planes = []
    for world in (2, 1, 0):
        rest = [n for n in (2, 1, 0) if n != world]
        if any(n not in array_axis for n in (world, *rest)):
            continue
        down, right = rest
        if spec.shape[array_axis[down][0]] == 1 or spec.shape[array_axis[right][0]] == 1:
            continue
        middle = spec.shape[array_axis[world][0]] // 2
        selection = _middle(spec, {array_axis[world][0]: middle})
        along = f"{spec.dims[array_axis[world][0]]} = {middle}"
        # downwards the world falls (superior, anterior above); to the right it rises for A, and
        # falls for R, which puts the patient's right on the left
        left_is_high = right == 0
        planes.append(
            Plane(
                f"{TITLES[world]}, {', '.join([*_before(spec, lead), along])}",
                _open(selection, spec, (array_axis[down][0], array_axis[right][0])),
                (array_axis[down][0], array_axis[right][0]),
                (not array_axis[down][1], array_axis[right][1] != left_is_high),
                (array_axis[down][2], array_axis[right][2]),
                (
                    SIDES[right][1 if left_is_high else 0],
                    SIDES[right][0 if left_is_high else 1],
                    SIDES[down][1],
                    SIDES[down][0],
                ),
            )
        )
    return planes or [_plain(spec)]


def _middle(spec: VariableSpec, at: dict[int, int]) -> list[slice]:
    places = [at.get(axis, size // 2) for axis, size in enumerate(spec.shape)]
    return [slice(place, place + 1) for place in places]


def _open(selection: list[slice], spec: VariableSpec, axes: Sequence[int]) -> tuple[slice, ...]:
    return tuple(
        slice(0, spec.shape[axis]) if axis in axes else part for axis, part in enumerate(selection)
    )


def _before(spec: VariableSpec, axes: int) -> list[str]:
    """Where the middle of the first axes is; all samples of colours are seen at once."""
    first = 0 if colours_of(spec) is None else 1
    return [
        f"{spec.dims[axis]} = {spec.shape[axis] // 2}"
        for axis in range(first, axes)
        if spec.shape[axis] > 1
    ]


def _plain(spec: VariableSpec) -> Plane:
    axes = (spec.ndim - 2, spec.ndim - 1)
    selection = _open(_middle(spec, {}), spec, axes)
    at = _before(spec, spec.ndim - 2)
    return Plane(", ".join(at) or "slice", selection, axes, (False, False), (1.0, 1.0), ("",) * 4)


def _map(spec: VariableSpec, coordinates: Coordinates, *, rises: bool) -> Plane:
    """A map whose north is above where there is a coordinate that says so.

    ``rises`` is said of rows without one.
    """
    plain = _plain(spec)
    down = _line(coordinates, spec, plain.axes[0])
    right = _line(coordinates, spec, plain.axes[1])
    up = rises if down is None else len(down) > 1 and bool(down[-1] > down[0])
    edges = (
        _said(right, spec, -1, last=False),
        _said(right, spec, -1, last=True),
        _said(down, spec, -2, last=up),
        _said(down, spec, -2, last=not up),
    )
    pitch = (_pitch(down), _pitch(right))
    if not 0.1 <= pitch[0] / pitch[1] <= 10:  # a coordinate of another kind
        pitch = (1.0, 1.0)
    return Plane(plain.title, plain.selection, plain.axes, (up, False), pitch, edges)


def _line(coordinates: Coordinates, spec: VariableSpec, axis: int) -> NDArray[Any] | None:
    """Numbers along an axis; None where there are none."""
    found = coordinates.get(spec.dims[axis])
    values = None if found is None else np.asarray(found.values)
    if values is None or values.shape != (spec.shape[axis],) or values.dtype.kind not in "iuf":
        return None
    return values


def _said(line: NDArray[Any] | None, spec: VariableSpec, axis: int, *, last: bool) -> str:
    """An end of an axis: its coordinate, or its number where there is none."""
    at = spec.shape[axis] - 1 if last else 0
    return f"{spec.dims[axis]} {at if line is None else format(line[at], '.6g')}"


def _pitch(line: NDArray[Any] | None) -> float:
    if line is None or len(line) < 2:
        return 1.0
    step = abs(float(line[-1]) - float(line[0])) / (len(line) - 1)
    return step if np.isfinite(step) and step > 0 else 1.0
