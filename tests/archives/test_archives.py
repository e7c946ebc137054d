"""Archives of every published format are read as on their day, and by the text alone."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from reference_decoder import tables
from reference_decoder.archive import Archive, keys_of
from reference_decoder.fields import Refused
from reference_decoder.sources import rebuild, write_netcdf

from adapters.netcdf.content import content_differences
from archives.samples import SAMPLES, make, said
from archives.write import write
from psc_volumetric.archive.reader import ArchiveReader
from psc_volumetric.bitstream.constants import FORMAT_VERSION

HERE = Path(__file__).parent
KEPT = sorted(HERE.glob("v*/*.json"))
FROM_TEXT = (  # whose files the second decoder makes
    "nifti-lossless",
    "dicom-lossless",
    "fits-lossless",
    "images-lossless",
    "trajectories-lossless",
)
QUICK = (*FROM_TEXT, "netcdf-lossless")


@pytest.mark.parametrize("note", KEPT, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_archive_of_a_published_format_gives_back_what_it_gave(note: Path, tmp_path: Path) -> None:
    wanted = json.loads(note.read_text(encoding="utf-8"))
    archive = note.parent / wanted.pop("archive")
    assert said(archive, tmp_path / "restored") == wanted


def test_every_published_format_has_its_archives_and_they_are_small() -> None:
    folders = {path.name: path for path in HERE.glob("v*") if path.is_dir()}
    assert folders.keys() == {f"v{number}" for number in range(1, FORMAT_VERSION + 1)}
    for name, folder in folders.items():
        sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
        assert sum(sizes) < 1_600_000, name
    if FORMAT_VERSION:
        written = {path.stem for path in folders[f"v{FORMAT_VERSION}"].glob("*.json")}
        assert written == set(SAMPLES)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some of the archives, as the command writes them."""
    folder = tmp_path_factory.mktemp("made")
    write(folder, list(QUICK))
    return folder


@pytest.mark.parametrize("name", QUICK)
def test_what_is_written_down_is_what_is_read(name: str, made: Path, tmp_path: Path) -> None:
    wanted = json.loads((made / f"{name}.json").read_text(encoding="utf-8"))
    archive = made / wanted.pop("archive")
    assert said(archive, tmp_path / "restored") == wanted
    assert all(proven for _, proven in wanted["files"])


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(SAMPLES) - set(QUICK)))
def test_every_sample_can_be_made_and_read(name: str, tmp_path: Path) -> None:
    archive = make(name, tmp_path)
    about = said(archive, tmp_path / "restored")
    assert about["variables"] or about["kept"]


def opened(made: Path, name: str) -> Archive:
    return Archive(keys_of(made / (name + SAMPLES[name].ending)))


@pytest.mark.parametrize("name", FROM_TEXT)
def test_source_files_follow_from_the_text_alone(name: str, made: Path) -> None:
    archive = opened(made, name)
    files = rebuild(archive)
    listed = {file["name"]: file["sha256"] for file in archive.source.files}
    assert {n: hashlib.sha256(data).hexdigest() for n, data in files.items()} == listed


@pytest.mark.parametrize("name", QUICK)
def test_what_is_known_of_tiles_follows_from_the_text_alone(name: str, made: Path) -> None:
    with ArchiveReader.open(made / (name + SAMPLES[name].ending)) as reader:
        for variable in reader.variables:
            table = reader.tile_table(variable)
            columns, codes = opened(made, name).tiles(variable)
            assert codes == table.codes
            for level in range(table.levels):
                np.testing.assert_array_equal(columns[f"mse {level}"], table.mse[level])
                np.testing.assert_array_equal(columns[f"within 2 {level}"], table.within[1][level])
            np.testing.assert_array_equal(columns["digest"], table.digest)


def test_a_netcdf_file_follows_from_the_text_alone(made: Path, tmp_path: Path) -> None:
    source = SAMPLES["netcdf-lossless"].source(tmp_path)
    write_netcdf(opened(made, "netcdf-lossless"), tmp_path / "again.nc")
    assert content_differences(source, tmp_path / "again.nc") == []


def test_an_archive_with_its_specification_needs_nothing_else(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The decoder has the tables of the archive, and no others."""
    keys = keys_of(made / "nifti-lossless.psc.zarr.zip")
    text, stored = keys["specification/SPEC-v1.md"], keys["specification/tables.safetensors"]
    assert hashlib.sha256(text).hexdigest() in keys["README.txt"].decode()
    assert hashlib.sha256(stored).hexdigest() in text.decode()
    monkeypatch.setattr(tables, "PATH", made / "tables")
    (made / "tables").write_bytes(stored)
    tables.tables.cache_clear()
    assert tables.cumulative(0)[-1] == 1 << 24
    (values,) = [Archive(keys).volume("image")]
    assert values.dtype == np.dtype("<i2") and int(values.max()) == 3000


def test_a_changed_object_is_noticed_by_the_text_alone(made: Path) -> None:
    keys = dict(keys_of(made / "dicom-lossless.psc.zarr.zip"))
    keys["zarr.json"] = keys["zarr.json"].replace(b"lossless", b"lossnone")
    with pytest.raises(Refused, match=r"SHA-256 of zarr\.json"):
        Archive(keys)
