"""Copies of archives in folders, zip files and buckets: checked, continued, never replacing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import nibabel
import numpy as np
import pytest

from pipelines.archiving.archive import archive, plan
from pipelines.archiving.options import ArchiveOptions
from psc_volumetric.archive import target_state
from psc_volumetric.archive.copying import copy_head
from psc_volumetric.archive.stores import open_store


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three archives, one of them a zip file in a folder of its own."""
    folder = tmp_path_factory.mktemp("made")
    for number in range(3):
        values = np.random.default_rng(number).integers(0, 900, (40, 36, 20), dtype=np.int16)
        source = folder / f"n{number}.nii"
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), source)
        name = ("n0.psc.zarr", "n1.psc.zarr", "deep/n2.psc.zarr.zip")[number]
        archive(plan(source, str(folder / "archives" / name), ArchiveOptions(coders="zstd")))
    return folder / "archives"


@pytest.fixture
def archives(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "archives"))


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A bucket of a server on this machine that speaks S3."""
    boto3 = pytest.importorskip("boto3")
    s3fs = pytest.importorskip("s3fs")
    running = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", port=0)
    running.start()
    host, port = running.get_host_and_port()
    s3fs.S3FileSystem.clear_instance_cache()  # of another server
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        boto3.client("s3").create_bucket(Bucket="copies")
        yield "s3://copies"
    s3fs.S3FileSystem.clear_instance_cache()
    running.stop()


@pytest.fixture
def bucket(server: str, tmp_path: Path) -> str:
    return f"{server}/{tmp_path.name}"


def contents(place: object) -> dict[str, bytes]:
    """Every object of an archive."""
    store = open_store(str(place))
    try:
        return {key: store.get(key) or b"" for key in store.listing()}
    finally:
        store.close()


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


BRICK = "image/c/0/0/0"


def test_a_copy_is_the_archive_in_any_kind_of_store(archives, tmp_path, bucket, run):
    source = archives / "n0.psc.zarr"
    whole = contents(source)
    chain = [
        source,
        tmp_path / "b.psc.zarr.zip",
        f"{bucket}/c.psc.zarr",
        f"{bucket}/d.psc.zarr.zip",
    ]
    chain.append(tmp_path / "e" / "f.psc.zarr")
    for first, second in pairwise(chain):
        outcome = run("copy", first, second, "--json")
        assert outcome.code == 0, outcome.err
        assert outcome.document["state"] == "copied"
        assert outcome.document["objects"] == len(whole) - 1
        assert contents(second) == whole
        assert run("verify", second, "--deep").code == 0
        again = run("copy", source, second, "--check", "--json")
        assert (again.code, again.document["state"]) == (0, "there"), again.err
    assert (tmp_path / "e" / "f.psc.zarr" / "manifest.json").read_bytes() == whole["manifest.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["archives", "b.psc.zarr.zip", "e"]


def test_a_zip_copy_of_a_copy_has_the_same_bytes(archives, tmp_path, run):
    packed = archives / "deep" / "n2.psc.zarr.zip"
    assert run("copy", packed, tmp_path / "x.psc.zarr").code == 0
    assert run("copy", tmp_path / "x.psc.zarr", tmp_path / "y.psc.zarr.zip").code == 0
    assert (tmp_path / "y.psc.zarr.zip").read_bytes() == packed.read_bytes()


def test_what_another_archive_has_is_never_touched(archives, tmp_path, run):
    before = contents(archives / "n1.psc.zarr")
    outcome = run("copy", archives / "n0.psc.zarr", archives / "n1.psc.zarr")
    assert outcome.code == 6 and "error[target-exists]" in outcome.err
    assert contents(archives / "n1.psc.zarr") == before
    mine = tmp_path / "mine.psc.zarr"
    mine.mkdir()
    (mine / "notes.txt").write_text("mine")
    assert run("copy", archives / "n0.psc.zarr", mine).code == 6
    assert [path.name for path in mine.iterdir()] == ["notes.txt"]
    inside = run("copy", archives / "n0.psc.zarr", archives / "n1.psc.zarr" / "x.psc.zarr")
    assert inside.code == 6 and "error[within-archive]" in inside.err
    outcome = run("copy", archives, tmp_path / "x.psc.zarr")
    assert outcome.code == 2 and "error[folder-of-archives]" in outcome.err


def test_damage_is_not_copied(archives, tmp_path, run):
    flip(archives / "n0.psc.zarr" / BRICK)
    outcome = run("copy", archives / "n0.psc.zarr", tmp_path / "x.psc.zarr")
    assert outcome.code == 4 and BRICK in outcome.err
    assert target_state(tmp_path / "x.psc.zarr") == "unfinished"


def test_a_copy_that_was_stopped_is_continued_from_good_objects(archives, tmp_path, run):
    source, target = archives / "n0.psc.zarr", tmp_path / "x.psc.zarr"
    whole = contents(source)
    shutil.copytree(source, target)
    (target / "manifest.json").unlink()
    (target / "partial.json").write_bytes(copy_head(whole["manifest.json"]))
    flip(target / BRICK)
    (target / "README.txt").unlink()
    other = run("copy", archives / "n1.psc.zarr", target)
    assert other.code == 6 and "error[partial-differs]" in other.err
    outcome = run("copy", source, target, "--json")
    assert outcome.code == 0, outcome.err
    assert (outcome.document["objects"], outcome.document["found"]) == (2, len(whole) - 3)
    assert contents(target) == whole


def test_a_copy_that_lost_objects_says_how_it_is_mended(archives, tmp_path, run):
    assert run("copy", archives / "n0.psc.zarr", tmp_path / "x.psc.zarr").code == 0
    (tmp_path / "x.psc.zarr" / BRICK).unlink()
    outcome = run("copy", archives / "n0.psc.zarr", tmp_path / "x.psc.zarr")
    assert outcome.code == 4
    assert "error[copy-damaged]" in outcome.err and "psc-archive repair" in outcome.err


@pytest.mark.parametrize("kind", ["folder", "bucket"])
def test_sync_copies_what_is_missing_and_tells_of_the_rest(kind, archives, tmp_path, bucket, run):
    target = tmp_path / "copies" if kind == "folder" else f"{bucket}/kept"
    outcome = run("sync", archives, target, "--json")
    assert outcome.code == 0, outcome.err
    rows = outcome.document["archives"]
    names = ["deep/n2.psc.zarr.zip", "n0.psc.zarr", "n1.psc.zarr"]
    assert [(row["archive"], row["state"]) for row in rows] == [(n, "copied") for n in names]
    for name in names:
        assert contents(f"{target}/{name}") == contents(archives / name)
    shutil.rmtree(archives / "n0.psc.zarr")
    shutil.copytree(archives / "n1.psc.zarr", archives / "n0.psc.zarr")  # another one now
    shutil.move(archives / "n1.psc.zarr", archives / "new.psc.zarr")
    outcome = run("sync", archives, target, "--check", "--json")
    assert outcome.code == 8, outcome.err
    assert [(row["archive"], row["state"]) for row in outcome.document["archives"]] == [
        ("deep/n2.psc.zarr.zip", "there"),
        ("n0.psc.zarr", "differs"),
        ("new.psc.zarr", "copied"),
    ]
    assert outcome.document["extra"] == ["n1.psc.zarr"]
    assert "error[target-exists]: n0.psc.zarr: differs" in outcome.err
    assert run("verify", f"{target}/n1.psc.zarr").code == 0


def test_sync_finds_damage_on_both_sides_and_goes_on(archives, tmp_path, run):
    target = tmp_path / "copies"
    flip(archives / "n0.psc.zarr" / BRICK)
    first = run("sync", archives, target, "--json")
    assert first.code == 7
    states = [row["state"] for row in first.document["archives"]]
    assert states == ["copied", "damaged", "copied"]
    flip(archives / "n0.psc.zarr" / BRICK)
    flip(target / "n1.psc.zarr" / BRICK)
    assert run("sync", archives, target).code == 0  # continues, and does not read what is there
    outcome = run("sync", archives, target, "--check", "--json")
    assert outcome.code == 7
    assert [row["state"] for row in outcome.document["archives"]] == ["there", "there", "damaged"]
    assert f"n1.psc.zarr/{BRICK}" in outcome.err.replace(": ", "/")


def test_sync_wants_folders(archives, tmp_path, run):
    outcome = run("sync", archives / "n0.psc.zarr", tmp_path / "x")
    assert outcome.code == 2 and "psc-archive copy" in outcome.err
    outcome = run("sync", archives, archives / "n0.psc.zarr")
    assert outcome.code in (2, 6)
    (tmp_path / "empty").mkdir()
    assert run("sync", tmp_path / "empty", tmp_path / "x").code == 6
