"""The plain-text note at the root of an archive, for a finder without our software."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.resources import files

from psc_volumetric.archive.layout import CODEC_NAME, FORMAT, VariableSpec

__all__ = ["readme_text", "specification_digest"]

SPECIFICATION = "SPEC-v1.md"

TEXT = """\
This folder (or zip file) is a psc-archive, format {number}, mode "{mode}".
{warning}
It is a Zarr v3 group. Every Zarr reader can list it and read the plain parts; the arrays named
below are coded with "{codec}" and need the psc-archive software (package "psc-archive", import
name "psc_volumetric") or another reader written from its specification,
"psc_volumetric/bitstream/{specification}", SHA-256 {digest}.

Coded arrays:
{variables}

What is where
  zarr.json              attributes of the whole: format, mode, digests of the source files
  <array>/zarr.json      shape, type, axes, unit, affine (array index -> world mm, RAS+)
  <array>/c/...          one object per brick; the bytes of a brick name its own position
  other arrays           coordinates, plain
  preview/<array>/       small plain pyramid (OME-Zarr 0.5, zstd); opens in any Zarr viewer
  tiles/<array>/         plain arrays: bytes, errors and SHA-256 of the decoded values per tile
  source/                the headers of the source files, as bytes in plain arrays; this part may
                         hold names and dates of people
  priors/<sha256>/       the network weights decoding needs (safetensors) with a JSON description
  manifest.json          every object with its size and SHA-256; the archive is complete only if
                         this file is there

Read it with
  psc-archive info THIS
  psc-archive restore THIS --output FOLDER
  python -c "import xarray; print(xarray.open_dataset('THIS', engine='psc'))"
"""

WARNING = """\
The values are NOT the exact source values: they were compressed with loss, by a method that can
invent plausible detail. Not for primary diagnosis.
"""


def specification_digest() -> str:
    """SHA-256 of the shipped specification; ``"unknown"`` when this copy has none."""
    document = files("psc_volumetric.bitstream").joinpath(SPECIFICATION)
    if not document.is_file():
        return "unknown"
    return hashlib.sha256(document.read_bytes()).hexdigest()


def readme_text(mode: str, variables: Sequence[VariableSpec]) -> str:
    """Text of ``README.txt``; depends on format, mode and the arrays only."""
    lines = (
        f"  {v.name}: {v.dtype.name}, axes "
        + ", ".join(f"{dim}={size}" for dim, size in zip(v.dims, v.shape, strict=True))
        for v in variables
    )
    return TEXT.format(
        number=FORMAT,
        mode=mode,
        warning=WARNING if mode == "lossy" else "",
        codec=CODEC_NAME,
        specification=SPECIFICATION,
        digest=specification_digest(),
        variables="\n".join(lines),
    )
