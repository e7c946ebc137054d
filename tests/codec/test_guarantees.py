"""No bound is ever violated and no bit is ever lost: brute force and properties, every dtype."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psc_volumetric.bitstream.constants import CODER_CODES, DTYPES
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
from psc_volumetric.coders.registry import EXACT_CODERS
from psc_volumetric.errors import FormatError, ParameterError
from psc_volumetric.layers.guarantee import DEFAULT_CODERS
from psc_volumetric.methods.registry import read_index
from psc_volumetric.prior import Prior, load_prior

CODES = [dtype.str[1:] if dtype.kind != "b" else "?" for dtype in DTYPES.values()]
NUMBERS = [code for code in CODES if code != "?"]
QUICK = ("zstd", "jpegls")  # coders without a warm-up, for properties
BOUNDS = (1, 0.25, 7.9, 1e-40, 1e30)
MORE_BOUNDS = (2, 0.5000001, 1000, 1e-3)


def encode(
    values: np.ndarray, guarantee: Guarantee, *, shape=None, mapping=None, prior=None, **options
) -> EncodedBrick:
    return encode_brick(
        values,
        position=(0,),
        shape=shape or values.shape,
        mapping=mapping,
        parameters=CodecParameters(effort=1),
        prior=prior,
        guarantee=guarantee,
        options=BrickOptions(**options),
    )


def decode(data: bytes, **options) -> DecodedBrick:
    selection = options.pop("selection", (slice(None),) * 3)
    return decode_brick(lambda at, n: data[at : at + n], selection=selection, **options)


def exact_error(decoded: np.generic, source: np.generic) -> Fraction:
    """Absolute difference without any rounding; 0 for the same bits."""
    if decoded.tobytes() == source.tobytes():
        return Fraction(0)
    if not (math.isfinite(decoded) and math.isfinite(source)):
        return Fraction(10**400)
    return abs(Fraction(decoded.item()) - Fraction(source.item()))


def largest_error(decoded: np.ndarray, source: np.ndarray) -> Fraction:
    pairs = zip(decoded.reshape(-1), source.reshape(-1), strict=True)
    return max(exact_error(a, b) for a, b in pairs)


def extremes(code: str) -> np.ndarray:
    """Values at the ends of a dtype, and odd ones in between, as (2, 4, n)."""
    dtype = np.dtype(code)
    if dtype.kind == "f":
        info = np.finfo(dtype)
        tiny, least = info.tiny, info.smallest_subnormal
        plain = [0.0, -0.0, 1.0, -1.0, 1 / 3, 1e3, -1e3, least, -least, tiny, 12345.678, 2.0**20]
        odd = [np.nan, -np.nan, np.inf, -np.inf, info.max, info.min, 3e30, -3e30]
        values = np.array([*plain, *plain, *odd, *plain, *plain, *plain], dtype)
        values.view(f"u{dtype.itemsize}")[5] |= 1  # one more bit
        return np.concatenate([values, values[::-1]]).reshape(2, 4, -1)
    info = np.iinfo(dtype)
    ends = [info.min, info.min + 1, info.max, info.max - 1, info.max // 2, info.min // 2]
    middle = list(range(info.max // 2 - 12, info.max // 2 + 14))
    values = np.array([*ends, *middle], dtype)
    return np.concatenate([values, values[::-1]]).reshape(2, 4, -1)


def ramps(code: str) -> np.ndarray:
    """A smooth field with noise that fits every dtype."""
    z, y, x = np.indices((3, 20, 24))
    field = 40 + 2 * x + y + 3 * z + np.random.default_rng(5).integers(-4, 5, (3, 20, 24))
    return (field > 70) if code == "?" else (field + 0.25).astype(code)


FIELDS = {"extremes": extremes, "ramps": ramps}


@pytest.mark.parametrize(
    "bound", [*BOUNDS, *(pytest.param(bound, marks=pytest.mark.slow) for bound in MORE_BOUNDS)]
)
@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("code", NUMBERS)
def test_no_bound_is_violated(code: str, field: str, bound: float) -> None:
    values = FIELDS[field](code)
    with np.errstate(over="ignore"):
        encoded = encode(values, Guarantee("bounded", bound, coders=QUICK))
        decoded = decode(encoded.data, spread=True)
    assert largest_error(decoded.values, values) <= Fraction(bound)
    assert max(record.max_error[-1] for record in encoded.records) <= bound
    assert (decoded.spread <= np.float32(bound)).all()


@pytest.mark.parametrize(
    ("field", "code"),
    [("ramps", "?"), *((field, code) for field in FIELDS for code in NUMBERS)],
)
def test_lossless_keeps_every_bit(field: str, code: str) -> None:
    values = FIELDS[field](code)
    for guarantee in (Guarantee("lossless"), Guarantee("lossless", 2.0), Guarantee("bounded", 0)):
        decoded = decode(encode(values, guarantee).data, spread=True)
        assert decoded.values.tobytes() == values.tobytes()
        assert not decoded.spread.any()


def test_all_payloads_of_nan_and_both_zeros_survive() -> None:
    bits = np.random.default_rng(0).integers(0, 1 << 32, 6000, dtype=np.uint32)
    bits[::7] |= 0x7F800000  # many NaN and infinities
    bits[::11] &= 0x807FFFFF  # zeros and subnormals
    values = bits.view("<f4").reshape(3, 40, 50)
    encoded = encode(values, Guarantee("lossless"))
    assert decode(encoded.data).values.tobytes() == values.tobytes()
    assert encoded.method.startswith("none+lossless:")
    bounded = encode(values, Guarantee("bounded", 1.0))  # too many patterns: kept exactly
    assert decode(bounded.data).values.tobytes() == values.tobytes()


@settings(max_examples=60, deadline=None)
@given(
    code=st.sampled_from(["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8"]),
    data=st.data(),
    bound=st.floats(0, 2.0**40),
    extra=st.booleans(),
)
def test_any_integers_and_any_bound(code: str, data, bound: float, extra: bool) -> None:
    info = np.iinfo(code)
    numbers = st.lists(st.integers(int(info.min), int(info.max)), min_size=1, max_size=24)
    values = np.array(data.draw(numbers), code).reshape(1, 1, -1)
    mode = "lossless" if extra else "bounded"
    encoded = encode(values, Guarantee(mode, bound, coders=QUICK))
    levels = read_index(lambda at, n: encoded.data[at : at + n]).levels
    for level in range(levels):
        decoded = decode(encoded.data, level=level)
        assert largest_error(decoded.values, values) <= Fraction(bound)
    assert not extra or decoded.values.tobytes() == values.tobytes()


@settings(max_examples=80, deadline=None)
@given(
    width=st.sampled_from([32, 64]),
    data=st.data(),
    bound=st.floats(0, 1e30, allow_subnormal=True),
)
def test_any_floats_and_any_bound(width: int, data, bound: float) -> None:
    one = st.one_of(st.floats(width=width), st.floats(-1000, 1000, width=width))
    values = np.array(data.draw(st.lists(one, min_size=1, max_size=24)), f"<f{width // 8}")
    values = values.reshape(1, 1, -1)
    with np.errstate(over="ignore"):
        encoded = encode(values, Guarantee("bounded", bound, coders=("zstd",)))
        decoded = decode(encoded.data)
    assert largest_error(decoded.values, values) <= Fraction(bound)


@pytest.mark.parametrize(
    ("reference", "code"),
    [
        *(("none", code) for code in ("u2", "i2")),
        *(("base", code) for code in ("i2", "f4")),
        *(("auto", code) for code in ("u2", "f4")),
        pytest.param("none", "f4", marks=pytest.mark.slow),
        pytest.param("base", "u2", marks=pytest.mark.slow),
        pytest.param("auto", "i2", marks=pytest.mark.slow),
    ],
)
def test_layers_over_the_prior_keep_their_promises(reference: str, code: str) -> None:
    prior = load_prior("test-tiny")
    z, y, x = np.indices((8, 40, 64))
    values = (500 + 9 * y + 5 * x + 40 * z).astype(code)
    values[0, 0, :9] = 7777
    encoded = encode(
        values, Guarantee("lossless", 3.0, reference, ("zstd",)), shape=(8, 64, 64), prior=prior,
        mapping=IntensityMapping(0, 2000), special_values=(7777.0,), base="psc",
    )  # fmt: skip
    assert encoded.method.startswith("psc+bounded:zstd+lossless:zstd")
    levels = len(encoded.records[0].mse)
    found = [
        decode(encoded.data, level=k, prior=lambda _: prior, spread=True) for k in range(levels)
    ]
    assert largest_error(found[-2].values, values) <= 3
    assert found[-1].values.tobytes() == values.tobytes() and not found[-1].spread.any()
    assert encoded.records[0].max_error[-2:] == (float(largest_error(found[-2].values, values)), 0)
    sigma = found[-2].spread
    assert (sigma[0, 0, :9] == 0).all() and sigma[1, 1, 1] == np.float32(3) / np.float32(3**0.5)
    if reference == "none":  # exact levels run no network
        assert decode(encoded.data).values.tobytes() == values.tobytes()


def test_region_is_exact_and_the_rest_is_not() -> None:
    prior: Prior = load_prior("test-tiny")
    values = np.random.default_rng(2).integers(0, 2000, (8, 64, 100)).astype("<i2")
    mask = np.zeros(values.shape, bool)
    mask[2:5, 3:20, 40:50] = True
    common = {
        "shape": (8, 64, 128), "prior": prior, "mapping": IntensityMapping(0, 2000), "base": "psc",
        "exact_mask": mask,
    }  # fmt: skip
    for guarantee in (Guarantee(coders=("zstd",)), Guarantee("bounded", 20.0, coders=("zstd",))):
        encoded = encode(values, guarantee, **common)
        whole = decode(encoded.data, prior=lambda _: prior, spread=True)
        assert np.array_equal(whole.values[mask], values[mask])
        assert not whole.spread[mask].any() and whole.spread[:, :, 80:].any()
        assert not np.array_equal(whole.values, values)
        inside = (slice(2, 5), slice(3, 20), slice(40, 50))
        # no prior is at hand: the region does not need one
        assert np.array_equal(decode(encoded.data, selection=inside).values, values[inside])
    assert largest_error(whole.values, values) <= 20


def test_an_empty_mask_changes_nothing() -> None:
    values = ramps("i2")
    bounded = Guarantee("bounded", 2.0, coders=("zstd",))
    plain = encode(values, bounded).data
    assert encode(values, bounded, exact_mask=np.zeros(values.shape, bool)).data == plain


def test_constant_and_sparse_bricks() -> None:
    values = np.zeros((4, 70, 90), "<f4")
    assert encode(values, Guarantee("bounded", 0.5)).method == "constant"
    values[3, 5, 7], values[0, 69, 89] = 1e30, np.nan
    for guarantee in (Guarantee("bounded", 0.5), Guarantee("lossless")):
        encoded = encode(values, guarantee)
        assert largest_error(decode(encoded.data).values, values) <= Fraction(0.5)
        assert len(encoded.data) < 500


@pytest.mark.parametrize("bound", [-1, math.nan, math.inf, -math.inf])
def test_bounds_that_make_no_sense_are_refused(bound: float) -> None:
    with pytest.raises(ParameterError) as caught:
        Guarantee("bounded", bound)
    assert caught.value.kind == "bad-bound"


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ({"mode": "best"}, "bad-mode"),
        ({"mode": "bounded"}, "bad-bound"),
        ({"mode": "lossy", "max_error": 1.0}, "bad-bound"),
        ({"mode": "lossless", "reference": "x"}, "bad-reference"),
        ({"mode": "lossless", "coders": ("zip",)}, "bad-coder"),
        ({"mode": "lossless", "coders": ()}, "bad-coder"),
    ],
)
def test_guarantees_that_make_no_sense_are_refused(arguments: dict, kind: str) -> None:
    with pytest.raises(ParameterError) as caught:
        Guarantee(**arguments)
    assert caught.value.kind == kind


def test_a_coder_that_cannot_is_an_error() -> None:
    with pytest.raises(ParameterError, match="zstd") as caught:
        encode(ramps("f4"), Guarantee("lossless", coders=("jpegls",)))
    assert caught.value.kind == "no-coder"


def test_a_mask_of_another_shape_is_refused() -> None:
    with pytest.raises(ParameterError) as caught:
        encode(ramps("i2"), Guarantee("lossless"), exact_mask=np.ones((1, 2, 3), bool))
    assert caught.value.kind == "bad-mask"


@pytest.mark.parametrize("coder", ["zstd", "context"])
@pytest.mark.parametrize("code", CODES)
def test_coders_that_take_anything_do_with_and_without_a_reference(code: str, coder: str) -> None:
    for values in [ramps(code)] if code == "?" else [ramps(code), extremes(code)]:
        for reference in (None, np.ascontiguousarray(np.roll(values, 1, 2))):
            data = EXACT_CODERS[coder].encode(values, reference)
            decoded = EXACT_CODERS[coder].decode(
                data, values.shape, values.dtype, reference, what="segment"
            )
            assert decoded.tobytes() == values.tobytes() and decoded.dtype == values.dtype


def test_a_default_archive_takes_coders_of_published_standards_and_ours() -> None:
    assert set(CODER_CODES) - set(DEFAULT_CODERS) == {"pcodec"}


FOREIGN = ["jpegxl", "jpegls", "jpeg2000", "pcodec"]  # htj2k writes to stderr when damaged


@pytest.mark.parametrize("coder", FOREIGN)
def test_damaged_foreign_payloads_are_refused_or_give_the_same(coder: str) -> None:
    values = ramps("u2")
    good = EXACT_CODERS[coder].encode(values, None)
    rng = np.random.default_rng(1)
    refused = 0
    for _ in range(150):
        data = bytearray(good)
        place = (
            int(rng.integers(8, len(data))) if coder != "pcodec" else int(rng.integers(len(data)))
        )
        if rng.random() < 0.7:
            data[place] ^= 1 << int(rng.integers(8))
        else:
            del data[place : place + int(rng.integers(1, 40))]
        try:
            found = EXACT_CODERS[coder].decode(
                bytes(data), values.shape, values.dtype, None, what="segment"
            )
        except FormatError as error:
            assert error.kind in ("bad-payload", "decoded-checksum")
            refused += 1
        else:
            assert np.array_equal(found, values)  # a byte that says nothing about samples
    assert refused > 75


@pytest.mark.parametrize("coder", [*FOREIGN, "htj2k"])
def test_an_image_of_another_size_is_refused_before_it_is_decoded(coder: str) -> None:
    other = np.arange(4 * 300 * 300, dtype="<u2").reshape(4, 300, 300)
    data = EXACT_CODERS[coder].encode(other, None)
    with pytest.raises(FormatError) as caught:
        EXACT_CODERS[coder].decode(data, (1, 8, 8), np.dtype("<u2"), None, what="segment")
    assert caught.value.kind in ("bad-payload", "decoded-checksum")


@pytest.mark.parametrize("bits", [12, 40, 62, 64])
def test_a_pcodec_file_that_says_it_is_larger_is_refused_before_it_is_decoded(bits: int) -> None:
    """Its library would take memory for as many numbers, and end the process where none is left."""
    values = np.arange(600, dtype="<u2").reshape(1, 20, 30)
    good = EXACT_CODERS["pcodec"].encode(values, None)
    check, magic, hint, rest = good[:4], good[4:10], good[10:12], good[12:]
    assert int.from_bytes(hint, "little") == 600 << 6 | 9  # ten bits, and the number
    larger = ((1 << bits) - 1 << 6 | bits - 1).to_bytes((bits + 13) // 8, "little")
    with pytest.raises(FormatError, match="no file of 600 numbers"):
        EXACT_CODERS["pcodec"].decode(
            check + magic + larger + rest, values.shape, values.dtype, None, what="segment"
        )


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 700), (1, 700, 1), (700, 1, 1), (2, 3, 1)])
@pytest.mark.parametrize("code", ["u1", "i2", "f4"])
def test_slim_bricks_of_every_coder(code: str, shape: tuple[int, int, int]) -> None:
    values = np.arange(np.prod(shape)).reshape(shape).astype(code)
    for coder in EXACT_CODERS:
        guarantee = Guarantee("lossless", coders=(coder, "zstd"))
        assert decode(encode(values, guarantee).data).values.tobytes() == values.tobytes()
