"""What every format checks before it writes, and how it writes slab by slab and says what it wrote.

How nothing half-written is ever left: `adapters.staging`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

import numpy as np

from adapters.base import Array, LazyArray, RestoreInfo
from adapters.errors import SourceError

__all__ = [
    "SLAB_BYTES",
    "check_stored_type",
    "check_volumes_exist",
    "file_target",
    "loss_note",
    "slabs",
    "unusable_record",
]

SLAB_BYTES = 8 << 20
LARGEST_SLAB = 16  # times that


def slabs(
    array: Array | LazyArray, *, nbytes: int = SLAB_BYTES, rows: int = 1
) -> Iterator[tuple[tuple[slice, ...], Array]]:
    """Go through an array in C order, in parts of at most ``nbytes`` (or one value).

    Parameters
    ----------
    array : array or LazyArray
        At least one axis, none empty. A lazy one decodes each brick once in this order.
    nbytes : int
    rows : int
        Cut the first axis only at multiples of this, as long as such a part has at most 16 times
        ``nbytes``: chunks of a compressed file are then written once.

    Yields
    ------
    key : tuple of slice
        Where the part belongs.
    values : array
        C order, owned by the caller; parts laid end to end are the bytes of the whole.
    """
    shape, fits = array.shape, max(1, nbytes // array.dtype.itemsize)
    inner = math.prod(shape[1:])
    if rows > 1 and min(rows, shape[0]) * inner <= LARGEST_SLAB * fits:
        steps = [min(shape[0], max(rows, fits // inner // rows * rows)), *shape[1:]]
    else:
        steps = [1] * len(shape)
        for axis in reversed(range(len(shape))):
            steps[axis] = min(shape[axis], max(1, fits))
            fits //= shape[axis]
            if not fits:
                break
    for first in product(*(range(0, n, s) for n, s in zip(shape, steps, strict=True))):
        key = tuple(slice(a, min(a + s, n)) for a, s, n in zip(first, steps, shape, strict=True))
        yield key, np.ascontiguousarray(array[key])


def file_target(target: Path, own_name: str, suffixes: Sequence[str]) -> Path:
    """Choose the file to write: ``target`` itself, or the source's own name inside it.

    A target with one of ``suffixes`` is a file; anything else is a folder.
    """
    if target.is_dir() or not target.name.lower().endswith(tuple(suffixes)):
        return target / own_name
    return target


def check_volumes_exist(
    asked: Sequence[tuple[str, tuple[int, ...]]], known: dict[str, tuple[int, ...]]
) -> None:
    """Check names and full shapes of volumes to restore against the source's record.

    Raises
    ------
    SourceError : kind ``"bad-region"``.
    """
    if not asked:
        raise SourceError("expected at least one volume to restore, found none", kind="bad-region")
    for name, shape in asked:
        if name not in known or known[name] != shape:
            raise SourceError(
                f"expected one of the volumes {known!r}, found {name!r} of shape {shape!r}",
                kind="bad-region",
            )
    names = [name for name, _ in asked]
    if len(set(names)) != len(names):
        raise SourceError(f"a volume is listed twice: {names!r}", kind="bad-region")


def check_stored_type(found: np.dtype[np.generic], stored: np.dtype[np.generic], what: str) -> None:
    """Check that values to restore have the type the source stores, in native byte order.

    Raises
    ------
    SourceError : kind ``"bad-region"``.
    """
    if found != stored.newbyteorder("="):
        raise SourceError(
            f"{what}: expected values of the stored type {stored.name!r}, found {found.name!r}",
            kind="bad-region",
        )


def unusable_record(format_name: str, error: Exception) -> SourceError:
    """Give the error for a record from an archive that ``error`` shows to be damaged."""
    return SourceError(
        f"the stored {format_name} record cannot be used ({type(error).__name__})",
        kind="bad-document",
        hint="verify the archive",
    )


def loss_note(info: RestoreInfo) -> str:
    """Say in a file's own comments that its values are not those of its source."""
    ratio = "unknown" if info.ratio is None else f"{info.ratio:.4g}"
    made = "" if info.generated is None else f"; {info.generated}"
    bound = "" if info.max_error is None else f"; largest error {info.max_error:g} stored units"
    return (
        f"values restored with loss by psc-archive; method {info.method}; level {info.level}; "
        f"ratio {ratio}{bound}{made}"
    )
