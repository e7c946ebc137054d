"""One compressed frame at a time, decoded by pydicom and its plug-ins."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from adapters.base import Array
from adapters.dicom.decoders import JPEG_XL, PLUGIN, decode_jpeg_xl, decoder_for
from adapters.dicom.frames import frame_count
from adapters.dicom.syntax import damage_errors
from adapters.errors import SourceError

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["decode_frame"]

_EXTENDED_JPEG = "1.2.840.10008.1.2.4.51"
_KEPT_BYTES = 256 << 20  # of compressed data sets

_datasets: OrderedDict[tuple[Path, int], tuple[Dataset, int]] = OrderedDict()
_lock = threading.Lock()


def decode_frame(path: Path, index: int, *, whole_words: bool = False) -> tuple[Array, str]:
    """Decode a frame.

    Parameters
    ----------
    path : Path
    index : int
    whole_words : bool
        Keep the bits above BitsStored of the syntaxes that store whole words.

    Returns
    -------
    frame : (samples, rows, columns) array
        As pydicom gives it, colours as they are coded.
    colours : str
        The photometric interpretation that it has now.

    Raises
    ------
    SourceError : kind ``"undecodable"``.
    """
    try:
        frame, colours = _decoded(_dataset(path), index, whole_words)
        planes = frame[None] if frame.ndim == 2 else np.moveaxis(frame, -1, 0)
    except damage_errors() as error:
        raise SourceError(
            f"frame {index} cannot be decoded ({type(error).__name__}); the compressed pixel data "
            "is damaged or not supported by the installed decoders",
            kind="undecodable",
            path=path,
            hint="fetch the file again, or convert it to a native transfer syntax",
        ) from error
    return np.ascontiguousarray(planes), colours


def _decoded(dataset: Dataset, index: int, whole_words: bool) -> tuple[Array, str]:
    syntax = str(dataset.file_meta.TransferSyntaxUID)
    stated = str(dataset.PhotometricInterpretation)
    if syntax in JPEG_XL:
        return _jpeg_xl(dataset, index), stated
    decoder = decoder_for(syntax)
    if decoder is None:
        raise NotImplementedError(syntax)
    options: dict[str, Any] = {"correct_unused_bits": False} if whole_words else {}
    if syntax == _EXTENDED_JPEG and int(dataset.BitsStored) > 8:
        options["decoding_plugin"] = PLUGIN  # Pillow's has 8 bits only
    frame, facts = decoder.as_array(dataset, index=index, raw=True, **options)
    colours = str(facts["photometric_interpretation"]).replace("YBR_FULL_422", "YBR_FULL")
    return frame, colours


def _jpeg_xl(dataset: Dataset, index: int) -> Array:
    from pydicom.encaps import get_frame

    source = get_frame(dataset.PixelData, index, number_of_frames=frame_count(dataset))
    frame = decode_jpeg_xl(source)
    samples = int(dataset.get("SamplesPerPixel") or 1)
    shape = (int(dataset.Rows), int(dataset.Columns), *((samples,) if samples > 1 else ()))
    if frame.shape != shape:
        raise ValueError(f"expected a frame of {shape}, found {frame.shape}")
    if dataset.get("PixelRepresentation", 0):
        shift = 8 * frame.dtype.itemsize - min(8 * frame.dtype.itemsize, int(dataset.BitsStored))
        signed = frame.view(frame.dtype.str.replace("u", "i"))
        frame = np.asarray((signed << shift) >> shift)
    return frame


def _dataset(path: Path) -> Dataset:
    """Read a data set with its compressed pixels; the latest ones are remembered."""
    from pydicom import dcmread
    from pydicom.config import disable_value_validation

    size = path.stat()
    key = (path, size.st_mtime_ns)
    with _lock:
        if key in _datasets:
            _datasets.move_to_end(key)
            return _datasets[key][0]
    with disable_value_validation():
        dataset = dcmread(path, force=True)
    with _lock:
        _datasets[key] = dataset, size.st_size
        while len(_datasets) > 1 and sum(n for _, n in _datasets.values()) > _KEPT_BYTES:
            _datasets.popitem(last=False)
    return dataset
