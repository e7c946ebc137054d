"""Whether the bounded level of a lossless brick is worth its bytes. Encoder only."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from psc_volumetric.arrays import Values
from psc_volumetric.bitstream.constants import REFINEMENTS
from psc_volumetric.bitstream.layer_fields import default_segment
from psc_volumetric.bitstream.value_limits import ValueLimits
from psc_volumetric.layers.coder_choice import extent_of
from psc_volumetric.layers.guarantee import Guarantee
from psc_volumetric.layers.segments import Below, encode_bounded, encode_lossless
from psc_volumetric.threads import mapped
from psc_volumetric.tiling import Box, TileGrid
from psc_volumetric.values.special import SpecialMap

__all__ = ["bounding", "can_refine", "keeps_budget", "refining"]

REFINED = ("context", "neural")  # coders of a level that is refined
SAMPLED = (0.2, 0.5, 0.8)  # segments that are coded both ways: so rough among all
HEADER = 64  # bytes that one more layer takes
CERTAIN = 0.9  # of the budget: a sample is not the whole


def keeps_budget(
    values: Values,
    guarantee: Guarantee,
    *,
    special: SpecialMap | None,
    limits: ValueLimits | None,
) -> bool:
    """Code a sample of segments with and without the bounded level, and compare.

    Parameters
    ----------
    values : (z, y, x) array
    guarantee : Guarantee
        Lossless, with a bound and a budget.
    special : SpecialMap or None
        Voxels that are not measurements.
    limits : ValueLimits or None
        That the bounded level stays within.
    """
    assert guarantee.budget is not None
    if not can_refine(guarantee.allowed):
        return False
    segments = TileGrid(extent_of(values), default_segment(extent_of(values)))
    alone = replace(guarantee, is_proven_later=True)  # nothing of it is kept
    boxes = _sample(values, segments)

    def coded(box: Box, ways: _Ways) -> _Sizes | None:
        part = np.ascontiguousarray(values[box])
        whole = encode_lossless(part, below=None, guarantee=ways.alone)
        marks = None if special is None else special.part(box)
        lower = encode_bounded(
            part, special=marks, limits=limits, below=None, guarantee=ways.bounded
        )
        if lower is None:
            return None
        upper = encode_lossless(part, below=Below.bounded(lower), guarantee=ways.refined)
        coders = (whole.fields.coder, lower.fields.coder, upper.fields.coder)
        return _Sizes(whole.nbytes, lower.nbytes + upper.nbytes, coders)

    ways = _Ways(alone, bounding(alone), refining(alone))
    first = coded(boxes[len(boxes) // 2], ways)
    if first is None:
        return False
    ways = ways.with_coders(first.coders)  # the others need not try them all
    rest = [box for number, box in enumerate(boxes) if number != len(boxes) // 2]
    found = [first, *mapped(lambda box: coded(box, ways), rest)]
    sizes = [size for size in found if size is not None]
    if len(sizes) < len(found):
        return False
    beside = HEADER + (0 if special is None else len(special.pack()))
    beside = beside * sum(values[box].size for box in boxes) // values.size
    apart = sum(size.apart for size in sizes) + beside
    return apart <= (1 + CERTAIN * guarantee.budget) * sum(size.alone for size in sizes)


class _Ways(NamedTuple):
    """How a segment is coded without the level, and both layers with it."""

    alone: Guarantee
    bounded: Guarantee
    refined: Guarantee

    def with_coders(self, coders: tuple[str, str, str]) -> _Ways:
        """The same with these coders alone, or what takes everything."""
        chosen = zip(self, coders, strict=True)
        return _Ways(*(replace(way, coders=(coder, "zstd")) for way, coder in chosen))


class _Sizes(NamedTuple):
    """Bytes of a segment alone and apart, and the coders of both and of the level."""

    alone: int
    apart: int
    coders: tuple[str, str, str]


def can_refine(coders: Collection[str]) -> bool:
    """Whether there is a coder for a bounded level, and one that refines it."""
    return all(set(coders) & set(some) for some in (REFINED, REFINEMENTS))


def bounding(guarantee: Guarantee) -> Guarantee:
    """The same for the bounded level: coders that the level above can refine."""
    return replace(guarantee, coders=_among(guarantee, REFINED))


def refining(guarantee: Guarantee) -> Guarantee:
    """The same for the level above it; Zstandard only where nothing can refine."""
    return replace(guarantee, coders=(*_among(guarantee, REFINEMENTS), "zstd"))


def _among(guarantee: Guarantee, coders: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in guarantee.allowed if name in coders)


def _sample(values: Values, segments: TileGrid) -> list[Box]:
    """Segments of all kinds, neither the smoothest nor the roughest."""
    rough = []
    for number in range(len(segments)):
        part = values[segments.box(number)].astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            steps = np.abs(np.diff(part, axis=2))
        steps = steps[np.isfinite(steps)]
        rough.append(float(steps.mean()) if steps.size else 0.0)
    order = np.argsort(rough, kind="stable")
    chosen = {int(order[min(int(share * len(order)), len(order) - 1)]) for share in SAMPLED}
    return [segments.box(number) for number in sorted(chosen)]
