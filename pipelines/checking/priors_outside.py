"""Priors that were left out of archives: where they are, in words."""

from __future__ import annotations

from psc_volumetric.errors import InstallationError
from psc_volumetric.prior.finding import shipped_name

__all__ = ["outside_text"]


def outside_text(digest: str) -> str:
    """Where a prior is that was left out of an archive, and what a reader needs.

    Parameters
    ----------
    digest : str
        64 hex digits.
    """
    try:
        name = shipped_name(digest)
    except InstallationError:  # what does not need it can be shown without it
        name = None
    if name is None:
        return (
            f"{digest[:16]} is not inside, and this psc-archive does not ship it: bricks are read "
            "with a release that does, README.txt in the archive names one"
        )
    return f"{digest[:16]} is not inside: it ships with psc-archive as {name}"
