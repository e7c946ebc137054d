"""Damaged archives mended from replicas: only listed bytes go in, nothing is thrown away."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from pipelines.archiving.archive import archive, plan
from pipelines.archiving.options import ArchiveOptions
from psc_volumetric.archive import copy_archive
from psc_volumetric.archive.stores import open_store

BRICK = "image/c/0/0/0"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive, its zip file, and an archive of another scan with the same shape."""
    folder = tmp_path_factory.mktemp("made")
    for number, name in enumerate(("a.psc.zarr", "other.psc.zarr")):
        values = np.random.default_rng(number).integers(0, 900, (30, 20, 10), dtype=np.int16)
        source = folder / f"{name}.nii"
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), source)
        archive(plan(source, str(folder / name), ArchiveOptions(coders="zstd")))
    copy_archive(folder / "a.psc.zarr", folder / "a.psc.zarr.zip")
    return folder


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Path:
    """A folder with the archive, and two replicas elsewhere."""
    for name in ("kept/a.psc.zarr", "first/a.psc.zarr", "second/a.psc.zarr"):
        shutil.copytree(made / "a.psc.zarr", tmp_path / name)
    return tmp_path


def contents(place: Path) -> dict[str, bytes]:
    store = open_store(str(place))
    try:
        return {key: store.get(key) or b"" for key in store.listing()}
    finally:
        store.close()


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def as_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/hostname")


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "inside").write_text("mine")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def parent_as_file(path: Path) -> None:
    shutil.rmtree(path.parent)
    path.parent.write_text("mine")


