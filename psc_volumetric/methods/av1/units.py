"""Strict reading of an AV1 stream before any AV1 decoder sees it. Part of the format (SPEC 3.7).

The stream is the low-overhead bitstream format of the AV1 Bitstream & Decoding Process
Specification (AOM, version 1.0.0 with errata 1, 2019-01-08), section 5; "5.5.1" and the like below
are sections of that document. Only the subset that SPEC 3.7 lists passes: 12-bit monochrome, frames
of one size, one shown frame per temporal unit.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from psc_volumetric.errors import FormatError

__all__ = ["FRAME_LIMIT", "SequenceHeader", "split_units"]

# OBU headers (5.3.2) that occur: type in bits 3 to 6, size field present (bit 1), nothing else
SEQUENCE, DELIMITER, SHOW_EXISTING, FRAME = 0x0A, 0x12, 0x1A, 0x32
FRAME_LIMIT = 2  # coded or repeated frames per slice
MAX_EXTENT = 16384
MAX_SEQUENCE_BYTES = 32
SELECT = 2  # SELECT_SCREEN_CONTENT_TOOLS and SELECT_INTEGER_MV of section 3
SWITCH_FRAME = 3


@dataclass(frozen=True)
class SequenceHeader:
    """What the frame headers need to know of the sequence header (5.5.1)."""

    data: bytes
    is_still: bool
    screen_tools: int
    integer_vectors: int


class _Bits:
    """Bits of an OBU, most significant first; the end is a :class:`FormatError`."""

    def __init__(self, data: bytes, what: str) -> None:
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)
        self._what = what

    def take(self, count: int) -> int:
        """Next ``count`` bits as an unsigned number."""
        if count > self._left:
            raise _refusal(self._what, "an OBU ends inside its header")
        self._left -= count
        return self._value >> self._left & ((1 << count) - 1)

    def expect(self, count: int, value: int, name: str) -> None:
        """Take ``count`` bits that must have one value."""
        found = self.take(count)
        if found != value:
            raise _refusal(self._what, f"expected {name} {value}, found {found}")

    def finish(self) -> None:
        """Refuse anything but the trailing bits 1, 0, 0, ... (5.3.4)."""
        left = self._left
        if not 1 <= left <= 8 or self.take(left) != 1 << (left - 1):
            raise _refusal(self._what, "wrong trailing bits after the sequence header")


def split_units(data: bytes, shape: tuple[int, int, int], *, what: str) -> list[bytes]:
    """Temporal units of a stream, one per slice, after checking all of SPEC 3.7.

    Parameters
    ----------
    data : bytes
        The section.
    shape : (n, y, x)
        Slices, rows and columns it has to hold.
    what : str
        Place, for messages.

    Returns
    -------
    list of bytes
        n temporal units without their delimiters.

    Raises
    ------
    FormatError
        Anything outside the subset; nothing is allocated from the stream's numbers.
    """
    n, height, width = shape
    if not 1 <= min(height, width) <= max(height, width) <= MAX_EXTENT:
        raise _refusal(what, f"slices of {height} x {width} pixels are not coded")
    sequence: SequenceHeader | None = None
    starts: list[int] = []
    shown = frames = 0
    offset = 0
    while offset < len(data):
        start, kind = offset, data[offset]
        offset, end = _payload(data, offset + 1, what)
        body, offset = data[offset:end], end
        if kind == DELIMITER and not body:
            if shown != len(starts):
                raise _refusal(what, f"temporal unit {len(starts)} shows no frame")
            starts.append(start)
        elif kind == SEQUENCE and starts:
            if sequence is None:
                sequence = _read_sequence(body, shape, what)
            elif body != sequence.data:
                raise _refusal(what, "the sequence header changes")
        elif kind in (FRAME, SHOW_EXISTING) and sequence is not None and shown < len(starts):
            shown += _is_shown(body, kind, sequence, what)
            frames += 1
        else:
            raise _refusal(what, f"OBU header {kind:#04x} at offset {start} is out of place")
        if len(starts) > n or frames > FRAME_LIMIT * n:
            raise _refusal(what, f"more frames than {n} slices need")
    if shown != n or len(starts) != n:
        raise _refusal(what, f"expected {n} shown frames, found {shown}")
    bounds = [*starts, len(data)]
    return [data[a + 2 : b] for a, b in pairwise(bounds)]


def _payload(data: bytes, offset: int, what: str) -> tuple[int, int]:
    """Start and end of an OBU's payload behind its leb128 size (4.10.5)."""
    size = 0
    for k in range(4):
        if offset + k >= len(data):
            break
        byte = data[offset + k]
        size |= (byte & 0x7F) << (7 * k)
        if not byte & 0x80:
            start = offset + k + 1
            if size > len(data) - start:
                break
            return start, start + size
    raise _refusal(what, f"OBU size at offset {offset} is damaged or past the end")


