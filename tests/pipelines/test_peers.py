"""Peers reach the rates they are asked for, and keep what they promise."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from pipelines.evaluation.peers.codecs import SIDE_BYTES, Coded, code_av1
from pipelines.evaluation.peers.exact import (
    BOUNDED_PEERS,
    LOSSLESS_PEERS,
    ExactPeer,
    bounded_point,
    lossless_point,
)
from pipelines.evaluation.peers.rates import PEERS, missing_peers, peer_points
from pipelines.evaluation.point import CodedSize, Reference
from psc_volumetric.errors import ParameterError
from psc_volumetric.metrics import data_range

NIBABEL_FILES = Path(nibabel.__file__).parent / "tests" / "data"


@pytest.fixture(scope="module")
def stack() -> np.ndarray:
    """Twelve slices of a real T1 image, (z, y, x)."""
    image = nibabel.load(NIBABEL_FILES / "example4d.nii.gz")
    return np.ascontiguousarray(np.asanyarray(image.dataobj.get_unscaled())[..., 4:16, 0].T)


def reference_of(values: np.ndarray, mask: np.ndarray | None = None) -> Reference:
    return Reference(values, mask, float(values.min()), data_range(values), wants_quality=False)


@pytest.mark.parametrize("name", [name for name in PEERS if name not in ("zfp", "vvc")])
def test_peer_comes_close_to_the_rate_and_improves_with_it(name, stack):
    if missing_peers((name,)):
        pytest.skip(missing_peers((name,))[name])
    part = stack[:4, :96, :96]  # AV1 and x265 take a second per try on all of it
    low, high = peer_points(PEERS[name], reference_of(part), (0.6, 1.5))
    for point, target in ((low, 0.6), (high, 1.5)):
        assert point.rate_bpv == pytest.approx(8 * point.nbytes / part.size)
        assert point.rate_bpv == pytest.approx(target, rel=0.15)
        assert point.target == target
        assert point.nbytes > SIDE_BYTES
        assert point.encode_s > 0
        assert point.decode_s > 0
    assert high.psnr_db > low.psnr_db + 3
    assert high.max_error < low.max_error


def test_vvc_gives_slices_of_any_extent_back(stack):
    """It takes seconds for each setting: the search is that of the others."""
    if missing_peers(("vvc",)):
        pytest.skip(missing_peers(("vvc",))["vvc"])
    part = stack[:3, :71, :90]
    coded = PEERS["vvc"].code(part, 22.0)
    assert coded.decode().shape == part.shape
    assert coded.nbytes < part.size / 2
    point = reference_of(part).point(CodedSize("vvc", "", coded.nbytes, 1.0, 1.0), coded.decode())
    assert point.psnr_db > 30


def test_zfp_improves_with_rate_though_it_cannot_go_low(stack):
    low, high = peer_points(PEERS["zfp"], reference_of(stack), (1.5, 5.0))
    assert low.rate_bpv < high.rate_bpv == pytest.approx(5.0, rel=0.4)
    assert high.psnr_db > low.psnr_db + 3


@pytest.mark.parametrize(
    "dtype", [np.float32, np.int16, pytest.param(np.uint8, marks=pytest.mark.slow)]
)
def test_peers_take_any_range_of_values(dtype, stack):
    values = (stack[:4, :64, :64] // 8).astype(dtype)
    for name in ("jpeg2000", "htj2k", "jpegxl", "sperr", "sz3", "av1"):
        (point,) = peer_points(PEERS[name], reference_of(values), (2.0,))
        assert point.psnr_db > 25, name


def test_a_rate_that_no_setting_reaches_gives_the_nearest(stack):
    (point,) = peer_points(PEERS["jpegxl"], reference_of(stack), (0.001,))
    assert point.rate_bpv > 0.01
    assert point.parameter == "distance 25"


def test_only_measured_voxels_count(stack):
    values = stack[:4, :64, :64].astype(np.float32)
    mask = np.ones(values.shape, bool)
    mask[:, :8] = False
    masked, whole = (
        peer_points(PEERS["sperr"], reference_of(values, m), (1.0,))[0] for m in (mask, None)
    )
    assert masked.nbytes == whole.nbytes
    assert masked.psnr_db != whole.psnr_db


def test_quality_comes_with_the_points_that_were_chosen(stack):
    values = stack[:3, :64, :64]
    reference = Reference(values, None, float(values.min()), data_range(values))
    low, high = peer_points(PEERS["sperr"], reference, (0.5, 2.0))
    assert low.quality.ssim < high.quality.ssim < 1
    assert low.quality.haarpsi < high.quality.haarpsi < 1
    assert low.to_dict()["quality"]["spectrum_error_db"] > 0


def test_av1_counts_its_pictures_and_single_slices_work(stack):
    coded = code_av1(stack[:1, :64, :64], 60.0)
    assert coded.nbytes == SIDE_BYTES + len(coded.streams[0])
    assert coded.decode().shape == (1, 64, 64)


def test_unknown_peer_is_refused():
    with pytest.raises(ParameterError) as caught:
        missing_peers(("jpeg2000", "zip"))
    assert caught.value.kind == "unknown-peer"


@pytest.mark.parametrize("name", LOSSLESS_PEERS)
@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "float32", "float64"])
def test_lossless_peer_brings_every_bit_back(name, dtype, stack):
    values = (stack[:2, :40, :50] - 100).astype(dtype)
    if dtype.startswith("float"):
        values[0, :4, :4] = np.nan
    peer = LOSSLESS_PEERS[name]
    if peer.refuses(values):
        assert dtype.startswith("float")
        return
    point = lossless_point(peer, values)
    assert point.holds
    assert point.max_error == 0
    assert SIDE_BYTES < point.nbytes < 1.3 * values.nbytes


@pytest.mark.parametrize("name", BOUNDED_PEERS)
@pytest.mark.parametrize("bound", [1, 5])
def test_bounded_peer_keeps_integers_within_the_bound(name, bound, stack):
    values = stack[:4, :64, :64]
    point = bounded_point(BOUNDED_PEERS[name], reference_of(values), bound)
    assert point.holds
    assert point.max_error <= bound
    if name != "zfp":  # which delivers far more than it is asked for
        assert point.max_error == bound


@pytest.mark.parametrize("name", ["sperr", "sz3", "zfp"])
def test_bounded_peer_keeps_floats_within_a_share_of_the_range(name, stack):
    values = stack[:4, :64, :64].astype(np.float32)
    bound = 1e-2 * data_range(values)
    point = bounded_point(BOUNDED_PEERS[name], reference_of(values), bound)
    assert point.max_error <= bound * 1.001
    assert point.nbytes < values.nbytes / 4


def test_broken_promises_are_found(stack):
    values = stack[:2, :32, :32]

    def careless(stack: np.ndarray, bound: float) -> Coded:
        return Coded([b"x"], lambda: stack + stack.dtype.type(bound + 1))

    peer = ExactPeer("careless", "Careless", careless)
    bounded = bounded_point(peer, reference_of(values), 2.0)
    assert not bounded.holds
    assert bounded.max_error == 3
    assert not lossless_point(peer, values).holds


def test_image_codecs_say_why_they_cannot_code(stack):
    peer = LOSSLESS_PEERS["jpegls"]
    assert peer.refuses(stack) is None
    assert "integers" in peer.refuses(stack.astype(np.float32))
    assert "16 bits" in peer.refuses(stack.astype(np.int32) * 1000)
    assert LOSSLESS_PEERS["pcodec"].refuses(stack.astype(np.float32)) is None
