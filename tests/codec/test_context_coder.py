"""The context coder gives back every integer, and refuses bytes that it did not write."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from psc_volumetric.coders.context import state
from psc_volumetric.coders.context.coder import decode_integers, encode_integers
from psc_volumetric.coders.context.way import FORESEEN, LIGHT, PLAIN, Way
from psc_volumetric.errors import FormatError, ParameterError, UnsupportedVersionError
from psc_volumetric.values.ordered_floats import (
    float_keys,
    floats_from_keys,
    join_words,
    split_words,
)

I32 = np.iinfo(np.int32)
Integers = NDArray[np.int64]


def smooth(shape: tuple[int, int, int], seed: int = 1) -> Integers:
    """A volume like a scan: a slope, an edge, noise and a constant margin."""
    z, y, x = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    noise = np.random.default_rng(seed).normal(0, 3, shape)
    values = 20 * np.sin(y / 7 + z / 5) + x + 200 * (x > shape[2] // 2) + noise
    values[:, :2] = -1000
    return np.rint(values).astype(np.int64)


def round_trip(values: Integers, **given: NDArray[np.integer]) -> bytes:
    data = encode_integers(values, **given)
    back = decode_integers(data, values.shape, what="test", **given)
    np.testing.assert_array_equal(back, values)
    return data


def test_32_and_64_bits_of_memory_give_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(2).integers(0, 1 << 22, (3, 20, 30))
    values[:, 5:7, 7] = 0, (1 << 22) - 1  # the largest that is coded in 32 bits
    near = np.roll(values, 1, axis=0) << 4

    def streams() -> list[bytes]:
        alone = [encode_integers(values, way=way) for way in (PLAIN, FORESEEN)]
        return [*alone, encode_integers(values, reference=near)]

    narrow = streams()
    monkeypatch.setattr(state, "NARROW", 1)
    assert narrow == streams()


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(
        np.int64,
        hnp.array_shapes(min_dims=3, max_dims=3, max_side=6),
        elements=st.integers(I32.min, I32.max) | st.integers(-3, 3),
    ),
    st.sampled_from([PLAIN, LIGHT, FORESEEN]),
)
def test_any_integers_come_back(values: Integers, way: Way) -> None:
    data = encode_integers(values, way=way)
    back = decode_integers(data, values.shape, what="test", may_foresee=True)
    np.testing.assert_array_equal(back, values)


@pytest.mark.parametrize(
    "values",
    [
        np.full((1, 1, 1), I32.min),
        np.full((3, 4, 5), 7),
        np.indices((5, 6, 7)).sum(0) % 2 * (I32.max - int(I32.min)) + I32.min,
        np.eye(20)[None] * 1000,
        np.random.default_rng(0).integers(I32.min, I32.max, (3, 20, 20), endpoint=True),
        np.arange(1000).reshape(1, 1, 1000),
        np.arange(1000).reshape(1000, 1, 1) * 4096,
    ],
    ids=["one", "constant", "checkerboard", "sparse", "noise", "line", "column"],
)
def test_extremes_come_back(values: Integers) -> None:
    data = round_trip(values.astype(np.int64))
    assert len(data) < 4 * values.size + 40


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4"])
def test_extremes_of_each_dtype_come_back(dtype: str) -> None:
    info = np.iinfo(dtype)
    values = smooth((3, 20, 20)).clip(info.min, info.max)
    values[1, 5:9, 5:9] = [info.min, info.max, info.min, info.max]
    round_trip(values)


def test_a_scan_becomes_small() -> None:
    values = smooth((8, 64, 64))
    noise_bits = np.log2(3 * np.sqrt(2 * np.pi * np.e))
    assert len(round_trip(values)) * 8 / values.size < noise_bits + 0.6


def test_the_light_model_costs_little() -> None:
    values = smooth((8, 64, 64))
    data = encode_integers(values, way=LIGHT)
    np.testing.assert_array_equal(decode_integers(data, values.shape, what="test"), values)
    assert len(data) < 1.05 * len(round_trip(values))


def test_a_network_is_named_only_where_the_coder_may() -> None:
    values = smooth((3, 24, 24))
    data = encode_integers(values, way=FORESEEN)
    with pytest.raises(FormatError, match="unknown context stream 9"):
        decode_integers(data, values.shape, what="test")
    back = decode_integers(data, values.shape, what="test", may_foresee=True)
    np.testing.assert_array_equal(back, values)


def test_an_unknown_network_is_of_a_newer_version() -> None:
    values = smooth((3, 24, 24))
    data = bytearray(encode_integers(values, way=FORESEEN))
    plain = encode_integers(values)
    place = 1 + next(i for i in range(1, 60) if data[i] != plain[i])
    found = [at for at in range(1, place) if data[at] == 0]
    data[found[-1]] = 7
    with pytest.raises(UnsupportedVersionError, match="unknown network 7"):
        decode_integers(bytes(data), values.shape, what="test", may_foresee=True)


def test_a_network_without_a_model_is_refused() -> None:
    values = smooth((3, 24, 24))
    for variant in (8, 10, 13, 15):
        data = bytes([variant]) + encode_integers(values, way=FORESEEN)[1:]
        with pytest.raises(FormatError, match="unknown context stream"):
            decode_integers(data, values.shape, what="test", may_foresee=True)


def test_a_reference_helps() -> None:
    values = smooth((8, 64, 64))
    reference = (values * 16 + np.random.default_rng(2).integers(-12, 13, values.shape)).astype(
        np.int32
    )
    assert len(round_trip(values, reference=reference)) * 2 < len(round_trip(values))


def test_threads_write_the_same_bytes() -> None:
    parts = [smooth((4, 24, 24), seed) for seed in range(6)]
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(encode_integers, parts)) == [encode_integers(part) for part in parts]


def test_rare_changes_cost_little() -> None:
    values = np.zeros((8, 64, 64), np.int64)
    values[4, 20:30, 20:30] = 1
    assert len(round_trip(values)) < 250


def test_a_constant_costs_its_header() -> None:
    assert len(round_trip(np.full((8, 64, 64), -5))) < 16


def test_values_far_away_and_coarse_steps_cost_little() -> None:
    values = smooth((4, 32, 32)) * 48 - (1 << 29)
    plain = len(round_trip(smooth((4, 32, 32))))
    values[:, -3:] = int(values.min()) + 48 * (1 << 25)
    assert len(round_trip(values)) < plain + 60
    round_trip(values, reference=np.clip(values + 1, I32.min >> 4, I32.max >> 4) * 16)


@pytest.mark.parametrize("place", [(1 << 62) - 9000, 9000 - (1 << 62), -(1 << 41), 1 << 41])
def test_a_reference_far_from_the_values_does_no_harm(place: int) -> None:
    values = smooth((3, 12, 12)) + place
    for near in (I32.min, 0, I32.max):
        round_trip(values, reference=np.full(values.shape, near))


def test_scaled_integers_cost_as_much_as_unscaled_ones() -> None:
    values = smooth((8, 64, 64)).clip(-40, 300)
    scaled = float_keys((values * np.float32(0.37291)).astype(np.float32))
    assert len(round_trip(scaled)) < 1.05 * len(round_trip(values)) + 400
    reference = np.clip(scaled, I32.min >> 4, I32.max >> 4) * 16
    round_trip(scaled, reference=reference)


def test_lists_of_values_that_do_not_rise_are_refused() -> None:
    values = float_keys((smooth((4, 32, 32)).clip(-40, 300) * np.float32(0.3)).astype(np.float32))
    data = encode_integers(values)
    assert data[0] == 3
    assert {outcome(data[:cut], values.shape) for cut in range(40)} <= {"truncated", "bad-symbol"}
    size = bytes([len(data) & 127 | 128, len(data) >> 7])
    nested = data[:9] + b"\x05" + size + data + data
    assert outcome(nested, values.shape) == "bad-payload"


@pytest.mark.parametrize("shape", [(1, 1, 9), (9, 1, 1), (2, 3, 1), (1, 40, 2), (5, 2, 40)])
def test_thin_segments_come_back(shape: tuple[int, int, int]) -> None:
    values = smooth(shape)
    reference = values * 16 + 3
    round_trip(values, reference=reference)
    round_trip(np.repeat(values, 20, axis=0))


def outcome(data: bytes, shape: tuple[int, int, int]) -> str:
    try:
        decode_integers(data, shape, what="test")
    except FormatError as error:
        return error.kind
    return "decoded"


def test_truncated_streams_are_refused() -> None:
    values = smooth((2, 12, 12))
    data = encode_integers(values)
    kinds = {outcome(data[:cut], values.shape) for cut in range(len(data))}
    assert kinds <= {"truncated", "bad-payload", "bad-symbol", "limit"}
    assert outcome(data + b"\0", values.shape) == "bad-symbol"
    assert outcome(data, (2, 12, 13)) == "bad-symbol"
    assert outcome(data, (1 << 18, 1, 1)) == "limit"


def thirds(shape: tuple[int, int, int]) -> Integers:
    """A volume whose values are coded by their place in a list."""
    return smooth(shape).clip(-40, 60) // 4 * 4 * 1001 // 13


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 255), st.sampled_from([smooth, thirds]))
def test_flipped_bytes_never_pass_unseen(
    place: int, mask: int, volume: Callable[[tuple[int, int, int]], Integers]
) -> None:
    """Header bytes may decode to other values; the body is held by its check word."""
    values = volume((2, 12, 12))
    data = bytearray(encode_integers(values))
    data[place % len(data)] ^= mask
    outcome(bytes(data), values.shape)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=600))
def test_hostile_bytes_are_refused_or_decoded(tail: bytes) -> None:
    outcome(tail, (2, 5, 6))
    outcome(encode_integers(smooth((2, 5, 6)))[:20] + tail, (2, 5, 6))


def test_parameters_are_checked() -> None:
    with pytest.raises(ParameterError) as found:
        encode_integers(np.array([[[0, 1 << 32]]]))
    assert found.value.kind == "bad-values"
    with pytest.raises(ParameterError) as found:
        encode_integers(np.zeros((0, 1, 1), np.int64))
    assert found.value.kind == "bad-shape"
    with pytest.raises(ParameterError) as found:
        encode_integers(np.zeros((1 << 18, 1, 1), np.uint8))
    assert found.value.kind == "bad-shape"
    with pytest.raises(ParameterError) as found:
        encode_integers(np.zeros((1, 1, 2), np.int64), reference=np.zeros((1, 1, 1), np.int32))
    assert found.value.kind == "bad-shape"
    with pytest.raises(ParameterError) as found:
        float_keys(np.zeros(1, np.float16))
    assert found.value.kind == "bad-dtype"


@pytest.mark.parametrize("size", [4, 8])
def test_keys_keep_every_bit_and_the_order(size: int) -> None:
    info = np.iinfo(f"i{size}")
    random = np.random.default_rng(3).integers(info.min, info.max, 1000, dtype=f"i{size}")
    special = np.array([0.0, -0.0, 1, -1, np.inf, -np.inf, np.nan, -np.nan, 5e-324], f"f{size}")
    values = np.concatenate([random.view(f"f{size}"), special])
    keys = float_keys(values)
    back = floats_from_keys(join_words(*split_words(keys)), values.dtype)
    np.testing.assert_array_equal(back.view(f"u{size}"), values.view(f"u{size}"))
    finite = np.sort(values[np.isfinite(values)])
    assert (np.diff(float_keys(finite))[np.diff(finite) > 0] > 0).all()
    assert float_keys(np.array([-0.0, 0.0], f"f{size}")).tolist() == [-1, 0]
    if size == 4:
        assert I32.min <= keys.min() <= keys.max() <= I32.max
