"""The status of a folder knows every run: done, at work, killed, and what was refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from inboxes import QUICK, archive, image, make_inbox, run, samples

from pipelines.archiving.locking import hold
from pipelines.commands.failures import (
    EXIT_DAMAGE,
    EXIT_INCOMPLETE,
    EXIT_OK,
    EXIT_STORAGE,
    EXIT_USAGE,
)


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    return make_inbox(tmp_path)


def status(folder: Path, *words: object) -> tuple[int, dict[str, object]]:
    code, shown, said = run("status", folder, "--json", *words)
    assert shown, said
    found: dict[str, object] = json.loads(shown)
    return code, found


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("PSC_ARCHIVE_CACHE", str(tmp_path / "cache"))
    yield tmp_path / "cache"


@pytest.mark.usefixtures("cache")
def test_status_of_a_folder_from_its_first_run_on(inbox: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("status", out)[0] == EXIT_STORAGE
    archive(inbox)
    code, found = status(out)
    assert code == EXIT_INCOMPLETE  # the last run left something out
    assert (found["archives"], found["unchecked"], found["last_scrub"]) == (1, 1, None)
    (bad,) = found["refused"]  # type: ignore[misc]
    assert bad["paths"] == [str(inbox / "cut.nii")]
    assert found["missing"] == []

    (inbox / "cut.nii").unlink()
    archive(inbox)
    image(inbox / "new.nii", 5)
    code, found = status(out)
    assert code == EXIT_OK
    (new,) = found["missing"]  # type: ignore[misc]
    assert (new["path"], new["late"]) == (str(inbox / "new.nii"), False)
    archive(inbox)
    assert status(out)[1]["missing"] == []

    run("scrub", out)
    code, found = status(out)
    assert (code, found["unchecked"]) == (EXIT_OK, 0)
    brick = next(out.glob("new.psc.zarr/*/c/0/0/0"))
    whole = brick.read_bytes()
    brick.write_bytes(whole[:-1])
    run("scrub", out)
    code, found = status(out)
    (damage,) = found["damaged"]  # type: ignore[misc]
    assert (code, damage["archive"]) == (EXIT_DAMAGE, "new.psc.zarr")
    brick.write_bytes(whole)
    run("scrub", out, "--sample", "1%")
    assert status(out)[0] == EXIT_DAMAGE, "a sample does not show that all is well"
    run("scrub", out)
    assert status(out)[0] == EXIT_OK


def test_status_knows_sources_without_the_cache_and_folders_by_other_paths(
    inbox: Path, tmp_path: Path, cache: Path
) -> None:
    out = tmp_path / "out"
    (inbox / "cut.nii").unlink()
    archive(inbox)
    run("scrub", out)
    for file in cache.iterdir():
        file.unlink()
    code, found = status(out)
    assert (code, found["missing"]) == (EXIT_OK, [])
    (tmp_path / "mnt").mkdir()
    out.rename(tmp_path / "mnt" / "archives")
    log = tmp_path / "out.events.jsonl"
    code, found = status(tmp_path / "mnt" / "archives", "--event-log", log, "--source", inbox)
    assert (code, found["unchecked"], found["missing"]) == (EXIT_OK, 0, [])


@pytest.mark.usefixtures("cache")
def test_status_and_ls_know_a_verify_of_ones_own(inbox: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (inbox / "cut.nii").unlink()
    image(inbox / "new.nii", 5)
    archive(inbox)
    run("verify", out / "good.psc.zarr", "--sample", "50%")
    assert status(out)[1]["unchecked"] == 2, "part of an archive is not all of it"
    run("verify", out / "good.psc.zarr")
    code, found = status(out)
    assert (code, found["unchecked"], found["last_scrub"]) == (EXIT_OK, 1, None)
    rows = {row["name"]: row.get("checked") for row in json.loads(run("ls", out, "--json")[1])}
    assert rows == {"good.psc.zarr": found["oldest_check"], "new.psc.zarr": None}
    text = run("status", out)[1]
    assert "1 archive(s) were never checked" in text
    assert f"the others were checked since {found['oldest_check']}" in text
    assert status(out)[1] == found  # also from the index that `ls` made

    brick = next(out.glob("good.psc.zarr/*/c/0/0/0"))
    whole = brick.read_bytes()
    brick.write_bytes(whole[:-1])
    run("scrub", out)
    brick.write_bytes(whole)
    run("verify", out)
    code, found = status(out)
    assert (code, found["unchecked"]) == (EXIT_DAMAGE, 0), "a scrub tells of damage, and unsays it"
    shutil.rmtree(out / "new.psc.zarr")
    shutil.copytree(out / "good.psc.zarr", out / "new.psc.zarr")
    (tmp_path / "out.events.jsonl").unlink()
    assert status(out)[1]["unchecked"] == 1, "another archive at that place was not verified"


@pytest.mark.usefixtures("cache")
def test_status_tells_what_a_run_passed_over(inbox: Path, tmp_path: Path) -> None:
    """An archive that is removed by hand leaves its source without one."""
    (inbox / "cut.nii").unlink()
    archive(inbox)
    time.sleep(0.1)
    run("archive", inbox, tmp_path / "out", *QUICK)
    (tmp_path / "out" / "good.psc.zarr").rename(tmp_path / "gone.psc.zarr")
    code, found = status(tmp_path / "out")
    (late,) = found["missing"]  # type: ignore[misc]
    assert (code, late["late"]) == (EXIT_INCOMPLETE, True)


@pytest.mark.usefixtures("cache")
def test_status_tells_runs_at_work_and_killed_ones(inbox: Path, tmp_path: Path) -> None:
    (inbox / "cut.nii").unlink()
    archive(inbox)
    out = tmp_path / "out"
    with hold(str(out)):
        code, found = status(out)
        assert (code, found["killed"]) == (EXIT_OK, None)
        assert found["at_work"]["pid"] == os.getpid()  # type: ignore[index]
        text = (tmp_path / "out.lock").read_bytes()
    dead = subprocess.run(["true"], check=True, timeout=10)
    assert dead.returncode == 0
    owner = json.loads(text)
    (tmp_path / "out.lock").write_text(json.dumps({**owner, "pid": 2**22 - 1, "started": 1}))
    code, found = status(out)
    assert (code, found["at_work"]) == (EXIT_INCOMPLETE, None)
    assert found["killed"]["pid"] == 2**22 - 1  # type: ignore[index]


def test_status_metrics(inbox: Path, tmp_path: Path) -> None:
    file = tmp_path / "status.prom"
    archive(inbox)
    run("status", tmp_path / "out", "--metrics", file)
    found = samples(file)
    assert found["sealed_archives", "status"] == found["refused_sources", "status"] == 1
    assert found["damaged_archives", "status"] == 0


def test_status_refuses_one_archive(inbox: Path, tmp_path: Path) -> None:
    archive(inbox)
    code, _, said = run("status", tmp_path / "out" / "good.psc.zarr")
    assert (code, "not-a-folder" in said) == (EXIT_USAGE, True)
