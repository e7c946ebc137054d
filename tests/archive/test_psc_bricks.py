"""Bricks coded with a prior: levels, spread, regions, and the prior an archive carries."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr
import zarr

from psc_volumetric.archive import ArchiveReader, ArchiveWriter, priors, verify, verify_archive
from psc_volumetric.archive.quota import Quota
from psc_volumetric.codec import (
    BrickOptions,
    CodecParameters,
    EncodedBrick,
    IntensityMapping,
    encode_brick,
    read_index,
)
from psc_volumetric.errors import (
    FormatError,
    LimitExceededError,
    ParameterError,
    PriorMismatchError,
    StorageError,
)
from psc_volumetric.prior import Prior, load_prior

pytestmark = pytest.mark.filterwarnings("ignore:Object at")


@pytest.fixture(scope="module")
def prior() -> Prior:
    return load_prior("test-tiny")


def write(path: Path, values: np.ndarray, prior: Prior, make: SimpleNamespace) -> ArchiveWriter:
    """Two bricks of one tile each; the second is cut by the array's edge."""
    spec = make.spec(
        values, brick_shape=prior.tile_shape, tile_shape=prior.tile_shape, prior=prior.digest
    )
    writer = ArchiveWriter.create(path, mode="lossy", variables=[spec])
    mapping = IntensityMapping(float(values.min()), float(values.max()))
    for position in writer.pending("volume"):
        part = values[spec.box(position)]
        brick = encode_brick(
            part,
            position=position,
            shape=spec.brick_shape,
            mapping=mapping,
            parameters=CodecParameters(effort=1),
            prior=prior,
            options=BrickOptions(base="psc"),
        )
        assert brick.method == "psc"
        writer.write_brick("volume", position, brick, values=part)
    return writer


@pytest.fixture(scope="module")
def coded(tmp_path_factory: pytest.TempPathFactory, prior: Prior, make: SimpleNamespace) -> Path:
    path = tmp_path_factory.mktemp("psc") / "scan.psc.zarr"
    z, y, x = prior.tile_shape
    values = make.values((z, y, x + 9))
    values[0, 0, 0] += 1
    writer = write(path, values, prior, make)
    with pytest.raises(StorageError) as caught:
        writer.seal()
    assert caught.value.kind == "incomplete"
    assert prior.digest in str(caught.value)
    writer.write_prior(prior)
    writer.seal()
    return path


def test_every_level_and_region_agrees_with_the_whole(coded: Path) -> None:
    with ArchiveReader.open(coded) as reader:
        info = reader.info()["variables"]["volume"]
        levels = len(info["levels"])
        assert levels > 1
        nbytes = [row["bytes"] for row in info["levels"]]
        assert nbytes == sorted(nbytes)
        assert nbytes[-1] == info["bytes"]
        box = (slice(1, 5), slice(3, 40), slice(50, 70))
        for level in range(levels):
            whole = reader.read("volume", level=level)
            np.testing.assert_array_equal(reader.read("volume", box, level=level), whole[box])
        np.testing.assert_array_equal(reader.read("volume", level=99), whole)
        np.testing.assert_array_equal(reader.read("volume"), whole)
        region = reader.read_region("volume", box, spread=True)
        np.testing.assert_array_equal(region.values, whole[box])
        assert region.spread is not None
        assert region.spread.shape == region.values.shape
        assert (region.spread >= 0).all()
    array = zarr.open_group(coded, mode="r")["volume"]
    np.testing.assert_array_equal(array[...], whole)
    np.testing.assert_array_equal(array[2, 5:60:7], whole[2, 5:60:7])
    with xr.open_dataset(coded, engine="psc", level=0, uncertainty=True) as dataset:
        assert dataset.psc.is_lossy
        with ArchiveReader.open(coded) as reader:
            np.testing.assert_array_equal(
                dataset.volume_sigma.values, reader.read("volume", level=0, spread=True)
            )
            np.testing.assert_array_equal(dataset.volume.values, reader.read("volume", level=0))


