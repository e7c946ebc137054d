"""De-identified copies through the flow: no name in the archives, no key in Prefect."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from prefect.client.orchestration import get_client

from flows.archive import archive_folder
from flows.records import Intake, ItemsFailedError
from pipelines.archiving.options import ArchiveOptions
from pipelines.archiving.pseudonyms import make_key
from pipelines.restoring.restore import RestoreOptions, restore
from psc_volumetric.errors import ParameterError

pytest.importorskip("dicomanonymizer")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    series = Path(str(pydicom.data.get_testdata_file("CT_small.dcm"))).parent
    shutil.copytree(series / "dicomdirtests" / "98892001" / "CT5N", folder / "series")
    image = nibabel.Nifti1Image(np.ones((4, 5, 6), np.int16), np.eye(4))
    nibabel.save(image, folder / "labels.nii")
    return folder


@pytest.mark.usefixtures("prefect_server")
def test_copies_are_archived_and_gone(source: Path, tmp_path: Path) -> None:
    key, target = tmp_path / "keys" / "key", tmp_path / "out"
    key.parent.mkdir()
    make_key(key)
    intake = Intake(pseudonyms=str(key), deidentify="basic")
    given = (str(source), str(target), ArchiveOptions(coders="zstd"), intake)
    with pytest.raises(ItemsFailedError) as caught:
        archive_folder(*given)
    outcomes = {item.kind: item for item in caught.value.report.items}
    assert outcomes["nifti"].error_kind == "cannot-deidentify"
    archive = outcomes["dicom"].target
    assert archive is not None
    (file, *_) = restore(archive, tmp_path / "back", RestoreOptions()).files
    original = pydicom.dcmread(next((source / "series").iterdir()))
    copy = pydicom.dcmread(file)
    assert copy.PatientIdentityRemoved == "YES"
    assert copy.PatientID != original.PatientID
    assert copy.StudyInstanceUID != original.StudyInstanceUID
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("back", "in", "keys", "out", "out.events.jsonl")
    ]
    (event,) = map(json.loads, (tmp_path / "out.events.jsonl").read_text().splitlines())
    assert event["deidentified"].startswith("basic ") and "source" not in event
    again = archive_folder(*given)
    assert [item.status for item in again.items] == ["already-archived", "aside"]
    with get_client(sync_client=True) as client:
        runs = [run for run in client.read_flow_runs() if str(target) in str(run.parameters)]
    assert runs and all(run.parameters["intake"]["pseudonyms"] == str(key) for run in runs)
    secret = key.read_text()
    assert not any(line in str(run.parameters) for run in runs for line in secret.split())


def test_no_key_no_copies() -> None:
    with pytest.raises(ParameterError) as caught:
        Intake(deidentify="basic")
    assert caught.value.kind == "bad-deidentify"
