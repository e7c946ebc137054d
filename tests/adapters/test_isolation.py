"""The reading process: the same answers, and a bad file that costs only itself."""

from __future__ import annotations

import ctypes
import os
import pickle
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from multiprocessing import Pipe
from pathlib import Path

import h5py
import netCDF4
import nibabel
import numpy as np
import pytest
from pydicom.data import get_testdata_file

import adapters
from adapters import SourceError, isolation
from adapters.isolation import ReadingProcess, wire


def write_grid(path: Path, **options: object) -> Path:
    with netCDF4.Dataset(path, "w", **options) as nc:
        nc.createDimension("y", 18)
        nc.createDimension("x", 20)
        nc.createVariable("t", "f4", ("y", "x"))[:] = np.arange(360).reshape(18, 20)
    return path


def half_floats(path: Path) -> Path:
    """HDF5 that libnetcdf 4.9 reads past its end."""
    write_grid(path)
    with h5py.File(path, "a") as file:
        file["half"] = np.ones((18, 20), "f2")
    return path


def nested_compounds(path: Path) -> Path:
    """A type that the Python package fails on with an error of its own."""
    (library,) = (Path(netCDF4.__file__).parents[1] / "netcdf4.libs").glob("libnetcdf*")
    nc, size, number = ctypes.CDLL(library), ctypes.c_size_t, ctypes.c_int()
    assert nc.nc_create(str(path).encode(), 0x1000, ctypes.byref(number)) == 0
    file = number.value
    nc.nc_def_compound(file, size(4), b"inner", ctypes.byref(number))
    inner = number.value
    nc.nc_insert_compound(file, inner, b"x", size(0), 5)
    nc.nc_def_compound(file, size(8), b"outer", ctypes.byref(number))
    shape = (ctypes.c_int * 1)(2)
    nc.nc_insert_array_compound(file, number.value, b"a", size(0), inner, 1, shape)
    nc.nc_close(file)
    return path


def link_cycle(path: Path) -> Path:
    """A group that contains itself: the library walks it until memory ends."""
    write_grid(path)
    with h5py.File(path, "a") as file:
        file.create_group("g")
        for name in "abcdefgh":
            file["g"][name] = file["g"]
    return path


@pytest.fixture
def limited(monkeypatch):
    """A reading process with small limits in the place of the usual one."""
    made = []

    def limit(memory_mb: int, seconds: float) -> ReadingProcess:
        process = ReadingProcess(memory_mb, seconds)
        made.append(process)
        for module in ("client", "array"):
            monkeypatch.setattr(f"adapters.isolation.{module}.reading_process", lambda: process)
        return process

    yield limit
    for process in made:
        process.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    shutil.copy(get_testdata_file("CT_small.dcm"), folder)
    shutil.copytree(
        Path(get_testdata_file("CT_small.dcm")).parent / "dicomdirtests/98892001/CT5N",
        folder / "series",
    )
    data = np.random.default_rng(0).integers(0, 900, (5, 6, 7, 3)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(data, np.diag([2.0, 2, 3, 1])), folder / "f.nii.gz")
    nibabel.save(nibabel.Nifti1Pair(data, np.eye(4)), folder / "pair.img")
    write_grid(folder / "grid.nc")
    (folder / "cut.nii").write_bytes(b"\x5c\x01\0\0" + bytes(100))
    (folder / "notes.txt").write_text("no scan")
    return folder


def same(first: object, second: object) -> bool:
    return repr(first) == repr(second)


