"""How a DICOM file's bytes are really written, whatever its header claims.

The transfer syntax is one text field; files exist whose data set is in another encoding. pydicom
looks at the first element and reads implicit VR as explicit and the other way round, and so do we.
Where bytes and claim disagree in a way that pydicom does not read either, the file is refused.
"""

from __future__ import annotations

import io
import struct
import threading
import zlib
from collections import OrderedDict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from adapters.dicom.decoders import JPEG_XL, decoder_for
from adapters.dicom.terms import known_syntax
from adapters.errors import SourceError

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = [
    "BIG_ENDIAN",
    "DEFLATED",
    "check_decoder",
    "damage_errors",
    "data_stream",
    "is_implicit",
    "is_native_syntax",
    "lossy_method",
    "refuse_swapped",
    "transfer_syntax",
]

DEFLATED = "1.2.840.10008.1.2.1.99"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
_EXPLICIT, _IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
_NATIVE = frozenset((_IMPLICIT, _EXPLICIT, BIG_ENDIAN, DEFLATED))
_LOSSY_METHODS = {  # transfer syntaxes that always lose something, and the method's name
    "1.2.840.10008.1.2.4.50": "ISO_10918_1",
    "1.2.840.10008.1.2.4.51": "ISO_10918_1",
    "1.2.840.10008.1.2.4.81": "ISO_14495_1",
}
_JPEG2000 = "1.2.840.10008.1.2.4.91"  # irreversible when its colours are YBR_ICT
_MOST_INFLATED = 1 << 30  # bytes of a deflated data set; a deflate bomb would fill the memory
_INFLATED_KEPT = 2
_STEP = 1 << 20


@cache
def damage_errors() -> tuple[type[Exception], ...]:
    """Give what pydicom and the decoders raise on damaged data sets."""
    from pydicom.errors import BytesLengthException, InvalidDicomError

    return (
        InvalidDicomError,
        BytesLengthException,
        EOFError,
        OSError,
        struct.error,
        zlib.error,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        NotImplementedError,  # pydicom, for an encoding that it does not know
        IndexError,
        OverflowError,
        RecursionError,
        RuntimeError,
        MemoryError,
    )


def data_stream(path: Path) -> BinaryIO:
    """Open a file for reading its data set; a deflated one comes inflated, with a plain header.

    Raises
    ------
    SourceError : kind ``"too-big"``, a deflated data set grows beyond a gigabyte; ``"damaged"``.
    """
    stream = path.open("rb")
    try:
        start = _deflated_start(stream)
        if start is None:
            stream.seek(0)
            return stream
        data = _inflated(path, start)
    except BaseException:
        stream.close()
        raise
    stream.close()
    return io.BytesIO(data)


def _deflated_start(stream: BinaryIO) -> int | None:
    """Give where the deflated data set begins; None when the file does not claim to be one."""
    head = stream.read(132)
    if head[128:132] != b"DICM":
        return None
    syntax = ""
    while len(element := stream.read(8)) == 8 and element[:2] == b"\x02\x00":
        length = int.from_bytes(element[6:8], "little")
        if element[4:6] in (b"OB", b"UN"):
            length = int.from_bytes(stream.read(4), "little")
        value = stream.read(min(length, _STEP))
        if element[2:4] == b"\x10\x00":
            syntax = value.rstrip(b"\0 ").decode("ascii", "replace")
    return stream.tell() - len(element) if syntax == DEFLATED else None


_kept: OrderedDict[tuple[Path, int], bytes] = OrderedDict()
_kept_lock = threading.Lock()


def _inflated(path: Path, start: int) -> bytes:
    """Give header and inflated data set of a file; the latest ones are remembered."""
    key = (path, path.stat().st_mtime_ns)
    with _kept_lock:
        if key in _kept:
            _kept.move_to_end(key)
            return _kept[key]
    raw = path.read_bytes()
    machine = zlib.decompressobj(-zlib.MAX_WBITS)
    out, rest = bytearray(_as_plain(raw[:start])), raw[start:]
    while rest and not machine.eof:
        out += machine.decompress(rest, _STEP)
        rest = machine.unconsumed_tail
        if len(out) > _MOST_INFLATED:
            raise SourceError(
                f"expected at most {_MOST_INFLATED} bytes in a deflated data set, found more: "
                f"{len(raw)} bytes of the file inflate without end",
                kind="too-big",
                path=path,
                hint="convert the file to Explicit VR Little Endian",
            )
    data = bytes(out)
    with _kept_lock:
        _kept[key] = data
        while len(_kept) > _INFLATED_KEPT:
            _kept.popitem(last=False)
    return data


