"""Scrubbing a folder: every archive has its turn, damage is found, and the log has it all."""

from __future__ import annotations

import datetime
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest
from typer.testing import CliRunner

from pipelines.archiving.archive import archive, begin, plan
from pipelines.archiving.arrivals import is_quiet, move_sources
from pipelines.archiving.options import ArchiveOptions
from pipelines.checking.event_log import EventLog
from pipelines.checking.retention import aged_archives, remove_archive
from pipelines.checking.scrub import ScrubOptions, archives_to_scrub, scrub
from pipelines.checking.tombstones import read_tombstone
from pipelines.cli import app
from pipelines.commands.failures import EXIT_DAMAGE
from psc_volumetric.errors import ParameterError, StorageError


@pytest.fixture
def archives(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(3):
        image = nibabel.Nifti1Image(np.full((4, 5, 6), number, np.int16), np.eye(4))
        nibabel.save(image, source / f"n{number}.nii")
    archive(plan(source, str(tmp_path / "archives"), ArchiveOptions(coders="zstd")))
    return tmp_path / "archives"


def events(log: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in log.read_text("utf-8").splitlines()]


def test_every_archive_has_its_day(archives: Path) -> None:
    options = ScrubOptions(part="today/5")
    days = [datetime.date(2026, 11, 1) + datetime.timedelta(days=n) for n in range(5)]
    numbers = {options.chosen_part(day) for day in days}
    assert numbers == {(n, 5) for n in range(5)}
    parts = [archives_to_scrub(str(archives), ScrubOptions(part=f"{n}/5")) for n in range(1, 6)]
    everything = sorted(name for part in parts for name in part)
    assert everything == archives_to_scrub(str(archives), ScrubOptions())
    assert len(everything) == 3


@pytest.mark.parametrize("part", ["0/7", "8/7", "7", "today", "today/0", "one/7", "1/x", "-1/7"])
def test_part_that_cannot_be_meant_is_refused(part: str) -> None:
    with pytest.raises(ParameterError) as caught:
        ScrubOptions(part=part)
    assert caught.value.kind == "bad-part"


def test_scrub_names_damage_and_goes_on(archives: Path) -> None:
    damaged = archives / "n1.psc.zarr"
    brick = next(damaged.glob("*/c/0/0/0"))
    data = bytearray(brick.read_bytes())
    data[-1] ^= 1
    brick.write_bytes(data)
    (archives / "n2.psc.zarr" / "manifest.json").unlink()
    reports = scrub(str(archives), ScrubOptions())
    assert [bool(report.findings) for report in reports] == [False, True, True]
    log = archives.with_name("archives.events.jsonl")
    assert [event["outcome"] for event in events(log)] == ["ok", "damaged", "damaged"]
    assert events(log)[1]["archive"] == str(damaged)


def test_an_archive_that_cannot_be_opened_keeps_nobody_from_the_others(archives: Path) -> None:
    manifest = archives / "n1.psc.zarr" / "manifest.json"
    manifest.unlink()
    manifest.symlink_to("manifest.json")
    reports = scrub(str(archives), ScrubOptions())
    assert [[f.kind for f in report.findings] for report in reports] == [[], ["not-a-file"], []]
    outcome = CliRunner().invoke(app, ["status", str(archives)])
    assert outcome.exit_code == EXIT_DAMAGE and "not-a-file" in outcome.output


def test_archive_that_is_being_written_is_no_damage(archives: Path) -> None:
    source = archives.with_name("late.nii")
    nibabel.save(nibabel.Nifti1Image(np.ones((4, 5, 6), np.int16), np.eye(4)), source)
    (item,) = plan(source, str(archives), ArchiveOptions(coders="zstd")).items
    begin(item)
    assert (archives / "late.psc.zarr").is_dir()
    reports = scrub(str(archives), ScrubOptions())
    assert [bool(report.findings) for report in reports] == [False] * 3


def test_command_scrubs_and_returns_the_code_of_damage(archives: Path, tmp_path: Path) -> None:
    words = ["scrub", str(archives), "--event-log", str(tmp_path / "log"), "--json"]
    runner = CliRunner()
    done = runner.invoke(app, words)
    assert (done.exit_code, json.loads(done.stdout)["ok"]) == (0, True)
    next(archives.glob("n0.psc.zarr/*/c/0/0/0")).unlink()
    assert runner.invoke(app, [*words, "--deep", "--sample", "50%"]).exit_code == EXIT_DAMAGE
    assert len(events(tmp_path / "log")) == 6


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    boto3 = pytest.importorskip("boto3")
    pytest.importorskip("s3fs")
    running = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", port=0)
    running.start()
    host, port = running.get_host_and_port()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    boto3.client("s3").create_bucket(Bucket="scrubbed")
    yield "s3://scrubbed"
    running.stop()


def test_archives_of_a_bucket_are_found_and_checked(
    archives: Path, bucket: str, tmp_path: Path
) -> None:
    source = archives.with_name("source")
    quick = ArchiveOptions(coders="zstd")
    archive(plan(source / "n0.nii", f"{bucket}/kept/a", quick))
    packed = tmp_path / "packed.psc.zarr.zip"
    archive(plan(source / "n1.nii", str(packed), quick))
    client = pytest.importorskip("boto3").client("s3")
    client.upload_file(str(packed), "scrubbed", f"kept/b/{packed.name}")
    (unfinished,) = plan(source / "n2.nii", f"{bucket}/kept", quick).items
    begin(unfinished)
    found = [f"{bucket}/kept/a/n0.psc.zarr", f"{bucket}/kept/b/packed.psc.zarr.zip"]
    assert archives_to_scrub(f"{bucket}/kept/", ScrubOptions()) == found
    assert archives_to_scrub(found[0], ScrubOptions()) == found[:1]
    reports = scrub(f"{bucket}/kept", ScrubOptions(), EventLog(tmp_path / "log"))
    assert [(report.archive, report.findings) for report in reports] == [(f, ()) for f in found]


def test_log_of_a_killed_run_is_continued_on_a_line_of_its_own(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "log.jsonl")
    log.add("scrub", "a", "ok")
    with log.path.open("ab") as stream:
        stream.write(b'{"torn')
    log.add("scrub", "b", "ok")
    lines = log.path.read_text("utf-8").splitlines()
    assert [json.loads(lines[0])["archive"], json.loads(lines[2])["archive"]] == ["a", "b"]


def test_archives_are_kept_until_their_day(archives: Path) -> None:
    log = EventLog(archives.with_name("log.jsonl"))
    now = datetime.datetime.now(datetime.UTC)
    kept = aged_archives(str(archives), 30, now + datetime.timedelta(days=29))
    assert not any(aged.past for aged in kept)
    with pytest.raises(ParameterError) as caught:
        remove_archive(kept[0], log)
    assert caught.value.kind == "not-past"
    (archives / "n2.psc.zarr" / "manifest.json").unlink()
    late = aged_archives(str(archives), 30, now + datetime.timedelta(days=31))
    assert [(aged.past, aged.problem is None) for aged in late] == [
        (True, True),
        (True, True),
        (False, False),
    ]
    remove_archive(late[0], log)
    left = ["n0.psc.zarr.retired.json", "n1.psc.zarr", "n2.psc.zarr"]
    assert sorted(path.name for path in archives.iterdir()) == left
    stone = read_tombstone((archives / left[0]).read_bytes(), left[0])
    assert stone.archive == "n0.psc.zarr" and stone.reason.startswith("had to be kept until 20")
    assert [event["outcome"] for event in events(log.path)] == ["begun", "removed"]


def test_files_are_quiet_only_a_while_after_their_last_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "growing.nii"
    path.write_bytes(b"1")
    assert is_quiet([path], 0)
    os.utime(path, (0, 0))  # as copy programs do
    assert not is_quiet([path], 60)
    time.sleep(0.2)
    assert is_quiet([path], 0.1)
    assert not is_quiet([path, tmp_path / "renamed-meanwhile"], 0.1)
    back = time.time() - 600
    monkeypatch.setattr(time, "time", lambda: back)  # clocks of file servers differ a little
    assert not is_quiet([path], 60)
    monkeypatch.setattr(time, "time", lambda: back - 10 * 365 * 86400)
    assert is_quiet([path], 60)


def test_sources_move_together_or_not_at_all(tmp_path: Path) -> None:
    source, done = tmp_path / "in", tmp_path / "done"
    pair = [source / "a" / "scan.hdr", source / "a" / "scan.img"]
    pair[0].parent.mkdir(parents=True)
    for path in pair:
        path.write_text(path.suffix, encoding="utf-8")
    (done / "a").mkdir(parents=True)
    (done / "a" / "scan.img").write_text("another", encoding="utf-8")
    with pytest.raises(StorageError) as caught:
        move_sources(pair, source, done)
    assert caught.value.kind == "target-exists"
    assert all(path.exists() for path in pair)
    (done / "a" / "scan.img").unlink()
    move_sources(pair, source, done)
    assert [path.read_text("utf-8") for path in sorted((done / "a").iterdir())] == [".hdr", ".img"]
    assert not any(path.exists() for path in pair)


def test_a_file_that_is_no_archive_is_an_error_not_damage(tmp_path: Path, run) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("of another kind")
    cut = tmp_path / "cut.psc.zarr.zip"  # that was an archive, by its name
    cut.write_bytes(b"PK\x03\x04")
    outcome = run("scrub", notes)
    assert (outcome.code, outcome.err.split(":")[0]) == (4, "error[not-an-archive]")
    assert sorted(path.name for path in tmp_path.iterdir()) == [cut.name, notes.name]
    assert run("scrub", cut).code == 7
