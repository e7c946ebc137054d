"""The wavelet coder and bricks of the method ``wavelet``."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psc_volumetric.codec import (
    BrickOptions,
    CodecParameters,
    DecodedBrick,
    EncodedBrick,
    Guarantee,
    IntensityMapping,
    decode_brick,
    encode_brick,
)
from psc_volumetric.errors import FormatError, NumericalError
from psc_volumetric.methods.psc.denoiser import Denoiser
from psc_volumetric.methods.registry import read_index
from psc_volumetric.methods.wavelet import coder as wavelet_coder
from psc_volumetric.methods.wavelet import synthesis as fast
from psc_volumetric.methods.wavelet.coder import decode_steps, encode_steps
from psc_volumetric.methods.wavelet.fields import WaveletFields
from psc_volumetric.methods.wavelet.fit import quantise
from psc_volumetric.methods.wavelet.kernel import LARGEST
from psc_volumetric.methods.wavelet.transform import (
    analyse,
    band_weights,
    bands,
    dequantise,
    full_depth,
    synthesise,
)
from psc_volumetric.prior import Prior, load_prior
from psc_volumetric.sigma.tables import NOMINAL, coverage
from psc_volumetric.threads import at_most

WHOLE = (slice(None),) * 3
SHAPES = [(5, 33, 40), (1, 1, 1), (1, 1, 50), (2, 3, 2), (17, 4, 90), (40, 2, 3)]


def waves(shape: tuple[int, int, int], dtype: str = "<f4", noise: float = 3) -> np.ndarray:
    z, y, x = np.indices(shape)
    field = 300 * np.sin(z / 5 + x / 9) * np.cos(y / 7) + 500
    return (field + np.random.default_rng(0).normal(0, noise, shape)).astype(dtype)


def encode(values: np.ndarray, **options: Any) -> EncodedBrick:
    defaults: dict[str, Any] = {
        "position": (0, 0, 0),
        "shape": values.shape,
        "mapping": IntensityMapping(0, 1000),
        "parameters": CodecParameters(step=0.05),
        "prior": None,
    }
    given = {name: options.pop(name) for name in [*defaults, "guarantee"] if name in options}
    more = BrickOptions(**{"base": "wavelet", **options})
    return encode_brick(values, **{**defaults, **given}, options=more)


def decode(brick: EncodedBrick, selection: Any = WHOLE, **options: Any) -> DecodedBrick:
    return decode_brick(lambda a, n: brick.data[a : a + n], selection=selection, **options)


@pytest.mark.parametrize("shape", SHAPES)
def test_bands_cover_every_coefficient_once(shape: tuple[int, int, int]) -> None:
    for depth in range(full_depth(shape[0]) + 1):
        seen = np.zeros(shape, int)
        for number, band in enumerate(bands(shape, depth)):
            seen[tuple(slice(*part) for part in band.box)] += 1
            assert band.parent < number
            assert all(sibling < number for sibling in band.siblings)
        assert (seen == 1).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_synthesis_undoes_analysis_but_for_rounding(shape: tuple[int, int, int]) -> None:
    values = np.random.default_rng(1).normal(0, 1e5, shape)
    for depth in range(full_depth(shape[0]) + 1):
        back = synthesise(np.rint(analyse(values, depth)).astype(np.int64), depth)
        assert np.abs(back - values).max() < 12


@given(st.integers(0, 2**32 - 1), st.sampled_from([*SHAPES, (9, 70, 600)]), st.integers(0, 40))
@settings(max_examples=40, deadline=None)
def test_machine_code_gives_the_samples_of_the_text(
    seed: int, shape: tuple[int, int, int], bits: int
) -> None:
    """Beyond the limit, too, where every step saturates."""
    rng = np.random.default_rng(seed)
    values = rng.integers(-(1 << bits), 1 << bits, shape, np.int64)
    depth = int(rng.integers(full_depth(shape[0]) + 1))
    assert np.array_equal(fast.synthesise(values.copy(), depth), synthesise(values, depth))


def test_weights_make_the_transform_nearly_orthogonal() -> None:
    shape = (64, 64, 128)
    weights = band_weights(shape, 5)
    for band, weight in zip(bands(shape, 5), weights, strict=True):
        if min(stop - start for start, stop in band.box) < 8:
            continue  # edges reach everywhere
        one = np.zeros(shape, np.int64)
        one[tuple((start + stop) // 2 for start, stop in band.box)] = 1 << 20
        norm = np.sqrt((synthesise(one, 5).astype(float) ** 2).sum()) / 2**20
        assert norm * weight / 65536 == pytest.approx(1, abs=0.06)


@given(st.integers(0, 2**32 - 1), st.sampled_from(SHAPES), st.floats(0, 27))
@settings(max_examples=40, deadline=None)
def test_any_numbers_come_back(seed: int, shape: tuple[int, int, int], octaves: float) -> None:
    rng = np.random.default_rng(seed)
    spread = 2.0 ** (octaves * rng.random(shape))
    steps = np.clip(np.rint(rng.laplace(0, spread)), -LARGEST, LARGEST).astype(np.int32)
    depth = int(rng.integers(full_depth(shape[0]) + 1))
    found, splits = decode_steps(encode_steps(steps, depth), shape, what="test")
    assert np.array_equal(found, steps) and splits == depth


def test_extreme_numbers_come_back_and_larger_ones_are_refused() -> None:
    steps = np.full((2, 5, 5), LARGEST, np.int32)
    steps[0] *= -1
    found, _ = decode_steps(encode_steps(steps, 0), steps.shape, what="test")
    assert np.array_equal(found, steps)
    assert np.abs(synthesise(dequantise(steps, 0), 0)).max() <= 1 << 36
    steps[0, 0, 0] = LARGEST + 1
    with pytest.raises(NumericalError):
        encode_steps(steps, 0)


def test_a_stream_longer_than_its_room_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = np.random.default_rng(6).integers(-99, 100, (3, 9, 9), np.int32)
    monkeypatch.setattr(wavelet_coder, "ROOM", 0)
    with pytest.raises(NumericalError):
        encode_steps(steps, 0)


def test_damage_is_found_or_leaves_a_whole_stream() -> None:
    shape = (4, 20, 24)
    good = encode_steps(quantise(analyse(waves(shape).astype(float), 1), 20.0, 1), 1)
    rng = np.random.default_rng(2)
    refused = 0
    for _ in range(300):
        data = bytearray(good)
        data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
        try:
            assert decode_steps(bytes(data), shape, what="test")[0].shape == shape
        except FormatError:
            refused += 1
    assert refused > 290
    for cut in (0, 1, 3, len(good) // 2, len(good) - 1):
        with pytest.raises(FormatError):
            decode_steps(good[:cut], shape, what="test")


@pytest.mark.parametrize("dtype", ["u1", "<u2", "<i2", "<i4", "<u4", "<f4", "<f8", ">i2"])
def test_round_trip_records_and_regions(dtype: str) -> None:
    values = waves((5, 33, 40), "<f8")
    values = (values / 5 if dtype == "u1" else values).astype(dtype)
    brick = encode(values, tile_shape=(5, 16, 16), parameters=CodecParameters(step=0.02))
    decoded = decode(brick, spread=True)
    assert brick.method == "wavelet"
    assert decoded.values.dtype == values.dtype.newbyteorder("<")
    error = decoded.values.astype(float) - values
    assert 0 < np.sqrt(np.mean(error**2)) < 10
    assert max(r.max_error[0] for r in brick.records) == pytest.approx(np.abs(error).max())
    box = (slice(1, 4), slice(3, 30), slice(17, 18))
    region = decode(brick, box, spread=True)
    assert np.array_equal(region.values, decoded.values[box])
    assert decoded.spread is not None and region.spread is not None
    assert np.array_equal(region.spread, decoded.spread[box])


def test_spread_covers_the_errors() -> None:
    values = waves((8, 96, 96), noise=8)
    brick = encode(values)
    decoded = decode(brick, spread=True)
    assert decoded.spread is not None
    share = coverage(values, decoded.values, decoded.spread)
    assert share == pytest.approx(NOMINAL, abs=0.02)
    assert brick.coverage == (pytest.approx(share),)


def test_special_values_are_kept_and_not_measured() -> None:
    values = waves((3, 24, 30))
    values[:, 4:9, 5:14] = np.nan
    values[0, 0, :3] = -9999
    brick = encode(values, special_values=(-9999.0,))
    decoded = decode(brick, spread=True)
    special = np.isnan(values) | (values == -9999)
    assert decoded.values[special].tobytes() == values[special].tobytes()
    assert decoded.spread is not None and not decoded.spread[special].any()
    assert brick.records[0].max_error[0] < 200


@pytest.mark.parametrize(
    "values",
    [
        np.linspace(-1e30, 1e30, 600, dtype=np.float32).reshape(2, 15, 20),
        np.linspace(1, 1 + 1e-6, 600).reshape(2, 15, 20),
        np.array([[[0, 2**32 - 1, 7]]], np.uint32),
        np.array([[[-(2**31), 2**31 - 1]]], np.int32),
        np.full((3, 4, 5), np.nan, np.float32) * np.ones((3, 4, 5), np.float32),
        np.r_[0.0, np.full(99, 1e-300)].reshape(1, 10, 10),
    ],
)
@pytest.mark.parametrize("step", [0.002, 0.05, 60.0])
def test_any_range_and_step_gives_finite_values(values: np.ndarray, step: float) -> None:
    low, high = 0.0, 1.0
    if np.isfinite(values).all():
        low, high = float(values.min()), float(values.max())
    brick = encode(
        values, mapping=IntensityMapping(low, high), parameters=CodecParameters(step=step)
    )
    decoded = decode(brick, spread=True).values
    assert np.array_equal(np.isnan(decoded), np.isnan(values))
    assert not np.isinf(decoded).any()


def test_a_finer_step_costs_bytes_and_saves_error() -> None:
    values = waves((6, 40, 40), noise=1)
    bricks = [encode(values, parameters=CodecParameters(step=s)) for s in (0.2, 0.05, 0.01, 0.002)]
    assert np.all(np.diff([len(b.data) for b in bricks]) > 0)
    assert np.all(np.diff([b.records[0].mse[0] for b in bricks]) < 0)


@pytest.mark.parametrize("missing", [0, 30])
def test_thorough_encoders_leave_less_error_in_fewer_bytes(missing: int) -> None:
    """More so where voxels are missing, whose errors do not count."""
    values = waves((8, 64, 72), noise=10)
    values[:, 10 : 10 + missing, 10:60] = np.nan
    quick, thorough = (encode(values, is_thorough=chosen) for chosen in (False, True))
    assert len(thorough.data) < (0.92 if missing else 0.97) * len(quick.data)
    assert thorough.records[0].mse[0] < quick.records[0].mse[0]
    assert np.array_equal(decode(thorough).values, thorough.last, equal_nan=True)
    with at_most(1):
        assert encode(values, is_thorough=True).data == thorough.data


@pytest.mark.parametrize("dtype", ["<i2", "<f4"])
def test_exact_levels_stand_on_a_wavelet_base(dtype: str) -> None:
    values = waves((4, 32, 32), dtype)
    lossless = encode(values, guarantee=Guarantee("lossless", reference="base"))
    assert lossless.method.startswith("wavelet+lossless:")
    assert decode(lossless).values.tobytes() == values.tobytes()
    assert decode(lossless, level=0).values.tobytes() != values.tobytes()


def test_smooth_fields_without_a_prior_take_it() -> None:
    field = np.random.default_rng(5).normal(0, 1, (12, 48, 48))
    for _ in range(4):
        for axis in range(3):
            field = field + np.roll(field, 1, axis) + np.roll(field, 2, axis)
    field = 1000 * (field - field.min()) / np.ptp(field)
    brick = encode(field.astype("<f4"), base="auto", parameters=CodecParameters(step=0.01))
    index = read_index(lambda a, n: brick.data[a : a + n])
    assert brick.method == "wavelet" and isinstance(index.fields, WaveletFields)
    psc, av1, wavelet = (brick.compared.get(name, 0) for name in ("psc", "av1", "wavelet"))
    assert (psc, 0 < wavelet < av1) == (0, True)
    assert brick.choice.startswith("wavelet: no prior for these values: ")


def test_planes_that_have_nothing_in_common_are_not_split() -> None:
    planes = [waves((1, 40, 40), noise=0)[0] * scale for scale in (1, -3, 0.2, 5, -0.7, 2)]
    brick = encode(np.stack(planes) + np.array([0, 9e3, -4e3, 50, 7e3, 1e3])[:, None, None])
    index = read_index(lambda a, n: brick.data[a : a + n])
    assert brick.data[index.section("base").offset] == 0
    together = encode(np.repeat(waves((1, 40, 40)), 16, axis=0))
    index = read_index(lambda a, n: together.data[a : a + n])
    assert together.data[index.section("base").offset] > 1


def test_a_prior_that_loses_on_a_sample_is_not_run_on_the_brick() -> None:
    """Four tiles of twelve are tried with the network; smooth fields are not its kind."""
    values, prior = waves((8, 192, 256), "<i2", noise=1), load_prior("test-tiny")
    evaluated = []

    def counted(found: Prior, device: str) -> Denoiser:
        network = Denoiser(found, "cpu").network

        def counting(x: Any, level: int) -> Any:
            evaluated.append(len(x))
            return network(x, level)

        return Denoiser(found, "cpu", counting)

    options = {"base": "auto", "prior": prior, "denoisers": counted}
    parameters = CodecParameters(step=0.3, effort=1)
    brick = encode(values, shape=(8, 192, 256), parameters=parameters, **options)
    assert brick.method in ("wavelet", "av1")
    assert "psc loses on a sample" in brick.choice and "psc" not in brick.compared
    few = sum(evaluated)
    evaluated.clear()
    tile = {"shape": (8, 64, 64), "parameters": parameters}
    encode(values[:, :64, :64], **tile, **{**options, "base": "psc"})
    assert 0 < few <= 0.4 * 12 * sum(evaluated)
