"""Runs by a timer: refused files are told once, logs are JSON."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from inboxes import QUICK, archive, image, make_inbox, run, samples

from adapters.base import Skipped
from adapters.errors import SourceError
from pipelines.archiving import refused as refused_module
from pipelines.archiving.locking import hold
from pipelines.archiving.plan import plan
from pipelines.archiving.refused import PATIENCE, RefusedSources, is_about_source
from pipelines.checking.runs import write_metrics
from pipelines.commands.failures import (
    EXIT_INCOMPLETE,
    EXIT_OK,
    EXIT_STORAGE,
    EXIT_USAGE,
)
from psc_volumetric.errors import ExtraMissingError, ParameterError, StorageError


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    return make_inbox(tmp_path)


def test_a_bad_file_is_told_once_and_tried_again_when_it_changes(inbox: Path) -> None:
    code, _, said = archive(inbox)
    assert (code, "cut.nii" in said) == (EXIT_INCOMPLETE, True)
    record = inbox.with_name("out.refused.json")
    assert record.stat().st_mode & 0o077 == 0
    code, shown, said = archive(inbox)
    assert (code, said) == (EXIT_OK, "")
    assert re.search(r"aside +\S*cut.nii: refused before \(\w", shown)
    assert archive(inbox, "--retry-refused")[0] == EXIT_INCOMPLETE
    assert archive(inbox)[0] == EXIT_OK
    assert run("archive", inbox, inbox.with_name("out"), *QUICK)[0] == EXIT_INCOMPLETE
    bad = inbox / "cut.nii"
    bad.write_bytes(bad.read_bytes()[:450])
    assert archive(inbox)[0] == EXIT_INCOMPLETE
    image(bad, 2)
    assert archive(inbox)[0] == EXIT_OK
    assert not record.exists()
    assert (inbox.with_name("out") / "cut.psc.zarr" / "manifest.json").is_file()


def test_paths_may_be_relative(inbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("archive", "in", "out", *QUICK, "--inbox")
    monkeypatch.chdir(inbox.parent)
    assert run(*words)[0] == EXIT_INCOMPLETE
    assert archive(inbox)[0] == EXIT_OK
    found = json.loads(run("status", inbox.with_name("out"), "--json")[1])
    assert (len(found["refused"]), found["missing"]) == (1, [])
    (inbox / "cut.nii").unlink()
    assert run(*words)[0] == EXIT_OK
    assert not inbox.with_name("out.refused.json").exists()


def test_another_release_tries_again(inbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive(inbox)
    monkeypatch.setattr(refused_module.psc_volumetric, "__version__", "99")
    assert archive(inbox)[0] == EXIT_INCOMPLETE


def test_an_inbox_may_be_empty_or_hold_nothing_but_what_was_refused(inbox: Path) -> None:
    (inbox / "good.nii").unlink()
    assert archive(inbox)[0] == EXIT_INCOMPLETE
    assert archive(inbox)[0] == EXIT_OK
    (inbox / "cut.nii").unlink()
    assert archive(inbox)[0] == EXIT_OK
    assert not inbox.with_name("out.refused.json").exists()


def test_an_inbox_that_is_away_for_a_night_is_not_forgotten(inbox: Path) -> None:
    archive(inbox)
    away = inbox.rename(inbox.with_name("away"))
    assert archive(inbox)[0] == 3
    away.rename(inbox)
    assert archive(inbox)[0] == EXIT_OK


def test_what_may_pass_is_told_by_several_runs(inbox: Path, tmp_path: Path) -> None:
    """One night's run after the other, with a reader that is too slow for a file."""
    target, late = str(tmp_path / "out"), Skipped(inbox / "good.nii", "too slow", "reader-timeout")
    for night in range(PATIENCE + 2):
        record = RefusedSources.load(target)
        told, before = record.sort_out([late])
        record.save(inbox)
        assert (told, len(before)) == (([late], 0) if night < PATIENCE else ([], 1))


@pytest.mark.parametrize(
    ("error", "remembered"),
    [
        (SourceError("cut", kind="truncated"), True),
        (SourceError("slow", kind="reader-timeout"), True),
        (SourceError("a wrong setting of the machine", kind="bad-limit"), False),
        (ParameterError("cannot be reached", kind="target-unreachable"), True),
        (StorageError("full", kind="storage-failed"), False),
        (ExtraMissingError("no torch", hint="install it"), False),
        (OSError(5, "input/output error"), False),
        (MemoryError(), False),
        (ZeroDivisionError(), True),
    ],
)
def test_only_what_a_source_is_to_blame_for_is_remembered(
    error: Exception, remembered: bool
) -> None:
    assert is_about_source(error) is remembered


def test_the_record_of_a_target_keeps_what_other_inboxes_had(inbox: Path, tmp_path: Path) -> None:
    other = image(tmp_path / "in2" / "cut.nii", 3)
    other.write_bytes(other.read_bytes()[:400])
    target = str(tmp_path / "out")
    for source in (inbox, other.parent):
        code = run("archive", source, target, *QUICK, "--inbox")[0]
        assert code == EXIT_INCOMPLETE
    assert len(RefusedSources.load(target).rows) == 2
    assert archive(inbox)[0] == EXIT_OK


def test_pseudonyms_keep_the_record_beside_their_key(inbox: Path, tmp_path: Path) -> None:
    key = tmp_path / "secret" / "key"
    key.parent.mkdir()
    run("pseudonyms", "make", key)
    assert archive(inbox, "--pseudonyms", key)[0] == EXIT_INCOMPLETE
    assert archive(inbox, "--pseudonyms", key)[0] == EXIT_OK
    beside = "".join(p.read_text("utf-8") for p in tmp_path.glob("out.*"))
    assert "cut" not in beside and "good" not in beside
    code, shown, _ = run("status", tmp_path / "out", "--pseudonyms", key)
    assert (code, "cut.nii" in shown) == (EXIT_INCOMPLETE, True)


