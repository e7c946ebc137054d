"""Damage is an error that says what and where, through every way of reading."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr
import zarr

from psc_volumetric.archive import ArchiveReader, Manifest, verify, verify_archive
from psc_volumetric.bitstream import versions
from psc_volumetric.bitstream.constants import FORMAT_VERSION
from psc_volumetric.errors import FormatError, PscError, StorageError, UnsupportedVersionError
from psc_volumetric.zarr_checked import CheckedCodec
from psc_volumetric.zarr_codec import PscCodec

zarr.registry.register_codec("psc_archive.psc", PscCodec)
zarr.registry.register_codec("psc_archive.checked", CheckedCodec)

BRICK = "volume/c/1/0/1"


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def grow(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def swap(path: Path) -> None:
    other = path.with_name("2")
    data = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(data)


READERS: dict[str, Callable[[Path], object]] = {
    "reader": lambda path: ArchiveReader.open(path).read("volume"),
    "zarr": lambda path: zarr.open_group(path, mode="r")["volume"][...],
    "xarray": lambda path: xr.open_dataset(path, engine="psc").volume.values,
    "open_zarr": lambda path: xr.open_zarr(path).volume.values,
}


@pytest.mark.parametrize("way", READERS)
@pytest.mark.parametrize(
    ("damage", "kinds"),
    [
        (Path.unlink, {"missing-key"}),
        (flip, {"section-checksum"}),
        (cut, {"wrong-size", "truncated"}),
        (swap, {"wrong-size", "wrong-position"}),
    ],
)
def test_a_damaged_brick_never_reads_as_values(
    folder: Path, way: str, damage: Callable[[Path], None], kinds: set[str]
) -> None:
    damage(folder / BRICK)
    with pytest.raises(FormatError) as caught:
        READERS[way](folder)
    assert caught.value.kind in kinds
    named = (BRICK, "volume/c/1/0/2") if damage is swap else (BRICK,)
    assert any(key in str(caught.value) for key in named)


@pytest.mark.parametrize("damage", [Path.unlink, flip, cut, grow, swap])
def test_verify_names_the_brick_its_region_and_nothing_else(
    folder: Path, values: np.ndarray, damage: Callable[[Path], None]
) -> None:
    damage(folder / BRICK)
    damaged = {BRICK, "volume/c/1/0/2"} if damage is swap else {BRICK}
    shallow = list(verify_archive(folder))
    assert {f.key for f in shallow} == damaged
    assert {f.variable for f in shallow} == {"volume"}
    deep = [f for f in verify_archive(folder, deep=True) if f.roi is not None]
    assert {f.key for f in deep} == damaged
    lost = {f.key: f.roi for f in deep}
    assert lost[BRICK] == ((8, 11), (0, 32), (32, 64))
    with ArchiveReader.open(folder) as reader:
        good = (slice(0, 8), slice(0, 40), slice(0, 70))
        np.testing.assert_array_equal(reader.read("volume", good), values[good])


def test_swapped_bricks_of_equal_size_are_told_apart(tmp_path: Path, make: SimpleNamespace) -> None:
    values = np.zeros((8, 32, 96), np.int16)
    values[..., 32:64], values[..., 64:] = 1, 2
    path = tmp_path / "a.psc.zarr"
    make.build(path, values)
    swap(path / "volume/c/0/0/1")
    for way in ("reader", "zarr", "xarray"):
        with pytest.raises(FormatError) as caught:
            READERS[way](path)
        assert caught.value.kind == "wrong-position"


def test_the_message_names_key_region_and_tiles(folder: Path) -> None:
    flip(folder / BRICK)
    with ArchiveReader.open(folder) as reader, pytest.raises(FormatError) as caught:
        reader.read("volume", (slice(8, 9), slice(3, 5), slice(40, 60)))
    text = str(caught.value)
    assert BRICK in text
    assert "z=8:9,y=3:5,x=40:60" in text
    assert "tiles 0,0,0-1" in text


def test_a_brick_recorded_wrongly_is_found_by_deep_verify(folder: Path) -> None:
    """A decoder that gives other values than the encoder's is noticed by the tile digest."""
    with ArchiveReader.open(folder) as reader:
        table = reader.tile_table("volume")
        spec = reader.variables["volume"]
        assert table.digest.shape == spec.tile_grid_shape
        real = reader.read_brick

        def diverging(*args: object, **options: object) -> object:
            found = real(*args, **options)  # type: ignore[arg-type]
            if args[1] == (0, 1, 1):
                found.values[0, 0, 0] += 1
            return found

        reader.read_brick = diverging  # type: ignore[method-assign,assignment]
        (finding,) = verify(reader, deep=True)
    assert (finding.key, finding.kind) == ("volume/c/0/1/1", "decoded-sha256")
    assert finding.tile == (0, 2, 2)
    assert finding.roi == ((0, 8), (32, 40), (32, 64))


@pytest.mark.parametrize("key", ["source/document", "tiles/volume/c/0", "x/c/0"])
@pytest.mark.parametrize("damage", [Path.unlink, flip])
def test_damage_beside_the_bricks(folder: Path, key: str, damage: Callable[[Path], None]) -> None:
    damage(folder / key)
    assert [f.key for f in verify_archive(folder)] == [key]
    with ArchiveReader.open(folder) as reader, pytest.raises(FormatError) as caught:
        reader.source()
        reader.tile_table("volume")
        reader.coordinates("volume")
    assert caught.value.kind in {"missing-key", "sha256"}
    assert key in str(caught.value)


