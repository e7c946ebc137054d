"""Which prior an archive is coded with, and whether one nobody asked for is worth its bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from adapters.base import SourceItem
from pipelines.archiving.options import CT_PRIOR, GENERAL_PRIOR, ArchiveOptions, choose_prior
from pipelines.archiving.value_range import SampledRange
from psc_volumetric.extras import has_extra, require
from psc_volumetric.methods.registry import AUTO, REGISTRY
from psc_volumetric.prior import installed
from psc_volumetric.prior.finding import newest

__all__ = ["may_carry_prior", "prior_name"]

LEAST_WITH_PRIOR = 12 << 20  # bytes of an archive; a prior takes a tenth of that
USUAL_BPV = 0.25  # of a lossy archive, where nothing says more


def prior_name(
    item: SourceItem, options: ArchiveOptions, ranges: Sequence[SampledRange]
) -> tuple[str | None, str | None]:
    """Name of the prior to code with, and a note.

    Where nobody asked for one, ``auto`` takes that of the domain or none.

    Raises
    ------
    ExtraMissingError, PriorMismatchError : it cannot be used, or does not exist.
    """
    require("prior", f"base {options.lossy_base} with a prior")
    suggested = item.suggested_prior
    if suggested is None and any(sampled.hounsfield for sampled in ranges):
        suggested = CT_PRIOR
    names = tuple(installed())
    ending = REGISTRY.ending(options.lossy_base)
    if options.lossy_base == AUTO and options.prior is None:
        wanted = newest(suggested or GENERAL_PRIOR, ending, names)
        if wanted not in names:
            return None, None
        return wanted, f"the posterior network {wanted!r} is tried beside the other methods"
    return choose_prior(options.prior, suggested, names, ending)


def may_carry_prior(item: SourceItem, options: ArchiveOptions) -> tuple[bool, str | None]:
    """Whether the archive has room for a prior nobody asked for, and a note where it has not.

    The prior travels with the archive, and has to save more than it takes.
    """
    if options.lossy_base != AUTO or options.prior is not None:
        return True, None
    voxels = sum(math.prod(volume.array.shape) for volume in item.volumes)
    expected = (USUAL_BPV if options.bpv is None else options.bpv) * voxels / 8
    if expected >= LEAST_WITH_PRIOR:
        return True, None
    if has_extra("av1") or not has_extra("prior"):
        return False, None
    return False, (
        f"a posterior network is not tried: it takes 1 MB of an archive of about "
        f"{expected / 1e6:.2g} MB; --base posterior asks for it"
    )