def _read_sequence(body: bytes, shape: tuple[int, int, int], what: str) -> SequenceHeader:
    """Check a sequence header field by field (5.5.1, 5.5.2)."""
    slices, height, width = shape
    if len(body) > MAX_SEQUENCE_BYTES:
        raise _refusal(what, f"a sequence header of {len(body)} bytes")
    bits = _Bits(body, what)
    bits.expect(3, 2, "seq_profile")
    reduced = bits.take(1)
    bits.expect(1, reduced, "reduced_still_picture_header as still_picture")
    if reduced and slices > 1:
        raise _refusal(what, f"a still picture for {slices} slices")
    if reduced:
        bits.take(5)  # seq_level_idx: no limit of ours
    else:
        bits.expect(2, 0, "timing_info_present_flag, initial_display_delay_present_flag")
        bits.expect(17, 0, "operating_points_cnt_minus_1, operating_point_idc")
        if bits.take(5) > 7:
            bits.take(1)  # seq_tier
    width_bits, height_bits = bits.take(4) + 1, bits.take(4) + 1
    bits.expect(width_bits, width - 1, "max_frame_width_minus_1")
    bits.expect(height_bits, height - 1, "max_frame_height_minus_1")
    screen_tools = integer_vectors = SELECT
    if not reduced:
        bits.expect(1, 0, "frame_id_numbers_present_flag")
    bits.take(3)  # use_128x128_superblock, enable_filter_intra, enable_intra_edge_filter
    if not reduced:
        bits.take(4)  # interintra, masked compound, warped motion, dual filter
        order_hint = bits.take(1)
        if order_hint:
            bits.take(2)  # jnt_comp, ref_frame_mvs
        screen_tools = SELECT if bits.take(1) else bits.take(1)
        if screen_tools:
            integer_vectors = SELECT if bits.take(1) else bits.take(1)
        if order_hint:
            bits.take(3)  # order_hint_bits_minus_1
    bits.expect(1, 0, "enable_superres")
    bits.take(2)  # enable_cdef, enable_restoration
    bits.expect(3, 0b111, "high_bitdepth, twelve_bit, mono_chrome")
    if bits.take(1):  # color_description_present_flag
        bits.take(24)
    bits.expect(1, 1, "color_range")
    bits.expect(1, 0, "film_grain_params_present")
    bits.finish()
    return SequenceHeader(body, bool(reduced), screen_tools, integer_vectors)


def _is_shown(body: bytes, kind: int, sequence: SequenceHeader, what: str) -> bool:
    """Check the start of a frame header (5.9.2): its size is that of the sequence."""
    bits = _Bits(body[:4], what)
    if sequence.is_still:
        if kind == SHOW_EXISTING:
            raise _refusal(what, "a still picture repeats a frame")
        return True
    bits.expect(1, int(kind == SHOW_EXISTING), "show_existing_frame")
    if kind == SHOW_EXISTING:
        return True
    frame_type, shown = bits.take(2), bits.take(1)
    if frame_type == SWITCH_FRAME:
        raise _refusal(what, "switch frames are not allowed")
    if not shown:
        bits.take(1)  # showable_frame
    if frame_type or not shown:
        bits.take(1)  # error_resilient_mode
    bits.take(1)  # disable_cdf_update
    tools = bits.take(1) if sequence.screen_tools == SELECT else sequence.screen_tools
    if tools and sequence.integer_vectors == SELECT:
        bits.take(1)  # force_integer_mv
    bits.expect(1, 0, "frame_size_override_flag")
    return bool(shown)


def _refusal(what: str, found: str) -> FormatError:
    return FormatError(
        f"{what}: AV1 stream: {found}",
        kind="bad-av1",
        hint="the chunk is damaged, run `psc-archive verify`",
    )
