"""DICOM files without what identifies a person: the Basic Profile of DICOM PS3.15, annex E.

Which element is removed, emptied, replaced or mapped stands in table E.1-1 of the standard, which
`dicomanonymizer` keeps; here it is applied to every level of nested sequences. UIDs and patient
ids are mapped by a keyed hash, so that the same key gives the same files, and files of one study
stay one study. Private elements, and elements that the dictionary does not know, are removed.
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pydicom
from pydicom.datadict import dictionary_has_tag
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileDataset
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag
from pydicom.uid import PYDICOM_IMPLEMENTATION_UID

from adapters.errors import SourceError

__all__ = ["BASIC", "DATES_SHIFTED", "PROFILES", "deidentify"]

BASIC, DATES_SHIFTED = PROFILES = ("basic", "basic-shifted-dates")
EDITION = "2026c"
SHIFT_DAYS = 3650  # at most so many days back
_REMOVE, _EMPTY, _DUMMY, _MAP = "remove", "empty", "dummy", "map"
_TABLES = {
    "X_TAGS": _REMOVE,
    "Z_TAGS": _EMPTY,
    "X_Z_TAGS": _EMPTY,
    "D_TAGS": _DUMMY,
    "Z_D_TAGS": _DUMMY,
    "X_D_TAGS": _DUMMY,
    "X_Z_D_TAGS": _DUMMY,
    "U_TAGS": _MAP,
    "X_Z_U_STAR_TAGS": _MAP,
}
_PATIENT = (0x00100010, 0x00100020)  # name and id: consistent in all files of a patient
_DRAWN = (0x5000, 0x6000)  # curves and overlays, which may be of text
# Modalities whose images often show the name of the patient.
_OFTEN_BURNED_IN = frozenset(("US", "IVUS", "ES", "XC", "GM", "SC", "OT", "XA", "RF", "ECG", "DOC"))


@dataclass(frozen=True)
class _Profile:
    """How one file is changed."""

    key: bytes
    shifts_dates: bool
    patient: str
    shift: datetime.timedelta

    def uid(self, old: str) -> str:
        """The UID in the place of another: UUID-derived (2.25), 128 bits of the keyed hash."""
        return f"2.25.{int.from_bytes(_hash(self.key, 'uid', old)[:16], 'big')}"


def _hash(key: bytes, what: str, text: str) -> bytes:
    return hmac.new(
        key, f"{what}:{text}".encode("utf-8", "surrogateescape"), hashlib.sha256
    ).digest()


def deidentify(paths: Sequence[Path], folder: Path, key: bytes, profile: str) -> list[str]:
    """Write files anew without what identifies a person.

    Parameters
    ----------
    paths : sequence of Path
        DICOM files.
    folder : Path
        Gets ``000000.dcm``, ``000001.dcm`` ...
    key : bytes
        Of the keyed hash; the same key gives the same bytes.
    profile : str
        ``"basic"``: dates are removed or replaced; ``"basic-shifted-dates"``: moved back by a
        number of days that is the same for all files of a patient.

    Returns
    -------
    list of str
        Warnings: what no rule about headers can take away.

    Raises
    ------
    SourceError : kind ``"cannot-deidentify"``: an overlay is kept in the bits of the pixels, or the
        file does not say what it is.
    """
    notes: dict[str, None] = {}
    for number, path in enumerate(paths):
        ds = pydicom.dcmread(path)
        if "SOPInstanceUID" not in ds or "TransferSyntaxUID" not in ds.file_meta:
            raise SourceError(
                "expected a file with a SOPInstanceUID and a transfer syntax",
                kind="cannot-deidentify",
                path=path,
            )
        notes.update(dict.fromkeys(_warnings(ds, path)))
        patient = _hash(key, "patient", str(ds.get("PatientID", "") or ds.get("PatientName", "")))
        days = 1 + int.from_bytes(patient[16:20], "big") % SHIFT_DAYS
        how = _Profile(
            key, profile == DATES_SHIFTED, f"p-{patient.hex()[:20]}", datetime.timedelta(days=days)
        )
        _clean(ds, how)
        _say_so(ds, how)
        _write(ds, folder / f"{number:06d}.dcm", how)
    return list(notes)


def _warnings(ds: Dataset, path: Path) -> list[str]:
    """What is in the pixels, as far as the header tells.

    Raises
    ------
    SourceError : overlays in bits of the pixels, which would stay.
    """
    for group in range(0x6000, 0x6020, 2):
        if (group, 0x0010) in ds and (group, 0x3000) not in ds:
            raise SourceError(
                "an overlay is kept in unused bits of the pixels, where it would stay",
                kind="cannot-deidentify",
                path=path,
                hint="remove it with a tool that edits pixels",
            )
    burned, modality = str(ds.get("BurnedInAnnotation", "")).upper(), str(ds.get("Modality", ""))
    found = []
    if burned == "YES":
        found.append("the header says that text is burned into the images; it stays there")
    elif burned != "NO" and modality in _OFTEN_BURNED_IN:
        found.append(f"images of modality {modality} often show names; look at them")
    if str(ds.get("RecognizableVisualFeatures", "")).upper() == "YES":
        found.append("the header says that a person can be recognised in the images")
    return found


@cache
def _table() -> dict[int, str]:
    """Table E.1-1: tag -> what is done. Its repeating groups are removed whole."""
    from dicomanonymizer.dicomfields_selector import dicom_anonymization_database_selector

    table = dicom_anonymization_database_selector(f"dicomfields_{EDITION}")
    return {
        tag[0] << 16 | tag[1]: action
        for name, action in _TABLES.items()
        for tag in table[name]
        if len(tag) == 2
    }


def _rule(tag: BaseTag) -> str | None:
    """What is done to an element; None: it stays."""
    drawn = tag.group & 0xFF00 in _DRAWN
    if drawn or tag.is_private or not dictionary_has_tag(tag):
        return _REMOVE
    return _table().get(tag)


def _clean(ds: Dataset, how: _Profile) -> None:
    """Apply the rules to a data set and the items of its sequences."""
    for tag in list(ds.keys()):
        rule = _rule(BaseTag(tag))
        if rule == _REMOVE and not (how.shifts_dates and _is_of_time(ds[tag])):
            del ds[tag]
            continue
        element = ds[tag]
        if rule is None and element.VR == "PN":
            rule = _EMPTY
        _change(element, rule, how)
        if element.VR == "SQ" and element.value:
            for item in element.value:
                _clean(item, how)


def _is_of_time(element: DataElement) -> bool:
    """Whether an element is a date or a time of what was done, and not of the patient."""
    return element.VR in ("DA", "DT", "TM") and element.tag.group != 0x0010


def _change(element: DataElement, rule: str | None, how: _Profile) -> None:
    if rule is None or element.is_empty:
        return
    if int(element.tag) in _PATIENT:
        element.value = how.patient
    elif how.shifts_dates and _is_of_time(element):
        if element.VR != "TM":
            _each(element, lambda text: _shifted(text, how.shift))
    elif element.VR == "UI" and rule in (_MAP, _DUMMY):
        _each(element, how.uid)
    elif rule == _MAP and element.VR == "SQ":
        return  # what its items point to is mapped in them
    elif rule == _DUMMY and element.VR != "SQ":
        _replace(element)
    elif rule == _DUMMY:
        for item in element.value:
            for inner in item:
                _change(inner, _DUMMY, how)
    else:
        element.clear()


def _each(element: DataElement, change: Callable[[str], str]) -> None:
    """Change each value of an element."""
    if isinstance(element.value, MultiValue):
        element.value = [change(str(value)) for value in element.value]
    else:
        element.value = change(str(element.value))


def _replace(element: DataElement) -> None:
    """A value of the same type that means nothing; none where there is no such value."""
    from dicomanonymizer import simpledicomanonymizer

    try:
        simpledicomanonymizer.replace_element(element)
    except NotImplementedError:
        element.clear()


def _shifted(text: str, shift: datetime.timedelta) -> str:
    """A date, or a date with a time, some days earlier; nothing where it is neither."""
    found = re.fullmatch(r"(\d{4})(\d{2})(\d{2})(.*)", text.strip())
    if found is None:
        return ""
    try:
        day = datetime.date(*map(int, found.groups()[:3])) - shift
    except (ValueError, OverflowError):
        return ""
    return f"{day:%Y%m%d}".rjust(8, "0") + found[4]


def _say_so(ds: Dataset, how: _Profile) -> None:
    """PS3.15 E.1.1: the file says that it was de-identified, and by which profile."""
    ds.PatientIdentityRemoved = "YES"
    name = f"PS3.15 {EDITION} Basic Profile, psc-archive"
    before = ds.get("DeidentificationMethod")
    ds.DeidentificationMethod = [name] if not before else name
    ds.LongitudinalTemporalInformationModified = "MODIFIED" if how.shifts_dates else "REMOVED"
    codes = [("113100", "Basic Application Confidentiality Profile")]
    if how.shifts_dates:
        codes.append(("113107", "Retain Longitudinal Temporal Information Modified Dates Option"))
    ds.DeidentificationMethodCodeSequence = [_code(*code) for code in codes]


def _code(value: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
    return item


def _write(ds: FileDataset, path: Path, how: _Profile) -> None:
    """Write with a file header of its own: no preamble, no titles of senders."""
    old = ds.file_meta
    meta = pydicom.dataset.FileMetaDataset()
    meta.MediaStorageSOPClassUID = old.MediaStorageSOPClassUID
    meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    meta.TransferSyntaxUID = old.TransferSyntaxUID
    meta.ImplementationClassUID = PYDICOM_IMPLEMENTATION_UID
    ds.file_meta, ds.preamble = meta, b"\0" * 128
    ds.save_as(path, enforce_file_format=True)
