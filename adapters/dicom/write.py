"""Putting a data set and pixel words into one Explicit VR Little Endian file, block by block."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path
from typing import TYPE_CHECKING

from adapters.dicom.body import Body
from adapters.errors import SourceError

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["plain_copy", "save_with_body", "set_pixel_facts"]

_ELEMENTS = {"f4": (0x0008, b"OF"), "f8": (0x0009, b"OD")}  # floating-point pixels: element, VR
_LONGEST = 0xFFFFFFFE
_BLOCK = 1 << 20


def plain_copy(dataset: Dataset) -> Dataset:
    """Copy a data set, forgetting the source's encoding, which pydicom would insist on."""
    from pydicom.dataset import Dataset as NewDataset

    fresh = NewDataset()
    fresh.update({element.tag: element for element in dataset})
    return fresh


def set_pixel_facts(
    dataset: Dataset, body: Body, colours: str | None, *, frames: int | None = None
) -> None:
    """Set size, colours and bits as the words have them; BitsStored grows where they need it.

    Parameters
    ----------
    dataset : Dataset
        Changed in place.
    body : Body
    colours : str or None
        Photometric interpretation; None keeps the one that is there.
    frames : int, optional
        Frames of the file, where they are not those of the body.
    """
    layout = body.layout
    grid = layout.grid
    dataset.Rows, dataset.Columns = layout.rows * grid, layout.columns * grid
    if frames is not None and "NumberOfFrames" in dataset:
        dataset.NumberOfFrames = frames
    if layout.samples > 1:
        dataset.PlanarConfiguration = 0
    if colours is not None:
        dataset.PhotometricInterpretation = colours
    if layout.word[0] == "f" or layout.order == "bits" or body.least is None:
        return
    stored = int(dataset.get("BitsStored") or dataset.BitsAllocated)
    assert body.largest is not None
    top = stored - 1 if layout.word[0] == "i" else stored
    # Some decoders give values that the header's BitsStored could not hold.
    if body.largest >= 1 << top or body.least < -(1 << top):
        dataset.BitsStored = dataset.BitsAllocated
        dataset.HighBit = int(dataset.BitsAllocated) - 1


def save_with_body(dataset: Dataset, body: Body, place: Path, *, frame: int | None = None) -> None:
    """Write a data set, then the words of a body, or of one of its frames.

    Raises
    ------
    SourceError : kind ``"too-big"``, more words than a DICOM element can hold.
    """
    from pydicom.config import disable_value_validation
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    size = body.layout.nbytes if frame is None else body.layout.frame_bits // 8
    if size > _LONGEST:
        raise SourceError(
            f"expected at most {_LONGEST} bytes of pixels in a DICOM file, found {size}",
            kind="too-big",
            hint="restore a region, or fewer frames",
        )
    fresh = plain_copy(dataset)
    fresh.file_meta = FileMetaDataset()
    fresh.file_meta.update(dataset.file_meta)
    fresh.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    fresh.preamble = b"\0" * 128
    named = bool(fresh.get("SOPClassUID")) and bool(fresh.get("SOPInstanceUID"))
    if named:
        fresh.file_meta.MediaStorageSOPClassUID = fresh.SOPClassUID
        fresh.file_meta.MediaStorageSOPInstanceUID = fresh.SOPInstanceUID
    with disable_value_validation():
        fresh.save_as(place, enforce_file_format=named)
    word = body.layout.word
    element, vr = _ELEMENTS.get(word, (0x0010, b"OB" if word[1] == "1" else b"OW"))
    padded = size + size % 2
    with place.open("ab") as target, body.path.open("rb") as source:
        target.write(struct.pack("<HH2sHI", 0x7FE0, element, vr, 0, padded))
        source.seek((frame or 0) * size)
        if frame is None:
            shutil.copyfileobj(source, target, _BLOCK)
        else:
            target.write(source.read(size))
        target.write(b"\0" * (padded - size))
