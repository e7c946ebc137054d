"""Archives in an object store, through a server on this machine that speaks S3."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pytest
import requests
import xarray as xr
import zarr
from typer.testing import CliRunner, Result

from pipelines.cli import app
from psc_volumetric.archive import (
    ArchiveReader,
    ArchiveWriter,
    target_state,
    tidy_up,
    verify_archive,
)
from psc_volumetric.archive.stores import open_store
from psc_volumetric.errors import FormatError, StorageError
from psc_volumetric.zarr_checked import CheckedCodec
from psc_volumetric.zarr_codec import PscCodec

boto3 = pytest.importorskip("boto3")
s3fs = pytest.importorskip("s3fs")
moto_server = pytest.importorskip("moto.server")

zarr.registry.register_codec("psc_archive.psc", PscCodec)
zarr.registry.register_codec("psc_archive.checked", CheckedCodec)

KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    running = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    url = f"http://{host}:{port}"
    client = boto3.client(
        "s3",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    client.create_bucket(Bucket="bucket")
    yield url
    running.stop()


@pytest.fixture(scope="module")
def values(make: SimpleNamespace) -> np.ndarray:
    """Four bricks: each request takes its time."""
    found: np.ndarray = make.values((8, 40, 40))
    return found


@pytest.fixture
def options(server: str) -> dict[str, Any]:
    return {"key": "test", "secret": "test", "client_kwargs": {"endpoint_url": server}}


def build(target: str, options: dict[str, Any], values: np.ndarray, make: SimpleNamespace) -> None:
    writer = ArchiveWriter.create(
        target, mode="lossless", variables=[make.spec(values)], options=options
    )
    make.write_bricks(writer, {"volume": values})
    make.finish(writer)


@pytest.fixture
def target(request: pytest.FixtureRequest) -> str:
    return f"s3://bucket/{request.node.name}/scan.psc.zarr"


def test_every_way_of_reading(
    target: str, options: dict[str, Any], values: np.ndarray, make: SimpleNamespace
) -> None:
    assert target_state(target, options=options) == "absent"
    build(target, options, values, make)
    assert target_state(target, options=options) == "sealed"
    assert not tidy_up(target, options=options)
    with ArchiveReader.open(target, options=options) as reader:
        np.testing.assert_array_equal(reader.read("volume"), values)
    assert list(verify_archive(target, deep=True, options=options)) == []
    dataset = xr.open_dataset(target, engine="psc", storage_options=options)
    np.testing.assert_array_equal(dataset.volume.values, values)
    for path, name in ((target, "volume"), (f"{target}/volume", None)):
        found: Any = zarr.open(path, mode="r", storage_options=options)
        array = found if name is None else found[name]
        np.testing.assert_array_equal(array[3:8, 7], values[3:8, 7])
    with pytest.raises(StorageError) as caught:
        build(target, options, values, make)
    assert caught.value.kind == "target-exists"


def test_a_changed_lost_or_grown_object_is_noticed(
    target: str, options: dict[str, Any], values: np.ndarray, make: SimpleNamespace
) -> None:
    build(target, options, values, make)
    store = open_store(target, write=True, options=options)
    for key in ("volume/c/0/0/1", "x/c/0"):
        data = store.get(key)
        assert data is not None
        for changed in (data + b"\0", data[:-1], None):
            store.delete(key) if changed is None else store.set(key, changed)
            assert [f.key for f in verify_archive(target, options=options)] == [key]
            with ArchiveReader.open(target, options=options) as reader:
                with pytest.raises(FormatError) as caught:
                    reader.read("volume")
                    reader.coordinates("volume")
                assert caught.value.kind in ("wrong-size", "missing-key")
            group: Any = zarr.open_group(target, mode="r", storage_options=options)
            with pytest.raises(FormatError):
                group[key.split("/")[0]][...]
        store.set(key, data)
    assert list(verify_archive(target, options=options)) == []


def test_the_manifest_is_never_replaced(
    target: str, options: dict[str, Any], values: np.ndarray, make: SimpleNamespace
) -> None:
    """Two writers prepare; the one that commits second is told, or finds its own bytes."""
    specs = [make.spec(values)]
    create = ArchiveWriter.create
    first = create(target, mode="lossless", variables=specs, options=options)
    make.write_bricks(first, {"volume": values})
    second = ArchiveWriter.open_partial(target, options=options)
    prepared, same = first.prepare(), second.prepare()
    store = open_store(target, write=True, options=options)
    assert store.set_exclusive("manifest.json", same.manifest.to_bytes())
    assert not store.set_exclusive("manifest.json", b"other")
    assert prepared.commit() == same.commit()
    store.delete("manifest.json")
    store.set("manifest.json", b"another's")
    with pytest.raises(StorageError) as caught:
        prepared.commit()
    assert caught.value.kind == "target-exists"


def test_what_the_server_says_is_said(
    server: str, target: str, options: dict[str, Any], values: np.ndarray, make: SimpleNamespace
) -> None:
    for url, kind in (("s3://nobucket/a.psc.zarr", "not-found"), (target, "not-found")):
        with pytest.raises(StorageError) as caught:
            ArchiveReader.open(url, options=options)
        assert caught.value.kind == kind
    with pytest.raises(StorageError) as caught:
        build("s3://nobucket/a.psc.zarr", options, values, make)
    assert caught.value.kind == "not-found"
    assert "bucket" in str(caught.value)
    requests.post(f"{server}/moto-api/reset-auth", data=b"0", timeout=10)
    try:
        with pytest.raises(StorageError) as caught:
            ArchiveReader.open(target, options=options | {"key": "other"})
        assert caught.value.kind == "access-denied"
    finally:
        requests.post(f"{server}/moto-api/reset-auth", data=b"inf", timeout=10)


Command = Callable[..., Result]


@pytest.fixture
def command(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Command]:
    """Run a command that knows the server from its environment alone."""
    known = {"AWS_ENDPOINT_URL": server, "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in {**KEYS, **known, "AWS_MAX_ATTEMPTS": "1"}.items():
        monkeypatch.setenv(name, value)

    def run(*arguments: object, endpoint: str = server) -> Result:
        s3fs.S3FileSystem.clear_instance_cache()  # each command is a process of its own for users
        with monkeypatch.context() as changed:
            changed.setenv("AWS_ENDPOINT_URL", endpoint)
            return CliRunner().invoke(app, list(map(str, arguments)))

    yield run
    s3fs.S3FileSystem.clear_instance_cache()


def test_from_the_command_line(command: Command, target: str, tmp_path: Path) -> None:
    values = (np.random.default_rng(0).random((20, 24, 30)) * 100).astype("i2")
    nibabel.Nifti1Image(values, np.eye(4)).to_filename(tmp_path / "a.nii")
    made = ("archive", tmp_path / "a.nii", target, "--coders", "zstd")
    for _ in range(2):
        run = command(*made)
        assert run.exit_code == 0, run.stderr
    above = target.rpartition("/")[0]
    assert command("verify", above, "--deep").exit_code == 0
    run = command("ls", above)
    assert run.exit_code == 0, run.stderr
    assert "scan.psc.zarr" in run.stdout
    run = command("restore", target, tmp_path / "out")
    assert run.exit_code == 0, run.stderr
    (restored,) = (tmp_path / "out").rglob("*.nii")
    assert restored.read_bytes() == (tmp_path / "a.nii").read_bytes()


def test_a_server_that_is_down_is_named(command: Command, target: str, tmp_path: Path) -> None:
    nibabel.Nifti1Image(np.zeros((4, 5, 6), "i2"), np.eye(4)).to_filename(tmp_path / "a.nii")
    nowhere = "http://127.0.0.1:9"
    for arguments in (("info", target), ("archive", tmp_path / "a.nii", target)):
        run = command(*arguments, endpoint=nowhere)
        assert run.exit_code == 6, run.stderr
        assert nowhere in run.stderr
        assert "fault of the program" not in run.stderr
