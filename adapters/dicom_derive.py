"""Derived DICOM images: cut to a region, or decoded with loss, and labelled as such.

PS3.3 C.7.6.1: ImageType value 1 DERIVED, a new SOPInstanceUID and SeriesInstanceUID, the origin in
SourceImageSequence, DerivationDescription. C.7.6.1.1.5: LossyImageCompression is set to "01" by a
lossy step, with ratio and method appended, and never goes back to "00". All files are Explicit VR
Little Endian. The new UIDs follow from the content: the same restore gives the same UIDs.
"""

from __future__ import annotations

import io
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from adapters.base import Array, RestoreInfo
from adapters.dicom_frames import numbers
from adapters.dicom_layout import PixelLayout

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = [
    "Derivation",
    "Part",
    "parse_head",
    "to_explicit_little",
    "write_converted",
    "write_derived",
]

_PIXEL_ELEMENTS = {"f4": ("FloatPixelData", "OF"), "f8": ("DoubleFloatPixelData", "OD")}

_LOSSY = ("113040", "DCM", "Lossy Compression")
_PREDECESSOR = ("121320", "DCM", "Uncompressed predecessor")


@dataclass(frozen=True)
class Part:
    """What a derived file keeps of its source.

    Attributes
    ----------
    frames : sequence of int
        Frame numbers, ascending.
    box : (first row, end row, first column, end column)
    colours : str or None
        Photometric interpretation of the values; None keeps the source's.
    lossy_method : str or None
        Lossy compression that the source's transfer syntax stands for.
    """

    frames: Sequence[int]
    box: tuple[int, int, int, int]
    colours: str | None
    lossy_method: str | None


@dataclass(frozen=True)
class Derivation:
    """What all files of one restore share; ``seed`` decides their UIDs."""

    info: RestoreInfo
    seed: str

    def uid(self, role: str) -> str:
        """Give a UID of the form 2.25.<UUID> that depends on seed and role only."""
        return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, f'{self.seed}/{role}').int}"


def write_converted(head: bytes, words: Array, place: Path, source: dict[str, Any]) -> None:
    """Write whole frames of a compressed source natively, under their own UIDs.

    A transfer syntax that had lost something is remembered in LossyImageCompression, which a file
    without that transfer syntax needs (PS3.3 C.7.6.1.1.5).
    """
    dataset = parse_head(head)
    _remember_loss(dataset, source["lossy_method"])
    _set_pixels(dataset, words, source["photometric"])
    _save(dataset, place)


def write_derived(
    head: bytes,
    words: Array,
    place: Path,
    part: Part,
    derivation: Derivation,
) -> None:
    """Write a derived image.

    Parameters
    ----------
    head : bytes
        The source file up to its pixel data.
    words : (n, samples, rows, columns) array
        Pixel words of the frames kept, cut to the part's box.
    place : Path
        File to write.
    part : Part
    derivation : Derivation
    """
    dataset = parse_head(head)
    _remember_loss(dataset, part.lossy_method)
    full = (0, int(dataset.Rows), 0, int(dataset.Columns))
    _keep_frames(dataset, part.frames)
    if part.box != full:
        _crop(dataset, part.box)
    _set_pixels(dataset, words, part.colours)
    _refresh_extremes(dataset, words)
    _label(dataset, derivation, cut=part.box != full)
    _save(dataset, place)


def parse_head(head: bytes) -> Dataset:
    """Give the data set of a file's bytes up to its pixels, its values little-endian."""
    from pydicom import dcmread
    from pydicom.config import disable_value_validation

    with disable_value_validation():
        dataset = dcmread(io.BytesIO(head), stop_before_pixels=True, force=True)
        if not dataset.original_encoding[1]:
            _swap_words(dataset)
        dataset.decode()
    return dataset


def _swap_words(dataset: Dataset) -> None:
    """Turn values that pydicom keeps as raw big-endian words to little endian."""
    width = {"OW": 2, "OL": 4, "OF": 4, "OD": 8, "OV": 8}
    for element in dataset.iterall():
        if element.VR in width and element.value:
            words = np.frombuffer(element.value, f">u{width[element.VR]}")
            element.value = words.astype(words.dtype.newbyteorder("<")).tobytes()


