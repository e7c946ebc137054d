"""Peers reach the rates they are asked for, and the benchmark counts every byte of ours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from pipelines.peers import PEERS, SIDE_BYTES, missing_peers, peer_points
from psc_volumetric.archive import ArchiveReader
from psc_volumetric.errors import ParameterError
from psc_volumetric.metrics import data_range

Run = Callable[..., Any]

NIBABEL_FILES = Path(nibabel.__file__).parent / "tests" / "data"


@pytest.fixture(scope="module")
def stack() -> np.ndarray:
    """Twelve slices of a real T1 image, (z, y, x)."""
    image = nibabel.load(NIBABEL_FILES / "example4d.nii.gz")
    return np.ascontiguousarray(np.asanyarray(image.dataobj.get_unscaled())[..., 4:16, 0].T)


@pytest.mark.parametrize("name", PEERS)
def test_peer_comes_close_to_the_rate_and_improves_with_it(name, stack):
    if missing_peers((name,)):
        pytest.skip(missing_peers((name,))[name])
    peak = data_range(stack)
    low, high = peer_points(PEERS[name], stack, (0.4, 1.5), peak=peak)
    for point, target in ((low, 0.4), (high, 1.5)):
        assert point.rate_bpv == pytest.approx(8 * point.nbytes / stack.size)
        assert point.rate_bpv == pytest.approx(target, rel=0.15)
        assert point.nbytes > SIDE_BYTES
    assert high.psnr_db > low.psnr_db + 3


@pytest.mark.parametrize("dtype", [np.float32, np.int16, np.uint8])
def test_peers_take_any_range_of_values(dtype, stack):
    values = (stack[:4, :64, :64] // 8).astype(dtype)
    for name in ("jpeg2000", "jpegxl", "sperr", "sz3"):
        (point,) = peer_points(PEERS[name], values, (2.0,), peak=data_range(values))
        assert point.psnr_db > 25


def test_unknown_peer_is_refused():
    with pytest.raises(ParameterError) as caught:
        missing_peers(("jpeg2000", "zip"))
    assert caught.value.kind == "unknown-peer"


def test_evaluate_prints_all_codecs_and_counts_what_the_archive_stores(
    archives, sources, tmp_path, run
):
    words = ["--prior", "test-tiny", "--effort", "1", "--step", "0.3,0.8", "--bpv", "0.5,1"]
    words += ["--peers", "jpeg2000,sperr,sz3"]
    picture = tmp_path / "curves.png"
    outcome = run("evaluate", sources["nifti"], *words, "--plot", picture, "--json")
    assert outcome.code == 0, outcome.err
    (result,) = outcome.document
    assert {point["codec"] for point in result["points"]} == {
        "psc",
        "jpeg2000",
        "sperr",
        "sz3",
    }
    ours = [p for p in result["points"] if p["parameter"].startswith("step 0.3,")]
    with ArchiveReader.open(archives["nifti"]) as reader:
        levels = reader.info()["variables"]["image"]["levels"]
        stored = reader.read("image").astype(float)
    assert [p["nbytes"] for p in ours] == [row["bytes"] for row in levels]
    source = np.asanyarray(nibabel.load(sources["nifti"]).dataobj.get_unscaled()).T
    error = np.sqrt(np.mean((stored - source) ** 2))
    expected = 20 * np.log10(result["peak"] / error)
    assert ours[-1]["psnr_db"] == pytest.approx(expected, abs=1e-6)
    assert picture.read_bytes()[:4] == b"\x89PNG"
    assert set(result["gains_db"]) == {"jpeg2000", "sperr", "sz3"}


@pytest.mark.parametrize(
    "words", [("--bpv", "0"), ("--bpv", "a"), ("--peers", "zip"), ("--bpv", "")]
)
def test_evaluate_refuses_wrong_numbers(words, sources, run):
    assert run("evaluate", sources["nifti"], "--prior", "test-tiny", *words).code == 2
