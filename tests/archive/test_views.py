"""Views of a stream agree with all that its bytes say, and are labelled wherever they go."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from psc_volumetric.bitstream.sections import read_section
from psc_volumetric.codec import (
    BrickOptions,
    CodecParameters,
    EncodedBrick,
    Guarantee,
    IntensityMapping,
    decode_brick,
    encode_brick,
)
from psc_volumetric.conformance.recipes import ShortPaper
from psc_volumetric.errors import ParameterError
from psc_volumetric.methods.protocol import Resources
from psc_volumetric.methods.psc.quantiser import (
    float8_cells,
    float8_symbols,
    float8_values,
    uniform_cells,
    uniform_symbols,
)
from psc_volumetric.methods.wavelet.cells import cells_of
from psc_volumetric.methods.wavelet.coder import encode_steps
from psc_volumetric.methods.wavelet.fit import quantise
from psc_volumetric.methods.wavelet.transform import UNITS, analyse, combine
from psc_volumetric.prior import load_prior, resolve_prior
from psc_volumetric.views import GENERATED, ViewRequest
from psc_volumetric.views.brick import BrickView, view_brick

PRIORS = {"posterior": "test-tiny-posterior", "psc": "test-tiny"}
SAMPLE = ViewRequest("sample", 7)
SHAPE = (7, 45, 52)
WHOLE = (slice(None),) * 3


def scan(shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """A textured ball in dark air, 12 bits."""
    z, y, x = np.indices(shape)
    middle = [(n - 1) / 2 for n in shape]
    distance = np.sqrt(9 * (z - middle[0]) ** 2 + (y - middle[1]) ** 2 + (x - middle[2]) ** 2)
    ball = 900 / (1 + np.exp(distance - min(shape[1:]) / 2.6))
    noise = np.random.default_rng(3).normal(0, 30, shape)
    return (ball * (1 + 0.2 * np.sin(x / 3)) + noise + 300).clip(0, 4095).astype("<u2")


def code(values: np.ndarray, base: str = "wavelet", step: float = 0.3, **more) -> EncodedBrick:
    guarantee = more.pop("guarantee", Guarantee(coders=("zstd",)))
    return encode_brick(
        values,
        position=(0, 0, 0),
        shape=tuple(-(-n // t) * t for n, t in zip(values.shape, (8, 64, 64), strict=True)),
        mapping=IntensityMapping(0, 1500),
        parameters=more.pop("parameters", CodecParameters(step=step)),
        prior=load_prior(PRIORS[base]) if base in PRIORS else None,
        guarantee=guarantee,
        options=BrickOptions(base=base, **more),
    )


def reading(brick: EncodedBrick):
    return lambda start, length: brick.data[start : start + length]


def view(brick: EncodedBrick, request: ViewRequest = SAMPLE) -> BrickView:
    resources = Resources(resolve_prior, "cpu")
    return view_brick(reading(brick), brick.index, request, resources)


def coded_again(brick: EncodedBrick, values: np.ndarray) -> bytes:
    """The stream that the encoder makes of other values, in the same way."""
    fields = brick.index.fields
    depth = cells_of(reading(brick), brick.index).depth
    coefficients = analyse(values.astype(np.float64) - fields.low, depth)
    return encode_steps(quantise(coefficients, fields.step * UNITS, depth), depth)


def stream(brick: EncodedBrick) -> bytes:
    return read_section(reading(brick), brick.index.section("base"), what="brick")


@pytest.mark.parametrize("base", ["wavelet", "posterior"])
@pytest.mark.parametrize("dtype", ["<u2", "<f4", "<i4"])
def test_coding_a_view_gives_the_same_bytes(base, dtype):
    values = scan().astype(dtype)
    brick = code(values, base)
    found = view(brick)
    assert found.values.dtype == values.dtype
    assert found.contradictions == 0
    assert not np.array_equal(found.values, brick.last)
    assert coded_again(brick, found.values) == stream(brick)


def test_the_source_lies_in_the_cells_and_other_values_do_not():
    values = scan()
    brick = code(values)
    cells = cells_of(reading(brick), brick.index)
    assert not cells.outside(cells.analyse(values.astype(float))).any()
    assert cells.outside(cells.analyse(values + 40.0)).any()
    assert coded_again(brick, values) == stream(brick)


def test_coefficients_combine_to_what_they_were_made_of():
    values = scan().astype(float)
    for depth in (0, 1, 2):
        assert np.allclose(combine(analyse(values, depth), depth), values, atol=1e-9)


def test_a_view_has_the_energy_that_the_mean_lacks():
    values = scan((16, 64, 64))
    brick = code(values, step=0.6)
    drawn = view(brick).values.astype(float)
    mse = np.mean((brick.last.astype(float) - values) ** 2)
    worse = 10 * np.log10(np.mean((drawn - values) ** 2) / mse)
    assert 0.3 < worse < 2.5
    fine = [np.diff(v.astype(float), axis=2).var() for v in (values, brick.last, drawn)]
    assert fine[1] + 0.2 * (fine[0] - fine[1]) < fine[2] < fine[0]


def test_a_seed_names_one_view():
    brick = code(scan())
    assert np.array_equal(view(brick).values, view(brick).values)
    assert not np.array_equal(view(brick).values, view(brick, ViewRequest("sample", 8)).values)
    assert np.array_equal(view(brick, ViewRequest()).values, brick.last)


def test_special_values_and_limits_hold():
    values = scan().astype("<i2").clip(250, 1200)
    values[:, :9, :11] = -2000
    brick = code(values, special_values=(-2000.0,), limits=(250, 1200))
    found = view(brick)
    special = values == -2000
    assert np.array_equal(found.values == -2000, special)
    inside = found.values[~special]
    assert inside.min() >= 250
    assert inside.max() <= 1200
    assert not np.array_equal(found.values, brick.last)
    assert found.contradictions <= 3


def test_nan_stays_where_it_was():
    values = scan().astype("<f4")
    values[2, 5:9, 4:30] = np.nan
    found = view(code(values))
    assert np.array_equal(np.isnan(found.values), np.isnan(values))


def test_a_bound_holds_and_what_is_exact_stays_so():
    values = scan()
    bounded = code(values, guarantee=Guarantee("bounded", 5.0, coders=("zstd",)))
    found = view(bounded)
    assert np.abs(found.values.astype(int) - bounded.last.astype(int)).max() <= 5
    assert np.abs(found.values.astype(int) - values.astype(int)).max() <= 10
    exact = code(values, guarantee=Guarantee("lossless", coders=("zstd",)))
    assert np.array_equal(view(exact).values, values)


def psc_sections(brick: EncodedBrick) -> list[bytes]:
    names = ["base", *(f"level{k}" for k in range(1, brick.index.base_levels))]
    return [read_section(reading(brick), brick.index.section(name), what="brick") for name in names]


@pytest.mark.parametrize(
    ("parameters", "dtype", "name"),
    [
        (CodecParameters(step=0.3, effort=1), "<u2", "sample"),
        pytest.param(CodecParameters(step=0.3, effort=1), "<f4", "nested", marks=pytest.mark.slow),
        (CodecParameters(step=0.3, effort=1), "<i4", "pigdm"),
        (ShortPaper(rounds=2), "<u2", "pigdm"),
        pytest.param(ShortPaper(rounds=2), "<f4", "sample", marks=pytest.mark.slow),
    ],
)
def test_the_encoder_writes_the_same_words_for_a_view_of_a_prior(parameters, dtype, name):
    brick = code(scan().astype(dtype), "psc", parameters=parameters)
    found = view(brick, ViewRequest(name, 5))
    assert found.contradictions == 0
    assert not np.array_equal(found.values, brick.last)
    again = code(found.values, "psc", parameters=parameters)
    assert psc_sections(again) == psc_sections(brick)
    if name == "sample":  # and these are words that change with the values
        other = code(brick.last + brick.last.dtype.type(9), "psc", parameters=parameters)
        assert psc_sections(other) != psc_sections(brick)


def test_tiles_that_are_flat_in_the_stream_stay_as_they_are():
    values = np.concatenate([np.full((8, 64, 64), 700), scan((8, 64, 64))], 2).astype("<u2")
    brick = code(values, "psc", parameters=CodecParameters(step=0.3, effort=1))
    found = view(brick).values
    assert np.array_equal(found[..., :64], brick.last[..., :64])
    assert not np.array_equal(found[..., 64:], brick.last[..., 64:])


def test_a_view_of_av1_has_the_spread_that_the_archive_states():
    values = scan((8, 64, 64))
    brick = code(values, "av1", parameters=CodecParameters(step=1.0))
    decoded = decode_brick(reading(brick), selection=(slice(0, 8), slice(0, 64), slice(0, 64)),
                           spread=True)  # fmt: skip
    found = view(brick)
    moved = np.abs(found.values.astype(float) - decoded.values)
    assert found.contradictions == 0
    assert (moved <= 3 * decoded.spread + 0.5).all()
    inside = decoded.spread > 2
    assert 0.5 < (moved[inside] < decoded.spread[inside]).mean() < 0.95
    drawn, meant = (np.diff(v.astype(float), axis=2).var() for v in (found.values, decoded.values))
    assert drawn > 1.3 * meant


def test_views_that_a_method_does_not_have_are_refused_by_name():
    for base, name in (("wavelet", "pigdm"), ("av1", "nested")):
        with pytest.raises(ParameterError, match=name) as caught:
            view(code(scan((4, 64, 64)), base), ViewRequest(name))
        assert caught.value.kind == "no-view"


def test_cells_of_symbols_hold_what_is_rounded_to_them():
    rng = np.random.default_rng(1)
    step, bins = 37, torch.from_numpy(rng.integers(0, 60, 4000))
    residual = torch.from_numpy(rng.integers(-400, 400, 4000))
    low, high = uniform_cells(uniform_symbols(residual, step, bins), bins)
    inside = (residual >= low * step - 1e-9) & (residual <= high * step + 1e-9)
    assert inside.all()
    assert ((high - low) <= 2.0).all()
    numbers = rng.integers(-5000, 5000, 4000)
    codes = float8_symbols(numbers)
    values = float8_values()[codes & 127] * np.where(codes >= 128, -1, 1)
    first, last = float8_cells(values)
    assert ((first <= numbers) & (numbers <= last)).all()
    assert (float8_symbols(np.ceil(first + 0.01).astype(int)) == codes).all()


def test_a_quota_counts_what_drawing_takes():
    fields = code(scan(), "psc", parameters=CodecParameters(effort=1)).index.fields
    mean, nested = (ViewRequest(name).evaluations(fields) for name in ("mean", "nested"))
    assert mean == fields.evaluations == 8
    assert nested == 2 * 8 + 500


@pytest.mark.parametrize(
    ("words", "kind"),
    [(("loud",), "bad-view"), (("sample", -1), "bad-seed"), (("sample", 1 << 32), "bad-seed")],
)
def test_wrong_requests_are_refused(words, kind):
    with pytest.raises(ParameterError) as caught:
        ViewRequest(*words)
    assert caught.value.kind == kind


def test_the_label_says_what_it_is():
    assert replace(SAMPLE, seed=3).label == f"{GENERATED} (view sample, seed 3)"
    assert decode_brick(reading(code(scan())), selection=WHOLE).values.shape == SHAPE


EXTREMES = {
    "float32 near its largest": np.float32(3e38),
    "float64 near its largest": np.float64(1.6e308),
    "float64 beyond what a sigma can say": np.float64(1e60),
    "float64 denormal": np.float64(1e-310),
    "float32 denormal": np.float32(1e-42),
}


@pytest.mark.parametrize("name", EXTREMES)
def test_a_view_of_extreme_values_has_no_other_ones(name):
    largest = EXTREMES[name]
    rng = np.random.default_rng(0)
    values = (scan((4, 32, 32)) / 4095 * largest).astype(largest.dtype)
    values[1, 2:9, 3:5] = np.nan
    values[0, 0, 0] = np.inf
    values[2] *= rng.choice([-1, 1], values[2].shape)
    low, high = float(np.nanmin(values)), float(np.nanmax(values[np.isfinite(values)]))
    with np.errstate(over="ignore", invalid="ignore"):
        brick = encode_brick(
            values,
            position=(0, 0, 0),
            shape=(8, 32, 32),
            mapping=IntensityMapping(low / 2, high / 2),
            parameters=CodecParameters(step=0.3),
            prior=None,
            guarantee=Guarantee(coders=("zstd",)),
            options=BrickOptions(base="wavelet"),
        )
    found = view(brick).values
    mean = brick.last
    assert np.array_equal(np.isnan(found), np.isnan(mean))
    assert np.array_equal(np.isinf(found), np.isinf(mean))
