"""Which prior an archive is coded with, and whether one nobody asked for is worth its bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from adapters.base import SourceItem
from pipelines.archiving.options import CT_PRIOR, GENERAL_PRIOR, ArchiveOptions, choose_prior
from pipelines.archiving.value_range import SampledRange
from psc_volumetric.errors import ParameterError
from psc_volumetric.extras import has_extra, require
from psc_volumetric.methods.registry import AUTO, REGISTRY
from psc_volumetric.prior import Prior, installed
from psc_volumetric.prior.finding import newest, shipped_name

__all__ = ["check_ships", "may_carry_prior", "prior_name"]

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

    The prior travels with the archive, and has to save more than it takes; one that is left out
    takes nothing.
    """
    if options.lossy_base != AUTO or options.prior is not None or options.no_prior_inside:
        return True, None
    voxels = sum(math.prod(volume.array.shape) for volume in item.volumes)
    expected = (USUAL_BPV if options.bpv is None else options.bpv) * voxels / 8
    if expected >= LEAST_WITH_PRIOR:
        return True, None
    if has_extra("av1") or not has_extra("prior"):
        return False, None
    return False, (
        f"a posterior network is not tried: it takes 1 MB of an archive of about "
        f"{expected / 1e6:.2g} MB; --base posterior asks for it, --no-prior-inside leaves it out"
    )


def check_ships(prior: Prior, options: ArchiveOptions) -> None:
    """Refuse to leave a prior out of an archive that readers have from nowhere else.

    Raises
    ------
    ParameterError : it does not ship with this package (kind ``"prior-outside"``).
    """
    if options.no_prior_inside and shipped_name(prior.digest) is None:
        raise ParameterError(
            "expected a prior that ships with psc-archive, since --no-prior-inside leaves it out "
            f"of the archive, found {prior.name!r} with SHA-256 {prior.digest[:16]}..., which does "
            "not ship",
            kind="prior-outside",
            hint="leave --no-prior-inside out, or name one of `psc-archive prior list`",
        )
