"""One part of a kept original, decoded here or by the process for that."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.archive.kept_decoders import DECODERS, Part, decoded_here
from psc_volumetric.archive.kept_process import decoded_apart
from psc_volumetric.bitstream.versions import NEWER
from psc_volumetric.errors import FormatError, LimitExceededError, UnsupportedVersionError
from psc_volumetric.extras import require

__all__ = ["decoded"]

# What is decoded by another process, with the extra that it takes.
APART = MappingProxyType({"tiff": "images", "fits": "fits", "video": "video"})


def decoded(name: str, data: bytes, number: int, part: Part, where: str) -> NDArray[Any]:
    """One part in native byte order; bits as bytes, integers unsigned by convention as its dtype.

    Raises
    ------
    FormatError : the part cannot be decoded (kind ``"bad-payload"``); of an unknown decoder an
        UnsupportedVersionError (``"unknown-configuration"``).
    ExtraMissingError : a library that reads it is not installed.
    """
    if name not in DECODERS:
        raise UnsupportedVersionError(
            f"{where}: expected a decoder among {sorted(DECODERS)}, found {name!r}",
            kind="unknown-configuration",
            hint=NEWER,
        )
    if name in APART:
        require(APART[name], f"reading values of a kept original ({name})")
    try:
        if name in APART:
            values = decoded_apart(name, data, number, part.shape, part.dtype)
        else:
            values = decoded_here(name, data, number, part)
    except ValueError as error:
        raise FormatError(
            f"{where}: it cannot be decoded ({error})",
            kind="bad-payload",
            hint="run `psc-archive verify`; `restore` gives the file back",
        ) from error
    except LimitExceededError as error:
        raise LimitExceededError(f"{where}: {error}", kind=error.kind) from error
    if values.dtype.kind == "b":
        return values.astype(np.uint8)
    dtype = part.dtype
    if {values.dtype.kind, dtype.kind} == {"i", "u"} and values.dtype.itemsize == dtype.itemsize:
        word = np.dtype(f"u{dtype.itemsize}")
        highest = word.type(1 << (8 * dtype.itemsize - 1))
        values = (np.ascontiguousarray(values).view(word) ^ highest).view(dtype)
    return values
