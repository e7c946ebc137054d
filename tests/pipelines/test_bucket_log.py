"""The event log of a bucket is in the bucket: status, scrub and repair need no other place."""

from __future__ import annotations

import json
import math
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from pipelines.checking import event_log
from pipelines.checking.event_log import EVENTS, FOLDED, BucketLog, EventLog, who
from pipelines.cli import app
from psc_volumetric.archive.stores import open_store

Put = tuple[str, str]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What belongs to the user, in this test's folder."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("PSC_ARCHIVE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "state" / "psc-archive"


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def status(target: str) -> tuple[int, dict[str, Any]]:
    done = run("status", target, "--json")
    return done.exit_code, json.loads(done.stdout)


def keys_below(url: str) -> list[str]:
    store = open_store(url)
    try:
        return store.listing()
    finally:
        store.close()


def test_a_bucket_is_kept_as_a_folder_is(bucket: str, tmp_path: Path, home: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for number in range(2):
        values = np.random.default_rng(number).integers(0, 900, (12, 10, 8), dtype=np.int16)
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), source / f"n{number}.nii")
    target = f"{bucket}/volumes"
    assert run("archive", source, target, "--coders", "zstd").exit_code == 0
    code, found = status(target)
    assert code == 0 and found["last_run"]["outcome"] == "ok" and found["unchecked"] == 2
    assert run("copy", f"{target}/n0.psc.zarr", tmp_path / "good.psc.zarr").exit_code == 0
    brick = "volumes/n0.psc.zarr/image/c/0/0/0"
    client = pytest.importorskip("boto3").client("s3")
    data = bytearray(client.get_object(Bucket="events", Key=brick)["Body"].read())
    data[-1] ^= 1
    client.put_object(Bucket="events", Key=brick, Body=bytes(data))
    scrubbed = run("scrub", target)
    assert scrubbed.exit_code == 7 and f"event log {target}/{EVENTS}" in scrubbed.output
    code, found = status(target)
    assert code == 7 and [one["archive"] for one in found["damaged"]] == ["n0.psc.zarr"]
    repaired = run("repair", f"{target}/n0.psc.zarr", "--from", tmp_path / "good.psc.zarr")
    assert repaired.exit_code == 0, repaired.output
    assert status(target)[0] == 0
    retired = run("retire", f"{target}/n1.psc.zarr", "--reason", "tried", "--delete")
    assert retired.exit_code == 0, retired.output
    rows = json.loads(run("ls", target, "--json").stdout)
    assert [(row["name"], row["state"]) for row in rows] == [
        ("n0.psc.zarr", "sealed"),
        ("n1.psc.zarr.retired.json", "retired"),
    ]
    assert rows[0]["checked"] is not None
    assert [event["event"] for event in EventLog.of(target).events()] == [
        *("archive", "scrub", "scrub", "repair", "scrub", "retire", "retire")
    ]
    assert not home.exists()
    nothing = run("scrub", f"{target}/nothing.psc.zarr")
    assert nothing.exit_code == 6 and "not-found" in nothing.output
    assert [*EventLog.of(target).events()][-1]["outcome"] == "not-checked"


def test_log_of_an_archive_is_that_of_its_bucket() -> None:
    whole = EventLog.of("s3://bucket/volumes/scan.psc.zarr")
    assert isinstance(whole, BucketLog) and whole.url == "s3://bucket/volumes"
    assert EventLog.of("s3://bucket/volumes", "/var/log/psc.jsonl").path.name == "psc.jsonl"


def test_old_events_become_one_object_and_none_is_lost() -> None:
    log = BucketLog.around("memory://folded/volumes")
    for number in range(FOLDED + 3):
        log.add("scrub", f"n{number}", "ok")
    wanted = [f"n{number}" for number in range(FOLDED + 3)]
    before = keys_below(log.url)
    assert len(before) in (FOLDED + 3, 4) and EVENTS in before[0]
    log.fold()
    after = [key for key in keys_below(log.url) if key.startswith(EVENTS)]
    assert len(after) == 4 and sum(key.endswith(".many.jsonl") for key in after) == 1
    assert sorted(event["archive"] for event in log.events()) == sorted(wanted)
    store = open_store(log.url, write=True)
    (many,) = (key for key in after if key.endswith(".many.jsonl"))
    first = (store.get(many) or b"").splitlines()[0]
    store.set(f"{EVENTS}20200101T000000.000000Z-0.jsonl", first)  # a kill before it was removed
    store.set(f"{EVENTS}20200101T000000.000000Z-1.jsonl", b'{"torn')
    assert len(list(log.events())) == FOLDED + 3


