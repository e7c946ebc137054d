"""The method posterior: windows, gains, other networks, and never worse than without one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from psc_volumetric.bitstream.header import BrickHeader
from psc_volumetric.bitstream.wire import FieldReader, FieldWriter
from psc_volumetric.codec import (
    BrickOptions,
    EncodedBrick,
    Guarantee,
    decode_brick,
    encode_brick,
)
from psc_volumetric.errors import FormatError, NumericalError, PriorMismatchError
from psc_volumetric.methods.parameters import CodecParameters
from psc_volumetric.methods.posterior import moments as module
from psc_volumetric.methods.posterior.fields import PosteriorFields, View
from psc_volumetric.methods.posterior.method import METHOD
from psc_volumetric.methods.posterior.moments import moments
from psc_volumetric.methods.posterior.network import Estimator, check_estimator, estimator_for
from psc_volumetric.methods.posterior.refine import Refiner
from psc_volumetric.methods.posterior.source import PosteriorSource
from psc_volumetric.methods.protocol import EncodeJob, Resources
from psc_volumetric.methods.wavelet.coder import decode_steps
from psc_volumetric.methods.wavelet.method import WaveletSource
from psc_volumetric.prior import load_prior, resolve_prior
from psc_volumetric.prior.runtime import TorchRuntime
from psc_volumetric.values.mapping import IntensityMapping

TINY = "test-tiny-posterior"
RANGE = IntensityMapping(0, 1000)
WHOLE = (slice(None),) * 3


def head(shape: tuple[int, int, int] = (6, 61, 70)) -> np.ndarray:
    """Blobs like those that the network was trained on."""
    z, y, x = np.indices(shape)
    blobs = np.zeros(shape)
    for cz, cy, cx, r in ((2, 20, 30, 14), (4, 40, 45, 9), (1, 50, 12, 7), (3, 12, 60, 8)):
        distance = np.sqrt(4.0 * (z - cz) ** 2 + (y - cy) ** 2 + (x - cx) ** 2)
        blobs += 300 / (1 + np.exp(2 * (distance - r)))
    return (blobs + np.random.default_rng(2).normal(0, 4, shape)).clip(0, 999).astype("<u2")


def code(values: np.ndarray, base: str = "posterior", step: float = 0.4) -> EncodedBrick:
    return encode_brick(
        values,
        position=(0, 0, 0),
        shape=tuple(-(-n // 8) * 8 for n in values.shape),
        mapping=RANGE,
        parameters=CodecParameters(step=step),
        prior=load_prior(TINY),
        guarantee=Guarantee(coders=("zstd",)),
        options=BrickOptions(base=base),
    )


def read(brick: EncodedBrick, box=WHOLE, **more):
    data = brick.data
    return decode_brick(
        lambda start, size: data[start : start + size], selection=box, prior=resolve_prior,
        spread=True, **more,
    )  # fmt: skip


def error(brick: EncodedBrick, values: np.ndarray) -> float:
    return float(np.mean((read(brick).values.astype(float) - values) ** 2))


def test_it_takes_error_away() -> None:
    values = head()
    plain, restored = code(values, "wavelet"), code(values)
    assert error(restored, values) < 0.92 * error(plain, values)
    view = restored.index.fields.view
    assert view is not None and 1 <= view.gain <= 32
    assert len(restored.data) < 1.2 * len(plain.data)


def source_of(values: np.ndarray, step: float = 0.4) -> PosteriorSource:
    z, y, x = values.shape
    header = BrickHeader("none", values.dtype, (0, 0, 0), (z, y, x), (z, y, x))
    job = EncodeJob(
        values, header, None, None, RANGE, CodecParameters(step=step), load_prior(TINY), (z, y, x)
    )
    found = METHOD.source(job, Resources())
    assert found is not None
    return found


def test_decisions_taken_again_cost_less_in_error_and_bits() -> None:
    source = source_of(head())
    wavelet = source.wavelet.source
    trial = wavelet.code(source.job.step)
    plain, refined = source.corrected(wavelet, trial), source.refined(wavelet, trial)
    assert refined.cost() < 0.99 * plain.cost()
    steps = [decode_steps(a.trial.data, wavelet.shape, what="test")[0] for a in (plain, refined)]
    assert not np.array_equal(*steps)


def test_slopes_are_those_of_the_error() -> None:
    """A little way down them the error has fallen by as much as they say."""
    source = source_of(head((5, 30, 33)))
    wavelet = source.wavelet.source
    trial = wavelet.code(source.job.step)
    view = source.corrected(wavelet, trial).view
    assert isinstance(wavelet, WaveletSource) and view is not None
    refiner = Refiner(wavelet, trial.step, view, source.estimator)
    samples = trial.samples.astype(np.int64)
    there = refiner.slopes(samples, 1.0)
    direction = np.rint(-256 * there.by_sample / np.abs(there.by_sample).max()).astype(np.int64)
    moved = refiner.slopes(samples + direction // 4, 1.0)
    expected = float((there.by_sample * (direction // 4)).sum()) / 256
    assert expected < 0
    assert moved.error - there.error == pytest.approx(expected, rel=0.3)


def test_sigma_is_calibrated() -> None:
    (within, twice, _) = code(head()).coverage[0]
    assert within == pytest.approx(0.683, abs=0.03)
    assert twice == pytest.approx(0.954, abs=0.03)


@pytest.mark.parametrize(
    "values",
    [
        (np.indices((3, 20, 24)).sum(0) * 40503 % 997).astype("<u2"),  # noise
        (np.indices((3, 40, 44))[1] // 9 % 2 * 900).astype("<u1"),  # labels
        np.full((2, 16, 16), 3, "<i4") + (np.arange(16) > 7).astype("<i4") * (1 << 29),
        np.linspace(-1e30, 1e30, 2 * 16 * 16, dtype="<f4").reshape(2, 16, 16),
        np.arange(5, dtype="<f8").reshape(1, 1, 5) * 1e-300,
        np.arange(2, dtype="<u2").reshape(1, 2, 1),
    ],
    ids=["noise", "labels", "far", "wide", "tiny-floats", "two-voxels"],
)
def test_what_it_was_not_made_for_costs_the_header_alone(values: np.ndarray) -> None:
    plain, restored = code(values, "wavelet", 0.01), code(values, step=0.01)
    assert error(restored, values) <= error(plain, values)
    assert len(restored.data) <= len(plain.data) + 28


def test_windows_give_the_bits_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    brick = code(head())
    whole = read(brick)
    monkeypatch.setattr(module, "WINDOW", 17)
    cut = (slice(2, 4), slice(9, 60), slice(5, 69))
    for box in (WHOLE, cut):
        part = read(brick, box)
        assert part.values.tobytes() == np.ascontiguousarray(whole.values[box]).tobytes()
        assert part.spread.tobytes() == np.ascontiguousarray(whole.spread[box]).tobytes()


def test_a_region_asks_the_network_for_its_voxels_and_a_margin() -> None:
    prior, seen = load_prior(TINY), []

    class Counting(Estimator):
        def __call__(self, inputs, level):
            seen.append(inputs.shape)
            return super().__call__(inputs, level)

    samples = np.zeros((4, 200, 200), np.int64)
    view = View(16, bytes.fromhex(prior.digest)[:16], 0, 1 << 20, 0)
    moments(samples, (slice(1, 2), slice(100, 104), slice(96, 100)), view, Counting(prior, "cpu"))
    multiple, margin = prior.program.reach
    most = 4 + 2 * (margin + multiple)
    assert [n for n, *_ in seen] == [1]
    assert all(rows <= most and columns <= most for *_, rows, columns in seen)


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_and_carriers_give_the_same_bits(threads: int) -> None:
    prior, brick = load_prior(TINY), code(head())
    before, expected = torch.get_num_threads(), read(brick)
    torch.set_num_threads(threads)
    try:
        for dtype in (torch.float32, torch.float64):
            carried = Estimator(prior, "cpu", TorchRuntime(prior.program, "cpu", dtype))
            found = read(brick, denoisers=lambda prior, device, carried=carried: carried)
            assert found.values.tobytes() == expected.values.tobytes()
            assert found.spread.tobytes() == expected.spread.tobytes()
        assert read(brick).values.tobytes() == expected.values.tobytes()
    finally:
        torch.set_num_threads(before)


def test_a_denoiser_is_refused_by_name() -> None:
    with pytest.raises(PriorMismatchError, match="denoiser 'test-tiny'"):
        encode_brick(
            head(), position=(0, 0, 0), shape=(8, 64, 72), mapping=RANGE,
            parameters=CodecParameters(), prior=load_prior("test-tiny"),
            options=BrickOptions(base="posterior"),
        )  # fmt: skip


@pytest.mark.parametrize("wrong", [{"gain": 33}, {"scale": 0}, {"offset": (1 << 24) + 1}])
def test_a_view_out_of_range_is_refused(wrong: dict[str, int]) -> None:
    view = replace(View(16, bytes(16), 0, 1, 0), **wrong)
    out = FieldWriter()
    PosteriorFields(0.0, 1.0, view=view).write(out)
    header = BrickHeader("posterior", np.dtype("<i2"), (0,), (8, 8, 8), (8, 8, 8))
    with pytest.raises(FormatError) as caught:
        PosteriorFields.read(FieldReader(out.getvalue(), what="test"), header)
    assert caught.value.kind == "bad-posterior"


def test_a_carrier_that_is_off_by_one_is_refused() -> None:
    prior = load_prior(TINY)

    class Inexact(TorchRuntime):
        def __call__(self, x: torch.Tensor, level: int) -> torch.Tensor:
            out = super().__call__(x, level)
            out[0, 1, 2, 3] += 1
            return out

    check_estimator(estimator_for(prior, "cpu"))
    with pytest.raises(NumericalError, match="self-test"):
        check_estimator(Estimator(prior, "cpu", Inexact(prior.program)))


@pytest.mark.slow
def test_auto_takes_it_from_a_sample_and_says_why() -> None:
    """A small brick is coded with it, a large one where it wins on a part; noise has it lose."""
    noise = np.random.default_rng(1).integers(0, 1000, (1, 232, 232)).astype("<u2")
    for values, tried in ((head(), True), (noise, False)):
        found = encode_brick(
            values,
            position=(0, 0, 0),
            shape=values.shape,
            mapping=RANGE,
            parameters=CodecParameters(step=0.5),
            prior=load_prior(TINY),
            options=BrickOptions(base="auto", tile_shape=(8, 64, 64)),
        )
        sizes = found.compared
        smallest = min(sizes, key=lambda name: sizes[name])
        assert found.method == smallest
        if tried:
            assert sizes["posterior"] < sizes["wavelet"]
            assert found.choice.startswith(f"{smallest}: {sizes[smallest]} bytes against ")
        else:
            assert "posterior loses on a sample" in found.choice and "posterior" not in sizes