def _set_pixels(dataset: Dataset, words: Array, colours: str | None) -> None:
    frames, samples, rows, columns = words.shape
    dataset.Rows, dataset.Columns = rows, columns
    if samples > 1:
        dataset.PlanarConfiguration = 0
    if colours is not None:
        dataset.PhotometricInterpretation = colours
    order = "interleaved" if samples > 1 else "grey"
    order = "bits" if dataset.BitsAllocated == 1 else order
    word = words.dtype.str[1:]
    data = PixelLayout(order, rows, columns, frames, samples, word).pack(words)
    name, vr = _PIXEL_ELEMENTS.get(word, ("PixelData", "OB" if word[1] == "1" else "OW"))
    setattr(dataset, name, data + b"\0" * (len(data) % 2))
    dataset[name].VR = vr


def _little(dataset: Dataset) -> Dataset:
    """Copy a data set, forgetting the source's encoding, which pydicom would insist on."""
    from pydicom.dataset import Dataset as NewDataset

    fresh = NewDataset()
    fresh.update({element.tag: element for element in dataset})
    return fresh


def to_explicit_little(dataset: Dataset) -> bytes:
    """Give a data set's elements as Explicit VR Little Endian, without file meta information."""
    from pydicom.config import disable_value_validation

    buffer = io.BytesIO()
    with disable_value_validation():
        _little(dataset).save_as(buffer, implicit_vr=False, little_endian=True)
    return buffer.getvalue()


def _save(dataset: Dataset, place: Path) -> None:
    from pydicom.config import disable_value_validation
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    fresh = _little(dataset)
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


def _keep_frames(dataset: Dataset, frames: Sequence[int]) -> None:
    count = int(dataset.get("NumberOfFrames") or 1)
    if len(frames) == count:
        return
    dataset.NumberOfFrames = len(frames)
    groups = dataset.get("PerFrameFunctionalGroupsSequence")
    if groups is not None:
        dataset.PerFrameFunctionalGroupsSequence = [groups[i] for i in frames]
    offsets = numbers(dataset, "GridFrameOffsetVector", count)
    if offsets is not None:
        first = offsets[frames[0]]
        dataset.GridFrameOffsetVector = [offsets[i] - first for i in frames]
        orientation = numbers(dataset, "ImageOrientationPatient", 6)
        if orientation is not None:
            normal = np.cross(orientation[:3], orientation[3:])
            _move(dataset, normal * first)
    times = numbers(dataset, "FrameTimeVector", count)
    if times is not None:
        dataset.FrameTimeVector = [times[i] for i in frames]


def _crop(dataset: Dataset, box: tuple[int, int, int, int]) -> None:
    """Move every position and overlay to the new first pixel; drop what no longer fits."""
    row, column = box[0], box[2]
    shift = _in_plane_shift(dataset, row, column)
    if shift is not None:
        _move(dataset, shift)
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [None])[0]
    if shared is not None and "PlanePositionSequence" in shared:
        step = _group_shift(shared, None, row, column)
        if step is not None:
            _move(shared.PlanePositionSequence[0], step)
    for group in dataset.get("PerFrameFunctionalGroupsSequence") or []:
        step = _group_shift(group, shared, row, column)
        if step is not None and "PlanePositionSequence" in group:
            _move(group.PlanePositionSequence[0], step)
    for overlay in range(0x6000, 0x6020, 2):
        if (overlay, 0x0050) in dataset:
            origin = dataset[overlay, 0x0050].value
            dataset[overlay, 0x0050].value = [int(origin[0]) - row, int(origin[1]) - column]
    if "IconImageSequence" in dataset:
        del dataset.IconImageSequence


def _group_shift(
    group: Dataset, shared: Dataset | None, row: int, column: int
) -> np.ndarray | None:
    from pydicom.dataset import Dataset as NewDataset

    merged = NewDataset()
    for name in ("PlaneOrientationSequence", "PixelMeasuresSequence"):
        for holder in (shared, group):
            if holder is not None and name in holder:
                merged.update(holder[name].value[0])
    return _in_plane_shift(merged, row, column)


def _in_plane_shift(dataset: Dataset, row: int, column: int) -> np.ndarray | None:
    orientation = numbers(dataset, "ImageOrientationPatient", 6)
    spacing = numbers(dataset, "PixelSpacing", 2)
    if orientation is None or spacing is None:
        return None
    along_row, along_column = np.array(orientation[:3]), np.array(orientation[3:])
    shift: np.ndarray = along_row * spacing[1] * column + along_column * spacing[0] * row
    return shift


