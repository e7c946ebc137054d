"""Targets of rate and PSNR are met from coarse steps to the exact grid, for every type."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from pipelines.archiving.step_search import FIRST_STEP, search
from psc_volumetric.codec import (
    BrickOptions,
    CodecParameters,
    EncodedBrick,
    Guarantee,
    IntensityMapping,
    decode_brick,
    encode_brick,
)
from psc_volumetric.layers.guarantee import LOSSY
from psc_volumetric.methods.wavelet.method import MOST_STEPS

SHAPE = (4, 60, 80)
LARGEST_GAP = 0.05
FINEST_OF_WAVELET = 2 / MOST_STEPS


def field(dtype: str, noise: float) -> NDArray:
    z, y, x = np.indices(SHAPE)
    values = np.sin(x / 9 + z / 5) + np.cos(y / 7 - x / 30) + 0.3 * np.sin(y / 2.3)
    values = values + noise * np.random.default_rng(1).normal(size=SHAPE)
    unit = (values - values.min()) / np.ptp(values)
    if dtype[0] == "f":
        return (230 + 90 * unit).astype(dtype)
    info = np.iinfo(dtype)
    return np.round(info.min + unit * (float(info.max) - info.min)).astype(dtype)


class Coded:
    """Bytes and squared error of a field at a step."""

    def __init__(self, values: NDArray) -> None:
        self.values = values
        self.low, self.high = float(values.min()), float(values.max())

    def brick(self, step, *, base="wavelet", guarantee=LOSSY) -> EncodedBrick:
        return encode_brick(
            self.values,
            position=(0, 0, 0),
            shape=(8, 64, 128),
            prior=None,
            mapping=IntensityMapping(self.low, self.high),
            parameters=CodecParameters(step=step),
            guarantee=guarantee,
            options=BrickOptions(base=base),
        )

    def bpv(self, step: float) -> float:
        return 8 * len(self.brick(step).data) / self.values.size

    def mse(self, step: float) -> float:
        last = self.brick(step).last
        assert last is not None
        return float(np.mean((last.astype("f8") - self.values.astype("f8")) ** 2))

    def lossless_bpv(self) -> float:
        exact = Guarantee("lossless", coders=("context",))
        return 8 * len(self.brick(1.0, base="none", guarantee=exact).data) / self.values.size


CASES = [(dtype, noise) for dtype in ("i2", "u1", "f4", "f8", "i4") for noise in (0.0, 0.05)]
QUICK = {("i2", 0.05), ("u1", 0.0), ("f8", 0.0), ("f4", 0.05)}


@pytest.mark.parametrize(
    ("dtype", "noise"),
    [case if case in QUICK else pytest.param(*case, marks=pytest.mark.slow) for case in CASES],
)
def test_every_rate_up_to_lossless_is_met(dtype: str, noise: float) -> None:
    coded = Coded(field(dtype, noise))
    # then a grid takes over from the wavelet, and a field without noise has a gap of rates there
    top = min(coded.lossless_bpv(), coded.bpv(FINEST_OF_WAVELET), 9)
    for share in (0.08, 0.3, 0.6, 0.9):
        wanted = max(share * top, 0.1)
        best, _ = search(coded.bpv, wanted, kind="bpv", start=FIRST_STEP)
        assert best.quantity == pytest.approx(wanted, rel=LARGEST_GAP), (dtype, noise, wanted)


@pytest.mark.parametrize(
    "dtype", [*(pytest.param(dtype, marks=pytest.mark.slow) for dtype in ("i2", "f4", "i4")), "f8"]
)
def test_every_psnr_is_met(dtype: str) -> None:
    coded = Coded(field(dtype, 0.05))
    peak = coded.high - coded.low
    for decibels in (30, 70, 100, 115 if dtype == "i2" else 140):
        wanted = peak**2 / 10 ** (decibels / 10)
        best, _ = search(coded.mse, wanted, kind="psnr", start=FIRST_STEP)
        if best.quantity:  # else the exact grid
            assert 10 * math.log10(best.quantity / wanted) == pytest.approx(0, abs=0.5)
        else:
            assert dtype[0] == "i"


@pytest.mark.parametrize("dtype", ["f8", "i4"])
def test_steps_finer_than_any_method_become_a_grid(dtype: str) -> None:
    coded = Coded(field(dtype, 0.05))
    brick = coded.brick(5e-8)
    assert brick.method.startswith("none+bounded:")
    decoded = decode_brick(
        lambda at, n: brick.data[at : at + n], selection=(slice(None),) * 3
    ).values
    step = 5e-8 * (coded.high - coded.low) / 2
    assert np.abs(decoded.astype("f8") - coded.values).max() <= step / 2 * 1.0001
