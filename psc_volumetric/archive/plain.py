"""Plain arrays: what the source holds beside its volumes, exact, for any Zarr reader to see.

Numbers are stored as they are, text as Zarr's ``string``, single characters (NC_CHAR) as bytes
with ``raw_dtype`` ``"S1"``. The fill value is never a value of the array, so that a lost chunk can
not be taken for data by a reader that does not know the manifest.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.archive.attributes import checked_attributes, typed_attributes
from psc_volumetric.archive.layout import ATTRIBUTE
from psc_volumetric.archive.naming import node_path
from psc_volumetric.archive.plain_arrays import readable
from psc_volumetric.errors import FormatError

if TYPE_CHECKING:
    import zarr

    from psc_volumetric.archive.stage import Stage

__all__ = ["ArrayLike", "PlainArray", "Sliceable", "fill_that_is_no_value", "stage_array"]

BLOCK_BYTES = 32 << 20
LOST_TEXT = "(lost)"
_TEXT_KINDS = "OTU"


class Sliceable(Protocol):
    """An array that is read slice by slice."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Length per axis."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type; ``object`` or a text type for text."""

    def __getitem__(self, key: Any, /) -> NDArray[Any]: ...


class ArrayLike(Protocol):
    """An array that is no volume (``adapters.base.SideArray``)."""

    @property
    def name(self) -> str:
        """As in the source; slashes separate groups."""

    @property
    def array(self) -> Any:
        """A `Sliceable`."""

    @property
    def dims(self) -> tuple[str, ...]:
        """Axis names."""

    @property
    def attrs(self) -> Mapping[str, Any]:
        """As the source's reader gives them."""


@dataclass(frozen=True)
class PlainArray:
    """One plain array of a sealed archive; slices are read, and checked, when asked for."""

    name: str
    dims: tuple[str, ...]
    attrs: Mapping[str, Any]
    dtype: np.dtype[Any]
    stored: zarr.Array[Any] = field(repr=False)

    @classmethod
    def of(cls, name: str, stored: zarr.Array[Any]) -> PlainArray:
        """Describe an opened Zarr array."""
        attributes: dict[str, Any] = stored.attrs.asdict()
        shown = checked_attributes(attributes, name)
        raw = attributes.get(ATTRIBUTE, {}).get("raw_dtype")
        if raw not in (None, "S1") or (raw and stored.dtype != np.uint8):
            raise FormatError(f"{name}: raw type {raw!r}", kind="bad-metadata")
        dims = stored.metadata.dimension_names or ()  # type: ignore[union-attr]
        dtype: np.dtype[Any] = np.dtype("S1") if raw else np.dtype(stored.dtype)
        if dtype.kind in _TEXT_KINDS:
            dtype = np.dtype(object)
        return cls(name, tuple(str(d) for d in dims), shown, dtype, stored)

    @property
    def shape(self) -> tuple[int, ...]:
        """Length per axis."""
        return tuple(self.stored.shape)

    def __getitem__(self, key: Any) -> NDArray[Any]:
        with readable(self.name):
            values = np.asarray(self.stored[key])
        if self.dtype.kind == "O":
            return values.astype(object)
        if self.dtype.kind == "S":
            return np.ascontiguousarray(values).view(self.dtype).reshape(values.shape)
        return values

    @property
    def values(self) -> NDArray[Any]:
        """The whole array in memory."""
        return self[...]


def stage_array(stage: Stage, given: ArrayLike) -> None:
    """Write one array block by block; memory is bounded by a block, whatever the array's size."""
    from psc_volumetric.archive.stage import chunks_for, pays_as_differences

    array: Sliceable = given.array
    text, characters = array.dtype.kind in _TEXT_KINDS, array.dtype.kind == "S"
    dtype = np.dtype("u1") if characters else array.dtype.newbyteorder("=")
    attributes = typed_attributes(given.attrs, dtype, "S1" if characters else None)
    if characters:
        attributes[ATTRIBUTE]["raw_dtype"] = "S1"
    shape = tuple(int(size) for size in array.shape)
    chunks = chunks_for([max(1, n) for n in shape])
    boxes = list(_blocks(shape, chunks, 16 if text else max(1, dtype.itemsize)))
    only = [_stored(array[box], dtype) for box in boxes[:1]] if len(boxes) == 1 else None
    begin = tuple(slice(0, size) for size in chunks[: len(shape)])
    numbers = not text and not characters and 0 not in shape
    made = stage.array(
        node_path(given.name),
        shape=shape,
        dtype=str if text else dtype,
        dims=given.dims,
        chunks=chunks,
        attributes=attributes,
        fill_value=fill_that_is_no_value(dtype, only or (_stored(array[b], dtype) for b in boxes)),
        differences=numbers and pays_as_differences(_stored(array[begin], dtype)),
    )
    if not boxes:
        stage.flush()  # its metadata, which is all there is of it
    for box in boxes:
        values = only[0] if only else _stored(array[box], dtype)
        if values.size:
            made[box if box else ...] = values
        stage.flush()


def _stored(values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    if dtype == np.dtype("u1") and values.dtype.kind == "S":
        return np.frombuffer(values.tobytes(), np.uint8).reshape(values.shape)
    return np.asarray(values)


def _blocks(shape: Sequence[int], chunks: Sequence[int], width: int) -> Iterator[tuple[slice, ...]]:
    """Boxes of whole chunks, about `BLOCK_BYTES` each, that cover an array."""
    if not shape:
        yield ()
        return
    axis = next((n for n, size in enumerate(shape) if size > 1), 0)
    row = width * math.prod(shape[axis + 1 :])
    step = max(1, BLOCK_BYTES // max(1, row * chunks[axis])) * chunks[axis]
    for start in range(0, shape[axis], step):
        box = [slice(0, size) for size in shape]
        box[axis] = slice(start, min(start + step, shape[axis]))
        yield tuple(box)


def fill_that_is_no_value(dtype: np.dtype[Any], blocks: Iterable[NDArray[Any]]) -> Any:
    """A fill value that does not occur, where the type has one left.

    Parameters
    ----------
    dtype : numpy.dtype
        Numbers, or ``object`` for text.
    blocks : iterable of arrays
        All values.
    """
    if dtype.kind == "b":
        return False
    if dtype.kind in _TEXT_KINDS:
        candidates: list[Any] = [LOST_TEXT, LOST_TEXT * 2, LOST_TEXT * 3]
    elif dtype.kind == "f":
        lowest = np.finfo(dtype).min
        candidates = [dtype.type(np.nan), lowest, np.nextafter(lowest, dtype.type(0)), -lowest]
    elif dtype.itemsize == 1:
        limits = np.iinfo(dtype)
        candidates = [limits.min, *range(limits.max, limits.min, -1)]
    else:
        limits = np.iinfo(dtype)
        candidates = [limits.min, limits.max, limits.min + 1, limits.max - 1, limits.min + 2]
    free = candidates
    for block in blocks:
        free = [value for value in free if not _occurs(value, block)]
        if not free:
            break
    return (free or candidates)[0]


def _occurs(value: Any, block: NDArray[Any]) -> bool:
    if isinstance(value, float | np.floating) and np.isnan(value):
        return bool(np.isnan(block).any())
    return bool((block == value).any())