def _move(dataset: Dataset, shift: np.ndarray) -> None:
    from pydicom.valuerep import DSfloat

    position = numbers(dataset, "ImagePositionPatient", 3)
    if position is not None:
        moved = np.array(position) + shift
        dataset.ImagePositionPatient = [DSfloat(float(v), auto_format=True) for v in moved]


def _refresh_extremes(dataset: Dataset, words: Array) -> None:
    for name, value in (
        ("SmallestImagePixelValue", words.min()),
        ("LargestImagePixelValue", words.max()),
    ):
        if name in dataset:
            setattr(dataset, name, int(value))
            dataset[name].VR = "SS" if words.dtype.kind == "i" else "US"


def _label(dataset: Dataset, derivation: Derivation, *, cut: bool) -> None:
    info = derivation.info
    steps = [] if info.lossless else [_lossy_words(info)]
    if cut or info.lossless:
        steps.append("cut to a region" if cut else "some frames of the source")
    before = str(dataset.get("DerivationDescription") or "")
    text = "; ".join(([before] if before else []) + steps)
    dataset.DerivationDescription = text[-1024:]
    kinds = [str(part) for part in _listed(dataset.get("ImageType"))] or ["DERIVED", "SECONDARY"]
    dataset.ImageType = ["DERIVED", *kinds[1:]]
    old_class, old_uid = dataset.get("SOPClassUID"), dataset.get("SOPInstanceUID")
    if not info.lossless:
        _label_lossy(dataset, info)
    if old_class and old_uid:
        _point_to_source(dataset, str(old_class), str(old_uid), lossless=info.lossless)
    dataset.SOPInstanceUID = derivation.uid(f"instance/{old_uid}")
    dataset.SeriesInstanceUID = derivation.uid(f"series/{dataset.get('SeriesInstanceUID')}")


def _lossy_words(info: RestoreInfo) -> str:
    parts = [f"lossy archive compression, method {info.method}"]
    if info.level is not None:
        parts.append(f"level {info.level}")
    if info.ratio is not None:
        parts.append(f"ratio {info.ratio:.4g}")
    if info.max_error is not None:
        parts.append(f"no stored value off by more than {info.max_error:g}")
    return ", ".join(parts)


def _remember_loss(dataset: Dataset, method: str | None) -> None:
    if method is None or str(dataset.get("LossyImageCompression") or "") == "01":
        return
    dataset.LossyImageCompression = "01"
    methods = _listed(dataset.get("LossyImageCompressionMethod"))
    dataset.LossyImageCompressionMethod = [*methods, method]


def _label_lossy(dataset: Dataset, info: RestoreInfo) -> None:
    from pydicom.valuerep import DSfloat

    dataset.LossyImageCompression = "01"
    if info.ratio is not None:
        ratios = _listed(dataset.get("LossyImageCompressionRatio"))
        ratio = DSfloat(float(info.ratio), auto_format=True)
        dataset.LossyImageCompressionRatio = [*ratios, ratio]
    method = re.sub(r"[^A-Z0-9 _]", "_", info.method.upper())[:16] or "PSC"
    methods = _listed(dataset.get("LossyImageCompressionMethod"))
    dataset.LossyImageCompressionMethod = [*methods, method]
    codes = list(dataset.get("DerivationCodeSequence") or [])
    dataset.DerivationCodeSequence = [*codes, _code(_LOSSY)]


def _point_to_source(dataset: Dataset, sop_class: str, sop_uid: str, *, lossless: bool) -> None:
    from pydicom.dataset import Dataset as NewDataset

    source = NewDataset()
    source.ReferencedSOPClassUID = sop_class
    source.ReferencedSOPInstanceUID = sop_uid
    if not lossless:
        source.PurposeOfReferenceCodeSequence = [_code(_PREDECESSOR)]
    dataset.SourceImageSequence = [source]


def _code(code: tuple[str, str, str]) -> Dataset:
    from pydicom.dataset import Dataset as NewDataset

    item = NewDataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code
    return item


def _listed(value: object) -> list[object]:
    if value is None or value == "":
        return []
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        return [value]
    return list(value)
