"""Expected error of AV1 slices: one sigma per class of local activity. Part of the format.

SPEC section 3.7. Coding errors gather where the decoded slice is busy; the encoder measures them
there and lists one spread per class, a decoder finds the class of a voxel from decoded samples.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["SPREAD_FRACTION_BITS", "activity_classes", "fit_spreads", "spread_of_codes"]

SPREAD_FRACTION_BITS = 4  # of a sample
CLASSES = 16
NEAR, AROUND = 1, 2  # voxels to each side: of the differences, of their sum
ACTIVITY_SHIFT = 4
FEW = 64  # voxels; a class with fewer takes the spread of the one below
COVERAGE = np.array([0.682689, 0.954500, 0.997300])  # of 1, 2, 3 sigma of a normal distribution
PRECISION = 1 / np.sqrt(COVERAGE * (1 - COVERAGE))

Samples = NDArray[np.uint16]


def activity_classes(samples: Samples, count: int = CLASSES) -> NDArray[np.uint8]:
    """Class of every voxel: binary digits of its activity, at most ``count - 1``.

    A difference sum is that of the absolute differences to the eight neighbours in the slice, the
    activity a sixteenth of the difference sums of 5 x 5 voxels. Edges are repeated outwards.

    Parameters
    ----------
    samples : (n, y, x) uint16
        Decoded samples, 0 .. 4095.
    count : int
        Classes there are, 1 .. 16.
    """
    edges = 1 << np.arange(count - 1)
    classes = np.empty(samples.shape, np.uint8)
    for number, plane in enumerate(samples):
        framed = np.pad(plane.astype(np.int32), NEAR, mode="edge")
        sums = sum(np.abs(moved - plane) for moved in _windows(framed, plane.shape))
        framed = np.pad(np.asarray(sums, np.int32), AROUND, mode="edge")
        rows = sum(_windows(framed, (plane.shape[0], framed.shape[1])))
        activity = sum(_windows(np.asarray(rows), plane.shape)) >> ACTIVITY_SHIFT
        classes[number] = np.searchsorted(edges, activity, side="right")
    return classes


def _windows(framed: NDArray[np.int32], shape: tuple[int, ...]) -> list[NDArray[np.int32]]:
    """All views of ``shape`` into a larger plane."""
    starts = [range(a - b + 1) for a, b in zip(framed.shape, shape, strict=True)]
    return [framed[y : y + shape[0], x : x + shape[1]] for y in starts[0] for x in starts[1]]


def spread_of_codes(codes: tuple[int, ...]) -> NDArray[np.int32]:
    """Spreads with four fraction bits: ``c`` below 16, then ``(16 + c % 16) << (c // 16 - 1)``."""
    code = np.array(codes, np.int32)
    large = (16 + code % 16) << np.maximum(code // 16 - 1, 0)
    spreads: NDArray[np.int32] = np.where(code < 16, code, large).astype(np.int32)
    return spreads


def fit_spreads(
    samples: Samples, error: NDArray[np.float64], measured: NDArray[np.bool_]
) -> tuple[int, ...]:
    """Codes of the spreads under which errors cover 1, 2 and 3 sigma as normal ones would.

    Parameters
    ----------
    samples : (n, y, x) uint16
        Decoded samples.
    error : (n, y, x) float64
        Decoded minus source, in samples.
    measured : (n, y, x) bool
        Voxels that count.
    """
    classes, size = activity_classes(samples)[measured], np.abs(error[measured])
    codes: list[int] = []
    for number in range(int(classes.max(initial=0)) + 1):
        inside = size[classes == number]
        if len(inside) >= FEW:
            codes.append(_best_code(inside))
        else:
            codes.append(codes[-1] if codes else _best_code(size))
    while len(codes) > 1 and codes[-1] == codes[-2]:
        codes.pop()
    return tuple(codes)


def _best_code(size: NDArray[np.float64]) -> int:
    """Code whose coverage is nearest to normal; the smallest of equals."""
    if not len(size):
        return 0
    sigma = spread_of_codes(tuple(range(256))) / (1 << SPREAD_FRACTION_BITS)
    reach = sigma[:, None] * np.array([1.0, 2.0, 3.0])
    share = np.searchsorted(np.sort(size), reach, side="right") / len(size)
    return int((np.abs(share - COVERAGE) @ PRECISION).argmin())
