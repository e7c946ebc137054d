"""Archives that supersede others, and what is left of those that were retired."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest

from pipelines.checking.tombstones import Tombstone, bury, read_tombstone
from psc_volumetric.errors import FormatError


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scans, and an archive of the first."""
    from tests.pipelines.conftest import run_in_process

    folder = tmp_path_factory.mktemp("made")
    for number in (1, 2):
        values = np.random.default_rng(number).integers(0, 900, (12, 10, 8), dtype=np.int16)
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), folder / f"scan{number}.nii")
    outcome = run_in_process("archive", folder / "scan1.nii", folder / "archives/old.psc.zarr")
    assert outcome.code == 0, outcome.err
    return folder


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "made"))


def test_a_successor_points_back_and_the_old_one_is_checked_when_asked(place, run):
    old, new = place / "archives" / "old.psc.zarr", place / "archives" / "new.psc.zarr"
    words = ("archive", place / "scan2.nii", new, "--coders", "zstd", "--supersedes", old)
    outcome = run(*words, "--json")
    assert outcome.code == 0, outcome.err
    digest = run("info", old, "--json").document["manifest"]
    recorded = run("info", new, "--json").document["provenance"]["supersedes"]
    assert recorded["manifest"] == digest and len(recorded["source"]) == 64
    assert f"with manifest {digest}" in run("info", new).out
    assert run(*words).code == 0  # again: there already, and it points back
    rows = {row["name"]: row for row in run("ls", place / "archives", "--json").document}
    assert rows["new.psc.zarr"]["supersedes"] == digest
    assert rows["old.psc.zarr"]["superseded_by"] == "new.psc.zarr"
    assert "superseded by new.psc.zarr" in run("ls", place / "archives").out
    (old / "README.txt").write_text("edited")
    assert run("verify", new, "--deep").code == 0
    outcome = run("verify", new, "--superseded", old, "--json")
    assert outcome.code == 7
    reports = outcome.document["archives"]
    assert [report["ok"] for report in reports] == [True, False]
    outcome = run("verify", new, "--superseded", new, "--json")
    (finding,) = outcome.document["archives"][1]["findings"]
    assert outcome.code == 7 and finding["kind"] == "other-manifest"
    assert run("verify", old, "--superseded", new).code == 2


def test_what_cannot_supersede_is_refused(place, run):
    old, other = place / "archives" / "old.psc.zarr", place / "archives" / "other.psc.zarr"
    outcome = run("archive", place, place / "x", "--coders", "zstd", "--supersedes", old)
    assert outcome.code == 2 and "error[several-items]" in outcome.err
    assert run("archive", place / "scan2.nii", other, "--coders", "zstd").code == 0
    outcome = run("archive", place / "scan2.nii", other, "--coders", "zstd", "--supersedes", old)
    assert outcome.code == 6 and "error[target-exists]" in outcome.err
    missing = ("--supersedes", place / "none.psc.zarr")
    assert run("archive", place / "scan2.nii", place / "y.psc.zarr", *missing).code == 6
    assert not (place / "y.psc.zarr").exists()


def test_retiring_leaves_who_when_and_why(place, run):
    old, new = place / "archives" / "old.psc.zarr", place / "archives" / "new.psc.zarr"
    words = ("archive", place / "scan2.nii", new, "--coders", "zstd", "--supersedes", old)
    assert run(*words).code == 0
    retire = ("retire", old, "--reason", "scanned anew", "--successor", new)
    listed = run(*retire, "--json")
    assert listed.code == 0 and listed.document["tombstone"] is None and old.exists()
    assert run("retire", new, "--reason", "x", "--successor", old).code == 2
    assert run("retire", old, "--reason", "  ", "--delete").code == 2
    manifest = run("info", old, "--json").document["manifest"]
    outcome = run(*retire, "--delete", "--json")
    assert outcome.code == 0, outcome.err
    assert sorted(path.name for path in old.parent.iterdir()) == [
        "new.psc.zarr",
        "old.psc.zarr.retired.json",
    ]
    stone = json.loads((old.parent / "old.psc.zarr.retired.json").read_text())
    assert (stone["manifest"], stone["reason"]) == (manifest, "scanned anew")
    assert stone["successor"] == run("info", new, "--json").document["manifest"]
    assert stone["by"] and stone["retired"] and stone["bytes"]
    events = (place / "archives.events.jsonl").read_text().splitlines()
    told = [(json.loads(line)["event"], json.loads(line)["outcome"]) for line in events]
    assert told == [("retire", "begun"), ("retire", "removed")]
    assert run("retire", old, "--reason", "again").code == 6
    rows = run("ls", place / "archives", "--json").document
    assert [row["state"] for row in rows] == ["sealed", "retired"]
    assert "scanned anew" in run("ls", place / "archives").out
    assert run("verify", place / "archives").code == 0


def test_a_name_can_be_retired_again_and_a_stopped_run_is_finished(place, run):
    old = place / "archives" / "old.psc.zarr"
    shutil.copytree(old, place / "kept.psc.zarr")
    bury(str(old), Tombstone.of(str(old), "stopped here"))
    assert run("retire", old, "--reason", "stopped here", "--delete").code == 0
    assert [p.name for p in old.parent.iterdir()] == ["old.psc.zarr.retired.json"]
    assert run("archive", place / "scan2.nii", old, "--coders", "zstd").code == 0
    assert run("retire", old, "--reason", "another one", "--delete").code == 0
    assert sorted(p.name for p in old.parent.iterdir()) == [
        "old.psc.zarr.retired-2.json",
        "old.psc.zarr.retired.json",
    ]
    shutil.move(place / "kept.psc.zarr", old)
    (old / "manifest.json").write_text("damaged beyond reading")
    assert run("retire", old, "--reason", "lost", "--delete").code == 0
    stone = read_tombstone((old.parent / "old.psc.zarr.retired-3.json").read_bytes(), "x")
    assert stone.manifest is None


def test_sync_takes_tombstones_along_and_removes_nothing(place, tmp_path, run):
    assert run("archive", place / "scan2.nii", place / "archives", "--coders", "zstd").code == 0
    copies = tmp_path / "copies"
    assert run("sync", place / "archives", copies).code == 0
    old = place / "archives" / "old.psc.zarr"
    assert run("retire", old, "--reason", "scanned anew", "--delete").code == 0
    outcome = run("sync", place / "archives", copies, "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.document["extra"] == outcome.document["retired"] == ["old.psc.zarr"]
    assert (copies / "old.psc.zarr.retired.json").exists()
    assert run("verify", copies / "old.psc.zarr").code == 0


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b'{"archive": 3}', b"\xff", b"[" * 99999])
def test_a_tombstone_that_is_none_is_refused(text):
    with pytest.raises(FormatError) as caught:
        read_tombstone(text, "x")
    assert caught.value.kind in ("bad-tombstone", "limit")