@pytest.mark.parametrize("text", ["", "{", '{"sources": 3}', '{"sources": [{"seen": 1}]}', "[]"])
def test_a_record_that_cannot_be_read_is_none(inbox: Path, text: str) -> None:
    archive(inbox)
    inbox.with_name("out.refused.json").write_text(text, "utf-8")
    assert archive(inbox)[0] == EXIT_INCOMPLETE
    assert archive(inbox)[0] == EXIT_OK


def lines(text: str) -> list[dict[str, object]]:
    """Every line of stderr is an object."""
    return [json.loads(line) for line in text.splitlines()]


def command(*words: object) -> subprocess.CompletedProcess[str]:
    """The program in a process of its own, as a timer runs it."""
    script = "from pipelines.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_log_lines_of_a_run(inbox: Path) -> None:
    target = inbox.with_name("out")
    done = command("archive", inbox, target, *QUICK, "--log-json")
    assert done.returncode == EXIT_INCOMPLETE
    told = lines(done.stderr)
    events = [line["event"] for line in told]
    assert events == ["run-begin", "found", "left-out", "item", "run-end"]
    assert {"time", "level", "logger"} <= told[0].keys()
    assert (told[3]["state"], told[3]["kind"]) == ("archived", "nifti")
    assert told[-1]["exit_code"] == EXIT_INCOMPLETE
    assert (told[-1]["archived"], told[-1]["failed"], told[-1]["outcome"]) == (1, 1, "incomplete")
    done = command("archive", inbox, "--log-json")
    assert (done.returncode, lines(done.stderr)[0]["kind"]) == (EXIT_USAGE, "usage")
    for words, kind, code in (
        (("archive", inbox / "no", target), "not-found", 3),
        (("archive", inbox, target, "--mode", "none"), "bad-mode", EXIT_USAGE),
        (("scrub", target, "--sample", "0"), "bad-sample", EXIT_USAGE),
    ):
        found, _, said = run(*words, "--log-json")
        error = lines(said)[-1]
        assert found == code
        assert (error["event"], error["kind"], error["exit_code"]) == ("error", kind, code)
    _, shown, said = run("scrub", target, "--log-json", "--quiet")
    assert shown == ""
    assert [line["event"] for line in lines(said)] == [
        "run-begin",
        "archive-checked",
        "run-end",
    ]


def test_people_are_told_in_lines_and_not_in_events(inbox: Path) -> None:
    done = command("archive", inbox / "cut.nii", inbox.with_name("out"), *QUICK)
    assert done.stderr.startswith("error[")
    assert "item:" not in done.stderr and "run-end" not in done.stderr


def test_metrics_have_the_last_run_of_each_command(inbox: Path, tmp_path: Path) -> None:
    file = tmp_path / "psc.prom"
    begin = time.time()
    assert archive(inbox, "--metrics", file)[0] == EXIT_INCOMPLETE
    found = samples(file)
    assert found["run_exit_code", "archive"] == EXIT_INCOMPLETE
    assert found["run_success", "archive"] == 0
    assert found["items", "archive", "archived"] == found["items", "archive", "failed"] == 1
    assert ("last_success_timestamp_seconds", "archive") not in found
    assert archive(inbox, "--metrics", file)[0] == EXIT_OK
    assert run("scrub", tmp_path / "out", "--metrics", file)[0] == EXIT_OK
    good = samples(file)
    assert good["run_success", "scrub"] == good["run_success", "archive"] == 1
    assert begin <= good["last_success_timestamp_seconds", "archive"] <= time.time()
    assert good["archives", "scrub", "ok"] == 1
    with hold(str(tmp_path / "out")):
        image(inbox / "new.nii", 4)
        assert archive(inbox, "--metrics", file)[0] == EXIT_STORAGE
    bad = samples(file)
    assert bad["run_exit_code", "archive"] == EXIT_STORAGE
    assert bad["run_success", "scrub"] == 1
    key = ("last_success_timestamp_seconds", "archive")
    assert bad[key] == good[key]
    assert file.stat().st_mode & 0o777 == 0o644
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_metrics_that_cannot_be_written_are_an_error_after_the_work(
    inbox: Path, tmp_path: Path
) -> None:
    code, _, said = archive(inbox, "--metrics", tmp_path / "no" / "psc.prom")
    assert (code, "metrics file" in said) == (EXIT_STORAGE, True)
    assert (tmp_path / "out" / "good.psc.zarr" / "manifest.json").is_file()
    with pytest.raises(StorageError) as caught:
        write_metrics(tmp_path, "archive", {}, {})
    assert caught.value.kind == "storage-failed"


def test_a_mistyped_command_leaves_nothing(inbox: Path, tmp_path: Path) -> None:
    assert run("archive", tmp_path / "inn", tmp_path / "out")[0] == 3
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_planning_an_inbox_writes_nothing(inbox: Path, tmp_path: Path) -> None:
    target = str(tmp_path / "out")
    from pipelines.archiving.options import ArchiveOptions

    found = plan(inbox, target, ArchiveOptions(), refused=RefusedSources.load(target))
    assert (len(found.items), len(found.failed)) == (1, 1)
    assert run("archive", inbox, target, *QUICK, "--inbox", "--dry-run")[0] == EXIT_INCOMPLETE
    assert {path.name for path in tmp_path.iterdir()} == {"in"}
