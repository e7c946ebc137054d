"""Kept originals are read and written block by block."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from adapters.base import IDENTICAL, RestoreInfo
from adapters.errors import SourceError
from adapters.originals import FileBlob, original_blob, restore_originals
from psc_volumetric.archive import ArchiveReader, ArchiveWriter, Beside

SIZE = 144 << 20


def test_originals_pass_in_pieces_both_ways(tmp_path: Path) -> None:
    path = tmp_path / "large.bin"
    with path.open("wb") as stream:
        stream.truncate(SIZE)
        stream.seek(SIZE // 2)
        stream.write(b"in the middle")
    document = {
        "originals": {"0": original_blob(0)},
        "original_names": ["large.bin"],
        "original_volumes": 0,
    }
    writer = ArchiveWriter.create(
        tmp_path / "a.psc.zarr", mode="lossless", variables=(), beside=Beside()
    )
    tracemalloc.start()
    try:
        writer.write_source("original", document, {original_blob(0): FileBlob(path, SIZE)}, ())
        writer.seal()
        with ArchiveReader.open(tmp_path / "a.psc.zarr") as reader:
            found = reader.source()
            info = RestoreInfo(True, None, "", None)
            written = restore_originals(
                found.document, found.blobs, (), tmp_path / "again.bin", info, folder=False
            )
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert written is not None and [file.outcome for file in written] == [IDENTICAL]
    assert peak < SIZE
    with path.open("rb") as first, written[0].path.open("rb") as second:
        while block := first.read(1 << 20):
            assert second.read(1 << 20) == block
        assert not second.read(1)


def test_a_file_that_changed_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(bytes(10))
    for size in (9, 11):
        with pytest.raises(SourceError) as caught:
            list(FileBlob(path, size).blocks())
        assert caught.value.kind == "source-changed"
    path.unlink()
    with pytest.raises(SourceError) as caught:
        list(FileBlob(path, 10).blocks())
    assert caught.value.kind == "unreadable"
