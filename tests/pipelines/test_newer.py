"""Archives of a later release, or of another package, are told as that, and never as damage."""

from __future__ import annotations

import json
import pickle
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import newer_archives as newer
import nibabel
import numpy as np
import pytest
import xarray as xr

from pipelines.commands.failures import EXIT_RELEASE, describe_failure
from pipelines.viewing.server import ViewServer
from psc_volumetric.archive.beginning import read_head
from psc_volumetric.archive.reader import ArchiveReader
from psc_volumetric.archive.stores import open_store
from psc_volumetric.errors import FormatError, PriorMismatchError, UnsupportedVersionError

Make = Callable[[Path], None]

NEEDS = "needs a newer psc-archive"
WHOLE = (newer.later_format, newer.later_metadata)  # nothing of it can be read
BRICKS = (newer.later_method, newer.foreign_method, newer.later_coder)
KINDS = {
    newer.later_method: "unknown-method",
    newer.foreign_method: "unknown-method",
    newer.later_coder: "unknown-layer",
}
OF_A_PACKAGE = "install the package whose method wrote it"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive, and the scan it was made from beside it."""
    from tests.pipelines.conftest import run_in_process

    folder = tmp_path_factory.mktemp("made")
    z, y, x = np.indices((6, 20, 24))
    values = (500 + 200 * np.sin(x / 7 + z / 3) * np.cos(y / 9)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(values.T, np.eye(4)), folder / "scan.nii")
    outcome = run_in_process(
        "archive", folder / "scan.nii", folder / "a.psc.zarr", "--coders", "zstd"
    )
    assert outcome.code == 0, outcome.err
    return folder / "a.psc.zarr"


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A folder with a copy of it."""
    shutil.copytree(made, tmp_path / "folder" / "a.psc.zarr")
    return tmp_path / "folder"


def _kind(make: Make) -> str:
    return KINDS.get(make, "unsupported-version")


def _said(make: Make) -> str:
    return OF_A_PACKAGE if make is newer.foreign_method else NEEDS


@pytest.mark.parametrize("make", [*WHOLE, *BRICKS])
def test_commands_of_one_archive_say_what_it_needs(
    make: Make, folder: Path, run, tmp_path: Path
) -> None:
    archive = folder / "a.psc.zarr"
    make(archive)
    commands = [
        ("restore", archive, tmp_path / "out"),
        ("restore", archive, tmp_path / "out", "--skip-damaged"),
        ("restore", archive, tmp_path / "out", "--roi", "z=0:2"),
        ("sigma", archive, tmp_path / "sigma.nc"),
        ("verify", archive, "--deep"),
        ("strip", archive, tmp_path / "b.psc.zarr"),
    ]
    if make in WHOLE:
        commands += [("info", archive), ("ls", archive), ("report", archive, "-o", tmp_path / "x")]
    for words in commands:
        outcome = run(*words)
        assert outcome.code == EXIT_RELEASE == 11, (words, outcome)
        assert f"error[{_kind(make)}]" in outcome.err and _said(make) in outcome.err, words
        assert outcome.err.count(_said(make)) == 1 and "damage" not in outcome.err, words
    assert not (tmp_path / "out").exists() and not (tmp_path / "sigma.nc").exists()


@pytest.mark.parametrize("make", [*WHOLE, *BRICKS])
def test_scrub_and_verify_of_a_folder_go_on_and_tell_it_from_damage(
    make: Make, made: Path, folder: Path, run
) -> None:
    make(folder / "a.psc.zarr")
    shutil.copytree(made, folder / "b.psc.zarr")
    for command in ("scrub", "verify"):
        outcome = run(command, folder, "--deep")
        assert outcome.code == EXIT_RELEASE, outcome
        assert f"not checked[{_kind(make)}]" in outcome.out and _said(make) in outcome.out
        assert "damage[" not in outcome.out
        later, ours = run(command, folder, "--deep", "--json").document["archives"]
        assert not later["ok"] and not later["findings"] and ours["ok"]
        assert later["not_decoded"]["kind"] == _kind(make)
        assert bool(later["checked"]) == (make is not newer.later_format)
        assert run(command, folder).code == (EXIT_RELEASE if make is newer.later_format else 0)
    log = folder.with_name("folder.events.jsonl")
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert {event["outcome"] for event in events} == {"not-checked", "ok"}
    assert events[0]["error"] == _kind(make)
    status = run("status", folder)
    assert status.code == 0 and "damaged" not in status.out


def test_status_counts_what_another_release_is_needed_for(folder: Path, run) -> None:
    newer.later_format(folder / "a.psc.zarr")
    assert run("scrub", folder).code == EXIT_RELEASE
    found = run("status", folder, "--json").document
    assert found["unchecked"] == 1 and not found["damaged"]


