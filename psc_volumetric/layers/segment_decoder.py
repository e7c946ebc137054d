"""Reading one segment of an exact layer, as far as it is wanted. Part of the format (SPEC 8)."""

from __future__ import annotations

import math
import threading

import numpy as np

from psc_volumetric.arrays import Mask, Triple, Values
from psc_volumetric.bitstream.layer_fields import LayerFields
from psc_volumetric.bitstream.value_limits import ValueLimits, saturate
from psc_volumetric.bitstream.wire import FieldReader
from psc_volumetric.coders.exact_places import read_places
from psc_volumetric.coders.registry import EXACT_CODERS
from psc_volumetric.coders.slicewise import SLICEWISE, SliceDecoder
from psc_volumetric.layers.grid import INDEX, nearest_indices, restore
from psc_volumetric.layers.interpolated import decode_interpolated_values
from psc_volumetric.values.special import SpecialMap

__all__ = ["SegmentDecoder", "slices_seen"]


def slices_seen(fields: LayerFields, dtype: np.dtype[np.generic], end: int, depth: int) -> int:
    """How many slices of the level below a segment of a layer takes for its first ``end``."""
    if fields.coder not in SLICEWISE:
        return depth
    return SliceDecoder.sees(end, depth, dtype, refines=fields.refines)


class SegmentDecoder:
    """Stored values of one segment, from its first slice on.

    Parameters
    ----------
    data : bytes
        Of the segment, compared with its checksum.
    fields : LayerFields
        Of the layer.
    shape : (z, y, x)
        Extent of the segment.
    dtype : numpy.dtype
        Stored dtype.
    limits : ValueLimits or None
        Of the brick.
    special : SpecialMap or None
        Of the segment, where a bounded layer has voxels that are no measurements.
    what : str
        For messages.

    Attributes
    ----------
    values : (z, y, x) array
        Filled up to slice ``done``.
    exact : (z, y, x) array of bool
        Which values have the bits of the source for certain.
    done : int
        Slices that were decoded. What the coder has behind the last of them, check bits for
        example, is compared with it.
    error : BaseException or None
        Why it cannot go on.
    nbytes : int
        Bytes in memory when the last call ended.

    Raises
    ------
    FormatError : the bytes are something else; later calls raise it again.

    Notes
    -----
    Safe to use from several threads.
    """

    def __init__(
        self,
        data: bytes,
        fields: LayerFields,
        shape: Triple,
        dtype: np.dtype[np.generic],
        *,
        limits: ValueLimits | None,
        special: SpecialMap | None,
        what: str,
    ) -> None:
        self.values: Values = np.empty(shape, dtype)
        self.exact: Mask = np.broadcast_to(np.True_, shape)
        self.done = 0
        self.error: BaseException | None = None
        self._fields, self._limits, self._special, self._what = fields, limits, special, what
        self._lock = threading.Lock()
        if fields.grid is not None:
            stored = FieldReader(data, what=what)
            self._places, self._listed = read_places(stored, math.prod(shape), dtype, what=what)
            data = stored.raw(len(data) - stored.offset)
            self.exact = np.zeros(shape, bool)
            self.exact.reshape(-1)[self._places] = True
        if special is not None:
            self.exact |= special.index > 0
        self._data = data
        self._slices: SliceDecoder | None = None
        self.nbytes = self._measured()

    def _measured(self) -> int:
        """Bytes in memory, while no other thread decodes."""
        exact = 0 if self._fields.grid is None else self.exact.nbytes
        coder = 0 if self._slices is None else self._slices.nbytes
        special = 0 if self._special is None else self._special.index.nbytes
        return self.values.nbytes + exact + len(self._data) + coder + special

    def decode(self, end: int, reference: Values | None, first: int) -> None:
        """Go on to slice ``end``, at least; nothing where that is done.

        Parameters
        ----------
        end : int
        reference : array or None
            Stored values of the level below, if the layer refers to it; of a refinement the least
            and the largest that each value can be. From slice ``first`` on, at most one before
            `done` as the caller found it, as far as `slices_seen` says.
        first : int
        """
        with self._lock:
            if self.error is not None:
                raise self.error
            if end <= self.done:
                return
            try:
                if self._fields.coder in SLICEWISE:
                    self._decode_slices(end, reference, first)
                else:
                    self._decode_all(reference)
            except BaseException as error:
                self.error = error
                raise
            self.nbytes = self._measured()

    def _decode_slices(self, end: int, reference: Values | None, first: int) -> None:
        grid, shape = self._fields.grid, self._shape
        dtype = self.values.dtype if grid is None else INDEX
        if self._slices is None:
            self._slices = SliceDecoder(
                self._data, shape, dtype, coder=self._fields.coder, what=self._what
            )
            self._data = b""
        if grid is not None and reference is not None:
            reference = nearest_indices(reference, grid)
        found = self._slices.slices(end, reference, first)
        if grid is not None:
            found = restore(found.astype(INDEX, copy=False), grid, self.values.dtype)
        self._fill(found, end)
        if end == shape[0]:
            self._slices = None

    def _decode_all(self, reference: Values | None) -> None:
        grid, dtype, what = self._fields.grid, self.values.dtype, self._what
        if self._fields.coder == "interpolation":
            assert grid is not None  # a lossless layer cannot be interpolated: header was checked
            found = decode_interpolated_values(self._data, self._shape, grid, dtype, what=what)
        elif grid is None:
            coder = EXACT_CODERS[self._fields.coder]
            found = coder.decode(self._data, self._shape, dtype, reference, what=what)
        else:
            coder = EXACT_CODERS[self._fields.coder]
            under = None if reference is None else nearest_indices(reference, grid)
            coded = coder.decode(self._data, self._shape, INDEX, under, what=what)
            found = restore(coded.astype(INDEX), grid, dtype)
        self._data = b""
        self._fill(found, self._shape[0])

    def _fill(self, found: Values, end: int) -> None:
        """Take decoded slices, those that a bounded layer keeps exactly over them."""
        if self._fields.grid is None:
            self.values[self.done : end] = found
        else:
            saturate(found, self._limits)
            self.values[self.done : end] = found
            plane = math.prod(self._shape[1:])
            begin, stop = np.searchsorted(self._places, (self.done * plane, end * plane))
            self.values.reshape(-1)[self._places[begin:stop]] = self._listed[begin:stop]
        if self._special is not None:
            new = slice(self.done, end)
            self._special.apply(self.values[new], (new, slice(None), slice(None)))
            if end == len(self.values):
                self._special = None
        self.done = end

    @property
    def _shape(self) -> Triple:
        z, y, x = self.values.shape
        return z, y, x