def test_evaluations_of_the_network_are_counted_before_it_runs(coded: Path) -> None:
    with ArchiveReader.open(coded, quota=Quota(evaluations=1)) as reader:
        reader.read("volume", level=0)  # block means, without a network
        with pytest.raises(LimitExceededError) as caught:
            reader.read("volume", level=1)
    assert caught.value.kind == "quota" and "evaluations" in str(caught.value)


def test_recorded_errors_and_digests_are_true(coded: Path) -> None:
    assert list(verify_archive(coded, deep=True)) == []


def test_the_archive_carries_its_prior(
    coded: Path, prior: Prior, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decoding works where no such prior ships; without it the archive says what it needs."""

    def none_shipped(digest: str) -> Prior:
        raise PriorMismatchError(f"no {digest}", kind="prior-missing")

    monkeypatch.setattr("psc_volumetric.prior.resolve_prior", none_shipped)
    priors._loaded.clear()
    with ArchiveReader.open(coded) as reader:
        assert reader.prior_source().digests == (prior.digest,)
        part = (slice(0, 2),) * 3
        reader.read("volume", part)
        priors._loaded.clear()
        reader.prior_source()._files.clear()
        reader.read("volume", part)  # was decoded
        with pytest.raises(PriorMismatchError) as caught:
            reader.read_brick("volume", (0, 0, 0))
    assert caught.value.kind == "prior-missing"
    assert prior.digest[:32] in str(caught.value)
    priors._loaded.clear()


def test_damaged_prior_files_are_not_used(coded: Path, tmp_path: Path, prior: Prior) -> None:
    import shutil

    path = Path(shutil.copytree(coded, tmp_path / "copy.psc.zarr"))
    (weights,) = path.glob("priors/*/models/*.safetensors")
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    priors._loaded.clear()
    with ArchiveReader.open(path) as reader, pytest.raises(FormatError) as caught:
        reader.read("volume")
    assert caught.value.kind == "sha256"
    assert [f.key for f in verify_archive(path)] == [str(weights.relative_to(path))]


def test_a_level_below_the_damage_still_reads(coded: Path, tmp_path: Path) -> None:
    import shutil

    path = Path(shutil.copytree(coded, tmp_path / "copy.psc.zarr"))
    brick = path / "volume/c/0/0/1"
    data = bytearray(brick.read_bytes())
    data[-2] ^= 1
    brick.write_bytes(data)
    with ArchiveReader.open(path) as reader, ArchiveReader.open(coded) as good:
        np.testing.assert_array_equal(reader.read("volume", level=0), good.read("volume", level=0))
        with pytest.raises(FormatError) as caught:
            reader.read("volume")
        assert "volume/c/0/0/1" in str(caught.value)
        (finding,) = (f for f in verify(reader, deep=True) if f.roi is not None)
    assert finding.tile == (0, 0, 1)


def test_a_brick_of_another_prior_is_refused(
    coded: Path, tmp_path: Path, make: SimpleNamespace, prior: Prior
) -> None:
    with ArchiveReader.open(coded) as reader:
        spec = reader.variables["volume"]
    data = (coded / "volume/c/0/0/0").read_bytes()
    other = make.spec(
        np.zeros(spec.shape, spec.dtype),
        brick_shape=spec.brick_shape,
        tile_shape=spec.tile_shape,
        prior="0" * 64,
    )
    writer = ArchiveWriter.create(tmp_path / "a.psc.zarr", mode="lossy", variables=[other])
    index = read_index(lambda start, length: data[start : start + length], len(data))
    brick = EncodedBrick(data, index, ())
    with pytest.raises(ParameterError) as caught:
        writer.write_brick("volume", (0, 0, 0), brick)
    assert caught.value.kind == "wrong-prior"
