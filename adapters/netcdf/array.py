"""Opening NetCDF files for raw values, one thread at a time, and arrays read from them lazily."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adapters.base import Array, selection_bounds
from adapters.errors import SourceError
from adapters.kept_open import KEPT
from adapters.netcdf.classic import check_classic_length

__all__ = ["LIBRARY", "NetcdfArray", "blocks_of", "opened"]

_CACHED_BYTES = 64 << 20  # the library keeps chunks of a variable until its file is closed
# The NetCDF library is not safe to call from several threads.
LIBRARY = threading.RLock()


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Give an open ``netCDF4.Dataset`` without masking, scaling or joining of characters.

    Raises
    ------
    SourceError : kind ``"damaged"``, ``"truncated"`` or ``"not-netcdf"``.
    """
    with LIBRARY:
        dataset = KEPT.take(path, _open)
        try:
            yield dataset
        except (OSError, RuntimeError, UnicodeDecodeError) as error:
            raise SourceError(
                f"the NetCDF library cannot read it: {error}", kind="damaged", path=path
            ) from error
        finally:
            KEPT.done(dataset)


def _open(path: Path) -> Any:
    import netCDF4

    check_classic_length(path)
    try:
        dataset = netCDF4.Dataset(path, "r")
    except (OSError, RuntimeError, ValueError, AttributeError) as error:
        with path.open("rb") as stream:
            start = stream.read(4)
        known = start[:3] == b"CDF" or start == b"\x89HDF"
        raise SourceError(
            "the NetCDF file is cut off or damaged"
            if known
            else f"expected a NetCDF signature, the file begins with {start!r}",
            kind="damaged" if known else "not-netcdf",
            path=path,
        ) from error
    dataset.set_auto_maskandscale(False)
    dataset.set_auto_chartostring(False)
    return dataset


@dataclass(frozen=True)
class NetcdfArray:
    """Stored (packed) values of one variable. See ``LazyArray``.

    ``type_name`` is the type that the file declares, or the other integer type of its size under
    which readers see the values.
    """

    path: Path
    key: str
    shape: tuple[int, ...]
    type_name: str

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values, native byte order."""
        return np.dtype(self.type_name)

    def __getitem__(self, key: tuple[slice, ...]) -> Array:
        bounds = selection_bounds(key, self.shape)
        shape = tuple(stop - start for start, stop in bounds)
        if 0 in shape:
            return np.empty(shape, self.dtype)
        with opened(self.path) as dataset:
            variable = dataset[self.key]
            values = variable[tuple(slice(start, stop) for start, stop in bounds)]
            KEPT.spent(min(_CACHED_BYTES, math.prod(self.shape) * self.dtype.itemsize))
        if self.dtype.kind == "O":
            texts = np.empty(shape, object)
            texts[...] = values
            return texts
        values = np.ascontiguousarray(values).reshape(shape)
        values = values.astype(values.dtype.newbyteorder("="), copy=False)
        return values.view(self.dtype) if self.dtype.kind in "iuS" else values


def blocks_of(
    shape: Sequence[int], width: int, limit: int, step: Sequence[int] | None = None
) -> Iterator[tuple[slice, ...]]:
    """Boxes in C order that cover an array, of about ``limit`` bytes each.

    Parameters
    ----------
    shape : sequence of int
    width : int
        Bytes of a value.
    limit : int
    step : sequence of int, optional
        Chunks of the array: boxes end where chunks do, where the limit allows.
    """
    if not shape:
        yield ()
        return
    axis = 0
    while axis < len(shape) - 1 and width * math.prod(shape[axis + 1 :]) > limit:
        axis += 1
    rows = max(1, limit // max(1, width * math.prod(shape[axis + 1 :])))
    if step is not None and rows > step[axis] > 0:
        rows -= rows % step[axis]
    for before in np.ndindex(*shape[:axis]):
        for start in range(0, shape[axis], rows):
            yield (
                *(slice(at, at + 1) for at in before),
                slice(start, min(start + rows, shape[axis])),
                *(slice(0, size) for size in shape[axis + 1 :]),
            )
