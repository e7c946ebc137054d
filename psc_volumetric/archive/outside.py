"""Priors that bricks need and that were left out of their archive."""

from __future__ import annotations

from psc_volumetric.archive.layout import VariableSpec
from psc_volumetric.archive.reader import ArchiveReader
from psc_volumetric.methods.registry import REGISTRY

__all__ = ["priors_outside"]


def priors_outside(reader: ArchiveReader) -> tuple[str, ...]:
    """Digests (64 hex digits) of the priors that bricks need and that are not in the archive.

    Headers of bricks are read until one names the prior, only of variables that have one outside
    and a method that may need it.

    Raises
    ------
    FormatError : a tile table or header is damaged.
    """
    inside = reader.prior_source().digests
    named = {name: spec for name, spec in reader.variables.items() if spec.prior not in inside}
    found = {spec.prior for name, spec in named.items() if _needs_prior(reader, name, spec)}
    return tuple(sorted(filter(None, found)))


def _needs_prior(reader: ArchiveReader, name: str, spec: VariableSpec) -> bool:
    if spec.prior is None:
        return False
    methods = {coding.partition("+")[0] for coding in reader.codings(name)}
    if not any(map(REGISTRY.may_need_prior, methods)):
        return False
    indices = (reader.brick_index(name, position) for position in spec.positions())
    return any(index.prior_digest is not None for index in indices)
