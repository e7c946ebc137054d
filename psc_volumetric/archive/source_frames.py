"""The source document under a compressor. Part of the format (SPEC sections 11.4 and 11.11).

The headers of one scan are a kilobyte, most of it the same words in every archive. So a short
document is a zlib stream that begins with a dictionary of them; a long one is a Zstandard frame.
"""

from __future__ import annotations

import zlib

from psc_volumetric.bitstream.frames import frame_size, pack_frame, unpack_frame
from psc_volumetric.errors import FormatError, LimitExceededError

__all__ = ["WORDS", "pack_document", "unpack_document"]

SHORT = 1 << 15  # bytes that a zlib stream holds at most: its window
ZLIB = 0x78  # its first byte
LEVEL = 19

# What is most common stands last, where references to it are short.
WORDS = (
    b'{"attrs":[{"name":"Conventions","type":"char","value":"CF-1.6"},{"name":"history","type":'
    b'"char","value":"institution"title"source"data_model":"NETCDF4NETCDF3_CLASSIC","enums":[],'
    b'"groups":[],"path":"","standard_name","type":"char","value":"long_name"coordinates'
    b'"cell_methods","value":"time: mean"},{"name":"calendar","type":"char","value":"gregorian"'
    b'degrees_northdegrees_east"axis"missing_value"add_offset"scale_factor","scalar":true,"type":'
    b'"<f8"},{"base64":"AAAAAAAA","name":"_FillValue","scalar":true,"type":"<f4"},{"name":"units",'
    b'"type":"char","value":"days since 1850-01-01 00:00:00"}],"chunks":null,"dim_keys":["/time",'
    b'"/lat","/lon"],"dims":["time","lat","lon"],"endian":"little","fill":null,"filters":{"blosc":'
    b'false,"bzip2":false,"complevel":0,"fletcher32":false,"shuffle":false,"szip":false,"zlib":'
    b'false,"zstd":false},"key":"/","name":"time_bnds","prefilled":true,"shape":[12],"type":"<f8",'
    b'"view":null},{"array":"time","volume":"the bytes of the container, which its library lays '
    b'out anew","kind":"equal data"netcdf"{"dims":[{"name":"time","size":12,"unlimited":false}'
    b'{"blobs":[["headers",0,"document":{"columns":512,"copies":[],"document_version":0,"dtype":'
    b'"i2","files":[{"bits":{"dtype":"i2u2","spare":"ssss","stored":12},"frames":1,"head":[0,'
    b'"layout":{"big_endian":false,"columns":512,"frames":1,"grid":1,"order":"grey","rows":512,'
    b'"samples":1,"swapped":false,"word":"i2u2"},"lossy_method":null,"name":"1-001.dcm","native":'
    b'true,"patches":[],"photometric":null,"planes":null,"residue":null,"sha256":"tail":[],"tiles":'
    b'null}],"promises":[{"differs":null,"kind":"identical","sha256":null},{"proof":"none",'
    b'"rows":512,"samples":1,"volumes":[{"frames":[[0,0],[1,0],"name":"image","shape":[]}]},'
    b'"dicom"original"n+2\0{"blobs":[],"files":[{"name":"scan.nii","sha256":"size"nifti2'
    b"r\0\3\0\0\1\0\1\x80\0\1\0\1\0\1\0\1\0\0\0\0\0\0\0\0\0\0\0\0\0\4\0\x10\0\0\0\0\0\0\x80\xbf"
    b"\0\0\x80?\0\0\xb0C\0\0\x80?\0\0\0\0\0\0\0\x0a\0\0\2\0\1\0n+1\0\0\0\0\0"
    b'{"blobs":[["head",0,352],["image_head",352,0],["tail",352,0]],"document":{"components":'
    b'false,"data_offset":352,"decompressed_sha256":null,"dims":[256,256,192],"document_version":0,'
    b'"dtype":"<i2","flavour":"nifti1","layout":"single","names":["T1W.nii.gz"],"promises":'
    b'[{"differs":null,"kind":"identical","sha256":null"the gzip stream itself","kind":"identical '
    b'after decompression","sha256":""}],"proof":"restored","shape":[192,256,256]},"files":'
    b'[{"name":".nii.gz","sha256":"","size":}],"kind":"nifti"}\n\\\1\0\0\0\0\0\0\0\0\0\0\0\0\0\0'
)


def pack_document(content: bytes) -> bytes:
    """The shorter of a zlib stream with `WORDS` and a Zstandard frame."""
    frame = pack_frame(content, LEVEL)
    if len(content) > SHORT:
        return frame
    packer = zlib.compressobj(9, memLevel=9, zdict=WORDS)
    stream = packer.compress(content) + packer.flush()
    return min(stream, frame, key=len)


def unpack_document(data: bytes, limit: int, where: str) -> bytes:
    """Inverse of `pack_document`; nothing of more than ``limit`` bytes is decompressed.

    Raises
    ------
    FormatError : neither of the two; LimitExceededError : more bytes.
    """
    if data[:1] == bytes([ZLIB]):
        return _inflated(data, where)
    promised = frame_size(data) or 0
    if promised > limit:
        raise LimitExceededError(f"{where}: {promised} bytes", kind="limit")
    return unpack_frame(data, promised, where)


def _inflated(data: bytes, where: str) -> bytes:
    stream = zlib.decompressobj(zdict=WORDS)
    try:
        content = stream.decompress(data, SHORT + 1)
    except zlib.error as error:
        raise FormatError(f"{where}: no zlib stream ({error})", kind="bad-payload") from error
    if len(content) > SHORT:
        raise LimitExceededError(f"{where}: more than {SHORT} bytes under zlib", kind="limit")
    if not stream.eof or stream.unused_data:
        raise FormatError(
            f"{where}: the zlib stream is cut, or something follows it", kind="bad-payload"
        )
    return content
