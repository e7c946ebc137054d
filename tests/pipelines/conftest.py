"""Real source files small enough for a test, and archives made from them once per session."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import netCDF4
import nibabel
import numpy as np
import pydicom
import pytest
from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.viewing.server import ViewServer

if TYPE_CHECKING:
    from view_page import Page

sys.path.insert(0, str(Path(__file__).parent))  # makes ``netcdf_makers`` importable

PRIOR = "test-tiny"
CODED = ("--mode", "lossy", "--base", "psc", "--prior", PRIOR, "--effort", "1")

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
# least contrast of any text on a page, and that text
CONTRAST = """
const light = c => { const [r, g, b] = c.map(v => { v /= 255;
  return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4 });
  return .2126*r + .7152*g + .0722*b };
const parts = s => s.match(/[\\d.]+/g).map(Number);
const back = e => { for (; e; e = e.parentElement) {
  const c = parts(getComputedStyle(e).backgroundColor);
  if (c.length < 4 || c[3] > 0) return c.slice(0, 3) } return [255, 255, 255] };
const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
let least = 99, where = '';
while (walk.nextNode()) { const text = walk.currentNode.textContent.trim(); if (!text) continue;
  const e = walk.currentNode.parentElement; const style = getComputedStyle(e);
  if (e.closest('title')) continue;
  const a = light(parts(e.closest('svg') ? style.fill : style.color).slice(0, 3));
  const b = light(back(e));
  const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
  if (ratio < least) { least = ratio; where = text } }
return [least, where];
"""

PYDICOM_FILES = Path(pydicom.__file__).parent / "data" / "test_files"
NIBABEL_FILES = Path(nibabel.__file__).parent / "tests" / "data"
REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Outcome:
    """Exit code and texts of one command."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The JSON document on stdout."""
        return json.loads(self.out)


Run = Callable[..., Outcome]


def run_in_process(*words: object) -> Outcome:
    """Run a command in this process."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    return Outcome(result.exit_code, result.stdout, result.stderr)


def run_as_program(*words: object, timeout_s: float = 120) -> Outcome:
    """Run a command as a user does, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.cli", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        cwd=REPOSITORY,
        check=False,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="session")
def coded() -> tuple[str, ...]:
    """Options that code with the smallest prior at the least effort."""
    return CODED


@pytest.fixture
def run() -> Run:
    return run_in_process


@pytest.fixture
def run_program() -> Run:
    return run_as_program


def write_packed_netcdf(path: Path) -> None:
    """A field of packed integers on a latitude-longitude grid, with missing values."""
    lat, lon = np.linspace(80, -80, 33), np.arange(0, 360, 7.5)
    with netCDF4.Dataset(path, "w") as nc:
        for name, size in (("time", None), ("lat", lat.size), ("lon", lon.size)):
            nc.createDimension(name, size)
        for name, values in (("time", np.arange(10.0)), ("lat", lat), ("lon", lon)):
            variable = nc.createVariable(name, "f8", (name,))
            variable[:] = values
        nc["time"].units = "days since 2000-01-01"
        nc["lat"].units, nc["lon"].units = "degrees_north", "degrees_east"
        packed = nc.createVariable("t2m", "i2", ("time", "lat", "lon"), fill_value=-32767)
        packed.set_auto_maskandscale(False)
        packed.scale_factor, packed.add_offset, packed.units = 0.01, 273.15, "K"
        wave = 3000 * np.cos(np.deg2rad(lat))[:, None] * np.sin(np.deg2rad(2 * lon))
        field = wave + 100 * np.arange(10)[:, None, None]
        stored = np.rint(field).astype(np.int16)
        stored[:, :4, :6] = -32767
        packed[:] = stored


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One DICOM series (folder), one NIfTI and one NetCDF file."""
    folder = tmp_path_factory.mktemp("sources")
    series = folder / "series"
    shutil.copytree(PYDICOM_FILES / "dicomdirtests" / "98892001" / "CT5N", series)
    image = folder / "oblique.nii"
    original = nibabel.load(NIBABEL_FILES / "functional.nii")
    stored = np.asanyarray(original.dataobj.get_unscaled())[..., 0]
    stored = np.kron(stored, np.ones((3, 3, 4), np.int16))
    turn = np.array([[0.9, -0.3, 0, -20], [0.3, 0.9, 0, 5], [0, 0, 3, 7], [0, 0, 0, 1.0]])
    written = nibabel.Nifti1Image(stored, turn)
    written.header.set_slope_inter(1, 0)
    written.header.set_xyzt_units("mm")
    nibabel.save(written, image)
    raw = bytearray(image.read_bytes())  # slope and offset as a scanner writes them
    raw[112:120] = np.array([0.5, -10.0], "<f4").tobytes()
    image.write_bytes(bytes(raw))
    field = folder / "field.nc"
    write_packed_netcdf(field)
    return {"dicom": series, "nifti": image, "netcdf": field}


@pytest.fixture(scope="session")
def archives(sources: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A sealed lossy archive of each source; never written to by a test."""
    folder = tmp_path_factory.mktemp("archives")
    made = {}
    for kind, source in sources.items():
        target = folder / f"{kind}.psc.zarr"
        outcome = run_in_process("archive", source, target, *CODED, "--step", "0.3", "--json")
        assert outcome.code == 0, outcome.err
        assert outcome.document["archives"][0]["variables"][0]["method"] == "psc"
        made[kind] = target
    return made


