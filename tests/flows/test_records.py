"""What a task tells Prefect names items by number; the details travel beside the message."""

from __future__ import annotations

import asyncio
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
from prefect.states import exception_to_failed_state

from adapters.base import Candidate
from adapters.errors import SourceError
from flows.records import (
    ArchiveOutcome,
    ArchivesFailedError,
    FolderReport,
    Intake,
    ItemOutcome,
    ItemRequest,
    ItemsFailedError,
    ItemTaskError,
)
from flows.run_record import run_details
from flows.tasks import ToldByNumber, begin_item, find_items, worth_retrying
from pipelines.archiving.archive import ArchiveOptions
from pipelines.archiving.targets import Naming
from psc_volumetric.errors import FormatError, ParameterError, StorageError


@pytest.mark.parametrize(
    ("error", "kind", "lasting"),
    [
        (SourceError("truncated", kind="truncated", path=Path("jane-doe.dcm")), "truncated", True),
        (FormatError("bad magic in jane-doe", kind="bad-magic"), "bad-magic", True),
        (StorageError("jane-doe is there", kind="target-exists"), "target-exists", True),
        (StorageError("jane-doe: timed out", kind="not-writable"), "not-writable", False),
        (OSError(5, "input/output error", "jane-doe"), "operating-system", False),
        (RuntimeError("nobody foresaw jane-doe"), "internal", True),
    ],
)
def test_task_error_keeps_names_out_of_its_message(
    error: Exception, kind: str, lasting: bool
) -> None:
    with pytest.raises(ItemTaskError) as caught, ToldByNumber(7):
        raise error
    told = pickle.loads(pickle.dumps(caught.value))
    assert (told.number, told.kind, told.lasting) == (7, kind, lasting)
    assert "jane-doe" not in str(told)
    assert told.detail.endswith(str(error))
    state = asyncio.run(exception_to_failed_state(told))
    assert worth_retrying(None, None, state) is not lasting


def test_folder_errors_survive_another_process_with_their_reports() -> None:
    report = FolderReport(
        (ItemOutcome(1, "nifti", "already-archived"), ItemOutcome(2, "dicom", "failed")), 3
    )
    error = pickle.loads(pickle.dumps(ItemsFailedError(report)))
    assert (error.kind, error.report) == ("items-failed", report)
    assert "1 of 2 items" in str(error)
    outcomes = (ArchiveOutcome(1, "jane-doe.psc.zarr", "damaged", {}, "sha256", "jane-doe"),)
    damage = pickle.loads(pickle.dumps(ArchivesFailedError(outcomes, "damage-found")))
    assert (damage.kind, damage.outcomes) == ("damage-found", outcomes)
    assert "jane-doe" not in str(damage)
    assert "jane-doe" not in str(outcomes[0].row())


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        ({"check": "twice"}, "bad-check"),
        ({"quiet_s": -1.0}, "bad-quiet"),
        ({"check": "none", "move_to": "/done"}, "unchecked-move"),
    ],
)
def test_intake_that_cannot_be_meant_is_refused(wrong: dict[str, object], kind: str) -> None:
    with pytest.raises(ParameterError) as caught:
        Intake(**wrong)  # type: ignore[arg-type]
    assert caught.value.kind == kind


def test_folder_that_is_not_there_is_told_without_its_name_and_an_empty_one_is_fine(
    tmp_path: Path,
) -> None:
    out = str(tmp_path / "out")
    with pytest.raises(ItemTaskError) as caught:
        find_items.fn(str(tmp_path / "gone"), out, ArchiveOptions(), Intake())
    assert caught.value.kind == "not-found"
    assert str(tmp_path) not in str(caught.value)
    assert find_items.fn(str(tmp_path), out, ArchiveOptions(), Intake()).requests == ()


def test_file_that_is_no_nifti_is_told_by_number(tmp_path: Path) -> None:
    path = tmp_path / "jane-doe.nii"
    path.write_text("this is a text\n" * 100, encoding="utf-8")
    naming = Naming(str(tmp_path / "out"), "jane-doe", "jane-doe.nii", crowded=False, path=None)
    request = ItemRequest(4, Candidate("nifti", "jane-doe", (path,), "jane-doe"), naming)
    with pytest.raises(ItemTaskError) as caught:
        begin_item.fn(request, ArchiveOptions(mode="lossy"))
    assert caught.value.lasting
    assert "jane-doe" not in str(caught.value)
    assert "jane-doe" in caught.value.detail


def test_what_a_flow_logs_has_no_prompt() -> None:
    """Only that there was one; without one not even that."""
    options = ArchiveOptions(mode="lossy", base="latent", prompt="head of zacharias")
    told = run_details("scans", options, Intake(), None)
    assert "zacharias" not in str(told) and told["prompted"] and told["source"] == "scans"
    assert "prompted" not in run_details("scans", replace(options, prompt=None), Intake(), None)
