"""Lossy levels whose values are not taken for fill values: limits where a method would go past.

Not part of the format: an encoder writes limits into the header of a brick, and readers keep them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from psc_volumetric.bitstream.value_limits import ValueLimits
from psc_volumetric.methods.choice import Choice, encode_base
from psc_volumetric.methods.protocol import EncodeJob, Resources
from psc_volumetric.values.special import special_mask

__all__ = ["encode_base_apart"]


def encode_base_apart(
    job: EncodeJob,
    resources: Resources,
    special_values: Sequence[float],
    *,
    base: str,
    lossy: bool,
) -> tuple[Choice, ValueLimits | None]:
    """Code the base of a brick, again with narrower limits where it gives special values.

    A special value past the ends of the measured ones (a fill value of -32768, or 255) can be kept
    away so. Between the ends nothing is: a lossy level promises nothing for a voxel.

    Parameters
    ----------
    job : EncodeJob
    resources : Resources
    special_values : sequence of float
        Values that are no measurements, whether or not the brick has them.
    base, lossy
        As in `encode_base`.

    Returns
    -------
    choice : Choice
    limits : ValueLimits or None
        For the header of the brick, those of the job or narrower ones.
    """
    choice = encode_base(job, resources, base=base, lossy=lossy)
    measured = np.ones(job.values.shape, bool) if job.special is None else job.special.index == 0
    levels = () if choice.base is None else choice.base.levels
    reserved = tuple(special_values)
    if not any(special_mask(level[measured], reserved).any() for level in levels):
        return choice, job.limits
    whole = job.limits or ValueLimits.all_of(job.values.dtype)
    limits = whole.apart_from(reserved, job.values[measured])
    if limits == whole:
        return choice, job.limits
    job = replace(job, limits=limits)
    return encode_base(job, resources, base=base, lossy=lossy), limits
