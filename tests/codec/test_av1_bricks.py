"""Bricks of the method ``av1``: what comes back, what is recorded, and when it is chosen."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from psc_volumetric.bitstream.index import BrickIndex, write_brick
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
from psc_volumetric.errors import FormatError
from psc_volumetric.methods.av1.fields import Av1Fields
from psc_volumetric.methods.av1.method import Av1Source
from psc_volumetric.methods.registry import REGISTRY, read_index
from psc_volumetric.sigma.tables import NOMINAL, coverage

WHOLE = (slice(None),) * 3


def blobs(shape: tuple[int, int, int], dtype: str = "<i2", seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    z, y, x = np.indices(shape)
    field = 300 * np.sin(z / 5 + x / 9) * np.cos(y / 7) + 40 * (x // 11 % 2) + 500
    return (field + rng.normal(0, 8, shape)).astype(dtype)


def encode(values: np.ndarray, **options: Any) -> EncodedBrick:
    defaults: dict[str, Any] = {
        "position": (0, 0, 0),
        "shape": values.shape,
        "mapping": IntensityMapping(0, 1000),
        "parameters": CodecParameters(step=0.05),
        "prior": None,
    }
    given = {name: options.pop(name) for name in [*defaults, "guarantee"] if name in options}
    more = BrickOptions(**{"base": "av1", **options})
    return encode_brick(values, **{**defaults, **given}, options=more)


def parse(data: bytes) -> BrickIndex:
    return read_index(lambda start, length: data[start : start + length])


def decode(brick: EncodedBrick, selection: Any = WHOLE, **options: Any) -> DecodedBrick:
    return decode_brick(lambda a, n: brick.data[a : a + n], selection=selection, **options)


@pytest.mark.parametrize("dtype", ["<u2", "<i2", "<i4", "<u4", "<f4", "<f8", ">i2"])
def test_round_trip_records_and_regions(dtype: str) -> None:
    values = blobs((5, 33, 40), dtype)
    brick = encode(values, tile_shape=(5, 33, 20), parameters=CodecParameters(step=0.005))
    decoded = decode(brick, spread=True)
    assert brick.method == "av1"
    assert decoded.values.dtype == values.dtype.newbyteorder("<")
    error = decoded.values.astype(float) - values
    assert 0 < np.sqrt(np.mean(error**2)) < 25
    assert len(brick.records) == 2
    assert len(encode(values, tile_shape=(5, 16, 16)).records) == 1  # too small for nine
    assert max(r.max_error[0] for r in brick.records) == pytest.approx(np.abs(error).max())
    box = (slice(1, 4), slice(3, 30), slice(17, 18))
    region = decode(brick, box, spread=True)
    assert np.array_equal(region.values, decoded.values[box])
    assert decoded.spread is not None and region.spread is not None
    assert np.array_equal(region.spread, decoded.spread[box])


@pytest.mark.parametrize("seed", [0, 1])
def test_spread_covers_the_errors(seed: int) -> None:
    values = blobs((8, 96, 96), seed=seed)
    brick = encode(values)
    decoded = decode(brick, spread=True)
    assert decoded.spread is not None
    share = coverage(values, decoded.values, decoded.spread)
    assert share == pytest.approx(NOMINAL, abs=0.02)
    assert brick.coverage == (pytest.approx(share),)


def test_special_values_are_kept_and_not_measured() -> None:
    values = blobs((3, 24, 30), "<f4")
    values[:, 4:9, 5:14] = np.nan
    values[0, 0, :3] = -9999
    brick = encode(values, special_values=(-9999.0,))
    decoded = decode(brick, spread=True)
    special = np.isnan(values) | (values == -9999)
    assert decoded.values[special].tobytes() == values[special].tobytes()
    assert decoded.spread is not None and not decoded.spread[special].any()
    assert brick.records[0].max_error[0] < 200


def test_the_range_of_twelve_bits_survives_a_fine_step() -> None:
    values = np.arange(4096, dtype=np.uint16).reshape(1, 64, 64) * 3
    brick = encode(values, parameters=CodecParameters(step=0.002))
    assert brick.records[0].max_error[0] <= 24  # 3 per sample, quantiser step 35 / 8


def test_only_specials_and_tiny_ranges() -> None:
    nothing = np.full((2, 9, 9), np.nan, np.float32)
    nothing[0, 0, 0] = np.inf
    assert np.array_equal(decode(encode(nothing)).values, nothing, equal_nan=True)
    flags = np.zeros((2, 20, 20), np.uint8)
    flags[:, 5:12, 5:12] = 1
    brick = encode(flags, mapping=IntensityMapping(0, 1))
    assert set(np.unique(decode(brick).values)) <= {0, 1}


@pytest.mark.parametrize("dtype", ["<i2", "<f4"])
def test_exact_levels_stand_on_an_av1_base(dtype: str) -> None:
    values = blobs((4, 32, 32), dtype)
    lossless = encode(values, guarantee=Guarantee("lossless", reference="base"))
    assert lossless.method.startswith("av1+lossless:")
    assert decode(lossless).values.tobytes() == values.tobytes()
    assert decode(lossless, level=0).values.tobytes() != values.tobytes()
    bounded = encode(values, guarantee=Guarantee("bounded", 3.0, reference="base"))
    assert bounded.method.startswith("av1+bounded:")
    assert np.abs(decode(bounded).values.astype(float) - values).max() <= 3


def test_without_a_prior_the_smaller_of_the_others_stands_in_for_lossy_bricks_only() -> None:
    values = blobs((4, 64, 64))
    lossy = encode(values, base="auto")
    sizes = {name: lossy.compared[name] for name in ("av1", "wavelet")}
    best, other = sorted(sizes, key=sizes.__getitem__)
    assert lossy.method == best and sizes[best] < sizes[other]
    assert lossy.compared.get("psc", 0) == 0
    reason = f"no prior for these values: {sizes[best]} bytes against {sizes[other]} of {other}"
    assert lossy.choice == f"{best}: {reason}"
    exact = encode(values, base="auto", guarantee=Guarantee("lossless"))
    assert exact.method.startswith("none+lossless:")


def test_values_av1_cannot_code_stay_exact() -> None:
    for values in (blobs((2, 9, 9), "<i8"), blobs((2, 9, 9), "<f8") * 1e300):
        brick = encode(values, mapping=IntensityMapping(0, 1))
        assert brick.method.startswith("none+lossless:")
        assert decode(brick).values.tobytes() == values.tobytes()


def test_error_grows_steadily_with_the_step() -> None:
    source = Av1Source(blobs((4, 48, 48)), None)
    steps = 40.0 * 1.09 ** np.arange(10)  # closer than AV1's own steps
    errors = [source.code(float(step), quick=True).mse for step in steps]
    rises = np.diff(np.log(errors))
    assert np.mean(rises > 0) > 0.7
    assert rises.max() < 0.5


def test_mapping_is_exact_integer_arithmetic() -> None:
    samples = np.array([[[0, 1, 2047, 4094, 4095]]], np.uint16)
    fields = Av1Fields(-5.0, 3 + 2.0**-16)
    wanted = [-5 + (int(s) * (3 * 65536 + 1) + 32768 >> 16) for s in samples.ravel()]
    assert fields.to_stored(samples, np.dtype("<i4")).ravel().tolist() == wanted
    assert fields.to_stored(samples, np.dtype("u1")).ravel().tolist() == [0, 0, 255, 255, 255]
    floats = replace(fields, low=0.1, step=0.3).to_stored(samples, np.dtype("<f8"))
    assert floats.ravel().tolist() == [0.1 + int(s) * 0.3 for s in samples.ravel()]


def test_impossible_fields_are_refused() -> None:
    brick = encode(blobs((2, 20, 20)))
    index = parse(brick.data)
    assert index.fields is not None
    sections = [
        (s.name, brick.data[s.offset : s.offset + s.nbytes]) for s in index.sections
    ]  # fmt: skip
    for change in (
        {"low": float("nan")},
        {"low": 0.5},
        {"low": 2.0**39},
        {"step": 0.0},
        {"step": -1.0},
        {"step": float("inf")},
        {"step": 2.0**-17},
        {"step": 2.0**27},
        {"sigma": bytes(4097)},
    ):
        fields = replace(index.fields, **change)
        data, _ = write_brick(index.header, sections, methods=REGISTRY, fields=fields)
        with pytest.raises(FormatError):
            parse(data)
    other = replace(index.header, valid=(2, 20, 19))
    data, _ = write_brick(other, sections, methods=REGISTRY, fields=index.fields)
    with pytest.raises(FormatError) as caught:
        decode_brick(lambda a, n: data[a : a + n], selection=WHOLE)
    assert caught.value.kind == "bad-av1"
    for name in ("<i8", "bool"):
        with pytest.raises(FormatError):
            data, _ = write_brick(
                replace(other, dtype=np.dtype(name)), sections, methods=REGISTRY,
                fields=index.fields,
            )  # fmt: skip
            parse(data)


def test_frames_run_along_the_axis_that_is_cheapest() -> None:
    plane = blobs((1, 24, 40))[0]
    for axis in range(3):
        values = np.ascontiguousarray(np.repeat(plane[..., None], 20, axis=2))
        values = np.moveaxis(values, 2, axis)
        brick = encode(values)
        fields = parse(brick.data).fields
        assert isinstance(fields, Av1Fields) and fields.frame_axis == axis
        whole = decode(brick, spread=True)
        assert brick.last is not None and np.array_equal(whole.values, brick.last)
        region = (slice(3, 11), slice(2, 19), slice(5, 6))
        part = decode(brick, region, spread=True)
        assert np.array_equal(part.values, whole.values[region])
        assert part.spread is not None and whole.spread is not None
        assert part.spread.shape == part.values.shape


def test_every_frame_axis_decodes_and_flat_or_huge_ones_are_not_tried() -> None:
    values = blobs((18, 20, 24))
    source = Av1Source(values, None)
    assert source.frame_axes() == [0, 1, 2]
    for axis in source.frame_axes():
        trial = source.along(axis).code(40.0, quick=True)
        assert trial.samples.shape == values.shape
        assert trial.mse < 40.0**2
    assert Av1Source(values[:7], None).frame_axes() == [0]  # rows of 7
    assert Av1Source(np.zeros((16, 16, (1 << 14) + 1), "<i2"), None).frame_axes() == [0, 2]