def test_answers_are_those_of_the_adapters(folder):
    here, there = adapters.discover(folder), isolation.discover(folder)
    assert there == here
    assert {c.kind for c in there.candidates} == {"dicom", "nifti", "netcdf"}
    for candidate in there.candidates:
        first, second = adapters.open_source(candidate), isolation.open_source(candidate)
        assert (second.blobs, second.document, second.files) == (
            first.blobs,
            first.document,
            first.files,
        )
        for volume, other in zip(first.volumes, second.volumes, strict=True):
            assert isinstance(other.array, adapters.LazyArray)
            assert (other.array.shape, other.array.dtype) == (
                volume.array.shape,
                volume.array.dtype,
            )
            names = [name for name in vars(volume) if name != "array"]
            assert all(same(getattr(volume, n), getattr(other, n)) for n in names)
            box = tuple(slice(size // 3, size) for size in volume.array.shape)
            read = other.array[box]
            np.testing.assert_array_equal(read, volume.array[box])
            assert read.flags.c_contiguous and read.flags.writeable
        for path in candidate.paths:
            digest = isolation.content_sha256(candidate.kind, path)
            assert digest == adapters.content_sha256(candidate.kind, path)


def test_errors_cross_with_all_their_fields(folder):
    with pytest.raises(SourceError) as here:
        adapters.discover(folder / "cut.nii")
    with pytest.raises(SourceError) as there:
        isolation.discover(folder / "cut.nii")
    fields = [(e.kind, e.message, e.path, e.hint) for e in (here.value, there.value)]
    assert fields[0] == fields[1]


@pytest.mark.parametrize(
    ("make", "kinds"),
    [
        (half_floats, {"reader-crashed", "unsupported-type"}),
        (nested_compounds, {"reader-failed", "damaged", "unsupported-type", "no-volume"}),
    ],
)
def test_file_that_ends_the_reader_is_named_and_the_others_go_on(make, kinds, tmp_path):
    for name in ("a.nc", "y.nc", "z.nc"):
        write_grid(tmp_path / name)
    bad = make(tmp_path / "m.nc")
    found = isolation.discover(tmp_path)
    assert [c.paths[0].name for c in found.candidates if c.paths[0] != bad] == [
        "a.nc",
        "y.nc",
        "z.nc",
    ]
    for entry in found.skipped:
        assert entry.path == bad and entry.kind in kinds
    for candidate in found.candidates:
        if candidate.paths[0] == bad:
            with pytest.raises(SourceError) as caught:
                isolation.open_source(candidate)
            assert caught.value.kind in kinds
        else:
            assert isolation.open_source(candidate).volumes


def test_memory_bomb_costs_its_file_only(tmp_path, limited):
    process = limited(600, 60)
    write_grid(tmp_path / "a.nc")
    bomb = link_cycle(tmp_path / "b.nc")
    write_grid(tmp_path / "c.nc")
    found = isolation.discover(tmp_path)
    assert [c.paths[0].name for c in found.candidates if c.paths[0] != bomb] == ["a.nc", "c.nc"]
    kinds = {s.kind for s in found.skipped if s.path == bomb}
    assert len(found.skipped) <= 1 and kinds <= {"reader-memory", "unsupported-type"}
    assert process.pid is not None


def test_array_that_is_too_large_is_an_error_of_kind_memory(tmp_path, limited):
    limited(400, 60)
    path = tmp_path / "large.nii"
    header = nibabel.Nifti1Image(np.zeros((2, 2, 2), np.int16), np.eye(4)).header
    header.set_data_shape((1024, 1024, 600))
    header["vox_offset"], header["magic"] = 352, b"n+1"
    path.write_bytes(bytes(header.binaryblock) + bytes(4))
    with path.open("r+b") as file:
        file.truncate(352 + 1024 * 1024 * 600 * 2)
    (candidate,) = isolation.discover(path).candidates
    (volume,) = isolation.open_source(candidate).volumes
    assert volume.array[slice(0, 1), slice(0, 4), slice(0, 4)].shape == (1, 4, 4)
    with pytest.raises(SourceError) as caught:
        volume.array[tuple(slice(0, size) for size in volume.array.shape)]
    assert caught.value.kind == "reader-memory"
    assert "PSC_ARCHIVE_READER_MEMORY_MB=800" in str(caught.value)
    assert volume.array[slice(599, 600), slice(0, 1), slice(0, 1)].shape == (1, 1, 1)


def test_reader_that_hangs_is_stopped_and_replaced(folder, limited):
    process = limited(1024, 4.0)
    (candidate,) = isolation.discover(folder / "f.nii.gz").candidates
    first = process.pid
    assert first is not None
    os.kill(first, signal.SIGSTOP)
    with pytest.raises(SourceError) as caught:
        isolation.open_source(candidate)
    assert caught.value.kind == "reader-timeout"
    assert not Path(f"/proc/{first}").exists()
    isolation.open_source(candidate)
    assert process.pid != first


def test_reader_that_died_while_idle_is_replaced_without_a_word(folder, limited):
    process = limited(1024, 30)
    (candidate,) = isolation.discover(folder / "grid.nc").candidates
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    time.sleep(0.3)
    isolation.open_source(candidate)


@pytest.mark.parametrize("used", [True, False])
def test_a_file_is_not_blamed_for_what_an_earlier_one_did(folder, used):
    """A reader that answered before may have been damaged then; a new one is asked once more."""
    path = write_grid(folder / "grid.nc")
    reader = ReadingProcess(2048, 60)
    asked = {"do": "content_sha256", "kind": "netcdf", "path": path}
    with closing(reader), ThreadPoolExecutor(1) as other:
        if used:
            wanted = reader.ask(asked, [path])
        else:
            reader.start()
        first = reader.pid
        os.kill(first, signal.SIGSTOP)
        answer = other.submit(reader.ask, asked, [path])
        time.sleep(0.3)
        os.kill(first, signal.SIGKILL)
        if used:
            assert answer.result(60) == wanted and reader.pid != first
        else:
            with pytest.raises(SourceError) as caught:
                answer.result(60)
            assert caught.value.kind == "reader-crashed"


def test_arrays_can_be_pickled_and_read_elsewhere(folder):
    (candidate,) = isolation.discover(folder / "grid.nc").candidates
    (volume,) = isolation.open_source(candidate).volumes
    code = textwrap.dedent(
        """
        import pickle, sys
        array = pickle.loads(bytes.fromhex(sys.argv[1]))
        print(array[tuple(slice(0, n) for n in array.shape)].sum())
        """
    )
    words = [sys.executable, "-c", code, pickle.dumps(volume.array).hex()]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert float(done.stdout) == np.arange(360).sum()


@pytest.mark.parametrize("busy", [False, True])
def test_reader_never_survives_its_parent(folder, busy):
    code = textwrap.dedent(
        f"""
        import os, signal, sys, time
        from pathlib import Path
        from adapters import isolation
        isolation.discover(Path({str(folder / "grid.nc")!r}))
        child = isolation.reading_process().pid
        if {busy}:
            os.kill(child, signal.SIGSTOP)
        print(child, flush=True)
        time.sleep(60)
        """
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        child = int(run.stdout.readline())
        assert Path(f"/proc/{child}").exists()
        run.kill()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{child}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{child}").exists()


def test_reader_loads_no_network_library_and_no_compiler(folder):
    isolation.discover(folder / "grid.nc")
    pid = isolation.reading_process().pid
    maps = Path(f"/proc/{pid}/maps").read_text()
    assert "netcdf" in maps.lower()
    assert "torch" not in maps and "llvmlite" not in maps


def test_only_known_values_cross():
    ours, theirs = Pipe()
    with pytest.raises(TypeError):
        wire.send(ours, {"x": object()})
    wire.send(ours, {"x": (1, 2.5, float("nan"), "\udcff", b"abc", Path("a"), np.float32(3))})
    back = wire.receive(theirs, 100)["x"]
    assert same(back, (1, 2.5, float("nan"), "\udcff", b"abc", Path("a"), np.float32(3)))
    assert isinstance(back[-1], np.float32)


@pytest.mark.parametrize(
    "messages",
    [
        [b"[]"],
        [b"[5, 999999]"],
        [b"[-1]"],
        [b"nothing"],
        [b"[2]", b"{}"],
        [b"[29]", b'{"$": "Popen", "of": ["true"]}'],
        [b"[40]", b'{"$": "array", "of": 0, "shape": [9]     }'],
    ],
)
def test_what_is_no_message_is_refused(messages):
    ours, theirs = Pipe()
    for message in messages:
        ours.send_bytes(message)
    ours.close()
    with pytest.raises((wire.WireError, OSError, EOFError)):
        wire.receive(theirs, 1000)


def test_a_file_that_went_away_is_unreadable_and_not_damaged(tmp_path):
    path = tmp_path / "scan.nii"
    nibabel.save(nibabel.Nifti1Image(np.zeros((20, 20, 4), "i2"), np.eye(4)), path)
    (candidate,) = isolation.discover(path).candidates
    (volume,) = isolation.open_source(candidate).volumes
    path.unlink()
    with pytest.raises(SourceError) as caught:
        volume.array[tuple(slice(0, size) for size in volume.array.shape)]
    assert caught.value.kind == "unreadable" and "No such file" in str(caught.value)


def test_relative_paths_follow_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, name in enumerate(("one", "two")):
        (tmp_path / name).mkdir()
        image = nibabel.Nifti1Image(np.full((4, 5, 6), number, np.int16), np.eye(4))
        nibabel.save(image, tmp_path / name / "scan.nii")
    for number, name in enumerate(("one", "two")):
        monkeypatch.chdir(tmp_path / name)
        (candidate,) = isolation.discover(Path("scan.nii")).candidates
        item = isolation.open_source(candidate)
        values = item.volumes[0].array[(slice(None),) * 3]
        assert values.max() == number