@pytest.fixture(scope="session")
def label_map(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A NIfTI file of few values, which no prior may touch."""
    folder = tmp_path_factory.mktemp("labels")
    original = nibabel.load(NIBABEL_FILES / "anatomical.nii")
    values = np.asanyarray(original.dataobj)
    labels = np.digitize(values, np.percentile(values, [20, 50, 80])).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(labels, original.affine), folder / "labels.nii")
    return folder / "labels.nii"


@pytest.fixture(scope="session")
def sealed_labels(label_map: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("sealed") / "labels.psc.zarr"
    outcome = run_in_process("archive", label_map, target, "--mode", "lossy")
    assert outcome.code == 0, outcome.err
    return target


@pytest.fixture
def label_archive(sealed_labels: Path, tmp_path: Path) -> Path:
    """A sealed archive that a test may damage."""
    target = tmp_path / "labels.psc.zarr"
    shutil.copytree(sealed_labels, target)
    return target


def start_browser(*words: str) -> Any:
    """A headless Chromium of this machine; the test is skipped where there is none."""
    if not (CHROMIUM and DRIVER):
        pytest.skip("no chromium and chromedriver on this machine")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for word in ("headless=new", "no-sandbox", "disable-background-networking", *words):
        options.add_argument(f"--{word}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.set_page_load_timeout(60)
    driver.set_script_timeout(60)
    return driver


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A browser without WebGL, for pages that are tested for their text and pixels."""
    driver = start_browser("disable-gpu", "disable-3d-apis")
    yield driver
    driver.quit()


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket of a server on this machine that speaks S3."""
    boto3 = pytest.importorskip("boto3")
    s3fs = pytest.importorskip("s3fs")
    running = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", port=0)
    running.start()
    host, port = running.get_host_and_port()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    s3fs.S3FileSystem.clear_instance_cache()  # of another server
    boto3.client("s3").create_bucket(Bucket="events")
    yield "s3://events"
    s3fs.S3FileSystem.clear_instance_cache()
    running.stop()


@pytest.fixture
def page(browser: Any) -> Iterator[Callable[[str], Page]]:
    """Opens the page of `psc-archive view` for a target, in a browser."""
    from view_page import Page

    servers = []

    def open_page(target: str) -> Page:
        browser.set_window_size(1200, 900)
        servers.append(ViewServer(target).__enter__())
        return Page(browser, servers[-1].url)

    yield open_page
    browser.get("about:blank")
    for server in servers:
        server.close()
