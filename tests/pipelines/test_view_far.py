"""``psc-archive view`` of a bucket: listed, opened and read as a folder is, and no more of it."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlencode

import nibabel
import numpy as np
import pytest

from pipelines.archive import ArchiveOptions, archive, plan
from pipelines.keeping.copies import copy
from pipelines.viewing.server import ViewServer
from psc_volumetric.archive import ArchiveReader

pytest.importorskip("aiohttp")


def get(url: str, what: str, **query: object) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(f"{url}{what}?{urlencode(query)}", timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_a_bucket_is_listed_and_its_archives_are_shown(bucket: str, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 900, (40, 36, 12), np.int16)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "scan.nii")
    here = tmp_path / "scan.psc.zarr"
    options = ArchiveOptions(coders="fast", max_error=6, preview_size=30_000)
    archive(plan(tmp_path / "scan.nii", str(here), options))
    for name in ("seen/first", "seen/deep/second"):
        copy(str(here), f"{bucket}/{name}.psc.zarr")
    with ArchiveReader.open(here) as reader:
        wanted = reader.read("image", (slice(3, 5), slice(0, 36), slice(8, 40)), level=1)
        sizes = reader.info()["bytes"]
    region = {"variable": "image", "level": 1, "box": "3:5,0:36,8:40"}
    with ViewServer(f"{bucket}/seen") as server:
        rows = json.loads(get(server.url, "api/list")[1])["rows"]
        assert [row["name"] for row in rows] == ["deep/second.psc.zarr", "first.psc.zarr"]
        found = get(server.url, "api/region", at="deep/second.psc.zarr", **region)
        assert found == (200, wanted.astype("<i2").tobytes())
        for name in ("../seen/first.psc.zarr", f"{bucket}/seen/first.psc.zarr", "deep"):
            status, said = get(server.url, "api/archive", at=name)
            assert (status, json.loads(said)["error"]["kind"]) == (422, "not-on-the-shelf")
    with ViewServer(f"{bucket}/seen/first.psc.zarr") as server:
        about = json.loads(get(server.url, "api/variable", variable="image")[1])
        for preview in about["previews"]:
            get(server.url, "api/preview", variable="image", path=preview["path"])
        read = json.loads(get(server.url, "api/archive")[1])["bytes_read"]
        assert about["previews"] and read <= sizes["preview"] + sizes["other"]
        assert get(server.url, "api/region", **region) == (200, wanted.astype("<i2").tobytes())
