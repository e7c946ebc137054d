"""Files stay open between reads only where asked for, and only as long as they are the same."""

from __future__ import annotations

from pathlib import Path

import netCDF4
import numpy as np
import pytest

from adapters.kept_open import KEPT, KeptOpen
from adapters.registry import discover, open_source


class Opener:
    """Opens files and counts."""

    def __init__(self) -> None:
        self.opened: list[Path] = []

    def __call__(self, path: Path) -> object:
        self.opened.append(path)
        return path.open("rb")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"first")
    return path


def read(kept: KeptOpen, path: Path, opener: Opener) -> bytes:
    handle = kept.take(path, opener)
    handle.seek(0)
    data: bytes = handle.read()
    kept.done(handle)
    return data


def test_each_read_opens_and_closes_unless_asked_otherwise(file: Path) -> None:
    kept, opener = KeptOpen(), Opener()
    handle = kept.take(file, opener)
    kept.done(handle)
    assert handle.closed
    read(kept, file, opener)
    assert len(opener.opened) == 2


def test_a_kept_file_is_opened_once_and_closed_on_release(file: Path) -> None:
    kept, opener = KeptOpen(), Opener()
    kept.keeps = True
    handles = set()
    for _ in range(3):
        handle = kept.take(file, opener)
        handles.add(id(handle))
        kept.done(handle)
    assert len(handles) == 1 and len(opener.opened) == 1 and not handle.closed
    kept.release()
    assert handle.closed


def test_a_file_that_is_another_by_now_is_opened_again(file: Path) -> None:
    kept, opener = KeptOpen(), Opener()
    kept.keeps = True
    assert read(kept, file, opener) == b"first"
    file.write_bytes(b"longer than before")
    assert read(kept, file, opener) == b"longer than before"
    other = file.with_name("other")
    other.write_bytes(b"renamed")
    other.replace(file)
    assert read(kept, file, opener) == b"renamed"
    assert len(opener.opened) == 3


def test_a_file_of_which_much_was_read_is_opened_again(file: Path) -> None:
    """Libraries keep what they read until the file is closed."""
    kept, opener = KeptOpen(), Opener()
    kept.keeps = True
    read(kept, file, opener)
    kept.spent(1 << 30)
    read(kept, file, opener)
    assert len(opener.opened) == 2


def test_a_file_that_is_being_read_stays_open_for_its_reader(file: Path) -> None:
    kept, opener = KeptOpen(), Opener()
    kept.keeps = True
    other = file.with_name("other")
    other.write_bytes(b"other")
    first = kept.take(file, opener)
    assert read(kept, other, opener) == b"other"
    assert not first.closed and first.read() == b"first"
    kept.done(first)
    kept.release()
    assert first.closed


def test_many_variables_take_one_opening(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each scalar opened the file anew: 36 s for 300 of them."""
    path = tmp_path / "many.nc"
    with netCDF4.Dataset(path, "w") as nc:
        for number in range(40):
            nc.createVariable(f"v{number}", "i4", ())[...] = number
    (candidate,) = discover(path).candidates
    item = open_source(candidate)
    opened = []
    really = netCDF4.Dataset

    def counting(*words: object, **options: object) -> object:
        opened.append(words[0])
        return really(*words, **options)

    monkeypatch.setattr(netCDF4, "Dataset", counting)
    monkeypatch.setattr(KEPT, "keeps", True)
    try:
        found = [int(np.asarray(side.array[()])) for side in item.arrays]
    finally:
        KEPT.release()
    assert found == list(range(40))
    assert opened == [path]
