"""From slice positions to an affine, and the refusal to pretend where there is none.

DICOM counts millimetres in LPS (to the left, posterior, superior); affines leave here in RAS+, for
array indices (z, y, x, 1). Slices are ordered along the normal of the image plane. Positions that
are not evenly spaced along one straight line give no affine: nothing is ever interpolated, the
positions themselves are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from adapters.base import Array, spacing_of

__all__ = ["Stack", "along_normal", "is_orientation", "stack_slices"]

_RELATIVE_TOLERANCE = 0.01  # of the slice distance: rounding in the headers, not irregularity
_LEAST_TOLERANCE_MM = (
    0.01  # but not more than a tenth of the distance: microscopes count in micrometres
)
_TILT_DEGREES = 0.1
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])


@dataclass(frozen=True)
class Stack:
    """Geometry of slices that share orientation and pixel spacing.

    Attributes
    ----------
    affine : (4, 4) float64 or None
        None when the slices are irregular.
    spacing_mm : (z, y, x) or None
    distances_mm : (n,) float64
        Position of each slice along the normal, in the order given.
    tilt_degrees : float
        Angle between the direction of stacking and the normal (gantry tilt); the affine is sheared.
    missing : int
        Slices that a gap suggests are missing; 0 when regular or merely uneven.
    nominal_z : bool
        A single slice: the z spacing is the nominal thickness, or 1 mm.
    """

    affine: Array | None
    spacing_mm: tuple[float, float, float] | None
    distances_mm: Array
    tilt_degrees: float
    missing: int
    nominal_z: bool

    def notes(self) -> list[str]:
        """Say in words what a user of this geometry must know."""
        notes = []
        if self.affine is None:
            steps = np.diff(self.distances_mm)
            found = f"{steps.min():.3f} to {steps.max():.3f} mm apart"
            lost = f", about {self.missing} slice(s) seem to be missing" if self.missing else ""
            notes.append(
                f"slices are irregularly spaced ({found}{lost}): no affine, positions of every "
                "slice are kept, nothing is interpolated"
            )
        if self.tilt_degrees > _TILT_DEGREES:
            kept = "positions" if self.affine is None else "affine"
            notes.append(f"gantry tilt of {self.tilt_degrees:.2f} degrees: kept in the {kept}")
        if self.nominal_z:
            notes.append("single slice: the z spacing is the nominal slice thickness")
        return notes


def is_orientation(orientation: Sequence[float] | None) -> bool:
    """Tell whether six direction cosines are two orthogonal unit vectors."""
    if orientation is None or len(orientation) != 6 or not np.all(np.isfinite(orientation)):
        return False
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    return bool(
        abs(np.linalg.norm(row) - 1) < 1e-2
        and abs(np.linalg.norm(column) - 1) < 1e-2
        and abs(row @ column) < 1e-2
    )


def along_normal(positions: Array, orientation: Sequence[float]) -> Array:
    """Project (n, 3) positions on the plane normal; (n,) float64 in mm."""
    normal = np.cross(orientation[:3], orientation[3:])
    return np.asarray(positions, np.float64) @ (normal / np.linalg.norm(normal))


def stack_slices(
    positions: Array,
    orientation: Sequence[float],
    pixel_spacing: tuple[float, float],
    nominal_mm: float | None,
) -> Stack:
    """Find the affine of slices already sorted along the normal.

    Parameters
    ----------
    positions : (n, 3) float64
        ImagePositionPatient of each slice, LPS mm.
    orientation : six floats
        ImageOrientationPatient: direction of growing column index, then of growing row index.
    pixel_spacing : (row distance, column distance) in mm
    nominal_mm : float or None
        Slice distance or thickness, used for a single slice only.
    """
    positions = np.asarray(positions, np.float64)
    distances = along_normal(positions, orientation)
    x_step = np.array(orientation[:3]) * pixel_spacing[1]
    y_step = np.array(orientation[3:]) * pixel_spacing[0]
    normal = np.cross(orientation[:3], orientation[3:])
    count = len(positions)
    if count == 1:
        z_step = normal * (nominal_mm or 1.0)
        affine = _affine(z_step, y_step, x_step, positions[0])
        return Stack(affine, spacing_of(affine), distances, 0.0, 0, True)
    z_step = (positions[-1] - positions[0]) / (count - 1)
    tilt = _angle_degrees(z_step, normal)
    if not _is_regular(positions, z_step):
        return Stack(None, None, distances, tilt, _missing_slices(distances), False)
    affine = _affine(z_step, y_step, x_step, positions[0])
    return Stack(affine, spacing_of(affine), distances, tilt, 0, False)


def _affine(z_step: Array, y_step: Array, x_step: Array, origin: Array) -> Array:
    affine = np.eye(4)
    affine[:3] = _LPS_TO_RAS @ np.column_stack([z_step, y_step, x_step, origin])
    return affine


def _is_regular(positions: Array, z_step: Array) -> bool:
    line = positions[0] + np.arange(len(positions))[:, None] * z_step
    step = float(np.linalg.norm(z_step))
    tolerance = max(min(_LEAST_TOLERANCE_MM, step / 10), _RELATIVE_TOLERANCE * step)
    return float(np.abs(positions - line).max()) <= tolerance


def _missing_slices(distances: Array) -> int:
    steps = np.diff(distances)
    usual = float(np.median(steps))
    multiples = np.rint(steps / usual)
    if np.all(np.abs(steps - multiples * usual) <= 0.05 * usual) and multiples.min() >= 1:
        return int(multiples.sum()) - len(steps)
    return 0


def _angle_degrees(step: Array, normal: Array) -> float:
    cosine = abs(step @ normal) / (np.linalg.norm(step) * np.linalg.norm(normal))
    return float(np.degrees(np.arccos(min(1.0, float(cosine)))))
