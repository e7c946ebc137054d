"""``psc-archive view`` as a server: what it answers, and what it keeps to itself."""

from __future__ import annotations

import hashlib
import json
import socket
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import nibabel
import numpy as np
import pytest
import xarray as xr

from pipelines.archive import ArchiveOptions, archive, plan
from pipelines.reporting.planes import planes_of
from pipelines.viewing.describe import variable_text
from pipelines.viewing.regions import Region, nifti_of, read_shown
from pipelines.viewing.server import PAGES, WORKERS, ViewServer
from pipelines.viewing.shelf import Shown
from psc_volumetric.archive import ArchiveReader
from psc_volumetric.archive.reader import Selection
from psc_volumetric.coders.context import networks
from psc_volumetric.errors import ParameterError, PscError, StorageError
from psc_volumetric.methods.registry import REGISTRY
from tests.pipelines.conftest import REPOSITORY, run_in_process

sys.path.insert(0, str(REPOSITORY / "tests" / "archive"))
from web_server import serving

pytest.importorskip("aiohttp")

Answer = tuple[int, Any, bytes]


def get(url: str, what: str = "", *, method: str = "GET", **query: object) -> Answer:
    """Status, headers and body of an answer."""
    asked = f"{url}{what}" + (f"?{urlencode(query)}" if query else "")
    request = urllib.request.Request(asked, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def volume(folder: Path, name: str, seed: int = 0) -> Path:
    values = np.random.default_rng(seed).integers(0, 900, (80, 72, 24), np.int16)
    values[20:60, 20:50] += 900
    source = folder / f"{name}.nii"
    nibabel.save(nibabel.Nifti1Image(values, np.diag([1.0, 1.0, 2.0, 1.0])), source)
    return source


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two archives, beside a third that is not in it."""
    base = tmp_path_factory.mktemp("shelf")
    options = ArchiveOptions(coders="fast", max_error=6, preview_size=30_000)
    for name in ("in/first", "in/deep/second", "secret"):
        target = base / f"{name}.psc.zarr"
        target.parent.mkdir(parents=True, exist_ok=True)
        archive(plan(volume(base, target.name.split(".")[0]), str(target), options))
    (base / "in" / "link.psc.zarr").symlink_to(base / "secret.psc.zarr")
    (base / "in" / "circle.psc.zarr").symlink_to("circle.psc.zarr")
    return base / "in"


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    with ViewServer(str(folder)) as server:
        yield server.url


def test_nothing_is_answered_without_the_token(url: str) -> None:
    base = "{0.scheme}://{0.netloc}".format(urlsplit(url))
    assert urlsplit(url).hostname == "127.0.0.1"
    assert get(url)[0] == 200
    for path in ("/", "/index.html", "/x/", "/x/api/list", f"{urlsplit(url).path[:-2]}/api/list"):
        assert get(base, path)[0] == 404
    for method in ("POST", "PUT", "DELETE"):
        assert get(url, "api/list", method=method)[0] == 405


@pytest.mark.parametrize("target", ["OPTIONS *", "CONNECT a:1", "GET http://127.0.0.1"])
def test_requests_without_a_path_are_none_of_its_own(url: str, target: str) -> None:
    place = urlsplit(url)
    with socket.create_connection((place.hostname, place.port), 30) as connection:
        connection.sendall(f"{target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert b" 404 " in connection.recv(100)


def test_requests_that_are_none_leave_no_trace(url: str, caplog: pytest.LogCaptureFixture) -> None:
    place = urlsplit(url)
    long = f"GET {place.path}{'a' * 9000} HTTP/1.1\r\nHost: x\r\n\r\n"
    for request in (long, "GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", "\x16\x03\x01\x02"):
        with socket.create_connection((place.hostname, place.port), 30) as connection:
            connection.sendall(request.encode("latin-1"))
            connection.shutdown(socket.SHUT_WR)
            connection.recv(20)
    assert get(url)[0] == 200
    assert not [record for record in caplog.records if record.name.startswith(("aiohttp", "pipe"))]


def test_answers_forbid_what_the_page_does_not_need(url: str) -> None:
    for path in ("", "main.js", "api/list", "missing"):
        headers = get(url, path)[1]
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"


@pytest.mark.parametrize(
    "path",
    ["../server.py", "..%2fserver.py", "%2e%2e/__init__.py", "/etc/passwd", "niivue.js.map", "api"],
)
def test_only_the_pages_are_files(url: str, path: str) -> None:
    assert get(url, path)[0] == 404
    assert all(get(url, name)[0] == 200 for name in PAGES)


@pytest.mark.parametrize(
    "name",
    [
        "../secret.psc.zarr", "link.psc.zarr", "circle.psc.zarr", "deep/../first.psc.zarr",
        "/etc", "", "deep",
        "file:///etc", "http://127.0.0.1:1/x.psc.zarr", "s3://bucket/x.psc.zarr",
    ],
)  # fmt: skip
def test_only_archives_of_the_list_are_opened(url: str, name: str) -> None:
    status, _, body = get(url, "api/archive", at=name)
    assert status == 422
    assert json.loads(body)["error"]["kind"] == "not-on-the-shelf"
    assert get(url, "api/archive", at="deep/second.psc.zarr")[0] == 200


def test_rows_are_those_of_the_catalogue(url: str) -> None:
    rows = json.loads(get(url, "api/list", where="mode=lossless", sort="bytes")[2])["rows"]
    assert {row["name"] for row in rows} >= {"first.psc.zarr", "deep/second.psc.zarr"}
    assert json.loads(get(url, "api/list", where="mode=lossy")[2])["rows"] == []
    assert json.loads(get(url, "api/list", where="colour=red")[2])["error"]["kind"] == (
        "bad-condition"
    )


def test_regions_are_decoded_values(url: str, folder: Path) -> None:
    with ArchiveReader.open(folder / "first.psc.zarr") as reader:
        for level in (0, 1):
            at = {"at": "first.psc.zarr", "variable": "image", "level": level}
            status, headers, body = get(url, "api/region", box="3:5,0:72,8:40", **at)
            assert status == 200
            box = (slice(3, 5), slice(0, 72), slice(8, 40))
            wanted = reader.read_region("image", box, level=level, spread=True)
            assert headers["X-Dtype"] == "int16"
            assert headers["X-Shape"] == "2,72,32"
            assert body.startswith(wanted.values.astype("<i2").tobytes())
            rest = body[wanted.values.nbytes :]
            if headers["X-Also"]:
                assert headers["X-Also"] == "sigma"
                np.testing.assert_array_equal(np.frombuffer(rest, "<f4"), np.ravel(wanted.spread))
            else:
                assert (level, rest) == (1, b"")  # the lossless one has no sigma


@pytest.mark.parametrize(
    ("query", "kind"),
    [
        ({"box": "0:1,0:72"}, "bad-roi"),
        ({"box": "0:1,0:72,0:81"}, "bad-roi"),
        ({"box": "5:5,0:72,0:80"}, "bad-roi"),
        ({"box": "a:b,0:72,0:80"}, "bad-roi"),
        ({"box": "-1:1,0:72,0:80"}, "bad-roi"),
        ({"box": "0:1,0:72,0:80", "level": "x"}, "bad-level"),
        ({"box": "0:1,0:72,0:80", "variable": "other"}, "unknown-variable"),
    ],
)
def test_questions_that_make_no_sense_are_told(url: str, query: dict[str, str], kind: str) -> None:
    asked = {"at": "first.psc.zarr", "variable": "image", "level": "1", **query}
    status, _, body = get(url, "api/region", **asked)
    assert (status, json.loads(body)["error"]["kind"]) == (422, kind)


def test_more_than_is_sent_at_once_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.viewing.regions.MOST_VOXELS", 1000)
    asked = {"at": "first.psc.zarr", "variable": "image", "level": 1, "box": "0:1,0:72,0:80"}
    assert json.loads(get(url, "api/region", **asked)[2])["error"]["kind"] == "roi-too-large"


def test_a_preview_larger_than_any_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    at = {"at": "first.psc.zarr", "variable": "image"}
    (path, *_) = [one["path"] for one in json.loads(get(url, "api/variable", **at)[2])["previews"]]
    assert get(url, "api/preview", path=path, **at)[0] == 200
    monkeypatch.setattr("pipelines.viewing.previews.MOST_BYTES", 100)
    status, _, body = get(url, "api/preview", path=path, **at)
    assert (status, json.loads(body)["error"]["kind"]) == (422, "limit")


def test_what_nifti_cannot_hold_is_told(folder: Path) -> None:
    with ArchiveReader.open(folder / "first.psc.zarr") as reader:
        spec = reader.spec("image")
        for values, slope in (((2, 2, 40_000), 1.0), ((2, 2, 2), 0.0)):
            with pytest.raises(ParameterError) as caught:
                nifti_of(replace(spec, slope=slope), np.zeros(values, np.uint8), (1.0, 1.0, 1.0))
            assert caught.value.kind == "not-in-space"


def test_an_affine_without_numbers_is_a_map(folder: Path) -> None:
    with ArchiveReader.open(folder / "first.psc.zarr") as reader:
        spec = reader.spec("image")
        assert len(planes_of(reader, spec)) == 3
        (plane,) = planes_of(reader, replace(spec, affine=np.full((4, 4), np.nan)))
        assert plane.axes == (1, 2)


def test_the_first_row_of_a_fits_image_is_the_lowest(tmp_path: Path) -> None:
    fits = pytest.importorskip("astropy.io.fits")
    values = np.arange(20 * 24, dtype=">f4").reshape(20, 24)
    fits.PrimaryHDU(values).writeto(tmp_path / "sky.fits")
    target = str(tmp_path / "sky.psc.zarr")
    archive(plan(tmp_path / "sky.fits", target, ArchiveOptions(coders="fast")))
    with ArchiveReader.open(target) as reader:
        (spec,) = reader.variables.values()
        (plane,) = planes_of(reader, spec)
        np.testing.assert_array_equal(plane.picture(values[plane.selection]), values[::-1])
        about = variable_text(Shown("sky", reader), spec.name)
    assert about["planes"][0]["flips"] == [True, False]
    assert about["title"] == "PRIMARY · float32, y 20 × x 24"


def test_flags_whose_values_are_texts_have_no_names(tmp_path: Path) -> None:
    """As in NetCDF files whose attributes were typed by hand."""
    attrs = {"flag_values": "0b,1b", "flag_meanings": "land"}
    values = np.tile(np.array([[0, 1], [1, 0]], np.int8), (8, 8))
    source = tmp_path / "mask.nc"
    xr.Dataset({"mask": (("y", "x"), values, attrs)}).to_netcdf(source)
    target = str(tmp_path / "mask.psc.zarr")
    archive(plan(source, target, ArchiveOptions(coders="fast")))
    with ViewServer(target) as server:
        status, _, body = get(server.url, "api/variable", at="", variable="mask")
        about = json.loads(body)
        assert (status, about["labels"], about["meanings"]) == (200, True, {})


def test_volumes_for_niivue_are_nifti_in_place(url: str, folder: Path, tmp_path: Path) -> None:
    at = {"at": "first.psc.zarr", "variable": "image", "lead": ""}
    for level in ({"level": 1}, {}):
        file = tmp_path / "volume.nii"
        file.write_bytes(get(url, "api/volume", **at, **level)[2])
        image = nibabel.load(file)
        whole = nibabel.load(folder.parent / "first.nii")
        ends = [nibabel.affines.apply_affine(i.affine, (np.array(i.shape) - 1) / 2)
                for i in (image, whole)]  # fmt: skip
        np.testing.assert_allclose(ends[0], ends[1], atol=4.0 if not level else 0)
        if level:
            np.testing.assert_array_equal(np.asarray(image.dataobj), np.asarray(whole.dataobj))
            np.testing.assert_allclose(image.affine, whole.affine)
        else:
            assert max(image.shape) < max(whole.shape)
            bright = image.get_fdata()[tuple(np.array(image.shape) // 2)]
            assert bright > image.get_fdata()[0, 0, 0] + 500


def test_the_first_picture_takes_preview_and_index_alone(folder: Path) -> None:
    """What is read for it over the web: manifest, metadata, coordinates and the preview."""
    name = "first.psc.zarr"
    with serving(folder) as web, ViewServer(f"{web.url}/{name}") as server:
        get(server.url, "api/archive", at="")
        about = json.loads(get(server.url, "api/variable", at="", variable="image")[2])
        for preview in about["previews"]:
            asked = {"at": "", "variable": "image", "path": preview["path"]}
            status, headers, body = get(server.url, "api/preview", **asked)
            assert status == 200
            assert len(body) == np.prod(preview["shape"])
        read, sent = int(headers["X-Bytes-Read"]), web.sent
    with ArchiveReader.open(folder / name) as reader:
        sizes = reader.info()["bytes"]
        assert about["previews"]
        assert read <= sizes["preview"] + sizes["other"]
        assert sent == read
        assert read < sizes["bricks"] / 2


def test_an_archive_without_the_method_says_so(tmp_path: Path) -> None:
    """The code of its method is none that this program knows."""
    target = str(tmp_path / "a.psc.zarr")
    options = ArchiveOptions(mode="lossy", base="wavelet", speed=2, psnr=30)
    archive(plan(volume(tmp_path, "a"), target, options))
    with ViewServer(target) as server, pytest.MonkeyPatch.context() as patch:
        known = {name: e for name, e in REGISTRY.entries.items() if name != "wavelet"}
        patch.setitem(REGISTRY.__dict__, "entries", known)
        asked = {"at": "", "variable": "image", "level": 0, "box": "0:1,0:72,0:80"}
        status, _, body = get(server.url, "api/region", **asked)
        error = json.loads(body)["error"]
        assert (status, error["kind"]) == (422, "unknown-method")


def test_an_installation_that_is_not_whole_says_so(tmp_path: Path) -> None:
    target = str(tmp_path / "a.psc.zarr")
    archive(plan(volume(tmp_path, "a"), target, ArchiveOptions(coders="neural")))
    with ViewServer(target) as server, pytest.MonkeyPatch.context() as patch:
        networks._stored.cache_clear()
        networks._weights.cache_clear()
        patch.setattr(networks, "PATH", tmp_path / "none")
        asked = {"at": "", "variable": "image", "level": 0, "box": "0:1,0:72,0:80"}
        status, _, body = get(server.url, "api/region", **asked)
    error = json.loads(body)["error"]
    assert (status, error["kind"]) == (422, "installation")
    assert str(tmp_path / "none") in error["message"]


def test_nothing_and_no_archive_are_refused(tmp_path: Path) -> None:
    for target, kind in ((tmp_path / "none", "not-found"), (tmp_path / "x.psc.zarr", "not-found")):
        with pytest.raises(PscError) as caught:
            ViewServer(str(target))
        assert caught.value.kind == kind
    done = run_in_process("view", tmp_path / "none", "--no-browser")
    assert done.code == 6


def test_a_taken_port_is_told(folder: Path, url: str) -> None:
    port = urlsplit(url).port
    assert port
    with pytest.raises(StorageError) as caught, ViewServer(str(folder), port=port):
        pass
    assert caught.value.kind == "cannot-listen"


def test_a_name_that_no_host_has_is_told(folder: Path) -> None:
    with pytest.raises(StorageError) as caught, ViewServer(str(folder), host="a..b"):
        pass
    assert caught.value.kind == "cannot-listen"


def test_what_nobody_waits_for_is_not_decoded(
    url: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slider that is dragged asks for many slices and drops all but the last."""
    begun: list[str] = []
    go_on, at_work = threading.Event(), threading.Semaphore(0)

    def slow(shown: Shown, name: str, box: Selection, level: int) -> Region:
        begun.append(name)
        at_work.release()
        assert go_on.wait(30)
        return read_shown(shown, name, box, level)

    monkeypatch.setattr("pipelines.viewing.server.read_shown", slow)
    asked = {"at": "first.psc.zarr", "variable": "image", "level": 0, "box": "3:4,0:72,0:80"}
    place = urlsplit(url)
    line = f"GET {place.path}api/region?{urlencode(asked)} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    dropped = [socket.create_connection((place.hostname, place.port), 30) for _ in range(24)]
    for connection in dropped:
        connection.sendall(line)
    assert all(at_work.acquire(timeout=30) for _ in range(WORKERS))
    for _ in range(3):
        assert get(url)[0] == 200  # all were taken
    for connection in dropped:
        connection.close()
    for _ in range(3):
        assert get(url)[0] == 200  # the server has seen that they are gone
    go_on.set()
    assert get(url, "api/region", **asked)[0] == 200
    assert len(begun) == WORKERS + 1


def test_niivue_is_what_its_recipe_makes() -> None:
    """The digest beside the recipe is written by the build alone."""
    built = REPOSITORY / "pipelines" / "viewing" / "static"
    stated = (REPOSITORY / "tools" / "niivue" / "niivue.js.sha256").read_text().split()[0]
    assert hashlib.sha256((built / "niivue.js").read_bytes()).hexdigest() == stated
    licences = (built / "niivue.LICENSE.txt").read_text()
    recipe = json.loads((REPOSITORY / "tools" / "niivue" / "package.json").read_text())
    version = recipe["dependencies"]["@niivue/niivue"]
    assert f"@niivue/niivue {version} (BSD-2-Clause)" in licences
    assert "Redistributions in binary form" in licences
    lock = (REPOSITORY / "tools" / "niivue" / "package-lock.json").read_text()
    assert '"resolved"' not in lock
    assert '"integrity"' in lock


def test_scripts_are_short_and_load_nothing_from_elsewhere() -> None:
    folder = REPOSITORY / "pipelines" / "viewing" / "static"
    for name in PAGES:
        if name.startswith("niivue"):
            continue
        text = (folder / name).read_text()
        assert len(text.splitlines()) <= 400, name
        assert "://" not in text, name
        for sink in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
            assert sink not in text, name
    assert {path.name for path in folder.iterdir()} == set(PAGES)
