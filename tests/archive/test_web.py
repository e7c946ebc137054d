"""Archives behind a web server: whole and by parts, through every way of reading."""

from __future__ import annotations

import logging
import pickle
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pytest
import xarray as xr
import zarr
from typer.testing import CliRunner, Result

from pipelines.checking.status import status_of
from pipelines.checking.trust import Trust
from pipelines.checking.verify import verify
from pipelines.cli import app
from psc_volumetric.archive import ArchiveReader, verify_archive
from psc_volumetric.archive.companions import companion_name, read_companion
from psc_volumetric.archive.stores import open_store, target_text
from psc_volumetric.errors import FormatError, ParameterError, PscError, StorageError
from psc_volumetric.zarr_checked import CheckedCodec
from psc_volumetric.zarr_codec import PscCodec

pytest.importorskip("aiohttp")

zarr.registry.register_codec("psc_archive.psc", PscCodec)
zarr.registry.register_codec("psc_archive.checked", CheckedCodec)

Serve = Callable[..., AbstractContextManager[Any]]


@pytest.fixture(scope="module")
def served(serve: Serve, kept: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("served")
    shutil.copytree(kept, folder / "a b%25.psc.zarr")
    with serve(folder) as running:
        yield running


@pytest.fixture(scope="module")
def address(served: Any) -> str:
    return f"{served.url}/a b%2525.psc.zarr"


def test_every_way_of_reading(address: str, values: np.ndarray) -> None:
    with ArchiveReader.open(address) as reader:
        np.testing.assert_array_equal(reader.read("volume"), values)
        assert reader.source().kind == "nifti"
        copy = pickle.loads(pickle.dumps(reader.sealed.store.store))
    assert copy == open_store(address).store
    with xr.open_dataset(address, engine="psc", chunks={}) as dataset:
        np.testing.assert_array_equal(dataset.volume.values, values)
        np.testing.assert_array_equal(dataset.x.values[:2], [5.0, 3.0])
    assert list(verify_archive(address, deep=True)) == []


def test_plain_zarr(serve: Serve, kept: Path, values: np.ndarray) -> None:
    with serve(kept.parent) as running:
        url = f"{running.url}/{kept.name}"
        array: Any = zarr.open(url, mode="r")
        np.testing.assert_array_equal(array["volume"][3:9, 7], values[3:9, 7])
        running.manner = "whole"
        with pytest.raises(StorageError) as caught:
            zarr.open(url, mode="r")["volume"][3:9, 7]
    assert caught.value.kind == "no-ranges"


def test_what_is_missing_or_damaged_is_told(serve: Serve, folder: Path) -> None:
    data = bytearray((folder / "volume/c/0/0/1").read_bytes())
    data[-3] ^= 1
    (folder / "volume/c/0/0/1").write_bytes(data)
    (folder / "volume/c/1/0/0").unlink()
    with (folder / "volume/c/1/0/1").open("ab") as file:
        file.write(b"\0")
    with serve(folder.parent) as running:
        url = f"{running.url}/{folder.name}"
        found = {f.key: f.kind for f in verify_archive(url)}
        sampled = {f.key: f.kind for f in verify_archive(url, sample=1e-9)}
        for where, kind in (("nothing", "not-found"), (f"{folder.name}/volume", "not-found")):
            with pytest.raises(StorageError) as caught:
                ArchiveReader.open(f"{running.url}/{where}")
            assert caught.value.kind == kind
        with ArchiveReader.open(url) as reader, pytest.raises(FormatError) as damage:
            reader.read("volume")
    sizes = {"volume/c/1/0/0": "missing-key", "volume/c/1/0/1": "wrong-size"}
    assert found == {"volume/c/0/0/1": "sha256", **sizes}
    assert sampled == sizes
    assert damage.value.kind == "section-checksum"


def test_a_server_that_ignores_ranges(
    serve: Serve, kept: Path, values: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    with serve(kept.parent, "whole") as running, caplog.at_level(logging.WARNING):
        url = f"{running.url}/{kept.name}"
        with ArchiveReader.open(url) as reader:
            np.testing.assert_array_equal(reader.read("volume"), values)
        assert list(verify_archive(url, deep=True)) == []
    assert "ignores Range" in caplog.text


def test_zip_files(serve: Serve, tmp_path: Path, values: np.ndarray, make: SimpleNamespace) -> None:
    make.build(tmp_path / "a.psc.zarr.zip", values)
    with serve(tmp_path, "token") as running:
        url = f"{running.url}/a.psc.zarr.zip?key=secret"
        with ArchiveReader.open(url) as reader:
            np.testing.assert_array_equal(reader.read("volume"), values)
            assert "secret" not in reader.name
        running.manner = "whole"
        with pytest.raises(StorageError) as caught:
            ArchiveReader.open(url)
        assert caught.value.kind == "no-ranges"
        assert "secret" not in str(caught.value)


def test_queries_are_repeated_and_never_shown(serve: Serve, kept: Path) -> None:
    with serve(kept.parent, "token") as running:
        url = f"{running.url}/{kept.name}"
        with ArchiveReader.open(f"{url}?key=secret") as reader:
            assert reader.name == target_text(f"{url}?key=secret") == url
        with pytest.raises(StorageError) as caught:
            ArchiveReader.open(f"{url}?key=other")
    assert caught.value.kind == "access-denied"
    assert "other" not in str(caught.value)


def test_companions_of_an_address_with_a_query(serve: Serve, kept: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(kept, tmp_path / "a b.psc.zarr"))
    folder.with_name(f"{folder.name}.sig").write_bytes(b"signature")
    with serve(tmp_path, "token") as running:
        url = f"{running.url}/a%20b.psc.zarr?key=secret/x"
        assert companion_name(url, ".sig") == f"{running.url}/a%20b.psc.zarr.sig?key=secret/x"
        url = url.removesuffix("/x")
        assert read_companion(url, ".sig") == b"signature"
        assert read_companion(url, ".other") is None
        (finding,) = verify(url, trust=Trust("0" * 64)).findings
        with pytest.raises(ParameterError) as caught:
            status_of(url)
    assert finding.kind == "other-manifest"
    assert "secret" not in finding.message + str(caught.value)


@pytest.mark.parametrize("manner", ["gzip", "other"])
def test_a_server_that_sends_something_else_is_no_damage(
    serve: Serve, kept: Path, manner: str
) -> None:
    with serve(kept.parent) as running, ArchiveReader.open(f"{running.url}/{kept.name}") as reader:
        running.manner = manner
        with pytest.raises(PscError) as caught:
            reader.read("volume")
    assert caught.value.kind == "storage-failed"


def test_answers_that_fail_once_are_asked_again(
    serve: Serve, kept: Path, values: np.ndarray
) -> None:
    with (
        serve(kept.parent, "shaky") as running,
        ArchiveReader.open(f"{running.url}/{kept.name}") as reader,
    ):
        np.testing.assert_array_equal(reader.read("volume"), values)


def test_from_the_command_line(serve: Serve, tmp_path: Path) -> None:
    values = (np.random.default_rng(0).random((20, 24, 30)) * 100).astype("i2")
    nibabel.Nifti1Image(values, np.eye(4)).to_filename(tmp_path / "a.nii")
    archive = tmp_path / "served/a.psc.zarr.zip"
    made = command("archive", tmp_path / "a.nii", archive, "--coders", "zstd")
    assert made.exit_code == 0, made.stderr
    with serve(archive.parent) as running:
        done = command("restore", f"{running.url}/{archive.name}", tmp_path / "out/")
        assert done.exit_code == 0, done.stderr
        nothing = command("ls", running.url)
        running.manner = "token"
        signed = f"{running.url}/{archive.name}?key=secret"
        told = [command("info", signed), command("scrub", signed, "--event-log", tmp_path / "log")]
    (restored,) = (tmp_path / "out").rglob("*.nii")
    assert restored.read_bytes() == (tmp_path / "a.nii").read_bytes()
    assert [run.exit_code for run in told] == [0, 0]
    said = "".join(run.stdout + run.stderr for run in told) + (tmp_path / "log").read_text()
    assert archive.name in said and "secret" not in said
    assert nothing.exit_code == 6 and "name one archive" in nothing.stderr


def command(*arguments: object) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)))


def test_nobody_there_and_nothing_written(kept: Path) -> None:
    with pytest.raises(StorageError) as caught:
        ArchiveReader.open("http://127.0.0.1:9/a.psc.zarr")
    assert caught.value.kind == "storage-failed"
    with pytest.raises(StorageError) as caught:
        open_store("https://127.0.0.1:9/a.psc.zarr", write=True)
    assert caught.value.kind == "unsupported-target"