def test_foreign_objects_are_reported(folder: Path) -> None:
    (folder / "volume/c/9").write_bytes(b"x")
    assert [(f.key, f.kind) for f in verify_archive(folder)] == [("volume/c/9", "foreign-key")]


def test_a_sample_reads_a_share_and_another_seed_another(folder: Path) -> None:
    with ArchiveReader.open(folder) as reader:
        for key in reader.manifest.entries:
            if "/c/" in key:
                flip(folder / key)
    everything = {f.key for f in verify_archive(folder)}
    half = [{f.key for f in verify_archive(folder, sample=0.5, seed=s)} for s in (1, 1, 2)]
    assert half[0] == half[1] != half[2]
    assert 0 < len(half[0]) < len(everything)
    assert half[0] < everything


def test_a_part_counts_what_it_reads(folder: Path) -> None:
    with ArchiveReader.open(folder) as reader:
        listed = len(reader.manifest.entries)
    told: list[tuple[int, int]] = []
    for n in (1, 2, 3):
        steps: list[tuple[int, int]] = []
        found = verify_archive(
            folder, sample=f"{n}/3", progress=lambda _, *step, steps=steps: steps.append(step)
        )
        assert not list(found)
        told.append(steps[-1])
    assert all(read == total < listed for read, total in told)
    assert sum(read for read, _ in told) == listed


def test_an_unsealed_archive_is_not_read(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    for read in READERS.values():
        with pytest.raises(PscError) as caught:
            read(folder)
        assert caught.value.kind == "not-sealed"


def test_an_unknown_format_number_is_refused(folder: Path) -> None:
    for name in ("manifest.json", "zarr.json"):
        path = folder / name
        path.write_text(path.read_text().replace(f'"format":{FORMAT_VERSION}', '"format":7'))
    with pytest.raises(UnsupportedVersionError) as caught:
        ArchiveReader.open(folder)
    assert caught.value.kind == "unsupported-version"
    assert "found 7; it needs a newer psc-archive: use the release named in" in str(caught.value)


def test_a_format_number_that_the_manifest_alone_has_is_damage(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace(f'"format":{FORMAT_VERSION}', '"format":7'))
    with pytest.raises(FormatError, match=r"found 7, and zarr\.json has 1") as caught:
        ArchiveReader.open(folder)
    assert caught.value.kind == "manifest-damaged"
    assert not isinstance(caught.value, UnsupportedVersionError)


def test_an_earlier_format_names_the_release_that_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "FORMAT_VERSION", 2)
    with pytest.raises(FormatError) as caught:
        versions.check_version(0, "old.psc.zarr")
    assert caught.value.kind == "unsupported-version"
    assert "format 0 is read by psc-archive 0.1: restore with that" in str(caught.value)
    versions.check_version(2, "new.psc.zarr")
    for odd in (True, "2", None, -1):
        with pytest.raises(FormatError, match="damaged, or no archive") as caught:
            versions.check_version(odd, "odd.psc.zarr")
        assert caught.value.kind == "bad-version"
        assert not isinstance(caught.value, UnsupportedVersionError)


def test_a_changed_manifest_is_refused(folder: Path) -> None:
    path = folder / "manifest.json"
    document = json.loads(path.read_text())
    document["keys"][BRICK]["size"] += 1
    path.write_text(json.dumps(document))
    with pytest.raises(FormatError) as caught:
        ArchiveReader.open(folder)
    assert caught.value.kind == "manifest-damaged"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(FormatError) as caught:
        list(verify_archive(folder))
    assert caught.value.kind == "manifest-damaged"


def test_damaged_root_metadata_is_a_finding(folder: Path) -> None:
    flip(folder / "zarr.json")
    findings = list(verify_archive(folder, deep=True))
    assert [f.key for f in findings] == ["zarr.json", ""]
    with pytest.raises(FormatError):
        ArchiveReader.open(folder)


def test_what_is_no_archive_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.psc.zarr").write_text("hello")
    for name, kind, error in (
        ("empty", "not-an-archive", FormatError),
        ("text.psc.zarr", "not-an-archive", FormatError),
        ("nothing", "not-found", StorageError),
    ):
        with pytest.raises(error) as caught:
            ArchiveReader.open(tmp_path / name)
        assert caught.value.kind == kind
        assert str(tmp_path / name) in str(caught.value)


def test_a_cut_zip_and_a_damaged_zip(
    tmp_path: Path, values: np.ndarray, make: SimpleNamespace
) -> None:
    path = tmp_path / "a.psc.zarr.zip"
    make.build(path, values)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(FormatError) as caught:
        ArchiveReader.open(path)
    assert caught.value.kind == "not-an-archive"
    path.write_bytes(data)
    with zipfile.ZipFile(path) as packed:
        info = packed.getinfo(BRICK)
    at = info.header_offset + 30 + len(BRICK) + info.file_size // 2
    path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    assert [f.key for f in verify_archive(path)] == [BRICK]
    with ArchiveReader.open(path) as reader, pytest.raises(FormatError) as caught:
        reader.read("volume")
    assert BRICK in str(caught.value)


def test_bricks_of_another_archive_are_refused(
    folder: Path, tmp_path: Path, make: SimpleNamespace
) -> None:
    other = tmp_path / "other.psc.zarr"
    make.build(other, make.values((11, 40, 70), "uint16"))
    shutil.copy(other / BRICK, folder / BRICK)
    with ArchiveReader.open(folder) as reader, pytest.raises(FormatError):
        reader.read("volume")


def test_manifest_bytes_round_trip(kept: Path) -> None:
    data = (kept / "manifest.json").read_bytes()
    assert Manifest.from_bytes(data, where="x").to_bytes() == data
