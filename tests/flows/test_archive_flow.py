"""The flow archives a folder of real files and gives the bytes that the pipelines give."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import Artifact, TaskRun

from flows.archive import archive_folder
from flows.records import FolderReport, Intake, ItemsFailedError
from pipelines.archiving.archive import ArchiveOptions, archive, plan
from pipelines.restoring.restore import RestoreOptions, restore
from psc_volumetric.errors import ParameterError

QUICK = ArchiveOptions(coders="zstd")

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture(autouse=True)
def fixed_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Archives made twice are equal only when they carry the same time."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1790000000")


def manifest(target: Path) -> bytes:
    return (target / "manifest.json").read_bytes()


def statuses(report: FolderReport) -> list[str]:
    return [item.status for item in report.items]


def recorded(last: str) -> tuple[list[Artifact], list[TaskRun]]:
    """What the server keeps, once the task run named `last` is in its database."""
    deadline = time.monotonic() + 30.0
    with get_client(sync_client=True) as client:
        runs = client.read_task_runs()
        while not any(run.name == last for run in runs):
            assert time.monotonic() < deadline, f"no task run {last!r} was recorded"
            time.sleep(0.2)
            runs = client.read_task_runs()
        return client.read_artifacts(), runs


def assert_prefect_knows_nothing_of(*names: str) -> None:
    """Look through all that the server keeps: runs, parameters, states, logs and artifacts."""
    with get_client(sync_client=True) as client:
        deadline = time.monotonic() + 30
        while not any("Finished in state Failed" in log.message for log in client.read_logs()):
            assert time.monotonic() < deadline, "the last line of the run was not recorded"
            time.sleep(0.5)
        kept = [*client.read_logs(), *client.read_flow_runs(), *client.read_task_runs()]
        kept += [*client.read_artifacts(), *client.read_deployments()]
    text = " ".join(entry.model_dump_json() for entry in kept)
    assert not [name for name in names if name in text]


def names_of(target: Path) -> list[dict[str, object]]:
    """Rows of the newest names file of a target."""
    folder = target.with_name(target.name + ".names")
    assert folder.stat().st_mode & 0o077 == 0
    rows: list[dict[str, object]] = json.loads(max(folder.iterdir()).read_text("utf-8"))
    return rows


def test_folder_gives_the_same_archives_as_without_prefect_and_dask(
    scans: Path, tmp_path: Path
) -> None:
    flow_target, plain_target = tmp_path / "flow", tmp_path / "plain"
    report = archive_folder(str(scans), str(flow_target), QUICK)
    assert statuses(report) == ["archived"] * 4
    assert report.skipped == 1
    reports = archive(plan(scans, str(plain_target), QUICK))
    assert len(reports) == 4
    for plain in reports:
        name = Path(plain.target).name
        assert manifest(flow_target / name) == manifest(plain_target / name)

    artifacts, runs = recorded("check-4")
    summary = max((a for a in artifacts if a.key == "psc-archive"), key=lambda a: str(a.created))
    assert str(summary.data).count("| archived |") == 5  # four items, and their total
    stored = [str(a.data) for a in artifacts]
    stored += [f"{run.name} {run.state_name} {run.state and run.state.message}" for run in runs]
    assert {"find", "begin-4", "seal-4", "check-4"} <= {run.name for run in runs}
    names = [plain.name for plain in reports] + ["anatomical", "labels", "series"]
    assert not [name for name in names if name in " ".join(stored)]
    rows = names_of(flow_target)
    assert [row["item"] for row in rows] == [1, 2, 3, 4]
    assert any(str(scans / "labels.nii") in str(row["source"]) for row in rows)


def test_a_prior_stays_outside_in_a_flow_as_well(scans: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    shutil.copy(scans / "anatomical.nii", source)
    how = {"step": 0.2, "base": "posterior", "prior": "test-tiny-posterior"}
    options = ArchiveOptions("lossy", **how, no_prior_inside=True)
    report = archive_folder(str(source), str(tmp_path / "flow"), options)
    assert statuses(report) == ["archived"]
    (plain,) = archive(plan(source, str(tmp_path / "plain"), options))
    assert (plain.prior, plain.prior_inside) == ("test-tiny-posterior", False)
    made = tmp_path / "flow" / Path(plain.target).name
    assert manifest(made) == manifest(Path(plain.target))
    assert not (made / "priors").exists()


def test_run_after_a_bad_item_keeps_what_is_sealed(scans: Path, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    shutil.copy(scans / "labels.nii", source)
    whole = (scans / "anatomical.nii").read_bytes()
    (source / "jane-doe.nii").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ItemsFailedError) as caught:
        archive_folder(str(source), str(target), QUICK)
    outcomes = {item.status: item for item in caught.value.report.items}
    assert set(outcomes) == {"archived", "failed"}
    assert "jane-doe" not in str(caught.value)
    failed = next(row for row in names_of(target) if row["status"] == "failed")
    assert failed["error"] == outcomes["failed"].error_kind
    assert "jane-doe" in str(failed["source"])

    assert_prefect_knows_nothing_of("jane-doe", "labels.nii")

    (source / "jane-doe.nii").unlink()
    before = manifest(target / "labels.psc.zarr")
    report = archive_folder(str(source), str(target), QUICK)
    assert statuses(report) == ["already-archived"]
    assert manifest(target / "labels.psc.zarr") == before


def test_arrivals_wait_until_they_are_quiet_and_move_when_checked(
    scans: Path, tmp_path: Path
) -> None:
    inbox, target, done = tmp_path / "inbox", tmp_path / "target", tmp_path / "done"
    (inbox / "ward").mkdir(parents=True)
    shutil.copy2(scans / "labels.nii", inbox / "ward")  # keeps its old time of change
    report = archive_folder(str(inbox), str(target), QUICK, Intake(quiet_s=3600))
    assert (report.items, report.waiting) == ((), 1)
    assert not target.exists()

    report = archive_folder(str(inbox), str(target), QUICK, Intake(check="deep", move_to=str(done)))
    assert [(item.status, item.moved) for item in report.items] == [("archived", True)]
    assert (done / "ward" / "labels.nii").read_bytes() == (scans / "labels.nii").read_bytes()
    assert not (inbox / "ward" / "labels.nii").exists()
    assert archive_folder(str(inbox), str(target), QUICK).items == ()


def test_new_file_with_the_name_of_one_that_moved_away_is_archived(tmp_path: Path) -> None:
    """Workers that live long have seen the other one, with another header."""
    inbox, target, done = tmp_path / "inbox", tmp_path / "target", tmp_path / "done"
    inbox.mkdir()
    for number, slope in ((1, 1.0), (2, 3.0)):
        image = nibabel.Nifti1Image(np.full((6, 7, 8), number, np.int16), np.eye(4))
        image.header.set_slope_inter(slope, 0.0)
        nibabel.save(image, inbox / "scan.nii")
        kept = (inbox / "scan.nii").read_bytes()
        moving = Intake(move_to=str(done / str(number)))
        report = archive_folder(str(inbox), str(target), QUICK, moving)
        assert [(item.status, item.moved) for item in report.items] == [("archived", True)]
        out = tmp_path / f"restored{number}.nii"
        restore(str(report.items[0].target), out, RestoreOptions())
        assert out.read_bytes() == kept
    assert {p.name for p in target.iterdir()} == {"scan.psc.zarr", "scan-2.psc.zarr"}


def test_source_stays_when_its_archive_is_damaged_or_its_place_is_taken(
    scans: Path, tmp_path: Path
) -> None:
    inbox, target, done = tmp_path / "inbox", tmp_path / "target", tmp_path / "done"
    inbox.mkdir()
    done.mkdir()
    shutil.copy(scans / "labels.nii", inbox)
    archive_folder(str(inbox), str(target), QUICK)
    (done / "labels.nii").write_text("another one", encoding="utf-8")
    moving = Intake(move_to=str(done))
    with pytest.raises(ItemsFailedError) as caught:
        archive_folder(str(inbox), str(target), QUICK, moving)
    assert [item.error_kind for item in caught.value.report.items] == ["target-exists"]
    (done / "labels.nii").unlink()
    readme = target / "labels.psc.zarr" / "README.txt"
    readme.write_bytes(readme.read_bytes()[:-1])
    with pytest.raises(ItemsFailedError) as caught:
        archive_folder(str(inbox), str(target), QUICK, moving)
    assert [item.error_kind for item in caught.value.report.items] == ["damaged"]
    assert (inbox / "labels.nii").exists()


KILLED_WHILE_MOVING = """
import os, signal, sys
from pathlib import Path
from pipelines.archiving import arrivals
move, left = arrivals._move, [2]
def until_killed(path, place):
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1
    move(path, place)
