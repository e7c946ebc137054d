"""What an archive says to a finder without our software: a plain text, and the whole specification.

Part of the format (SPEC section 11).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from importlib.resources import files

from psc_volumetric import __version__
from psc_volumetric.archive.layout import FORMAT, SPECIFICATION_PREFIX, VariableSpec
from psc_volumetric.shipped import broken

__all__ = ["readme_text", "specification_digest", "specification_files"]

SPECIFICATION = "SPEC-v1.md"
TABLES = {"tables.safetensors": "entropy", "networks.safetensors": "coders.context"}

TEXT = """\
psc-archive, format {number}, {mode}: a Zarr v3 group. manifest.json lists every object; source/ may
hold names of people. {warning}
{variables}

Read it with the Python package psc-archive (written by release {release}), where ARCHIVE is this
folder or file and TARGET is new:
  psc-archive restore ARCHIVE TARGET
or write a reader from its specification, {specification}, SHA-256
{digest}.
"""

WHERE_KEPT = "read out of the source file, which is in source/ as it was"
WARNING = "Lossy: may show detail that was never there; not for primary diagnosis."
INSIDE = f"""
The specification, its tables and the networks of its exact coders are in {SPECIFICATION_PREFIX};
priors, the networks of lossy bricks, are in priors/ where bricks need one. With the standards that
the specification names, no other document or program is needed.
"""

OUTSIDE = """
Bricks may need a prior that is not inside: psc-archive {release} ships it as {name} (SHA-256: see
zarr.json).
"""


def specification_digest() -> str:
    """SHA-256 of the shipped specification; ``"unknown"`` when this copy has none."""
    document = files("psc_volumetric.bitstream").joinpath(SPECIFICATION)
    if not document.is_file():
        return "unknown"
    return hashlib.sha256(document.read_bytes()).hexdigest()


def specification_files() -> dict[str, bytes]:
    """Key in an archive -> content, of the specification and the numbers that belong to it.

    Raises
    ------
    InstallationError : this copy of the package lacks one, or has other tables than the text says
        (kind ``"no-specification"``).
    """
    places = [files("psc_volumetric.bitstream").joinpath(SPECIFICATION)]
    places += [files(f"psc_volumetric.{part}").joinpath(name) for name, part in TABLES.items()]
    found = {f"{SPECIFICATION_PREFIX}{p.name}": p for p in places}
    lacking = [key for key, place in found.items() if not place.is_file()]
    contents = {key: place.read_bytes() for key, place in found.items() if key not in lacking}
    said = contents.get(SPECIFICATION_PREFIX + SPECIFICATION, b"")
    stored = [contents.get(SPECIFICATION_PREFIX + name, b"") for name in TABLES]
    if lacking or any(hashlib.sha256(data).hexdigest().encode() not in said for data in stored):
        raise broken(
            f"this installation: expected {SPECIFICATION} and {' and '.join(TABLES)} that it "
            f"names in {files('psc_volumetric')}, found "
            f"{'a text that names other files' if not lacking else 'no ' + ', '.join(lacking)}",
            kind="no-specification",
        )
    return contents


def readme_text(
    mode: str,
    variables: Sequence[VariableSpec],
    kept: Sequence[VariableSpec] = (),
    *,
    self_contained: bool = False,
    outside: Iterable[str] = (),
) -> str:
    """Text of ``README.txt``; depends on format, mode, the arrays and what is inside only.

    Values of ``kept`` variables are read out of source files that are in the archive; ``outside``
    are names of priors that were left out.
    """
    lines = [
        f"  {v.name}: {v.dtype.name}, "
        + ", ".join(f"{dim}={size}" for dim, size in zip(v.dims, v.shape, strict=True))
        for v in (*variables, *kept)
    ]
    if kept:
        lines.append(f"  {WHERE_KEPT}")
    text = TEXT.format(
        number=FORMAT,
        release=__version__,
        mode=mode,
        warning=WARNING if mode == "lossy" else "",
        specification=SPECIFICATION,
        digest=specification_digest(),
        variables="\n".join(lines),
    )
    for name in outside:
        text += OUTSIDE.format(release=__version__, name=name)
    return text + INSIDE if self_contained else text
