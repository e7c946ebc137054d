"""``psc-archive ls FOLDER``: a row for each archive, sorted, filtered, from an index or without."""

from __future__ import annotations

import csv
import io
import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from pipelines.archive import ArchiveOptions, archive, plan
from pipelines.archiving.known_sources import index_path
from pipelines.checking.catalogue import COLUMNS, Condition, catalogue
from psc_volumetric.archive.reader import ArchiveReader
from psc_volumetric.errors import ParameterError
from tests.pipelines.conftest import run_in_process


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two archives, one of them lossy and in a folder of its own, and one that is damaged."""
    out = tmp_path / "archives"
    rng = np.random.default_rng(1)
    for name, depth, mode in (("small", 4, "lossless"), ("sub/large", 12, "lossy")):
        values = rng.integers(0, 500, (16, 20, depth)).astype(np.int16)
        source = tmp_path / f"{Path(name).name}.nii"
        nibabel.save(nibabel.Nifti1Image(values, np.diag([1.0, 1.5, 3.0, 1.0])), source)
        options = ArchiveOptions(mode=mode, base="wavelet", coders="fast")
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        archive(plan(source, str(out / f"{name}.psc.zarr"), options))
    shutil.copytree(out / "small.psc.zarr", out / "broken.psc.zarr")
    (out / "broken.psc.zarr" / "zarr.json").write_text("{}")
    return out


def names(rows: list[dict[str, Any]] | None) -> list[str]:
    assert rows is not None
    return [row["name"].removesuffix(".psc.zarr") for row in rows]


def test_rows_say_what_archives_are(folder: Path) -> None:
    run_in_process("scrub", folder)
    rows = {row["name"]: row for row in catalogue(str(folder)) or ()}
    large = rows["sub/large.psc.zarr"]
    assert set(COLUMNS) <= set(large)
    assert (large["state"], large["mode"], large["kind"]) == ("sealed", "lossy", "nifti")
    assert (large["dtype"], large["shape"]) == ("int16", [12, 20, 16])
    assert large["spacing_mm"] == [3.0, 1.5, 1.0]
    assert large["ratio"] == large["source_bytes"] / large["bytes"]
    assert large["checked"] >= large["created"]
    assert rows["broken.psc.zarr"]["state"] not in ("sealed", "retired")
    assert "checked" not in rows["broken.psc.zarr"]


def test_a_verify_of_ones_own_counts_and_writes_nothing_among_archives(
    folder: Path, tmp_path: Path
) -> None:
    before = sorted(folder.parent.rglob("*"))
    large, small = folder / "sub" / "large.psc.zarr", folder / "small.psc.zarr"
    run_in_process("verify", large)
    run_in_process("verify", small, "--sample", "50%")
    run_in_process("verify", folder / "broken.psc.zarr")
    checked = {row["name"]: row.get("checked") for row in catalogue(str(folder)) or ()}
    assert (checked["sub/large.psc.zarr"] or "") >= "2026"
    assert checked["small.psc.zarr"] is None and checked["broken.psc.zarr"] is None
    assert sorted(folder.parent.rglob("*")) == before
    rows = catalogue(str(folder / "sub"))  # the same archive, listed from nearer by
    assert rows and rows[0]["checked"] == checked["sub/large.psc.zarr"]
    shutil.copytree(large, folder / "copy.psc.zarr")
    (copy,) = catalogue(str(folder), where=["name=copy.psc.zarr"]) or ()
    assert "checked" not in copy  # nobody looked at that one
    shown = run_in_process("ls", folder, "--where", "name=sub/large.psc.zarr").out
    assert f"checked {(checked['sub/large.psc.zarr'] or '')[:10]}" in shown


@pytest.mark.parametrize(
    ("where", "found"),
    [
        (["mode=lossy"], ["sub/large"]),
        (["mode!=lossy"], ["broken", "small"]),
        (["bytes>1"], ["small", "sub/large"]),
        (["bytes>1e12"], []),
        (["variables=image", "shape=4 x 20 x 16"], ["small"]),
        (["created>=2020", "created<2020"], []),
        (["name=small.psc.zarr"], ["small"]),
    ],
)
def test_conditions_leave_what_is_asked_for(
    where: list[str], found: list[str], folder: Path
) -> None:
    assert names(catalogue(str(folder), where=where)) == found


def test_order_and_csv(folder: Path) -> None:
    rows = catalogue(str(folder), where=["state=sealed"]) or []
    few, many = sorted(rows, key=lambda row: int(row["bytes"]))
    assert few["bytes"] < many["bytes"]
    assert names(catalogue(str(folder), sort="bytes")) == [*names([few, many]), "broken"]
    assert names(catalogue(str(folder), sort="bytes", reverse=True))[0] == names([many])[0]
    done = run_in_process("ls", folder, "--csv", "--sort", "name", "--where", "state=sealed")
    table = list(csv.DictReader(io.StringIO(done.out)))
    assert [row["shape"] for row in table] == ["4 20 16", "12 20 16"]
    assert tuple(table[0])[: len(COLUMNS)] == COLUMNS  # also where nothing was checked yet
    shown = run_in_process("ls", folder).out.splitlines()
    assert len(shown) == 3
    assert "int16 12 x 20 x 16" in shown[2]


@pytest.mark.parametrize(
    "text", ["mode", "colour=red", "=3", "mode~x", "", "bytes>5MB", "ratio=nan"]
)
def test_bad_conditions_are_refused(text: str) -> None:
    with pytest.raises(ParameterError) as caught:
        Condition(text)
    assert caught.value.kind == "bad-condition"


def test_bad_column_of_order_is_refused(folder: Path) -> None:
    done = run_in_process("ls", folder, "--sort", "colour", "--json")
    assert (done.code, done.document["error"]["kind"]) == (2, "bad-sort")


def test_what_is_known_is_not_opened_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = catalogue(str(folder))
    opened = []
    real = ArchiveReader.open

    def counting(target: Any, **options: Any) -> ArchiveReader:
        opened.append(Path(str(target)).name)
        return real(target, **options)

    monkeypatch.setattr(ArchiveReader, "open", counting)
    assert catalogue(str(folder)) == first
    assert opened == ["broken.psc.zarr"]
    shutil.rmtree(folder / "sub")
    shutil.copytree(folder / "small.psc.zarr", folder / "new.psc.zarr")
    assert names(catalogue(str(folder))) == ["broken", "new", "small"]
    assert opened.count("new.psc.zarr") == 1


def test_index_is_never_the_only_truth_and_holds_no_names(folder: Path) -> None:
    first = catalogue(str(folder))
    index = index_path(folder).with_suffix(".sqlite")
    data = index.read_bytes()
    for name in (b"large", b"small", str(folder).encode()):
        assert name not in data
    for damage in (b"", b"no database", data[: len(data) // 2]):
        index.write_bytes(damage)
        assert catalogue(str(folder)) == first
    with sqlite3.connect(index) as table:
        table.execute("UPDATE archives SET row = '[1]'")
    assert catalogue(str(folder)) == first
    index.unlink()
    index.mkdir()
    assert catalogue(str(folder)) == first


def test_rows_stay_short_whatever_others_wrote(tmp_path: Path) -> None:
    stone: dict[str, Any] = dict.fromkeys(("archive", "retired", "by", "program"), "x" * 100_000)
    stone |= dict.fromkeys(("source", "created", "successor"))
    stone |= {"reason": "y" * 100_000, "manifest": "z" * 100_000, "bytes": 1}
    (tmp_path / "a.psc.zarr.retired.json").write_text(json.dumps(stone))
    (row,) = catalogue(str(tmp_path)) or ()
    assert row["state"] == "retired" and row["reason"].startswith("yyy")
    assert len(json.dumps(row)) < 5_000
