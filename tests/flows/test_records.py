"""What a task tells Prefect names items by number; the details travel beside the message."""

from __future__ import annotations

import asyncio
import pickle
from pathlib import Path

import pytest
from prefect.states import exception_to_failed_state

from adapters.base import Candidate
from adapters.errors import SourceError
from flows.records import FolderReport, ItemOutcome, ItemRequest, ItemsFailedError, ItemTaskError
from flows.tasks import begin_item, find_items, worth_retrying
from pipelines.archiving.archive import ArchiveOptions
from pipelines.archiving.targets import Naming
from psc_volumetric.errors import FormatError, PscError, StorageError


@pytest.mark.parametrize(
    ("error", "kind", "lasting"),
    [
        (SourceError("truncated", kind="truncated", path=Path("jane-doe.dcm")), "truncated", True),
        (FormatError("bad magic in jane-doe", kind="bad-magic"), "bad-magic", True),
        (StorageError("jane-doe is there", kind="target-exists"), "target-exists", True),
        (StorageError("jane-doe: timed out", kind="not-writable"), "not-writable", False),
        (OSError(5, "input/output error", "jane-doe"), "operating-system", False),
    ],
)
def test_task_error_keeps_names_out_of_its_message(
    error: PscError | SourceError | OSError, kind: str, lasting: bool
) -> None:
    told = pickle.loads(pickle.dumps(ItemTaskError.of(7, error)))
    assert (told.number, told.kind, told.lasting) == (7, kind, lasting)
    assert "jane-doe" not in str(told)
    assert told.detail.endswith(str(error))
    state = asyncio.run(exception_to_failed_state(told))
    assert worth_retrying(None, None, state) is not lasting


def test_folder_error_survives_another_process_with_its_report() -> None:
    report = FolderReport(
        (ItemOutcome(1, "nifti", "already-archived"), ItemOutcome(2, "dicom", "failed")), 3
    )
    error = pickle.loads(pickle.dumps(ItemsFailedError(report)))
    assert error.kind == "items-failed"
    assert error.report == report
    assert "1 of 2 items" in str(error)


def test_empty_folder_is_told_without_its_name(tmp_path: Path) -> None:
    with pytest.raises(ItemTaskError) as caught:
        find_items.fn(str(tmp_path), str(tmp_path / "out"))
    assert caught.value.lasting
    assert str(tmp_path) not in str(caught.value)


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
