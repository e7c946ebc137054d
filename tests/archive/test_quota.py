"""What one read may cost is counted before anything is decoded."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from psc_volumetric.archive import ArchiveReader
from psc_volumetric.archive.quota import Quota
from psc_volumetric.archive.viewed import Viewer
from psc_volumetric.errors import LimitExceededError, ParameterError
from psc_volumetric.views import ViewRequest

ONE_BRICK = (slice(0, 8), slice(0, 32), slice(0, 32))


def refused(folder: Path, quota: Quota, *region: object, **how: object) -> bool:
    with ArchiveReader.open(folder, quota=quota) as reader:
        try:
            reader.read("volume", *region, **how)  # type: ignore[arg-type]
        except LimitExceededError as error:
            assert error.kind == "quota" and "the quota is" in str(error)
            return True
    return False


def test_bytes_are_those_of_the_region_and_of_its_bricks(folder: Path, values: np.ndarray) -> None:
    for limit, most in ((values.nbytes, False), (values.nbytes - 1, True)):
        assert refused(folder, Quota(decoded_bytes=limit)) is most
    assert not refused(folder, Quota(decoded_bytes=8 * 32 * 32 * 2), ONE_BRICK)
    with ArchiveReader.open(folder) as reader:
        sizes = [e.size for key, e in reader.manifest.under("volume/c/").items()]
        first = reader.brick_index("volume", (0, 0, 0)).level_nbytes(0)
    assert not refused(folder, Quota(stored_bytes=sum(sizes)))
    assert refused(folder, Quota(stored_bytes=sum(sizes) - 1))
    assert not refused(folder, Quota(stored_bytes=first), ONE_BRICK)


def test_time_is_looked_at_between_bricks(folder: Path) -> None:
    assert refused(folder, Quota(seconds=1e-9))
    assert not refused(folder, Quota(seconds=600))


def test_a_refused_read_decodes_nothing(folder: Path) -> None:
    (folder / "volume/c/0/0/0").write_bytes(b"damaged")
    assert refused(folder, Quota(decoded_bytes=10))


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_quotas_are_above_nothing(value: float) -> None:
    with pytest.raises(ParameterError) as caught:
        Quota(seconds=value)
    assert caught.value.kind == "bad-quota"


def test_datasets_have_a_quota_too(folder: Path) -> None:
    with xr.open_dataset(folder, engine="psc", quota=Quota(decoded_bytes=8 * 32 * 32 * 2)) as ds:
        assert ds.volume[ONE_BRICK].load().shape == (8, 32, 32)
        again = pickle.loads(pickle.dumps(ds))
        for dataset in (ds, again):
            with pytest.raises(LimitExceededError) as caught:
                dataset.volume.load()
            assert caught.value.kind == "quota"


def test_views_have_a_quota_too(folder: Path, values: np.ndarray) -> None:
    for limit in (Quota(stored_bytes=100), Quota(decoded_bytes=100), Quota(seconds=1e-9)):
        with ArchiveReader.open(folder, quota=limit) as reader:
            with pytest.raises(LimitExceededError) as caught:
                Viewer(reader, ViewRequest("sample", 1)).read("volume")
            assert caught.value.kind == "quota"
    with ArchiveReader.open(folder, quota=Quota(decoded_bytes=values.nbytes)) as reader:
        Viewer(reader, ViewRequest("sample", 1)).read("volume")