def test_objects_of_others_beside_the_events_change_nothing() -> None:
    log = BucketLog.around("memory://foreign/volumes")
    store = open_store(log.url, write=True)
    notes = [f"{EVENTS}1.jsonl", f"{EVENTS}a-b/1.jsonl", f"{EVENTS}zz.jsonl"]
    for key in notes:
        store.set(key, b'{"what": "a note"}\n')
    wrong: list[dict[str, Any]] = [{"how": "deep"}, {"findings": "none"}, {"findings": [1]}]
    wrong += [{"began": "x"}, {"began": 10**400}, {"began": math.nan}, {"options": []}]
    wrong += [{"source": 5}]
    for number, part in enumerate(wrong, 2):
        row = {"time": "t", "event": "scrub", "archive": "a", "outcome": "damaged", **part}
        notes.append(f"{EVENTS}{number}.jsonl")
        store.set(notes[-1], json.dumps(row).encode())
    for number in range(FOLDED + 3):
        log.add("scrub", f"n{number}", "ok")
    log.fold()
    found = keys_below(log.url)
    assert set(notes) <= set(found)
    assert all(key.startswith(EVENTS) for key in found)
    assert {event["archive"] for event in log.events()} == {f"n{n}" for n in range(FOLDED + 3)}


def test_what_cannot_be_written_there_is_kept_by_the_user(home: Path) -> None:
    log = EventLog.of("https://127.0.0.1:9/volumes/scan.psc.zarr?key=secret")
    log.add("scrub", "https://127.0.0.1:9/volumes/scan.psc.zarr?key=secret", "ok")
    (event,) = log.events()
    assert event["archive"] == "https://127.0.0.1:9/volumes/scan.psc.zarr"
    (file,) = home.iterdir()
    assert log.place == str(file) and "secret" not in file.read_text()
    shutil.rmtree(home)
    assert not log.exists()


def event(number: int, **more: Any) -> bytes:
    row = {"time": f"2026-11-28T09:{number:02}:00+00:00", "event": "scrub", "archive": f"n{number}"}
    return json.dumps({**row, "outcome": "ok", "id": f"{number:032x}", **more}).encode() + b"\n"


def test_much_that_others_wrote_takes_little_memory(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The latest events that fit are read; objects that are too long for one are passed over."""
    monkeypatch.setattr(event_log, "MOST", 40_000)
    monkeypatch.setattr(event_log, "AT_ONCE", 3 * event_log.LARGEST_EVENT)
    log = BucketLog.around("memory://hostile/volumes")
    store = open_store(log.url, write=True)
    for number in range(10):
        name = f"{EVENTS}20261128T09{number:02}00.000000Z-{number:08x}.jsonl"
        store.set(name, event(number, findings=[{"padding": "x" * 8_000}]))
    assert [one["archive"] for one in log.events()] == ["n6", "n7", "n8", "n9"]
    assert "the latest are read" in caplog.text
    monkeypatch.setattr(event_log, "MOST", 64 << 20)
    long = event(30, padding="x" * event_log.LARGEST_EVENT)
    store.set(f"{EVENTS}20261128T093000.000000Z-0000001e.jsonl", long)
    tracemalloc.start()
    assert [one["archive"] for one in log.events()] == [f"n{n}" for n in range(10)]
    assert tracemalloc.get_traced_memory()[1] < 12 * event_log.LARGEST_EVENT
    tracemalloc.stop()


def test_lines_that_are_too_long_to_be_ours_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    long = event(2, padding="x" * (3 * event_log.LARGEST_EVENT))
    path.write_bytes(event(1) + long + event(3) + long[:-1])
    assert [one["archive"] for one in EventLog(path).events()] == ["n1", "n3"]


def test_what_we_write_is_never_too_long_to_be_read(tmp_path: Path) -> None:
    findings = [{"message": "y" * 50_000, "number": number} for number in range(100)]
    for log in (EventLog(tmp_path / "log.jsonl"), BucketLog.around("memory://long/volumes")):
        log.add("scrub", "a", "damaged", findings=findings, count=100)
        (found,) = log.events()
        assert found["cut"] and found["count"] == 100 and found["findings"][0] == findings[0]


def test_a_source_that_others_wrote_down_is_not_looked_through(bucket: str, tmp_path: Path) -> None:
    (tmp_path / "private.nii").write_bytes(b"x" * 400)
    target = f"{bucket}/others"
    row = {"event": "archive", "archive": target, "outcome": "ok", "source": str(tmp_path)}
    store = open_store(target, write=True)
    for number, by in enumerate(("mallory@elsewhere", who()), 1):
        told = {**row, "time": f"2026-11-28T09:0{number}:00+00:00", "who": by}
        name = f"{EVENTS}20261128T090{number}00.000000Z-0000000{number}.jsonl"
        store.set(name, json.dumps(told).encode())
        wanted = None if number == 1 else str(tmp_path)
        assert status(target)[1]["source"] == wanted
