"""Bytes that other lossless codecs need for the same values, slice by slice."""

from __future__ import annotations

import math

import imagecodecs
import numpy as np

from psc_volumetric.archive import ArchiveReader
from psc_volumetric.archive.layout import VariableSpec

__all__ = ["peer_sizes"]


def peer_sizes(reader: ArchiveReader, spec: VariableSpec) -> list[tuple[str, int]]:
    """Name and bytes of PNG and JPEG XL (8 and 16 bits only) and of Zstandard.

    They code what the archive gives as its best level; slices are those of the last two axes.
    """
    sizes = {"Zstandard, level 19": 0}
    images = (spec.dtype.kind == "u" and spec.dtype.itemsize <= 2) or spec.dtype == np.int16
    if images:
        sizes |= {"JPEG XL, effort 7": 0, "PNG": 0}
    for slab in _slabs(spec):
        values = np.ascontiguousarray(reader.read(spec.name, slab))
        sizes["Zstandard, level 19"] += len(imagecodecs.zstd_encode(values.tobytes(), level=19))
        for picture in values.reshape(-1, *values.shape[-2:]) if images else ():
            plain = picture
            if picture.dtype == np.int16:  # shifted into what pictures can hold
                plain = (picture.astype(np.int32) + (1 << 15)).astype(np.uint16)
            sizes["JPEG XL, effort 7"] += len(
                imagecodecs.jpegxl_encode(plain, lossless=True, effort=7)
            )
            sizes["PNG"] += len(imagecodecs.png_encode(plain, level=9))
    return sorted(sizes.items(), key=lambda item: item[1])


def _slabs(spec: VariableSpec) -> list[tuple[slice, ...]]:
    """The variable in parts as deep as a brick along its first axis."""
    deep = spec.chunk_shape[0] if spec.ndim > 2 else spec.shape[0]
    rest = tuple(slice(0, n) for n in spec.shape[1:])
    count = math.ceil(spec.shape[0] / deep)
    return [(slice(n * deep, min((n + 1) * deep, spec.shape[0])), *rest) for n in range(count)]
