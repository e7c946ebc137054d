"""Archives are called after their files, stay where they are, and a command may be repeated."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import netCDF4
import nibabel
import numpy as np
import pydicom
import pytest

from pipelines.archiving.known_sources import index_path
from pipelines.archiving.pseudonyms import make_key, read_table
from psc_volumetric.archive import ArchiveReader

PYDICOM_FILES = Path(pydicom.__file__).parent / "data" / "test_files"
FAST = ("--coders", "zstd", "--no-proof")

Run = Callable[..., Any]


def write(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 99, (20, 18, 4)).astype(np.int16)
    if path.suffix == ".nc":
        with netCDF4.Dataset(path, "w") as nc:
            for name, size in zip("xyz", values.shape, strict=True):
                nc.createDimension(name, size)
            nc.createVariable("t", "i2", ("x", "y", "z"))[:] = values
    else:
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), path)
    return path


def names(folder: Path) -> list[str]:
    return sorted(p.parent.relative_to(folder).as_posix() for p in folder.rglob("manifest.json"))


def states(run: Run, source: Path, target: Path, *words: object) -> dict[str, str]:
    """State and archive of each item of one more run."""
    outcome = run("archive", source, target, *FAST, *words, "--json")
    assert outcome.code in (0, 8), outcome.err
    found = outcome.document
    rows = [*found["archives"], *found["already"], *found["failed"]]
    return {Path(row["target"]).relative_to(target).as_posix(): row["state"] for row in rows}


def test_tree_of_the_sources_is_the_tree_of_the_archives(tmp_path, run):
    source, target = tmp_path / "in", tmp_path / "out"
    write(source / "a/scan.nii.gz")
    write(source / "b/scan.nii.gz", 1)
    write(source / "b/c d/größe 1.nc")
    made = states(run, source, target)
    assert sorted(made) == names(target)
    assert names(target) == ["a/scan.psc.zarr", "b/c d/größe 1.psc.zarr", "b/scan.psc.zarr"]
    with ArchiveReader.open(str(target / "b/scan.psc.zarr")) as reader:
        assert reader.metadata["provenance"]["source_path"] == "b/scan.nii.gz"
    assert set(states(run, source, target).values()) == {"already-archived"}


@pytest.mark.parametrize(("first", "later"), [("z.nii", "z.nc"), ("z.nc", "z.nii")])
def test_later_file_of_the_same_stem_renames_nothing(first, later, tmp_path, run):
    source, target = tmp_path / "in", tmp_path / "out"
    write(source / first)
    assert states(run, source, target) == {"z.psc.zarr": "archived"}
    write(source / later, 1)
    for state in ("archived", "already-archived"):
        again = states(run, source, target)
        assert again == {"z.psc.zarr": "already-archived", f"{later}.psc.zarr": state}
        index_path(target).unlink()


def test_files_of_the_same_stem_keep_their_suffix(tmp_path, run):
    source, target = tmp_path / "in", tmp_path / "out"
    for number, name in enumerate(("s.nii", "s.nc", "s.nii.gz")):
        write(source / name, number)
    assert sorted(states(run, source, target)) == [
        "s.nc.psc.zarr",
        "s.nii.gz.psc.zarr",
        "s.nii.psc.zarr",
    ]


def test_source_that_changed_gets_a_new_name_beside_the_old_archive(tmp_path, run):
    source, target = tmp_path / "in", tmp_path / "out"
    for name in ("a.nii", "b.nii"):
        write(source / name)
    states(run, source, target)
    before = (target / "a.psc.zarr/manifest.json").read_bytes()
    write(source / "a.nii", 1)
    write(source / "new.nii", 2)
    assert states(run, source, target) == {
        "a-2.psc.zarr": "archived",
        "b.psc.zarr": "already-archived",
        "new.psc.zarr": "archived",
    }
    assert (target / "a.psc.zarr/manifest.json").read_bytes() == before
    again = states(run, source, target)
    assert set(again.values()) == {"already-archived"} and "a-2.psc.zarr" in again
    write(source / "a.nii", 3)
    assert states(run, source, target)["a-3.psc.zarr"] == "archived"


def test_number_behind_a_name_is_no_other_files_name(tmp_path, run):
    source, target = tmp_path / "in", tmp_path / "out"
    write(source / "a.nii")
    states(run, source, target)
    write(source / "a.nii", 1)
    write(source / "a-2.nii", 2)
    again = states(run, source, target)
    assert again == {"a-2.psc.zarr": "archived", "a-3.psc.zarr": "archived"}
    assert set(states(run, source, target).values()) == {"already-archived"}


def test_folder_called_like_an_archive_does_not_end_up_in_one(tmp_path, run):
    source, target = tmp_path / "in", tmp_path / "out"
    write(source / "a.nii")
    write(source / "a.psc.zarr/b.nii", 1)
    made = states(run, source, target)
    assert made == {"a.psc.zarr": "archived", "a.psc.zarr_/b.psc.zarr": "archived"}
    assert run("verify", target / "a.psc.zarr").code == 0


def test_other_coders_make_no_other_archive(tmp_path, run):
    source, target = tmp_path / "a.nii", tmp_path / "a.psc.zarr"
    write(source)
    assert run("archive", source, target, *FAST).code == 0
    assert run("archive", source, target, "--coders", "fast").code == 0
    assert run("archive", source, target, "--coders", "fast", "--keep-original").code == 6


def test_series_that_grew_gets_a_new_name_too(tmp_path, run):
    source, target = tmp_path / "in", tmp_path / "out"
    shutil.copytree(PYDICOM_FILES / "dicomdirtests/98892001/CT5N", source)
    files = sorted(source.iterdir())
    last = files[-1].rename(tmp_path / files[-1].name)
    (first,) = states(run, source, target)
    last.rename(files[-1])
    (second,) = states(run, source, target)
    assert second != first
    assert names(target) == sorted([first, second])
    assert states(run, source, target) == {second: "already-archived"}


def test_names_of_dicom_say_nothing_of_paths_or_headers(tmp_path, run):
    source, target = tmp_path / "DOE^JANE", tmp_path / "out"
    source.mkdir()
    shutil.copy(PYDICOM_FILES / "CT_small.dcm", source / "doe.dcm")
    states(run, tmp_path / "DOE^JANE", target)
    text = index_path(target).read_text() + " ".join(names(target))
    for archive in target.glob("*.psc.zarr"):
        text += (archive / "zarr.json").read_text()
    assert "doe" not in text.lower()


def test_same_source_with_other_settings_is_named_and_not_made_twice(tmp_path, run):
    source, target = tmp_path / "in", tmp_path / "out"
    write(source / "a.nii")
    write(source / "b.nii", 1)
    states(run, source, target)
    write(source / "c.nii", 2)
    words = ("--mode", "bounded", "--max-error", "2")
    outcome = run("archive", source, target, *FAST, *words)
    assert outcome.code == 8
    assert outcome.err.count("error[target-exists]") == 2
    assert names(target) == ["a.psc.zarr", "b.psc.zarr", "c.psc.zarr"]


def never_read(path: Path) -> None:
    """Other bytes that no reader takes, with the size and all times as they were."""
    before = path.stat()
    with path.open("r+b") as file:
        file.write(bytes(400))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_index_is_a_cache_and_never_the_truth(tmp_path, run):
    source, target = tmp_path / "in", tmp_path / "out"
    write(source / "a.nii")
    write(source / "b.nii", 1)
    first = states(run, source, target)
    lines = index_path(target).read_text().split("\n")
    rows = [json.loads(line) for line in lines if line]
    assert {row[1] for row in rows} == set(first)
    swapped = [[rows[0][0], rows[1][1], rows[0][2]], [rows[1][0], rows[0][1], "0" * 64]]
    for wrong in (
        b"",
        b"\xff\xfe{",
        b'["a"',
        b"[1, 2, 3]\n",
        b'["' + rows[0][0].encode() + b'", "../../etc", "x"]\n',
        "\n".join(map(json.dumps, swapped)).encode(),
    ):
        index_path(target).write_bytes(wrong)
        assert states(run, source, target) == dict.fromkeys(first, "already-archived")
    index_path(target).unlink()
    assert states(run, source, target) == dict.fromkeys(first, "already-archived")
    assert states(run, source, target) == dict.fromkeys(first, "already-archived")


def test_archive_that_is_gone_is_made_again(tmp_path, run):
    source, target = tmp_path / "in", tmp_path / "out"
    write(source / "a.nii")
    states(run, source, target)
    shutil.rmtree(target / "a.psc.zarr")
    assert states(run, source, target) == {"a.psc.zarr": "archived"}


def test_change_that_keeps_size_and_time_is_noticed(tmp_path, run):
    source, target = tmp_path / "in", tmp_path / "out"
    write(source / "a.nii")
    write(source / "b.nii", 1)
    states(run, source, target)
    never_read(source / "a.nii")
    outcome = run("archive", source, target, *FAST)
    assert outcome.code == 8 and "a.nii" in outcome.err


def test_pseudonyms_name_archives_and_the_table_tells_what_they_are(tmp_path, run):
    source, target, key = tmp_path / "in", tmp_path / "out", tmp_path / "key"
    make_key(key)
    write(source / "DOE/scan.nii")
    write(source / "scan.nc", 1)
    first = states(run, source, target, "--pseudonyms", key)
    assert len(first) == 2 and all(name.startswith("p-") for name in first)
    table = read_table(key)
    assert sorted(table.values()) == ["DOE/scan.nii", "scan.nc"]
    assert sorted(f"{name}.psc.zarr" for name in table) == sorted(first)
    for archive in target.glob("*.psc.zarr"):
        assert "DOE" not in (archive / "zarr.json").read_text()
    again = states(run, source, target, "--pseudonyms", key)
    assert again == dict.fromkeys(first, "already-archived")


def test_archives_within_the_source_folder_are_no_sources(tmp_path, run):
    write(tmp_path / "a.nii")
    target = tmp_path / "archives"
    states(run, tmp_path, target)
    outcome = run("archive", tmp_path, target, *FAST)
    assert outcome.code == 0
    assert "manifest.json" not in outcome.out and "zarr.json" not in outcome.out


def test_name_that_is_no_text_is_left_out_and_shown(tmp_path, run):
    source, target = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    raw = os.fsencode(source) + b"/caf\xe9.nii"
    write(tmp_path / "x.nii").rename(os.fsdecode(raw))
    write(source / "good.nii")
    for _ in range(2):
        outcome = run("archive", source, target, *FAST)
        assert outcome.code == 8, outcome.err
        assert "error[bad-name]" in outcome.err and "caf?.nii" in outcome.err
    assert names(target) == ["good.psc.zarr"]
    assert run("archive", source, target, *FAST, "--json").code == 8
