"""Which layers are coded over the base of a brick. Encoder only (SPEC section 8).

:mod:`psc_volumetric.codec` is the public face, :mod:`psc_volumetric.layers.segments` codes
segments, :mod:`psc_volumetric.layers.reading` reads them.
"""

from __future__ import annotations

from dataclasses import replace

from psc_volumetric.arrays import Mask, Values
from psc_volumetric.bitstream.value_limits import ValueLimits
from psc_volumetric.layers.guarantee import Guarantee
from psc_volumetric.layers.progressive import bounding, keeps_budget, refining
from psc_volumetric.layers.segments import (
    Below,
    EncodedLayer,
    encode_bounded,
    encode_lossless,
)
from psc_volumetric.values.special import SpecialMap

__all__ = ["encode_layers"]

MANY_OUTLIERS = 1e-3  # share of voxels; an exact layer may then be smaller than a bounded one


def encode_layers(
    values: Values,
    base: Below | None,
    guarantee: Guarantee,
    *,
    special: SpecialMap | None,
    limits: ValueLimits | None,
    lossless_only: bool,
    exact_mask: Mask | None,
) -> list[EncodedLayer]:
    """The layers that keep a guarantee over a base.

    Parameters
    ----------
    values : (z, y, x) array
    base : Below or None
        Last level of the base method; None means method ``none``, which has at least one layer.
    guarantee : Guarantee
    special : SpecialMap or None
        Voxels that are not measurements.
    limits : ValueLimits or None
        That the bounded level stays within.
    lossless_only : bool
        There are more special bit patterns than a brick with a lossy level can list.
    exact_mask : (z, y, x) array of bool, optional
        Voxels to keep exactly.
    """
    below = base
    layers: list[EncodedLayer] = []
    bounded, leveled = None, guarantee
    if guarantee.budget is not None:
        guarantee = replace(guarantee, max_error=None, budget=None)  # if there is to be no level
        if (
            lossless_only
            or base is not None
            or not keeps_budget(values, leveled, special=special, limits=limits)
        ):
            leveled = guarantee
    if leveled.bound and not lossless_only:
        first = leveled if leveled.budget is None else bounding(leveled)
        bounded = encode_bounded(
            values, special=special, limits=limits, below=below, guarantee=first
        )
    if bounded is not None and leveled.budget is not None:
        guarantee = refining(leveled)
    if bounded is not None:
        layers.append(bounded)
        below = Below.bounded(bounded)
    if guarantee.is_exact or below is None or (guarantee.bound and bounded is None):
        layers.append(encode_lossless(values, below=below, guarantee=guarantee))
    elif exact_mask is not None and exact_mask.any():
        layers.append(encode_lossless(values, below=below, mask=exact_mask, guarantee=guarantee))
    elif base is None and bounded is not None and bounded.outliers > MANY_OUTLIERS * values.size:
        exact = encode_lossless(values, below=None, guarantee=guarantee)
        layers = [exact] if exact.nbytes <= bounded.nbytes else layers
    return layers
