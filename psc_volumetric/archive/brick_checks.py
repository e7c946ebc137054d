"""Whether a brick is the one its key names, and errors that say where in the array they are."""

from __future__ import annotations

from collections.abc import Iterable

from psc_volumetric.archive.layout import VariableSpec
from psc_volumetric.bitstream.constants import CODER_CODES
from psc_volumetric.bitstream.index import BrickIndex
from psc_volumetric.errors import (
    FormatError,
    PriorMismatchError,
    PscError,
    UnsupportedVersionError,
)
from psc_volumetric.methods.entries import CODES
from psc_volumetric.methods.registry import REGISTRY

__all__ = ["check_index", "named", "placed"]

Box = tuple[slice, slice, slice]


def check_index(index: BrickIndex, spec: VariableSpec, position: tuple[int, ...], key: str) -> None:
    """Refuse a brick that is not the one the key names (FormatError, PriorMismatchError)."""
    if index.position != tuple(position):
        raise FormatError(
            f"expected the brick of position {tuple(position)!r}, found the one of "
            f"{index.position!r}",
            kind="wrong-position",
            hint=f"{key} was swapped with another brick; get it from another copy",
        )
    expected = (spec.brick_shape, spec.valid(position), spec.dtype.name)
    found = (index.shape, index.valid, index.dtype.name)
    if expected != found:
        raise FormatError(
            f"expected (shape, valid part, dtype) {expected!r}, found {found!r}",
            kind="wrong-brick",
            hint=f"{key} belongs to another archive; get it from another copy",
        )
    prior = index.prior_digest
    if prior is not None and not (spec.prior or "").startswith(prior):
        raise PriorMismatchError(
            f"the variable names prior {spec.prior!r}, the brick was coded with {prior!r}",
            kind="prior-mismatch",
            hint=f"{key} belongs to another archive; get it from another copy",
        )


def named(error: UnsupportedVersionError, codings: Iterable[str]) -> UnsupportedVersionError:
    """The same error, with the names that the archive has for what this reader does not know.

    Parameters
    ----------
    error : UnsupportedVersionError
        A brick has the number of a method or coder that nobody here has.
    codings : iterable of str
        What the archive's table of tiles says of its bricks: ``toy+lossless:context``.
    """
    parts = [part for coding in codings for part in coding.split("+")]
    methods = {part for part in parts if ":" not in part} - {*REGISTRY.names, *CODES.values()}
    coders = {part.partition(":")[2] for part in parts if ":" in part} - set(CODER_CODES)
    unknown = [f"method {name!r}" for name in sorted(methods)]
    unknown += [f"coder {name!r}" for name in sorted(coders)]
    if not unknown:
        return error
    said = f"{error.message}; the archive calls it {' or '.join(unknown)}"
    return UnsupportedVersionError(said, kind=error.kind, hint=error.hint)


def placed(
    error: PscError,
    name: str,
    key: str,
    spec: VariableSpec,
    position: tuple[int, ...],
    box: Box,
) -> PscError:
    """The same error, saying which key and which voxels of the array it is about."""
    corner = [s.start for s in spec.box(position)]
    inside = [slice(0, 1)] * spec.lead + list(box[3 - spec.spatial :])
    region = ",".join(
        f"{dim}={c + s.start}:{c + s.stop}"
        for dim, c, s in zip(spec.dims, corner, inside, strict=True)
    )
    tiles = ",".join(
        str(s.start // t) if s.stop - s.start <= t else f"{s.start // t}-{(s.stop - 1) // t}"
        for s, t in zip(box, spec.tile_shape, strict=True)
    )
    text = error.message
    text = text if key in text else f"{name}: {key}: {text}"
    said = f"{text} [region {region}; tiles {tiles} of the brick]"
    return type(error)(said, kind=error.kind, hint=error.hint)