arrivals._move = until_killed
source = Path(sys.argv[1])
arrivals.move_sources(sorted(source.iterdir()), source, Path(sys.argv[2]))
"""


def test_rest_of_a_series_that_was_moving_is_no_new_series(scans: Path, tmp_path: Path) -> None:
    inbox, target, done = tmp_path / "inbox", tmp_path / "target", tmp_path / "done"
    shutil.copytree(scans / "series", inbox)
    slices = sorted(path.name for path in inbox.iterdir())
    archive_folder(str(inbox), str(target), QUICK)
    words = [sys.executable, "-c", KILLED_WHILE_MOVING, str(inbox), str(done)]
    assert subprocess.run(words, check=False).returncode == -signal.SIGKILL
    assert len(list(inbox.iterdir())) == len(slices) - 2
    report = archive_folder(str(inbox), str(target), QUICK, Intake(move_to=str(done)))
    assert (report.items, report.waiting) == ((), 0)
    assert len(list(target.iterdir())) == 1
    assert sorted(path.name for path in done.iterdir()) == slices and not any(inbox.iterdir())


@pytest.mark.slow
def test_flow_meets_a_target_with_the_bytes_of_the_plain_run(tmp_path: Path) -> None:
    """Ten bricks: two are tasks, the other eight are the sample that is coded last."""
    source = tmp_path / "source"
    source.mkdir()
    rows, columns = np.mgrid[:40, :32]
    wave = 900 * np.cos(rows / 5) * np.sin(columns / 7)
    times = np.stack([np.stack([wave * (t + z) / 9 for z in range(8)], -1) for t in range(10)], -1)
    nibabel.save(nibabel.Nifti1Image(times.astype(np.int16), np.eye(4)), source / "t.nii")
    options = ArchiveOptions(mode="lossy", base="av1", bpv=2.0)
    report = archive_folder(str(source), str(tmp_path / "flow"), options)
    (item,) = report.items
    assert item.report is not None
    (row,) = item.report.variables
    assert row["target"]["met"]
    assert row["target"]["reached"] == pytest.approx(2.0, rel=0.02)
    archive(plan(source, str(tmp_path / "plain"), options))
    assert manifest(tmp_path / "flow" / "t.psc.zarr") == manifest(tmp_path / "plain" / "t.psc.zarr")


def test_places_that_cannot_be_meant_are_refused(scans: Path, tmp_path: Path) -> None:
    with pytest.raises(ParameterError) as caught:
        archive_folder(str(scans), str(tmp_path / "one.psc.zarr"), QUICK)
    assert caught.value.kind == "target-not-a-folder"
    inside = Intake(move_to=str(scans / "done"))
    with pytest.raises(ParameterError) as caught:
        archive_folder(str(scans), str(tmp_path / "out"), QUICK, inside)
    assert caught.value.kind == "move-within-source"


def test_pages_about_new_archives_lie_in_the_folder_for_them(scans: Path, tmp_path: Path) -> None:
    source, pages = tmp_path / "in", tmp_path / "pages"
    source.mkdir()
    shutil.copy(scans / "labels.nii", source)
    intake = Intake(pages=str(pages))
    for status in ("archived", "already-archived"):
        report = archive_folder(str(source), str(tmp_path / "out"), QUICK, intake)
        assert statuses(report) == [status]
        (page,) = pages.iterdir()
        assert page.name == "labels.html"
        assert "All 2,880 voxels are equal" in page.read_text("utf-8")
    _, runs = recorded("page-1")
    assert sum(run.name == "page-1" for run in runs) == 1
