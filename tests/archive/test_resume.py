"""Whatever happens while an archive is written, it ends with the bytes of an undisturbed run."""

from __future__ import annotations

import hashlib
import mmap
import os
import pickle
import signal
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from psc_volumetric.archive import (
    ArchiveReader,
    ArchiveWriter,
    target_state,
    tidy_up,
    verify_archive,
)
from psc_volumetric.codec import CodecParameters, encode_brick
from psc_volumetric.errors import ParameterError, PscError, StorageError

ROOT = Path(__file__).resolve().parents[2]


def digests(path: Path) -> dict[str, str]:
    return {
        str(p.relative_to(path)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in path.rglob("*")
        if p.is_file()
    }


@pytest.mark.parametrize("stop_after", [0, 1, 5, 12])
def test_a_stopped_run_continues_to_the_same_bytes(
    tmp_path: Path, kept: Path, values: np.ndarray, make: SimpleNamespace, stop_after: int
) -> None:
    path = tmp_path / "scan.psc.zarr"
    assert make.write_bricks(make.begin(path, values), {"volume": values}, stop_after) == stop_after
    with pytest.raises(Exception, match="never finished"):
        ArchiveReader.open(path)
    again = make.begin(path, values)
    assert make.write_bricks(again, {"volume": values}) == 12 - stop_after
    make.finish(again)
    assert digests(path) == digests(kept)


def test_created_is_kept_from_the_first_run(
    tmp_path: Path, values: np.ndarray, make: SimpleNamespace
) -> None:
    specs = [make.spec(values)]
    for created in ("2020", "2021"):
        writer = ArchiveWriter.create(
            tmp_path / "a.psc.zarr", mode="lossless", variables=specs, created=created
        )
        assert writer.created == "2020"


KILLED = """
import sys, types
sys.path.insert(0, {tests!r})
import conftest as c
values = c.make_values((11, 40, 70))
print("ready", flush=True)
c.build({path!r}, values)
"""


@pytest.mark.parametrize("name", ["scan.psc.zarr", "scan.psc.zarr.zip"])
def test_a_killed_process_is_continued(
    tmp_path: Path, values: np.ndarray, make: SimpleNamespace, name: str
) -> None:
    """SIGKILL at several moments in a row, then one run to the end."""
    path, calm = tmp_path / name, tmp_path / f"calm-{name}"
    script = KILLED.format(tests=str(Path(__file__).parent), path=str(path))
    for delay in (0.05, 0.2):
        process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        try:
            process.wait(delay)
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
    try:
        make.build(path, values)
    except StorageError as error:
        assert error.kind in ("already-sealed", "target-exists")
    make.build(calm, values)
    if path.is_dir():
        assert digests(path) == digests(calm)
    else:
        assert path.read_bytes() == calm.read_bytes()
    assert {p.name for p in tmp_path.iterdir()} == {name, f"calm-{name}"}


def test_killed_between_manifest_and_zip(
    tmp_path: Path, values: np.ndarray, make: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, calm = tmp_path / "a.zip", tmp_path / "b.zip"
    with monkeypatch.context() as patch:
        patch.setattr("psc_volumetric.archive.packing.pack", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            make.build(path, values)
    make.finish(ArchiveWriter.open_partial(path))
    make.build(calm, values)
    assert path.read_bytes() == calm.read_bytes()
    with zipfile.ZipFile(path) as packed:
        assert {i.compress_type for i in packed.infolist()} == {zipfile.ZIP_STORED}
        assert not any("partial" in name for name in packed.namelist())


def test_a_torn_brick_is_coded_again(
    tmp_path: Path, values: np.ndarray, make: SimpleNamespace
) -> None:
    path = tmp_path / "scan.psc.zarr"
    writer = make.begin(path, values)
    make.write_bricks(writer, {"volume": values})
    brick = path / "volume/c/0/1/1"
    brick.write_bytes(brick.read_bytes()[:-1])
    (path / "partial/volume/1.1.2.json").write_bytes(b"{")
    (path / "volume/c/0/0/0").unlink()
    assert list(writer.pending("volume")) == [(0, 0, 0), (0, 1, 1), (1, 1, 2)]


def test_another_input_does_not_continue_an_archive(
    tmp_path: Path, values: np.ndarray, make: SimpleNamespace
) -> None:
    path = tmp_path / "scan.psc.zarr"
    make.begin(path, values)
    with pytest.raises(StorageError) as caught:
        make.begin(path, values, unit="mm")
    assert caught.value.kind == "partial-differs"


def test_existing_targets_are_left_alone(
    tmp_path: Path, folder: Path, values: np.ndarray, make: SimpleNamespace
) -> None:
    before = digests(folder)
    other = tmp_path / "work"
    other.mkdir()
    (other / "thesis.txt").write_text("x")
    for target in (folder, other, other / "thesis.txt"):
        with pytest.raises(StorageError) as caught:
            make.begin(target, values)
        assert caught.value.kind == "target-exists"
    assert digests(folder) == before
    assert [p.name for p in other.iterdir()] == ["thesis.txt"]


def test_an_incomplete_archive_is_not_sealed(
    target: str, values: np.ndarray, make: SimpleNamespace
) -> None:
    writer = make.begin(target, values)
    make.write_bricks(writer, {"volume": values}, stop_after=11)
    with pytest.raises(StorageError) as caught:
        writer.seal()
    assert caught.value.kind == "incomplete"
    assert "volume/c/1/1/2" in str(caught.value)
    writer.abort()
    with pytest.raises(Exception, match=r"nothing|not a psc-archive"):
        ArchiveReader.open(target)


def test_foreign_files_are_not_sealed_in(
    tmp_path: Path, values: np.ndarray, make: SimpleNamespace
) -> None:
    writer = make.begin(tmp_path / "a.psc.zarr", values)
    make.write_bricks(writer, {"volume": values})
    (tmp_path / "a.psc.zarr" / "volume" / "c" / "7").write_text("x")
    with pytest.raises(StorageError) as caught:
        writer.seal()
    assert caught.value.kind == "foreign-key"


def test_workers_join_an_archive(target: str, values: np.ndarray, make: SimpleNamespace) -> None:
    with pytest.raises(StorageError):
        ArchiveWriter.open_partial(target)
    first = make.begin(target, values)
    second = ArchiveWriter.open_partial(target)
    make.write_bricks(first, {"volume": values}, stop_after=4)
    assert make.write_bricks(second, {"volume": values}) == 8
    make.finish(first)
    with ArchiveReader.open(target) as reader:
        np.testing.assert_array_equal(reader.read("volume"), values)


def test_a_brick_of_another_place_is_refused(
    tmp_path: Path, values: np.ndarray, make: SimpleNamespace
) -> None:
    writer = make.begin(tmp_path / "a.psc.zarr", values)
    brick = encode_brick(
        values[:8, :32, :32],
        position=(0, 0, 1),
        shape=(8, 32, 32),
        mapping=None,
        parameters=CodecParameters(),
        prior=None,
    )
    for position, kind in (((0, 0, 0), "wrong-brick"), ((2, 0, 0), "bad-position")):
        with pytest.raises(ParameterError) as caught:
            writer.write_brick("volume", position, brick)
        assert caught.value.kind == kind


def test_leftovers_of_a_killed_write_are_removed(
    tmp_path: Path, kept: Path, values: np.ndarray, make: SimpleNamespace
) -> None:
    path = tmp_path / "scan.psc.zarr"
    path.mkdir()
    (path / f"partial.{'b' * 32}.partial").write_text("half")
    writer = make.begin(path, values)
    make.write_bricks(writer, {"volume": values})
    (path / "volume/c/0/0" / f"1.{'a' * 32}.partial").write_text("half")
    again = make.begin(path, values)
    make.finish(again)
    assert digests(path) == digests(kept)


def test_a_prepared_archive_is_read_before_it_is_sealed(
    target: str, values: np.ndarray, make: SimpleNamespace
) -> None:
    writer = make.begin(target, values)
    make.write_bricks(writer, {"volume": values})
    writer.write_source("nifti", {"shape": [1]}, {"header": b"abc"}, make.files)
    prepared = writer.prepare()
    reader = prepared.reader()
    np.testing.assert_array_equal(reader.read("volume"), values)
    assert reader.source().blobs == {"header": b"abc"}
    with pytest.raises(PscError) as caught:
        ArchiveReader.open(target)
    assert caught.value.kind in ("not-sealed", "not-found")
    assert prepared.commit() == prepared.manifest
    with ArchiveReader.open(target) as reader:
        assert reader.manifest == prepared.manifest


def test_a_brick_damaged_before_sealing_is_noticed(
    tmp_path: Path, values: np.ndarray, make: SimpleNamespace
) -> None:
    """Also a torn one of equal length: it is coded again by the next run."""
    path = tmp_path / "scan.psc.zarr"
    writer = make.begin(path, values)
    make.write_bricks(writer, {"volume": values})
    brick = path / "volume/c/0/1/1"
    data = brick.read_bytes()
    brick.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
    with pytest.raises(StorageError) as caught:
        writer.seal()
    assert caught.value.kind == "brick-damaged"
    assert list(writer.pending("volume")) == [(0, 1, 1)]
    assert make.write_bricks(writer, {"volume": values}) == 1
    writer.seal()


def test_a_foreign_file_at_the_target_does_not_cost_the_work(
    tmp_path: Path, values: np.ndarray, make: SimpleNamespace
) -> None:
    """Somebody puts a zip file where ours will be, while ours is unfinished."""
    path = tmp_path / "scan.psc.zarr.zip"
    make.write_bricks(make.begin(path, values), {"volume": values}, stop_after=5)
    work = tmp_path / "scan.psc.zarr.zip.partial"
    before = digests(work)
    other = make.values((9, 33, 40))
    make.build(tmp_path / "other.zip", other)
    for data in (b"hello", (tmp_path / "other.zip").read_bytes()):
        path.write_bytes(data)
        with pytest.raises(StorageError) as caught:
            make.begin(path, values)
        assert caught.value.kind == "target-exists"
        tidy_up(path)
        assert digests(work) == before
    path.unlink()
    assert make.write_bricks(make.begin(path, values), {"volume": values}) == 7


def test_abort_removes_its_own_and_nothing_else(
    tmp_path: Path, values: np.ndarray, make: SimpleNamespace
) -> None:
    path = tmp_path / "scan.psc.zarr"
    writer = make.begin(path, values)
    make.write_bricks(writer, {"volume": values}, stop_after=5)
    (path / "thesis.txt").write_text("x")
    (path / "volume" / "notes").mkdir()
    (path / "volume" / "notes" / "a.txt").write_text("y")
    writer.abort()
    assert set(digests(path)) == {"thesis.txt", "volume/notes/a.txt"}


def test_a_smaller_source_leaves_nothing_of_a_larger_one(
    tmp_path: Path, values: np.ndarray, make: SimpleNamespace
) -> None:
    writer = make.begin(tmp_path / "a.psc.zarr", values)
    make.write_bricks(writer, {"volume": values})
    writer.write_source("nifti", {}, {"original": bytes(3 << 20)}, make.files)
    writer.write_source("nifti", {}, {"header": b"abc"}, make.files)
    manifest = writer.seal()
    assert [key for key in manifest.entries if key.startswith("source/")] == ["source/document"]


def test_large_blobs_are_written_and_read_in_bounded_memory(
    tmp_path: Path, values: np.ndarray, make: SimpleNamespace
) -> None:
    """An original of 96 MiB, mapped from a file, costs far less than its size."""
    original = tmp_path / "original"
    block = np.random.default_rng(0).bytes(1 << 20)
    with original.open("wb") as file:
        for number in range(96):
            file.write(number.to_bytes(8, "little") + block[8:])
    path = tmp_path / "a.psc.zarr"
    writer = make.begin(path, values)
    make.write_bricks(writer, {"volume": values})
    with original.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        tracemalloc.start()
        writer.write_source("original", {}, {"a": b"first", "file": data}, make.files)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 80 << 20
    writer.seal()
    with ArchiveReader.open(path) as reader:
        blobs = reader.source().blobs
        assert sorted(blobs) == ["a", "file"]
        assert blobs["a"] == b"first"
        assert blobs["file"] == original.read_bytes()
        assert pickle.loads(pickle.dumps(blobs)) == {"a": b"first", "file": original.read_bytes()}


def states(path: Path) -> list[str]:
    return [target_state(path), target_state(f"{path}.zip")]


def test_states_of_a_target(tmp_path: Path, values: np.ndarray, make: SimpleNamespace) -> None:
    path = tmp_path / "scan.psc.zarr"
    assert states(path) == ["absent", "absent"]
    for name in (path, Path(f"{path}.zip.partial")):
        name.mkdir()
        (name / f".{'a' * 32}.partial").write_text("the very first write")
    assert states(path) == ["absent", "absent"]
    for target in (path, f"{path}.zip"):
        make.write_bricks(make.begin(target, values), {"volume": values})
    assert states(path) == ["unfinished", "unfinished"]
    for target in (path, f"{path}.zip"):
        make.finish(make.begin(target, values))
    assert states(path) == ["sealed", "sealed"]
    assert [p.name for p in tmp_path.glob(".*")] == []
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("x")
    (tmp_path / "other.zip").write_text("x")
    assert states(tmp_path / "other") == ["foreign", "foreign"]


@pytest.mark.parametrize(
    ("name", "every"),
    [
        ("scan.psc.zarr", 1),
        ("scan.psc.zarr.zip", 2),
        pytest.param("scan.psc.zarr.zip", 1, marks=pytest.mark.slow),
    ],
)
def test_killed_before_every_change_from_the_manifest_on(
    tmp_path: Path, make: SimpleNamespace, name: str, every: int
) -> None:
    """A sealed target is good at once; a rerun leaves the bytes of a calm run and nothing else."""
    values = make.values((8, 32, 32))
    calm, template, folder = (tmp_path / part for part in ("calm", "template", "killed"))
    make.build(calm / name, values)
    expected = digests(calm)
    unfinished = make.begin(template / name, values)
    make.write_bricks(unfinished, {"volume": values})
    unfinished.write_source(
        "nifti", {"shape": [1, 2]}, {"header": b"\0\1\2", "empty": b""}, make.files
    )
    script = str(Path(__file__).with_name("killed_at.py"))
    words = [sys.executable, script, template, folder, name, str(every)]
    subprocess.run(words, cwd=ROOT, check=True, timeout=240)
    moments = sorted(folder.iterdir(), key=lambda path: int(path.name))
    assert len(moments) > 8 / every
    found = set()
    for moment in moments:
        path = moment / name
        found.add(target_state(path))
        if target_state(path) == "sealed":
            assert list(verify_archive(path)) == []
            tidy_up(path)
        else:
            make.finish(make.begin(path, values))
        assert digests(moment) == expected
        assert [p.name for p in moment.iterdir()] == [name]
    assert found == {"unfinished", "sealed"}
