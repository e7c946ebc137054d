"""The wide image of a preview: whole slices of a variable, few rather than small.

Slices are taken whole and evenly, the middle one always among them; along the axes before them the
middle is shown, and of colours every sample. How many slices, how wide and in how many grey levels
is decided when all bricks are there and their bytes are known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.archive.layout import VariableSpec
from psc_volumetric.archive.looks import PRIMARIES, colours_of, has_labels
from psc_volumetric.archive.preview_values import (
    STEPS,
    Scale,
    block_means,
    middle_values,
    packed_bytes,
)

__all__ = ["WIDE", "Wide", "fitting_wide", "wide_factor", "wide_leads", "wide_slices"]

Values = NDArray[Any]
Part = Callable[[tuple[int, ...]], Values | None]
WIDE = 256  # pixels
MANY, FEW = 9, 3  # slices
CHOICES = ((STEPS, 0.6), (127, 0.6), (63, 0.75), (31, 0.75))  # grey levels, share of the room
COARSE = 63  # grey levels that one slice may have, and several not
DOCUMENT = 1500  # bytes of the image besides its values, about


@dataclass(frozen=True)
class Wide:
    """The wide image as it is written.

    Attributes
    ----------
    values : (leads, slices, y, x) array
        Stored values.
    scale : Scale
    slices : tuple of int
        Indices along the axis before the last two.
    factor : int
        Voxels averaged along y and x.
    nbytes : float
        What it takes, about.
    """

    values: Values
    scale: Scale
    slices: tuple[int, ...]
    factor: int
    nbytes: float


def wide_factor(spec: VariableSpec) -> int:
    """Voxels averaged along y and x of a wide slice, a power of two that divides the brick."""
    factor, longest = 1, max(spec.shape[-2:])
    _, brick_y, brick_x = spec.brick_shape
    while longest // (2 * factor) >= WIDE and not (
        brick_y % (2 * factor) or brick_x % (2 * factor)
    ):
        factor *= 2
    return factor


def wide_leads(spec: VariableSpec) -> tuple[tuple[int, ...], ...]:
    """Indices of the axes before z that are shown: the middle, of every sample of colours."""
    middle = tuple(size // 2 for size in spec.shape[: spec.lead])
    if not middle or colours_of(spec) is None:
        return (middle,)
    return tuple((sample, *middle[1:]) for sample in range(PRIMARIES))


def wide_slices(spec: VariableSpec) -> tuple[int, ...]:
    """Every slice that may be shown, rising; a part of a brick has those that are inside."""
    return tuple(sorted({index for some in _choices(spec) for index in some}))


def _choices(spec: VariableSpec) -> list[tuple[int, ...]]:
    """Slices that may be shown together, evenly apart, many first."""
    if spec.ndim < 3:
        return [(0,)]
    if spec.lead == 0 and colours_of(spec) is not None:
        return [tuple(range(PRIMARIES))]
    size = spec.shape[-3]
    middle, apart = size // 2, size // MANY
    found: list[tuple[int, ...]] = [(middle,)]
    if size >= FEW:
        step = FEW * apart or size // FEW
        found.insert(0, (middle - step, middle, middle + step))
    if apart:
        found.insert(0, tuple(middle + n * apart for n in range(-(MANY // 2), MANY // 2 + 1)))
    return found


def fitting_wide(spec: VariableSpec, part: Part, room: float) -> Wide | None:
    """The best wide image for so many bytes; half as wide if need be; None without room.

    Parameters
    ----------
    spec : VariableSpec
    part : callable
        Chunk grid index -> means of the wide slices inside; see `preview.Parts`.
    room : float
        Bytes of the whole preview.
    """
    every = wide_slices(spec)
    whole = _assembled(spec, part, every)
    if whole is None:
        return None
    factor = wide_factor(spec)
    for _ in range(2):
        for slices, steps, share in _trials(spec, has_labels(spec, whole)):
            values = whole[:, [every.index(index) for index in slices]]
            scale = Scale.of(values, spec.special_values, steps)
            left = share * room - DOCUMENT
            nbytes = packed_bytes(scale.apply(values), left)
            if nbytes is not None:
                return Wide(values, scale, slices, factor, nbytes + DOCUMENT)
        whole = _halved(spec, whole)
        factor *= 2
    return None


def _trials(spec: VariableSpec, labels: bool) -> Iterator[tuple[tuple[int, ...], int, float]]:
    """Slices, grey levels and share of the room, the best first."""
    choices = _choices(spec)
    levels = CHOICES[:1] if labels else CHOICES
    for slices in choices:
        for steps, share in levels:
            if slices == choices[-1] or steps > COARSE:
                yield slices, steps, share


def _halved(spec: VariableSpec, values: Values) -> Values:
    leads = []
    for each in values:
        if has_labels(spec, values):
            leads.append(middle_values(each, (1, 2, 2)))
        else:
            special, dtype = spec.special_values, values.dtype
            leads.append(block_means(each, (1, 2, 2), special=special, dtype=dtype))
    return np.stack(leads)


def _assembled(spec: VariableSpec, part: Part, every: Sequence[int]) -> Values | None:
    """Means (leads, slices, y, x) of wide slices; None unless every brick has its part."""
    leads = []
    for lead in wide_leads(spec):
        slabs = []
        for first in dict.fromkeys(index // spec.brick_shape[0] for index in every):
            along = () if spec.ndim < 3 else (first,)
            lines = []
            for row in range(spec.grid_shape[-2]):
                columns = range(spec.grid_shape[-1])
                found = [part((*lead, *along, row, column)) for column in columns]
                if any(one is None for one in found):
                    return None
                lines.append(np.concatenate([one for one in found if one is not None], axis=-1))
            slabs.append(np.concatenate(lines, axis=-2))
        leads.append(np.concatenate(slabs))
    return np.stack(leads)