@pytest.mark.parametrize("make", BRICKS)
def test_a_damaged_brick_is_damage_whatever_its_header_says(make: Make, folder: Path, run) -> None:
    """The header is whole and names a coder that nobody knows, the manifest has another brick."""
    archive = folder / "a.psc.zarr"
    manifest = (archive / "manifest.json").read_bytes()
    make(archive)
    (archive / "manifest.json").write_bytes(manifest)
    for command in ("scrub", "verify"):
        outcome = run(command, folder, "--deep")
        assert outcome.code == 7 and "damage[sha256]" in outcome.out
    for engine in ("psc", "zarr"):
        with xr.open_dataset(archive, engine=engine, decode_coords=False) as dataset:
            with pytest.raises(FormatError) as caught:
                dataset["image"].load()
            assert caught.value.kind == "sha256"
    with xr.open_dataset(archive, engine="psc", skip_damaged=True) as dataset:
        assert dataset["image_damaged"].all() and not dataset["image"].any()


@pytest.mark.parametrize("make", [*WHOLE, *BRICKS])
def test_python_says_what_an_archive_needs(make: Make, folder: Path) -> None:
    make(folder / "a.psc.zarr")
    for options in ({}, {"skip_damaged": True}):
        with pytest.raises(UnsupportedVersionError, match=_said(make)) as caught:
            xr.open_dataset(folder / "a.psc.zarr", engine="psc", **options)["image"].load()
        assert caught.value.kind == _kind(make)
    if make is not newer.later_metadata:  # plain Zarr asks the array alone
        with pytest.raises(UnsupportedVersionError, match=_said(make)):
            xr.open_dataset(folder / "a.psc.zarr", engine="zarr")["image"].load()


@pytest.mark.parametrize("make", BRICKS)
def test_pages_say_what_an_archive_needs(make: Make, folder: Path, run, tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    archive, page = folder / "a.psc.zarr", tmp_path / "page.html"
    make(archive)
    assert run("report", archive, "-o", page).code == 0
    assert "Not everything could be read" in page.read_text() and _said(make) in page.read_text()
    asked = "api/region?variable=image&level=0&box=0:1,0:20,0:24"
    with ViewServer(str(archive)) as server, pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{server.url}{asked}", timeout=60)
    assert caught.value.code == 422
    assert json.loads(caught.value.read())["error"]["kind"] == _kind(make)


def test_what_a_source_needs_is_said_and_values_are_read(folder: Path, made: Path, run) -> None:
    for make in (newer.later_source, newer.later_document):
        archive = folder / f"{make.__name__}.psc.zarr"
        shutil.copytree(made, archive)
        make(archive)
        outcome = run("restore", archive, folder / "out.nii")
        assert outcome.code == EXIT_RELEASE, outcome
        assert "error[unknown-source]" in outcome.err and NEEDS in outcome.err
        assert run("restore", archive, folder / "out.nii", "--dry-run").code == EXIT_RELEASE
        with ArchiveReader.open(archive) as one, ArchiveReader.open(made) as other:
            np.testing.assert_array_equal(one.read("image"), other.read("image"))


def test_keeping_refuses_it_and_changes_nothing(folder: Path, made: Path, run) -> None:
    archive = folder / "a.psc.zarr"
    digest = json.loads((archive / "manifest.json").read_bytes())["digest"]
    newer.later_format(archive)
    before = {path: path.read_bytes() for path in archive.rglob("*") if path.is_file()}
    outcome = run("repair", archive, "--from", made, "--expect", digest)
    assert outcome.code == EXIT_RELEASE and NEEDS in outcome.err
    assert before == {path: path.read_bytes() for path in archive.rglob("*") if path.is_file()}
    synced = run("sync", folder, folder.with_name("copies"))
    assert "1 failed" in synced.out and "damaged" not in synced.out and NEEDS in synced.err
    assert run("copy", archive, folder / "c.psc.zarr").code == EXIT_RELEASE
    assert run("ls", folder, "--json").document[0]["state"] == "unsupported-version"


def test_a_damaged_format_number_is_mended(folder: Path, made: Path, run) -> None:
    path = folder / "a.psc.zarr" / "manifest.json"
    path.write_text(path.read_text().replace('"format":1', '"format":3'))
    outcome = run("verify", folder)
    assert outcome.code == 7 and "damage[manifest-damaged]" in outcome.out
    assert run("repair", folder / "a.psc.zarr", "--from", made).code == 0
    assert run("verify", folder).code == 0


def test_an_archive_that_a_later_release_began_is_left_to_it(tmp_path: Path) -> None:
    (tmp_path / "a.psc.zarr").mkdir()
    head = {"format": newer.LATER, "of": "another shape"}
    (tmp_path / "a.psc.zarr" / "partial.json").write_text(json.dumps(head))
    with pytest.raises(UnsupportedVersionError, match="finish it with the release that began it"):
        read_head(open_store(tmp_path / "a.psc.zarr"))


def test_a_hint_is_told_once_wherever_an_error_has_been() -> None:
    error = PriorMismatchError("there is none", kind="prior-missing", hint="take another")
    again = pickle.loads(pickle.dumps(error))
    for one in (error, again):
        assert (str(one), one.message) == ("there is none; take another", "there is none")
        assert describe_failure(one).lines() == [
            "error[prior-missing]: there is none",
            "hint: take another",
        ]
