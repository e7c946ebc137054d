"""Archives of a folder, restored once for each choice: what is there is never taken for another."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest

from pipelines.archive import ArchiveOptions, archive, plan
from pipelines.commands.archive_options import archive_options
from pipelines.commands.restore_options import restore_options
from pipelines.restore import RestoreOptions
from pipelines.restoring.folder import Restoration, restore_complete
from psc_volumetric.errors import StorageError
from psc_volumetric.views import ViewRequest


def made(folder: Path, name: str, seed: int = 0) -> Path:
    values = np.random.default_rng(seed).integers(0, 900, (12, 10, 8), np.int16)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), folder / "scan.nii")
    options = ArchiveOptions(coders="zstd", max_error=4)
    archive(plan(folder / "scan.nii", str(folder / name), options))
    return folder / name


@pytest.fixture
def one(tmp_path: Path) -> Restoration:
    return Restoration(str(made(tmp_path, "scan.psc.zarr")), str(tmp_path / "out" / "scan"))


def refusal(one: Restoration, options: RestoreOptions) -> str:
    with pytest.raises(StorageError) as caught:
        restore_complete(one, options)
    assert caught.value.kind == "target-exists"
    return str(caught.value)


OTHERS = {
    "level": RestoreOptions(level=0),
    "roi": RestoreOptions(roi="z=0:4,y=0:4,x=0:4"),
    "view": RestoreOptions(view=ViewRequest("sample", 3)),
    "variables": RestoreOptions(variables=("image",)),
    "skip_damaged": RestoreOptions(skip_damaged=True),
    "opened_headers": RestoreOptions(identity=Path("key")),
}


def test_the_same_is_restored_once_and_another_choice_is_refused(one: Restoration) -> None:
    assert restore_complete(one, RestoreOptions()) is not None
    (file,) = Path(one.target).iterdir()
    before = file.read_bytes()
    assert restore_complete(one, RestoreOptions()) is None
    assert restore_complete(one, RestoreOptions(device="cpu", prove=False)) is None
    for name, options in OTHERS.items():
        assert f"differ in: {name}" in refusal(one, options)
    assert file.read_bytes() == before
    shutil.rmtree(one.target)
    assert restore_complete(one, OTHERS["roi"]) is not None
    (file,) = Path(one.target).iterdir()
    assert file.read_bytes() != before
    assert "differ in: roi" in refusal(one, RestoreOptions())


def test_seeds_are_choices(one: Restoration) -> None:
    assert restore_complete(one, OTHERS["view"]) is not None
    assert restore_complete(one, OTHERS["view"]) is None
    assert "view" in refusal(one, RestoreOptions(view=ViewRequest("sample", 4)))


def test_another_archive_of_the_name_is_not_what_was_restored(
    one: Restoration, tmp_path: Path
) -> None:
    assert restore_complete(one, RestoreOptions()) is not None
    shutil.rmtree(one.archive)
    made(tmp_path, "scan.psc.zarr", seed=1)
    assert "differ in: manifest" in refusal(one, RestoreOptions())


def test_filled_values_are_not_taken_for_restored_ones(one: Restoration, tmp_path: Path) -> None:
    brick = Path(one.archive) / "image" / "c" / "0" / "0" / "0"
    shutil.copy(brick, tmp_path / "whole")
    brick.write_bytes(bytes(len(brick.read_bytes())))
    report = restore_complete(one, OTHERS["skip_damaged"])
    assert report is not None and report.damage
    shutil.copy(tmp_path / "whole", brick)  # mended
    assert "filled_bricks" in refusal(one, OTHERS["skip_damaged"])


def test_a_folder_of_others_is_left_alone(one: Restoration) -> None:
    Path(one.target).mkdir(parents=True)
    record = Path(one.target).parent / ".scan.restored.json"
    for text in (None, "", "[]", "[" * 100_000, '{"level": 0}'):
        if text is not None:
            record.write_text(text)
        refusal(one, RestoreOptions())
    assert list(Path(one.target).iterdir()) == []


def test_the_record_names_nobody(one: Restoration) -> None:
    assert restore_complete(one, RestoreOptions()) is not None
    (record,) = (p for p in Path(one.target).parent.iterdir() if p.is_file())
    assert record.name == ".scan.restored.json"
    assert "scan" not in json.dumps(json.loads(record.read_text()))


def test_files_that_options_name_are_found_from_other_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers run elsewhere."""
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    assert restore_options(identity=Path("key.txt")).identity == tmp_path / "key.txt"
    assert RestoreOptions(identity=Path("../key.txt")).identity == tmp_path / "../key.txt"
    assert archive_options(prior="mine").prior == os.fspath(tmp_path / "mine")
    assert archive_options(prior="mr-head").prior == "mr-head"