DAMAGE: dict[str, Callable[[Path], None]] = {
    "lost": Path.unlink,
    "flipped": flip,
    "cut": cut,
    "link": as_link,
    "folder": as_folder,
    "file above": parent_as_file,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_every_kind_of_damage_is_mended_byte_for_byte(damage, place, made, run):
    kept = place / "kept" / "a.psc.zarr"
    DAMAGE[damage](kept / BRICK)
    flip(kept / "source" / "document")
    assert run("verify", kept).code == 7
    dry = run("repair", kept, "--from", place / "first" / "a.psc.zarr", "--dry-run", "--json")
    assert dry.code == 0 and {t["key"] for t in dry.document["mended"]} == {
        BRICK,
        "source/document",
    }
    assert run("verify", kept).code == 7
    outcome = run("repair", kept, "--from", place / "first" / "a.psc.zarr", "--json")
    assert outcome.code == 0, outcome.err + outcome.out
    assert {t["key"] for t in outcome.document["mended"]} == {BRICK, "source/document"}
    assert outcome.document["check"]["ok"]
    assert contents(kept) == contents(made / "a.psc.zarr")
    aside = place / "kept" / "a.psc.zarr.aside"
    assert aside.exists() is (damage in ("link", "folder", "file above"))
    if damage != "link" and aside.exists():
        assert [p.read_text() for p in aside.rglob("*") if p.is_file()] == ["mine"]
    lines = (place / "kept.events.jsonl").read_text().splitlines()
    event, checked = map(json.loads, lines)
    assert (event["event"], event["outcome"], event["count"][:2]) == ("repair", "whole", [2, 0])
    assert (checked["event"], checked["outcome"]) == ("scrub", "ok")
    again = run("repair", kept, "--from", place / "first" / "a.psc.zarr")
    assert again.code == 0 and "nothing was damaged" in again.out


def test_several_damaged_replicas_together_are_enough(place, made, run):
    kept = place / "kept" / "a.psc.zarr"
    flip(kept / BRICK)
    flip(kept / "zarr.json")
    flip(place / "first" / "a.psc.zarr" / BRICK)
    flip(place / "second" / "a.psc.zarr" / "zarr.json")
    (place / "second" / "a.psc.zarr" / "manifest.json").unlink()
    alone = run("repair", kept, "--from", place / "first" / "a.psc.zarr", "--json")
    assert alone.code == 7
    assert [t["key"] for t in alone.document["mended"]] == ["zarr.json"]
    assert [t["key"] for t in alone.document["left"]] == [BRICK]
    from_both = (
        "--from",
        place / "first" / "a.psc.zarr",
        "--from",
        place / "second" / "a.psc.zarr",
    )
    outcome = run("repair", kept, *from_both, "--json")
    assert outcome.code == 0, outcome.err
    assert contents(kept) == contents(made / "a.psc.zarr")


def test_objects_of_another_archive_never_go_in(place, made, run):
    kept = place / "kept" / "a.psc.zarr"
    flip(kept / BRICK)
    before = contents(kept)
    outcome = run("repair", kept, "--from", made / "other.psc.zarr", "--json")
    assert outcome.code == 7
    assert [t["key"] for t in outcome.document["left"]] == [BRICK]
    assert contents(kept) == before


def test_foreign_objects_are_moved_aside(place, made, run):
    kept = place / "kept" / "a.psc.zarr"
    (kept / "notes.txt").write_text("mine")
    outcome = run("repair", kept, "--from", place / "first" / "a.psc.zarr", "--json")
    assert outcome.code == 0 and outcome.document["aside"] == ["notes.txt"]
    assert (place / "kept" / "a.psc.zarr.aside" / "notes.txt").read_text() == "mine"
    assert contents(kept) == contents(made / "a.psc.zarr")


@pytest.mark.parametrize("damage", [Path.unlink, flip, cut])
def test_a_lost_manifest_comes_from_a_replica_of_the_same_archive(damage, place, made, run):
    kept = place / "kept" / "a.psc.zarr"
    damage(kept / "manifest.json")
    flip(kept / BRICK)
    foreign = run("repair", kept, "--from", made / "other.psc.zarr")
    assert foreign.code == 4 and "error[foreign-replica]" in foreign.err
    outcome = run("repair", kept, "--from", place / "first" / "a.psc.zarr", "--json")
    assert outcome.code == 0, outcome.err
    assert {t["key"] for t in outcome.document["mended"]} == {"manifest.json", BRICK}
    assert contents(kept) == contents(made / "a.psc.zarr")


def test_an_archive_without_manifest_and_root_takes_the_digest_from_elsewhere(place, made, run):
    kept = place / "kept" / "a.psc.zarr"
    (kept / "manifest.json").unlink()
    flip(kept / "zarr.json")
    words = ("repair", kept, "--from", place / "first" / "a.psc.zarr", "--json")
    assert run(*words).code == 4
    digest = run("info", made / "a.psc.zarr", "--json").document["manifest"]
    assert run(*words, "--expect", "0" * 64).code == 4
    assert run(*words, "--expect", digest).code == 0
    assert contents(kept) == contents(made / "a.psc.zarr")


def test_a_manifest_that_was_exchanged_is_found_by_its_digest(place, made, run):
    kept = place / "kept" / "a.psc.zarr"
    digest = run("info", kept, "--json").document["manifest"]
    shutil.copy(made / "other.psc.zarr" / "manifest.json", kept / "manifest.json")
    words = ("repair", kept, "--from", place / "first" / "a.psc.zarr", "--json")
    assert run(*words).code == 7  # all is held to the wrong one, and nothing fits
    outcome = run(*words, "--expect", digest)
    assert outcome.code == 0, outcome.err
    assert contents(kept) == contents(made / "a.psc.zarr")


def test_a_zip_file_is_mended_to_the_same_bytes_and_the_damaged_one_stays(place, made, run):
    whole = (made / "a.psc.zarr.zip").read_bytes()
    kept = place / "kept" / "a.psc.zarr.zip"
    with zipfile.ZipFile(made / "a.psc.zarr.zip") as packed:
        info = packed.getinfo(BRICK)
    at = info.header_offset + 30 + len(BRICK) + info.file_size // 2
    for damaged in (
        whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :],
        whole[:at],  # without its directory: no zip file any more
        whole + b"more",
    ):
        kept.write_bytes(damaged)
        digest = run("info", made / "a.psc.zarr.zip", "--json").document["manifest"]
        words = ("repair", kept, "--from", place / "first" / "a.psc.zarr")
        outcome = run(*words, "--expect", digest, "--json")
        assert outcome.code == 0, outcome.err + outcome.out
        assert kept.read_bytes() == whole
    kept_aside = sorted(p.name for p in kept.parent.iterdir() if ".aside" in p.name)
    assert kept_aside == [f"a.psc.zarr.zip.aside{end}" for end in ("", ".1", ".2")]
    assert not [p for p in kept.parent.iterdir() if ".mending" in p.name]


def test_what_cannot_be_mended_is_refused(place, run):
    kept = place / "kept" / "a.psc.zarr"
    replica = place / "first" / "a.psc.zarr"
    for words, code, kind in (
        ((kept, "--from", kept), 2, "same-place"),
        ((place / "kept", "--from", replica), 2, "folder-of-archives"),
        ((place / "none.psc.zarr", "--from", replica), 6, "not-found"),
        ((kept, "--from", place / "none.psc.zarr"), 6, "not-found"),
        ((kept, "--from", replica, "--expect", "abc"), 2, "bad-digest"),
        (("https://localhost/a.psc.zarr", "--from", replica, "--event-log", place / "l"), 6, "un"),
    ):
        outcome = run("repair", *words)
        assert outcome.code == code and f"error[{kind}" in outcome.err, outcome.err
    (kept / "manifest.json").rename(kept / "partial.json")
    outcome = run("repair", kept, "--from", replica)
    assert outcome.code == 4 and "error[not-sealed]" in outcome.err
