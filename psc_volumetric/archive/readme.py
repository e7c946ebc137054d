"""The plain-text note at the root of an archive, for a finder without our software."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.resources import files

from psc_volumetric import __version__
from psc_volumetric.archive.layout import FORMAT, VariableSpec

__all__ = ["readme_text", "specification_digest"]

SPECIFICATION = "SPEC-v1.md"

TEXT = """\
psc-archive, format {number}, {mode}: a Zarr v3 group. manifest.json lists every object; source/ may
hold names of people. {warning}
{variables}

Read it with the Python package psc-archive (written by release {release}):
  psc-archive restore THIS FOLDER
or write a reader from its specification, {specification}, SHA-256
{digest}.
"""

WARNING = "Lossy: may show detail that was never there; not for primary diagnosis."


def specification_digest() -> str:
    """SHA-256 of the shipped specification; ``"unknown"`` when this copy has none."""
    document = files("psc_volumetric.bitstream").joinpath(SPECIFICATION)
    if not document.is_file():
        return "unknown"
    return hashlib.sha256(document.read_bytes()).hexdigest()


def readme_text(mode: str, variables: Sequence[VariableSpec]) -> str:
    """Text of ``README.txt``; depends on format, mode and the arrays only."""
    lines = (
        f"  {v.name}: {v.dtype.name}, "
        + ", ".join(f"{dim}={size}" for dim, size in zip(v.dims, v.shape, strict=True))
        for v in variables
    )
    return TEXT.format(
        number=FORMAT,
        release=__version__,
        mode=mode,
        warning=WARNING if mode == "lossy" else "",
        specification=SPECIFICATION,
        digest=specification_digest(),
        variables="\n".join(lines),
    )
