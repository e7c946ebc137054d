"""How long a classic NetCDF file (CDF-1, CDF-2, CDF-5) has to be.

The NetCDF library reads zeros where a classic file is cut off, without an error. So the header is
walked here, and the end of the last variable compared with the file's size.
"""

from __future__ import annotations

import math
import mmap
import struct
from pathlib import Path

from adapters.errors import SourceError

__all__ = ["check_classic_length"]

_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 4, 6: 8, 7: 1, 8: 2, 9: 4, 10: 8, 11: 8}
_STREAMING = {4: 0xFFFFFFFF, 8: 0xFFFFFFFFFFFFFFFF}


def check_classic_length(path: Path) -> None:
    """Refuse a classic file that ends before its data does; other files pass.

    Raises
    ------
    SourceError : kind ``"truncated"`` or ``"damaged"``.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        if stream.read(4)[:3] != b"CDF" or size < 32:
            return
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                expected = _Walk(data).expected_size()
            except (struct.error, KeyError, IndexError, OverflowError) as error:
                raise SourceError(
                    "the NetCDF header breaks off or is damaged", kind="damaged", path=path
                ) from error
    if size < expected:
        raise SourceError(
            f"expected {expected} bytes, found {size}",
            kind="truncated",
            path=path,
            hint="the file is cut off; fetch it again from its source",
        )


class _Walk:
    """Reads the header front to back; ``wide`` is the size of a count, ``far`` of an offset."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = 4
        version = data[3]
        self._wide = 8 if version == 5 else 4
        self._far = 4 if version == 1 else 8

    def _take(self, size: int) -> int:
        (value,) = struct.unpack_from(">Q" if size == 8 else ">I", self._data, self._at)
        self._at += size
        return int(value)

    def _skip(self, size: int) -> None:
        self._at += size + (-size % 4)

    def _list_length(self) -> int:
        self._take(4)
        return self._take(self._wide)

    def _skip_name(self) -> None:
        self._skip(self._take(self._wide))

    def _skip_attributes(self) -> None:
        for _ in range(self._list_length()):
            self._skip_name()
            width = _TYPE_BYTES[self._take(4)]
            self._skip(width * self._take(self._wide))

    def expected_size(self) -> int:
        """Give the least file size that holds all values."""
        records = self._take(self._wide)
        if records == _STREAMING[self._wide]:
            records = 0
        lengths = []
        for _ in range(self._list_length()):
            self._skip_name()
            lengths.append(self._take(self._wide))
        self._skip_attributes()
        fixed_end, recorded = self._at, []
        for _ in range(self._list_length()):
            begin, nbytes, is_record = self._variable(lengths)
            if is_record:
                recorded.append((begin, nbytes))
            else:
                fixed_end = max(fixed_end, begin + nbytes)
        if not recorded or not records:
            return fixed_end
        alone = len(recorded) == 1
        stride = sum(nbytes + (0 if alone else -nbytes % 4) for _, nbytes in recorded)
        ends = [begin + (records - 1) * stride + nbytes for begin, nbytes in recorded]
        return max(fixed_end, *ends)

    def _variable(self, lengths: list[int]) -> tuple[int, int, bool]:
        self._skip_name()
        dims = [lengths[self._take(self._wide)] for _ in range(self._take(self._wide))]
        self._skip_attributes()
        width = _TYPE_BYTES[self._take(4)]
        self._take(self._wide)
        begin = self._take(self._far)
        is_record = bool(dims) and dims[0] == 0
        return begin, width * math.prod(dims[1:] if is_record else dims), is_record
