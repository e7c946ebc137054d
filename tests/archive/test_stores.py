"""Targets: what can be opened, and what is said when something cannot."""

from __future__ import annotations

import gc
import os
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import fsspec
import numpy as np
import pytest
import zarr
from zarr.storage import MemoryStore

from psc_volumetric.archive import ArchiveReader, verify_archive
from psc_volumetric.archive.selection import bounds_of, relative_to
from psc_volumetric.archive.stores import is_url, open_store
from psc_volumetric.errors import FormatError, StorageError


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        ("nosuch://bucket/scan.psc.zarr", "unsupported-target"),
        ("{tmp}/nothing.psc.zarr", "not-found"),
    ],
)
def test_what_cannot_be_opened(tmp_path: Path, target: str, kind: str) -> None:
    with pytest.raises(StorageError) as caught:
        open_store(target.format(tmp=tmp_path))
    assert caught.value.kind == kind
    assert caught.value.hint


def test_a_zarr_store_and_a_file_url_are_targets(
    tmp_path: Path, values: np.ndarray, make: SimpleNamespace
) -> None:
    for target in (MemoryStore(), f"file://{tmp_path}/a.psc.zarr"):
        make.build(target, values)
        with ArchiveReader.open(target) as reader:
            np.testing.assert_array_equal(reader.read("volume"), values)
        assert list(verify_archive(target, deep=True)) == []
    assert (tmp_path / "a.psc.zarr" / "manifest.json").is_file()


def test_every_store_gives_the_same_objects(
    tmp_path: Path, kept: Path, values: np.ndarray, make: SimpleNamespace
) -> None:
    with ArchiveReader.open(kept) as reader:
        expected = reader.manifest.digest
    for target in (str(tmp_path / "a.zip"), f"memory://{tmp_path.name}/b.psc.zarr"):
        make.build(target, values)
        with ArchiveReader.open(target) as reader:
            assert reader.manifest.digest == expected


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="Linux says which files are open")
def test_zip_files_are_released_whatever_becomes_of_them(
    tmp_path: Path, values: np.ndarray, make: SimpleNamespace
) -> None:
    """Those that are no archive, and those that nobody closed."""
    empty, whole = tmp_path / "empty.psc.zarr.zip", tmp_path / "whole.psc.zarr.zip"
    with zipfile.ZipFile(empty, "w") as packed:
        packed.writestr("zarr.json", "{}")
    make.build(str(whole), values)

    def held() -> list[Path]:
        links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
        return [path for path in map(Path.readlink, links) if path in (empty, whole)]

    for _ in range(3):
        with pytest.raises(FormatError):
            ArchiveReader.open(empty)
        ArchiveReader.open(whole)
    gc.collect()
    assert held() == []


def test_ranges_stop_at_the_end(kept: Path) -> None:
    store = open_store(kept)
    whole = store.get("README.txt")
    assert whole is not None
    assert store.size("README.txt") == len(whole)
    assert store.get("README.txt", 5, 10) == whole[5:15]
    assert store.get("README.txt", len(whole) - 2, 10) == whole[-2:]
    assert store.get("README.txt", 3, 0) == b""
    assert store.get("none") is None
    assert store.size("none") is None


@pytest.mark.parametrize(
    "selection",
    [
        (3, slice(None), slice(2, 9, 3)),
        (slice(None, None, -2), slice(8, 1, -3), slice(4, 4)),
        (np.array([4, 1, 1]), slice(None), 0),
        (Ellipsis, 2),
        (slice(1, 3),),
        (np.ix_([1, 3], [0, 5, 2], [7])),
    ],
)
def test_a_selection_is_its_box_and_the_rest(selection: tuple[object, ...]) -> None:
    values = np.arange(5 * 9 * 11).reshape(5, 9, 11)
    bounds = bounds_of(selection, values.shape)
    box = values[tuple(slice(b.start, b.stop) for b in bounds)]
    np.testing.assert_array_equal(box[relative_to(selection, bounds)], values[selection])


def test_a_zip_archive_opens_by_url(
    tmp_path: Path, values: np.ndarray, make: SimpleNamespace
) -> None:
    make.build(tmp_path / "a.psc.zarr.zip", values)
    memory = fsspec.filesystem("memory")
    url = f"memory://{tmp_path.name}/a.psc.zarr.zip"
    memory.pipe_file(url, (tmp_path / "a.psc.zarr.zip").read_bytes())
    with ArchiveReader.open(url) as reader:
        np.testing.assert_array_equal(reader.read("volume"), values)
    assert list(verify_archive(url, deep=True)) == []
    with pytest.raises(StorageError) as caught:
        open_store(url, write=True)
    assert caught.value.kind == "unsupported-target"


def rewritten(path: Path, change: Callable[[zipfile.ZipInfo], None], twice: str = "") -> None:
    """Pack a zip file again with other members."""
    with zipfile.ZipFile(path) as old:
        members = [(info, old.read(info)) for info in old.infolist()]
    with zipfile.ZipFile(path, "w") as new, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for info, data in members:
            change(info)
            new.writestr(info, data)
            if info.filename == twice:
                new.writestr(info, data)


