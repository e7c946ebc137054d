"""Variables whose values are read out of kept originals: what is read, and what is refused."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import xarray as xr

from psc_volumetric.archive.kept import KeptArray, KeptVariable
from psc_volumetric.archive.layout import VariableSpec
from psc_volumetric.archive.reader import ArchiveReader
from psc_volumetric.archive.skeleton import Beside
from psc_volumetric.archive.writer import ArchiveWriter
from psc_volumetric.errors import PscError

PAGES = np.random.default_rng(3).integers(0, 255, (3, 20, 24, 3)).astype("u1")
BLOBS = {f"original/{n}": imagecodecs.png_encode(page) for n, page in enumerate(PAGES)}
PLACES = tuple((name, 0) for name in BLOBS)


def written(
    path: Path, blobs: dict[str, bytes], shape: tuple[int, ...], **changed: Any
) -> ArchiveReader:
    tile = (1, *shape[-2:])
    spec = VariableSpec(
        "image", shape, np.dtype("u1"), ("sample", "file", "y", "x"), tile, tile, unit="lux"
    )
    kept = KeptVariable(spec, **{"decoder": "png", "samples": "last", "places": PLACES, **changed})
    writer = ArchiveWriter.create(path, mode="lossless", variables=(), beside=Beside(kept=[kept]))
    writer.write_source("images", {}, blobs, ())
    writer.seal()
    return ArchiveReader.open(path)


def test_pages_are_one_variable(tmp_path: Path) -> None:
    written(tmp_path / "a.psc.zarr", BLOBS, (3, 3, 20, 24)).close()
    wanted = PAGES.transpose(3, 0, 1, 2)
    with xr.open_dataset(tmp_path / "a.psc.zarr", engine="psc") as view:
        assert view["image"].attrs["units"] == "lux"
        np.testing.assert_array_equal(view["image"], wanted)
        np.testing.assert_array_equal(view["image"][1, 2, 3:7], wanted[1, 2, 3:7])
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(view))["image"], wanted)
    with xr.open_dataset(tmp_path / "a.psc.zarr", engine="psc", chunks={}) as view:
        assert view["image"].chunks[1] == (1, 1, 1)
        np.testing.assert_array_equal(view["image"][:, 1:], wanted[:, 1:])


@pytest.mark.parametrize(
    ("shape", "changed", "kind"),
    [
        ((3, 3, 20, 24), {"decoder": "pickle"}, "unknown-configuration"),
        ((3, 3, 20, 25), {}, "bad-payload"),
        ((3, 3, 1 << 20, 1 << 20), {}, "limit"),
        ((3, 3, 20, 24), {"samples": None}, "bad-metadata"),
        ((3, 3, 20, 24), {"places": PLACES[:2]}, "bad-metadata"),
        ((3, 3, 20, 24), {"places": (("original/9", 0),) * 3}, "bad-metadata"),
    ],
)
def test_what_makes_no_sense_is_refused(
    shape: tuple[int, ...], changed: dict[str, Any], kind: str, tmp_path: Path
) -> None:
    place = tmp_path / "a.psc.zarr"
    with pytest.raises(PscError) as caught, written(place, BLOBS, shape, **changed) as reader:
        array = reader.kept_array("image")
        array[tuple(slice(0, 1) for _ in shape)]
    assert caught.value.kind == kind


@pytest.mark.parametrize("data", [b"", b"\x89PNG\r\n\x1a\n", bytes(BLOBS["original/0"][:300])])
def test_a_file_that_cannot_be_decoded_is_damage(data: bytes, tmp_path: Path) -> None:
    with written(tmp_path / "a.psc.zarr", BLOBS | {"original/0": data}, (3, 3, 20, 24)) as reader:
        array = reader.kept_array("image")
        with pytest.raises(PscError) as caught:
            array[tuple(slice(0, n) for n in array.shape)]
    assert caught.value.kind == "bad-payload"


def test_pages_that_are_passed_over_are_not_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path / "a.psc.zarr", BLOBS, (3, 3, 20, 24)).close()
    asked: list[tuple[str, int]] = []
    real = KeptArray._decoded

    def counting(self: KeptArray, place: tuple[str, int], shape: tuple[int, ...]) -> Any:
        asked.append(place)
        return real(self, place, shape)

    monkeypatch.setattr(KeptArray, "_decoded", counting)
    with xr.open_dataset(tmp_path / "a.psc.zarr", engine="psc") as dataset:
        part = dataset.image.isel(file=[2, 0], sample=[0, 2], y=slice(None, None, -1)).values
    np.testing.assert_array_equal(part, PAGES[[2, 0], ::-1][..., [0, 2]].transpose(3, 0, 1, 2))
    assert sorted(asked) == [PLACES[0], PLACES[2]]