def _as_plain(head: bytes) -> bytes:
    """Name Explicit VR Little Endian in the header of a deflated file."""
    before = _syntax_element(DEFLATED)
    after = _syntax_element(_EXPLICIT)
    plain = bytearray(head.replace(before, after, 1))
    if plain[132:140] == b"\x02\x00\x00\x00UL\x04\x00":
        (length,) = struct.unpack("<I", plain[140:144])
        shorter = len(head) - len(plain)
        plain[140:144] = struct.pack("<I", max(0, length - shorter))
    return bytes(plain)


def _syntax_element(uid: str) -> bytes:
    value = uid.encode() + b"\0" * (len(uid) % 2)
    return b"\x02\x00\x10\x00UI" + struct.pack("<H", len(value)) + value


def transfer_syntax(dataset: Dataset, *, deflated: bool = False) -> str:
    """Give the transfer syntax that the bytes have: the stated one, its VR encoding corrected."""
    stated = str(dataset.file_meta.get("TransferSyntaxUID") or "").strip()
    if deflated:
        return DEFLATED
    if stated and stated not in (_IMPLICIT, _EXPLICIT):
        return stated
    if not dataset.original_encoding[1]:
        return BIG_ENDIAN
    return _IMPLICIT if is_implicit(dataset) else _EXPLICIT


def is_implicit(dataset: Dataset) -> bool:
    """Tell whether the elements were found without value representations, whatever was claimed.

    Only elements that nobody has looked at yet remember it: call this right after reading.
    """
    from pydicom.dataelem import RawDataElement

    for tag in list(dataset.keys())[::-1]:
        element: object = dataset.get_item(tag)
        if isinstance(element, RawDataElement):
            return bool(element.is_implicit_VR)
    return bool(dataset.original_encoding[0])


def is_native_syntax(syntax: str) -> bool:
    """Tell whether a transfer syntax stores pixel words as they are."""
    return syntax in _NATIVE


def lossy_method(syntax: str, photometric: str) -> str | None:
    """Name of the lossy compression a transfer syntax stands for; None when it may be exact.

    Values as in LossyImageCompressionMethod (PS3.3 C.7.6.1.1.5.1).
    """
    if syntax == _JPEG2000 and photometric == "YBR_ICT":
        return "ISO_15444_1"
    return _LOSSY_METHODS.get(syntax)


def refuse_swapped(path: Path, dataset: Dataset) -> None:
    """Refuse a data set whose bytes are in the other order than its transfer syntax says.

    Raises
    ------
    SourceError : kind ``"wrong-transfer-syntax"``.
    """
    groups = {tag >> 16 for tag in dataset.keys()}  # noqa: SIM118 - values are not wanted
    if 0x0800 in groups and 0x0008 not in groups:
        raise SourceError(
            "expected the byte order of the transfer syntax, found the other one",
            kind="wrong-transfer-syntax",
            path=path,
            hint="correct the transfer syntax in the file's header",
        )


def check_decoder(path: Path, syntax: str) -> None:
    """Check that compressed frames of a transfer syntax can be decoded.

    Raises
    ------
    SourceError : kind ``"no-decoder"``.
    """
    if syntax in JPEG_XL or decoder_for(syntax) is not None:
        return
    from pydicom.uid import UID

    shown = known_syntax(syntax)
    name = f"{UID(syntax).name!r} ({syntax})" if shown != "unknown" else "in the file's header"
    raise SourceError(
        f"no decoder is installed for the transfer syntax {name}",
        kind="no-decoder",
        path=path,
        hint="install a pydicom decoder plugin for it, or convert the files to a native syntax",
    )
