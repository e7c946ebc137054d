"""A large brick is coded once: which method, and with which step, is found on a few slices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from psc_volumetric.codec import (
    BrickOptions,
    CodecParameters,
    EncodedBrick,
    IntensityMapping,
    encode_brick,
)
from psc_volumetric.methods import choice, search
from psc_volumetric.methods.search import SteppedSource, few_slices
from psc_volumetric.methods.wavelet.method import WaveletSource


def scan(slices: int = 12) -> NDArray[Any]:
    """Slices that change slowly, with noise."""
    z, y, x = np.meshgrid(np.arange(slices), np.arange(96), np.arange(112), indexing="ij")
    noise = np.random.default_rng(5).normal(0, 6, z.shape)
    values = 400 * np.sin(y / 9 + z / 30) * np.cos(x / 13) + 300 * ((x - 50) ** 2 < 900) + noise
    stored: NDArray[Any] = np.rint(values).astype("<i2")
    return stored


def edges() -> NDArray[Any]:
    """Flat regions, with less noise than their edges are high."""
    z, y, x = np.meshgrid(np.arange(6), np.arange(96), np.arange(112), indexing="ij")
    values = 500.0 * ((x - 50) ** 2 + (y - 40) ** 2 < 900) - 300 * (x * 0.3 + y > 70)
    values += 200 * ((x - y) % 37 < 9) + np.random.default_rng(5).normal(0, 6, z.shape)
    stored: NDArray[Any] = np.rint(values).astype("<i2")
    return stored


def waves() -> NDArray[Any]:
    """A field without edges."""
    z, y, x = np.meshgrid(np.arange(6), np.arange(96), np.arange(112), indexing="ij")
    field: NDArray[Any] = (400 * np.sin(y / 9 + z / 30) * np.cos(x / 13)).astype("<f4")
    return field


def coded(
    values: NDArray[Any], base: str = "auto", step: float = 0.1, **options: Any
) -> EncodedBrick:
    return encode_brick(
        values,
        position=(0, 0, 0),
        shape=(16, 96, 112),
        mapping=IntensityMapping(-800.0, 800.0),
        parameters=CodecParameters(step=step),
        prior=None,
        options=BrickOptions(base=base, **options),
    )


@pytest.mark.parametrize(
    ("made", "step", "method"), [(edges, 0.1, "av1"), (waves, 0.01, "wavelet")]
)
def test_a_few_slices_decide(
    made: Callable[[], NDArray[Any]], step: float, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One coding, of the better method, at about the error that the wavelet has at the step."""
    values = made()
    monkeypatch.setattr(choice, "LARGE", 1000)
    once, wavelet = coded(values, step=step), coded(values, "wavelet", step)
    assert once.method == method
    assert "on a few slices" in once.choice
    assert once.compared.keys() == {method}
    assert len(once.data) <= len(wavelet.data)
    assert once.last is not None and wavelet.last is not None
    error = [np.mean((last.astype(float) - values) ** 2) for last in (once.last, wavelet.last)]
    assert 0.5 * error[1] < error[0] < 1.1 * error[1]  # AV1's slow way has less than its draft


def test_a_draft_is_quick_and_near_what_it_is_for() -> None:
    values = edges()
    good, draft = coded(values, "av1"), coded(values, "av1", is_draft=True)
    assert good.data != draft.data
    assert len(draft.data) == pytest.approx(len(good.data), rel=0.25)
    errors = [brick.records[0].mse[-1] for brick in (draft, good)]
    assert 0.9 * errors[1] < errors[0] < 2 * errors[1]


@pytest.mark.parametrize(
    ("shape", "voxels", "extents"),
    [
        ((48, 256, 256), 1 << 19, (8, 256, 256)),
        ((24, 512, 512), 1 << 19, (4, 512, 512)),
        ((2, 512, 512), 1 << 19, (2, 512, 512)),
        ((24, 2048, 1024), 1 << 19, (4, 724, 362)),
        ((1, 1, 5000), 1 << 19, (1, 1, 5000)),
        ((24, 512, 512), 1 << 17, (4, 256, 256)),
    ],
)
def test_slices_are_whole_unless_they_are_large(
    shape: tuple[int, int, int], voxels: int, extents: tuple[int, int, int]
) -> None:
    box = few_slices(shape, voxels)
    assert tuple(part.stop - part.start for part in box) == extents
    middles = [(part.start + part.stop) / 2 for part in box]
    assert middles == pytest.approx([size / 2 for size in shape], abs=0.5)


@pytest.mark.parametrize("middle", [np.nan, -400.0])
def test_a_middle_that_says_nothing(middle: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Land in an ocean's field; air in the middle of a scan."""
    values = scan().astype("<f4")
    values[:, 10:86, 10:102] = middle
    monkeypatch.setattr(choice, "LARGE", 1000)
    monkeypatch.setattr(
        choice, "few_slices", lambda _: (slice(0, 12), slice(20, 70), slice(20, 90))
    )
    brick = coded(values)
    assert brick.last is not None
    np.testing.assert_array_equal(np.isnan(brick.last), np.isnan(values))
    assert np.nanmax(np.abs(brick.last - values)) < 100


def test_splits_of_z_are_chosen_on_the_whole_brick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The middle changes from slice to slice, what lies around it does not."""
    monkeypatch.setattr(search, "LARGE", 1000)
    monkeypatch.setattr(search, "VARIANT_VOXELS", 12 * 32 * 32)
    monkeypatch.setattr(search, "FEWEST_ROWS", 32)
    rng = np.random.default_rng(3)
    values = np.repeat(rng.normal(0, 300, (1, 96, 112)), 12, axis=0)
    y, x = np.meshgrid(np.arange(32), np.arange(32), indexing="ij")
    for z, (rows, columns) in enumerate(rng.normal(0, 20, (12, 2))):
        values[z, 32:64, 40:72] = 600 * ((y - 16 - rows) * columns > (x - 16) * rows)
    stored = np.rint(values).astype("<i2")
    whole = WaveletSource(stored, None)
    inside = whole.part(search.middle_of(whole.shape))
    sizes, misled = (
        [len(one.code(60.0, quick=True).data) for one in source.variants()]
        for source in (whole, inside)
    )
    assert sizes.index(min(sizes)) != misled.index(min(misled))
    chosen = SteppedSource("wavelet", whole, 60.0, (1, 8, 8)).at_step()
    assert chosen.source.depth == whole.variants()[sizes.index(min(sizes))].depth
