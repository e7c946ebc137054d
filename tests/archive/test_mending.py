"""Mending that is killed at any moment leaves what the next run finishes, and loses nothing."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from psc_volumetric.archive import verify_archive
from psc_volumetric.archive.mending import mend
from psc_volumetric.archive.stores import open_store

KILLED = Path(__file__).parent / "mend_killed_at.py"
ROOT = Path(__file__).resolve().parents[2]


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


@pytest.mark.parametrize(
    "name", ["a.psc.zarr", pytest.param("a.psc.zarr.zip", marks=pytest.mark.slow)]
)
def test_killed_at_every_change(
    name: str, tmp_path: Path, make: SimpleNamespace, values: np.ndarray
) -> None:
    template, folder = tmp_path / "template", tmp_path / "killed"
    template.mkdir(), folder.mkdir()
    make.build(template / "replica", values)
    make.build(template / name, values)
    whole = template / name
    if whole.is_file():
        expected = {name: whole.read_bytes()}
        data = bytearray(expected[name])
        brick = (template / "replica" / "volume/c/1/0/1").read_bytes()
        data[data.find(brick) + len(brick) // 2] ^= 1
        whole.write_bytes(data)
    else:
        expected = {f"{name}/{key}": data for key, data in tree(whole).items()}
        flip(whole / "volume/c/1/0/1")
        flip(whole / "manifest.json")
        (whole / "x/c/0").unlink()
        (whole / "x/c/0").symlink_to("/dev/null")
        (whole / "notes").write_text("mine")
    subprocess.run(
        [sys.executable, str(KILLED), str(template), str(folder), name],
        cwd=ROOT,
        check=True,
        timeout=120,
    )
    moments = sorted(folder.iterdir(), key=lambda path: int(path.name))
    assert len(moments) > 10
    for place in moments:
        replica = open_store(str(place / "replica"))
        mend(str(place / name), [replica])
        if (place / name).is_dir():
            shutil.rmtree(place / name / "partial", ignore_errors=True)
        assert list(verify_archive(place / name)) == []
        found = {
            key: data
            for key, data in tree(place).items()
            if key.split("/")[0] == name and not key.endswith(".partial")
        }
        assert found == expected, place
        if (place / name).is_dir():
            assert (place / f"{name}.aside" / "notes").read_text() == "mine"
        else:
            assert (place / f"{name}.aside").exists()
        assert not [p for p in place.iterdir() if ".mending" in p.name]
