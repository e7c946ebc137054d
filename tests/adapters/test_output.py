"""Slabs lay end to end to the whole, and nothing unfinished hides or is replaced."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.errors import SourceError
from adapters.output import slabs
from adapters.staging import NOTE, staged_file, staged_folder

SHAPES = st.lists(st.integers(1, 6), min_size=1, max_size=4).map(tuple)


@settings(deadline=None)
@given(shape=SHAPES, nbytes=st.integers(1, 4000), rows=st.integers(1, 9))
def test_slabs_are_the_whole_and_none_is_too_large(shape, nbytes, rows) -> None:
    array = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    parts = list(slabs(array, nbytes=nbytes, rows=rows))
    assert b"".join(part.tobytes() for _, part in parts) == array.tobytes()
    for key, part in parts:
        np.testing.assert_array_equal(array[key], part)
        assert part.nbytes <= max(nbytes, 4) or (rows > 1 and part.nbytes <= 16 * max(nbytes, 4))


def test_few_large_slabs_and_whole_chunks() -> None:
    array = np.zeros((100, 64, 64), np.int16)
    assert len(list(slabs(array))) == 1
    assert [k[0].stop for k, _ in slabs(array, nbytes=80_000)][:2] == [9, 18]
    assert [k[0].stop for k, _ in slabs(array, nbytes=80_000, rows=4)][:2] == [8, 16]
    assert [k[0].stop for k, _ in slabs(array, nbytes=80_000, rows=30)] == [30, 60, 90, 100]
    assert {part.nbytes for _, part in slabs(array, nbytes=8000, rows=30)} == {62 * 128, 2 * 128}


KILLED = """
import os, signal, sys
from pathlib import Path
from adapters.staging import staged_file, staged_folder
target = Path(sys.argv[2])
staging = staged_file(target) if sys.argv[1] == "file" else staged_folder(target)
with staging as made:
    place = made[0] if sys.argv[1] == "file" else made / "1.dcm"
    place.write_bytes(b"Meier^Anna")
    if len(sys.argv) > 3:
        print("here", flush=True)
        sys.stdin.read()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def killed(kind: str, target: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, kind, str(target)], check=False)
    assert done.returncode == -9


def restore(kind: str, target: Path) -> None:
    if kind == "file":
        with staged_file(target) as staged:
            staged[0].write_bytes(b"new")
    else:
        with staged_folder(target) as folder:
            (folder / "2.dcm").write_bytes(b"new")


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_killed_restore_leaves_is_seen_named_and_removed(kind: str, tmp_path: Path) -> None:
    target = tmp_path / "out"
    killed(kind, target)
    (left,) = tmp_path.iterdir()
    assert left.name == "out.unfinished"
    assert "may hold patient data" in " ".join((left / NOTE).read_text().split())
    restore(kind, target)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    if kind == "folder":
        assert [path.name for path in target.iterdir()] == ["2.dcm"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_two_restores_to_one_target_do_not_mix(kind: str, tmp_path: Path) -> None:
    target = tmp_path / "out"
    words = [sys.executable, "-c", KILLED, kind, str(target), "wait"]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"here\n"
    with pytest.raises(SourceError, match="another run restores") as caught:
        restore(kind, target)
    assert caught.value.kind == "target-locked"
    process.communicate()
    restore(kind, target)
    assert target.exists()


@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize("what", ["file", "folder", "link"])
def test_a_users_own_folder_of_that_name_stays(kind: str, what: str, tmp_path: Path) -> None:
    own = tmp_path / "out.unfinished"
    kept = tmp_path / "kept"
    if what == "file":
        own.write_bytes(b"mine")
    else:
        (own if what == "folder" else kept).mkdir()
        if what == "link":
            own.symlink_to(kept)
        (own / "mine.txt").write_bytes(b"mine")
    with pytest.raises(SourceError) as caught:
        restore(kind, tmp_path / "out")
    assert caught.value.kind == "target-exists" and "out.unfinished" in str(caught.value)
    assert (own if what == "file" else own / "mine.txt").read_bytes() == b"mine"


def test_files_that_came_meanwhile_are_not_replaced(tmp_path: Path) -> None:
    head, image = tmp_path / "a.hdr", tmp_path / "a.img"
    with pytest.raises(SourceError), staged_file(head, image) as staged:
        for path in staged:
            path.write_bytes(b"new")
        image.write_bytes(b"old")
    assert [path.name for path in tmp_path.iterdir()] == ["a.img"]
    assert image.read_bytes() == b"old"


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_folder_that_came_meanwhile_is_not_replaced(what: str, tmp_path: Path) -> None:
    target = tmp_path / "out"
    with pytest.raises(SourceError) as caught, staged_folder(target) as folder:
        (folder / "new.dcm").write_bytes(b"new")
        if what == "folder":
            target.mkdir()
        (target / "old.dcm" if what == "folder" else target).write_bytes(b"old")
    assert caught.value.kind == "target-exists"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (target / "old.dcm" if what == "folder" else target).read_bytes() == b"old"


def test_errors_leave_nothing(tmp_path: Path) -> None:
    for staging in (staged_file(tmp_path / "a"), staged_folder(tmp_path / "b")):
        with pytest.raises(RuntimeError), staging:
            raise RuntimeError
    assert not list(tmp_path.iterdir())
