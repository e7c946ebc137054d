"""De-identified copies are archived: nothing of a person is left, and all belongs together."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from typer.testing import CliRunner

from adapters import isolation
from adapters.dicom.deidentify import PROFILES
from adapters.errors import SourceError
from pipelines.archiving.choices import DEIDENTIFY
from pipelines.cli import app
from pipelines.commands.failures import EXIT_INCOMPLETE, EXIT_OK, EXIT_USAGE

pytest.importorskip("dicomanonymizer")

KEY = b"k" * 32
SECRETS = ("Doe^Jane", "DOE-4711", "19800229", "Roe^John", "Mercy Hospital", "1.2.3.4.5.6.7")


def scan(path: Path, number: int, **more: object) -> Dataset:
    """A slice with identifiers in usual, nested, private and unknown places."""
    ds = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
    ds.PatientName, ds.PatientID, ds.PatientBirthDate = "Doe^Jane", "DOE-4711", "19800229"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2.3.4.5.6.7.1", "1.2.3.4.5.6.7.2"
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.4.5.6.7.3.{number}"
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = "20200301"
    ds.InstitutionName, ds.InstanceNumber = "Mercy Hospital", number
    x, y, _ = ds.ImagePositionPatient
    ds.ImagePositionPatient = [x, y, 5.0 * number]
    inner = Dataset()
    inner.ReferencedSOPInstanceUID, inner.ReferencedSOPClassUID = (
        "1.2.3.4.5.6.7.3.1",
        ds.SOPClassUID,
    )
    inner.PersonName = "Roe^John"
    deep = Dataset()
    deep.add_new(0x00091001, "LO", "Doe^Jane")
    deep.PerformingPhysicianName, deep.InstitutionName = "Roe^John", "Mercy Hospital"
    inner.PurposeOfReferenceCodeSequence = Sequence([deep])
    ds.ReferencedImageSequence = Sequence([inner])
    ds.add_new(0x00090010, "LO", "DOE-4711")
    ds.add_new(0x00080007, "LO", "Doe^Jane")  # in no dictionary
    ds.add_new(0x60000022, "LO", "Doe^Jane")
    ds.file_meta.SourceApplicationEntityTitle = "DOE-4711"
    ds.preamble = b"Doe^Jane".ljust(128, b"\0")
    for name, value in more.items():
        setattr(ds, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)
    return ds


@pytest.fixture
def series(tmp_path: Path) -> Path:
    for number in range(3):
        scan(tmp_path / "in" / "doe" / f"jane{number}.dcm", number)
    return tmp_path / "in"


def cleaned(
    paths: list[Path], folder: Path, profile: str = "basic", key: bytes = KEY
) -> list[Dataset]:
    folder.mkdir()
    isolation.deidentify(paths, folder, key, profile)
    return [pydicom.dcmread(path) for path in sorted(folder.iterdir())]


def elements(ds: Dataset) -> Iterator[pydicom.DataElement]:
    for element in ds:
        yield element
        if element.VR == "SQ":
            for item in element.value:
                yield from elements(item)


def files(series: Path) -> list[Path]:
    return sorted(series.rglob("*.dcm"))


def test_no_identifier_is_left_anywhere_in_the_bytes(series: Path, tmp_path: Path) -> None:
    first, *_ = cleaned(files(series), tmp_path / "out")
    for path in (tmp_path / "out").iterdir():
        data = path.read_bytes()
        assert not [secret for secret in SECRETS if secret.encode() in data]
        assert b"20200301" not in data
    assert not [e for e in elements(first) if e.tag.is_private]
    assert (first.PatientIdentityRemoved, first.LongitudinalTemporalInformationModified) == (
        "YES",
        "REMOVED",
    )
    (code,) = first.DeidentificationMethodCodeSequence
    assert (code.CodeValue, code.CodingSchemeDesignator) == ("113100", "DCM")
    assert pydicom.dcmread(files(series)[0]).PixelData == first.PixelData


def test_what_belonged_together_still_does(series: Path, tmp_path: Path) -> None:
    scan(
        tmp_path / "other" / "a.dcm",
        9,
        PatientName="Poe^Ann",
        PatientID="POE",
        StudyInstanceUID="1.9",
    )
    made = cleaned([*files(series), tmp_path / "other" / "a.dcm"], tmp_path / "out")
    same, other = made[:3], made[3]
    for name in ("PatientID", "PatientName", "StudyInstanceUID", "SeriesInstanceUID"):
        assert len({str(ds[name].value) for ds in same}) == 1
    assert len({ds.SOPInstanceUID for ds in made}) == 4
    assert other.PatientID != same[0].PatientID
    assert other.StudyInstanceUID != same[0].StudyInstanceUID
    pointed = same[0].ReferencedImageSequence[0].ReferencedSOPInstanceUID
    assert pointed == same[1].SOPInstanceUID
    assert all(ds.file_meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID for ds in made)
    assert all(len(ds.SOPInstanceUID) <= 64 for ds in made)


def test_the_key_decides_and_nothing_else(series: Path, tmp_path: Path) -> None:
    def data(name: str, key: bytes) -> list[bytes]:
        cleaned(files(series), tmp_path / name, key=key)
        return [path.read_bytes() for path in sorted((tmp_path / name).iterdir())]

    once, again, another = data("a", KEY), data("b", KEY), data("c", b"l" * 32)
    assert once == again
    assert once[0] != another[0]


def test_shifted_dates_keep_their_distance(tmp_path: Path) -> None:
    for number, day in enumerate(("20200301", "20200315")):
        scan(
            tmp_path / "in" / f"{number}.dcm",
            number,
            StudyDate=day,
            AcquisitionDateTime=f"{day}101112.5",
        )
    made = cleaned(files(tmp_path / "in"), tmp_path / "out", "basic-shifted-dates")
    days = [int(ds.StudyDate) for ds in made]
    from datetime import date

    def as_date(text: str) -> date:
        return date(int(text[:4]), int(text[4:6]), int(text[6:8]))

    assert (as_date(made[1].StudyDate) - as_date(made[0].StudyDate)).days == 14
    assert days[0] < 20200301
    assert made[0].AcquisitionDateTime == f"{made[0].StudyDate}101112.5"
    assert made[0].LongitudinalTemporalInformationModified == "MODIFIED"
    assert not made[0].get("PatientBirthDate")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"BurnedInAnnotation": "YES"}, "burned into"),
        ({"Modality": "US"}, "modality US"),
        ({"RecognizableVisualFeatures": "YES"}, "recognised"),
        ({"Modality": "US", "BurnedInAnnotation": "NO"}, None),
        ({}, None),
    ],
)
def test_what_the_pixels_may_show_is_said(
    more: dict[str, object], words: str | None, tmp_path: Path
) -> None:
    scan(tmp_path / "in" / "a.dcm", 0, **more)
    (tmp_path / "out").mkdir()
    notes = isolation.deidentify(files(tmp_path / "in"), tmp_path / "out", KEY, "basic")
    assert [words in note for note in notes] == ([True] if words else []) if words else not notes


def test_an_overlay_within_the_pixels_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    scan(tmp_path / "in" / "a.dcm", 0)
    ds = pydicom.dcmread(tmp_path / "in" / "a.dcm")
    ds.add_new(0x60000010, "US", 128)
    ds.save_as(tmp_path / "in" / "a.dcm")
    with pytest.raises(SourceError) as caught:
        isolation.deidentify(files(tmp_path / "in"), tmp_path / "out", KEY, "basic")
    assert caught.value.kind == "cannot-deidentify"


def test_names_of_profiles_are_the_same_everywhere() -> None:
    assert DEIDENTIFY == PROFILES


def run(*words: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, [str(word) for word in words])
    return done.exit_code, done.stdout, done.stderr


@pytest.fixture
def key(tmp_path: Path) -> Path:
    (tmp_path / "secret").mkdir()
    run("pseudonyms", "make", tmp_path / "secret" / "key")
    return tmp_path / "secret" / "key"


def test_an_archive_of_copies_restores_files_that_name_nobody(
    series: Path, key: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = (
        "archive",
        series,
        out,
        "--pseudonyms",
        key,
        "--deidentify",
        "basic",
        "--coders",
        "zstd",
    )
    code, shown, said = run(*words, "--json")
    assert code == EXIT_OK, said
    (made,) = json.loads(shown)["archives"]
    assert "names persons" not in shown
    for path in tmp_path.rglob("*"):
        private = path.is_relative_to(key.parent) or path.is_relative_to(series)
        if path.is_file() and not private:
            assert not [s for s in (*SECRETS, "jane") if s.encode() in path.read_bytes()], path
    assert run("restore", made["target"], tmp_path / "back")[0] == EXIT_OK
    back = [pydicom.dcmread(path) for path in sorted((tmp_path / "back").rglob("*.dcm"))]
    assert len(back) == 3
    text = "".join(str(ds) for ds in back)
    assert not [secret for secret in SECRETS if secret in text]
    source = [pydicom.dcmread(path) for path in files(series)]
    pixels = {ds.InstanceNumber: ds.pixel_array for ds in source}
    assert all(np.array_equal(pixels[ds.InstanceNumber], ds.pixel_array) for ds in back)
    again = json.loads(run(*words, "--json")[1])
    assert (len(again["archives"]), len(again["already"])) == (0, 1)
    found = json.loads(run("status", out, "--source", series, "--json")[1])
    assert (found["archives"], found["missing"]) == (1, [])
    key_table = key.with_name("key.table").read_text("utf-8")
    assert Path(made["target"]).name.removesuffix(".psc.zarr") in key_table


def test_what_is_no_dicom_image_is_refused_and_the_rest_is_archived(
    series: Path, key: Path, tmp_path: Path
) -> None:
    import nibabel

    nibabel.save(nibabel.Nifti1Image(np.zeros((6, 7, 8), np.int16), np.eye(4)), series / "a.nii")
    report = get_testdata_file("test-SR.dcm")
    shutil.copy(report, series / "report.dcm")
    words = ("archive", series, tmp_path / "out", "--pseudonyms", key, "--coders", "zstd")
    code, shown, _ = run(*words, "--deidentify", "basic", "--json")
    found = json.loads(shown)
    assert code == EXIT_INCOMPLETE
    assert len(found["archives"]) == 1
    assert {row["kind"] for row in found["skipped"]} == {"cannot-deidentify", "no-pixels"}
    assert len(list((tmp_path / "out").iterdir())) == 1


@pytest.mark.parametrize(
    "words",
    [
        ("--deidentify", "basic"),
        ("--deidentify", "none", "KEY"),
        ("--deidentify", "basic", "KEY", "--keep-original"),
    ],
)
def test_deidentification_that_cannot_be_meant_is_refused(
    words: tuple[str, ...], series: Path, key: Path, tmp_path: Path
) -> None:
    given = [
        part
        for word in words
        for part in (("--pseudonyms", str(key)) if word == "KEY" else (word,))
    ]
    code, _, said = run("archive", series, tmp_path / "out", *given)
    assert (code, "bad-deidentify" in said) == (EXIT_USAGE, True), said
    assert not (tmp_path / "out").exists()


def test_headers_that_name_persons_are_said_once(series: Path, tmp_path: Path) -> None:
    code, shown, _ = run("archive", series, tmp_path / "out", "--coders", "zstd")
    assert code == EXIT_OK
    assert shown.count("headers of 1 item(s) name persons") == 1
    assert "Jane" not in shown


@pytest.mark.parametrize("dry", [False, True])
def test_the_disk_holds_copies_of_one_item_at_a_time(
    dry: bool, key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, room = tmp_path / "in", tmp_path / "room"
    room.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(room))
    for number in range(4):
        scan(source / f"{number}.dcm", 1, SeriesInstanceUID=f"1.2.3.4.5.6.7.{10 + number}")
    there = []
    make = isolation.deidentify

    def seen(paths: list[Path], folder: Path, key: bytes, profile: str) -> tuple[str, ...]:
        notes = make(paths, folder, key, profile)
        there.append([path.name for path in folder.parent.iterdir()])
        return notes

    monkeypatch.setattr(isolation, "deidentify", seen)
    words = ("archive", source, tmp_path / "out", "--pseudonyms", key, "--coders", "zstd")
    more = ("--dry-run",) if dry else ()
    code, shown, said = run(*words, "--deidentify", "basic", "--json", *more)
    assert code == EXIT_OK, said
    assert there == [[f"{n:06}"] for n in range(4)] * (1 if dry else 2)
    assert list(room.iterdir()) == []
    if not dry:
        assert len(json.loads(shown)["archives"]) == 4
