"""Sources that move away: links, files that are there already, runs that ended in the middle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.archiving.arrivals import finish_moves, move_sources
from psc_volumetric.errors import StorageError

KILLED = """
import os, signal, sys
from pathlib import Path
from pipelines.archiving import arrivals
move, left = arrivals._move, [int(sys.argv[3])]
def until_killed(path, place):
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1
    move(path, place)
arrivals._move = until_killed
source, to = Path(sys.argv[1]), Path(sys.argv[2])
arrivals.move_sources(sorted(source.rglob("*.dcm")), source, to)
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    made = tmp_path / "inbox"
    (made / "ct").mkdir(parents=True)
    for number in range(5):
        (made / "ct" / f"{number}.dcm").write_bytes(bytes([number]) * 99)
    return made


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("moved", [0, 1, 4])
def test_rest_of_a_series_moves_after_a_kill(source: Path, tmp_path: Path, moved: int) -> None:
    done = tmp_path / "done"
    words = [sys.executable, "-c", KILLED, str(source), str(done), str(moved)]
    assert subprocess.run(words, check=False).returncode == -signal.SIGKILL
    assert len(names(source)) == 5 - moved
    assert finish_moves(source, done) == 5 - moved
    assert names(source) == []
    assert names(done) == [f"{number}.dcm" for number in range(5)]  # and no record
    assert finish_moves(source, done) == 0


def test_file_that_was_changed_since_is_another_one_and_stays(source: Path, tmp_path: Path) -> None:
    done = tmp_path / "done"
    words = [sys.executable, "-c", KILLED, str(source), str(done), "3"]
    subprocess.run(words, check=False)
    (source / "ct" / "4.dcm").write_bytes(b"a new one")
    assert finish_moves(source, done) == 1
    assert names(source) == ["4.dcm"]


def test_record_of_another_source_is_left_to_it(source: Path, tmp_path: Path) -> None:
    done = tmp_path / "done"
    subprocess.run([sys.executable, "-c", KILLED, str(source), str(done), "3"], check=False)
    other = tmp_path / "elsewhere" / "inbox"
    other.mkdir(parents=True)
    assert finish_moves(other, done) == 0
    assert finish_moves(source, done) == 2


def test_file_that_is_there_already_only_leaves_the_source(source: Path, tmp_path: Path) -> None:
    done = tmp_path / "done"
    (done / "ct").mkdir(parents=True)
    (done / "ct" / "2.dcm").write_bytes(bytes([2]) * 99)
    move_sources(sorted(source.rglob("*.dcm")), source, done)
    assert names(source) == [] and len(names(done)) == 5


def test_link_in_the_place_of_a_file_is_not_that_file(source: Path, tmp_path: Path) -> None:
    done = tmp_path / "done"
    (done / "ct").mkdir(parents=True)
    one = source / "ct" / "1.dcm"
    (done / "ct" / "1.dcm").symlink_to(one)
    with pytest.raises(StorageError) as caught:
        move_sources([one], source, done)
    assert caught.value.kind == "target-exists"
    (done / "ct" / "1.dcm").unlink()
    (done / "ct" / "1.dcm").symlink_to("nowhere")
    with pytest.raises(StorageError):
        move_sources([one], source, done)
    assert one.read_bytes() == bytes([1]) * 99


def test_relative_link_points_to_the_same_file_from_its_new_place(
    source: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "kept.nii"
    kept.write_bytes(b"voxels")
    (source / "link.nii").symlink_to("../kept.nii")
    done = tmp_path / "far" / "away" / "done"
    move_sources([source / "link.nii"], source, done)
    assert (done / "link.nii").read_bytes() == b"voxels"
    assert kept.read_bytes() == b"voxels" and not (source / "link.nii").is_symlink()


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no second file system")
def test_link_to_a_file_on_another_file_system(source: Path, tmp_path: Path) -> None:
    far = Path("/dev/shm") / f"psc-archive-test-{os.getpid()}"
    far.write_bytes(b"voxels")
    try:
        (source / "link.nii").symlink_to(far)
        move_sources([source / "link.nii"], source, tmp_path / "done")
        assert (tmp_path / "done" / "link.nii").read_bytes() == b"voxels"
        assert far.read_bytes() == b"voxels"
    finally:
        far.unlink()