def compress(info: zipfile.ZipInfo) -> None:
    info.compress_type = zipfile.ZIP_DEFLATED


def leave(info: zipfile.ZipInfo) -> None:
    if info.filename == "README.txt":
        info.filename = "../README.txt"


def test_a_zip_file_of_nothing_is_no_archive(tmp_path: Path) -> None:
    zipfile.ZipFile(tmp_path / "a.psc.zarr.zip", "w").close()
    with pytest.raises(FormatError) as caught:
        ArchiveReader.open(tmp_path / "a.psc.zarr.zip")
    assert caught.value.kind == "not-an-archive"


@pytest.mark.parametrize(
    ("change", "twice", "kind"),
    [(compress, "", "bad-zip"), (leave, "", "bad-key"), (lambda _: None, "zarr.json", "bad-zip")],
)
def test_zip_members_are_checked_before_one_is_read(
    tmp_path: Path,
    values: np.ndarray,
    make: SimpleNamespace,
    change: Callable[[zipfile.ZipInfo], None],
    twice: str,
    kind: str,
) -> None:
    path = tmp_path / "a.psc.zarr.zip"
    make.build(path, values)
    rewritten(path, change, twice)
    with pytest.raises(FormatError) as caught:
        ArchiveReader.open(path)
    assert caught.value.kind == kind


def test_overlapping_and_encrypted_members_are_refused(
    tmp_path: Path, values: np.ndarray, make: SimpleNamespace
) -> None:
    path = tmp_path / "a.psc.zarr.zip"
    make.build(path, values)
    data = bytearray(path.read_bytes())
    entries = [n for n in range(len(data)) if data[n : n + 4] == b"PK\1\2"]
    overlapping = bytearray(data)
    overlapping[entries[1] + 42 : entries[1] + 46] = data[entries[0] + 42 : entries[0] + 46]
    encrypted = bytearray(data)
    encrypted[entries[2] + 8] |= 1
    for bad in (overlapping, encrypted):
        path.write_bytes(bad)
        with pytest.raises(FormatError) as caught:
            ArchiveReader.open(path)
        assert caught.value.kind == "bad-zip"


def test_bytes_behind_a_zip_are_a_finding(
    tmp_path: Path, values: np.ndarray, make: SimpleNamespace
) -> None:
    path = tmp_path / "a.psc.zarr.zip"
    make.build(path, values)
    with path.open("ab") as file:
        file.write(b"more")
    assert [f.kind for f in verify_archive(path)] == ["foreign-bytes"]


@pytest.mark.parametrize("what", ["pipe", "link", "folder link"])
def test_only_plain_files_are_read(folder: Path, what: str) -> None:
    path = folder / "volume/c/0/0/1"
    if what == "folder link":
        path = path.parent
    other = folder.parent / "elsewhere"
    path.rename(other)
    if what == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(other)
    with ArchiveReader.open(folder) as reader, pytest.raises(FormatError) as caught:
        reader.read("volume")
    assert caught.value.kind == "not-a-file"
    with pytest.raises(FormatError):
        zarr.open_group(folder, mode="r")["volume"][...]
    assert {f.kind for f in verify_archive(folder)} <= {"not-a-file", "missing-key", "foreign-key"}


def test_a_pipe_is_no_archive(tmp_path: Path) -> None:
    path = tmp_path / "scan.psc.zarr.zip"
    os.mkfifo(path)
    with pytest.raises(FormatError) as caught:
        ArchiveReader.open(path)
    assert caught.value.kind == "not-a-file"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s3://bucket/x.psc.zarr", True),
        ("simplecache::s3://bucket/x.psc.zarr.zip", True),
        ("memory://x", True),
        ("file:///a/x.psc.zarr", False),
        ("/a/::/x.psc.zarr", False),
        ("./a::b.psc.zarr", False),
        ("/a/b://c", False),
        ("a b.psc.zarr", False),
    ],
)
def test_paths_may_have_colons(text: str, expected: bool) -> None:
    """``/a/::.psc.zarr`` was opened as a chain of URLs, and left a file beside it."""
    assert is_url(text) is expected


def test_a_chain_that_is_the_wrong_way_round_is_told_with_the_right_one() -> None:
    """It was an internal error of the library below."""
    with pytest.raises(StorageError, match="found 'zip'") as caught:
        open_store("memory://scan.zip::zip")
    assert caught.value.kind == "unsupported-target"
    assert caught.value.hint == "what is opened last stands first: zip::memory://scan.zip"


def test_a_limit_takes_no_room_for_what_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"0123456789")
    store = open_store(str(tmp_path))
    assert store.get("key", 0, 1 << 46) == b"0123456789"
    assert store.get("key", 7, 1 << 46) == b"789"
    assert store.get("key", 11, 1 << 46) == b""
