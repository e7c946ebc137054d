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

from adapters.base import RestoreInfo
from adapters.dicom.body import Body
from adapters.dicom.cut import crop, keep_frames, one_tile
from adapters.dicom.write import plain_copy, save_with_body, set_pixel_facts

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
    tiles : dict or None
        Of a mosaic that is not whole: where its slices are. Each becomes an image of its own.
    cut : bool
        Whether something of the file is left out.
    """

    frames: Sequence[int]
    box: tuple[int, int, int, int]
    colours: str | None
    lossy_method: str | None
    tiles: dict[str, Any] | None
    cut: bool


@dataclass(frozen=True)
class Derivation:
    """What all files of one restore share; ``seed`` decides their UIDs."""

    info: RestoreInfo
    seed: str

    def uid(self, role: str) -> str:
        """Give a UID of the form 2.25.<UUID> that depends on seed and role only."""
        return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, f'{self.seed}/{role}').int}"


def write_converted(head: bytes, body: Body, place: Path, source: dict[str, Any]) -> None:
    """Write whole frames of a compressed source natively, under their own UIDs.

    A transfer syntax that had lost something is remembered in LossyImageCompression, which a file
    without that transfer syntax needs (PS3.3 C.7.6.1.1.5).
    """
    dataset = parse_head(head)
    _remember_loss(dataset, source["lossy_method"])
    set_pixel_facts(dataset, body, source["photometric"])
    save_with_body(dataset, body, place)


def write_derived(
    head: bytes, body: Body, place: Path, part: Part, derivation: Derivation
) -> list[Path]:
    """Write a derived image; slices of a cut mosaic become images of their own.

    Parameters
    ----------
    head : bytes
        The source file up to its pixel data.
    body : Body
        Pixel words of the frames kept, cut to the part's box.
    place : Path
        File to write.
    part : Part
    derivation : Derivation

    Returns
    -------
    list of Path
        What was written.
    """
    if part.tiles is None:
        dataset = parse_head(head)
        _remember_loss(dataset, part.lossy_method)
        full = (0, int(dataset.Rows), 0, int(dataset.Columns))
        if part.cut:
            keep_frames(dataset, part.frames)
        if part.cut and part.box != full:
            crop(dataset, part.box)
        set_pixel_facts(dataset, body, part.colours)
        _refresh_extremes(dataset, body)
        _label(dataset, derivation, cut=part.cut and part.box != full, role="")
        save_with_body(dataset, body, place)
        return [place]
    made = []
    for number, frame in enumerate(part.frames):
        dataset = parse_head(head)
        _remember_loss(dataset, part.lossy_method)
        one_tile(dataset, part.tiles, frame)
        crop(dataset, part.box)
        set_pixel_facts(dataset, body, part.colours, frames=1)
        _label(dataset, derivation, cut=True, role=f"/slice {frame}")
        path = place.with_name(f"{place.stem}_{frame:04d}{place.suffix}")
        save_with_body(dataset, body, path, frame=number)
        made.append(path)
    return made


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


def to_explicit_little(dataset: Dataset) -> bytes:
    """Give a data set's elements as Explicit VR Little Endian, without file meta information."""
    from pydicom.config import disable_value_validation

    buffer = io.BytesIO()
    with disable_value_validation():
        plain_copy(dataset).save_as(buffer, implicit_vr=False, little_endian=True)
    return buffer.getvalue()


def _refresh_extremes(dataset: Dataset, body: Body) -> None:
    for name, value in (
        ("SmallestImagePixelValue", body.least),
        ("LargestImagePixelValue", body.largest),
    ):
        if name in dataset and value is not None:
            setattr(dataset, name, int(value))
            dataset[name].VR = "SS" if body.layout.word[0] == "i" else "US"


def _label(dataset: Dataset, derivation: Derivation, *, cut: bool, role: str) -> None:
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
    dataset.SOPInstanceUID = derivation.uid(f"instance/{old_uid}{role}")
    dataset.SeriesInstanceUID = derivation.uid(f"series/{dataset.get('SeriesInstanceUID')}")


def _lossy_words(info: RestoreInfo) -> str:
    parts = [f"lossy archive compression, method {info.method}"]
    if info.level is not None:
        parts.append(f"level {info.level}")
    if info.ratio is not None:
        parts.append(f"ratio {info.ratio:.4g}")
    if info.max_error is not None:
        parts.append(f"no stored value off by more than {info.max_error:g}")
    if info.generated is not None:
        parts.append(info.generated)
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
