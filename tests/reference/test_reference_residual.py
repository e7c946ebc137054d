"""The residual decoder written from the text alone reads what the package writes."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from numpy.typing import NDArray
from reference_decoder.fields import Refused
from reference_decoder.residual import decode_integers as read

from psc_volumetric.coders.context.coder import decode_integers, encode_integers
from psc_volumetric.errors import FormatError

Integers = NDArray[np.int64]

# A stream written once; (3, 14, 15) integers. It must decode to the same for ever.
GOLDEN = bytes.fromhex(
    "01c0f2fcffffffffff01f2050a018c980c19214b517b46c70140f402d7b302920327b70346ee033cc7043f00"
    "06010100d0029f01391682014c2265328e01203f47cd01501d0c3e55192a008002850106033e34493f38ee01"
    "720742890110133763112d0c251440100a07090d2d11382f03240e0f2a360b19000f00c200096552af5c4f34"
    "501fa447e30a5422299b232d1bb862660689e8046a2c648a54d6ba6df74c60aeab374065c87e135d063e8235"
    "7752680af160e37bd394d19cef0e443db4875bfd491dce760b2664b08cb34f99c002bfbaca2c5797dfe83dd0"
    "21fad4a27a9a39ca985bdb1527b08eeff2a29501f28904a22ec5ce75252f472c574cb34e5793bccdd638c9a1"
    "856ea6deba4e3a71a40a9fdd37d17b72dcc0710eb1fed4729deaf93505e5b8f60f84c62ed88ec9c87327e2d6"
    "fbaeec266795b7990a7c0141ae08101ca5d8fe6b55f5824f1acedd4fb81feb324f9c8a68a6258829929e26b4"
    "431bd6ed61eff00042b2fef2d9f93355630bd4033574e616b278c1d2f102341281f77ad9215b3e9a09255cd6"
    "6f3cfcf955326cd2223bfa14f5c58a390beaff25bb86af971fbc6c93bd3b646aa8913355075b298dde4619c4"
    "6cc1ee9b758168108155220a708738e799718b5acb1490fe24d19fb4c1b9ffb90d42848b6b3146ded27a999a"
    "1e3df8ed7380f70d61bdd9a92c0b31cf92741e16a83c8268bb7c782adb88160d5500a8fe93d16486e8b4def3"
    "633af5c3c55d27a302379e2a4d94dba8321d884b820221527f16549a8e9f6102d9a5e86428e261c9d903c9fa"
    "2e30d4cfe91bfa48b43c3acda23cf9e54febc588ca7d6bab6c43ddd7ab469e00"
)
GOLDEN_DIGEST = "8b0773db2c22139a653167f154993c3c13d886d87857dacc29b55a0fa090e009"


def scan(shape: tuple[int, int, int], seed: int) -> Integers:
    """A slope, an edge, noise, and padding far below."""
    z, y, x = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    noise = np.random.default_rng(seed).normal(0, 3, shape)
    values = 20 * np.sin(y / 7 + z / 5) + x + 200 * (x > shape[2] // 2) + noise
    values[:, :2] = -5000
    return np.rint(values).astype(np.int64)


CASES = {
    "scan": scan((3, 16, 17), 1),
    "slice": scan((1, 20, 20), 2),
    "coarse": scan((4, 12, 12), 3) // 20,
    "binary": np.random.default_rng(4).integers(0, 2, (3, 10, 10)),
    "multiples": scan((2, 12, 12), 5) * 400003,
    "packed": np.random.default_rng(6).integers(-(1 << 31), 1 << 31, (2, 5, 5)),
    "constant": np.full((2, 2, 2), -9),
    "listed": scan((3, 14, 15), 10).clip(-100, 300) // 4 * 4 * 1001 // 13,
    "loud": np.rint(np.random.default_rng(9).standard_t(2, (3, 12, 12)) * 700).astype(np.int64),
    "rough": np.cumsum(np.random.default_rng(7).normal(0, 1e6, (2, 12, 12)), 2).astype(np.int64),
}


@pytest.mark.parametrize("given", ["nothing", "reference"])
@pytest.mark.parametrize("name", CASES)
def test_both_decoders_agree(name: str, given: str) -> None:
    values, random = CASES[name], np.random.default_rng(8)
    reference = None
    if given != "nothing":
        near = values * 16 + random.integers(-20, 21, values.shape)
        reference = np.clip(near, -(1 << 31), (1 << 31) - 1)
    data = encode_integers(values, reference=reference)
    assert (data[0] >= 2) == (name == "listed")
    np.testing.assert_array_equal(read(data, values.shape, reference), values)
    back = decode_integers(data, values.shape, reference=reference, what="test")
    np.testing.assert_array_equal(back, values)


def test_the_stored_stream_decodes() -> None:
    shape = (3, 14, 15)
    for values in (decode_integers(GOLDEN, shape, what="test"), read(GOLDEN, shape)):
        assert hashlib.sha256(values.astype("<i8").tobytes()).hexdigest() == GOLDEN_DIGEST


def ours(data: bytes) -> Integers | None:
    try:
        return decode_integers(data, (3, 14, 15), what="test")
    except FormatError:
        return None


def theirs(data: bytes) -> Integers | None:
    try:
        return read(data, (3, 14, 15))
    except Refused:
        return None


def test_both_decoders_refuse_the_same_damage() -> None:
    refused = 0
    for place in range(0, len(GOLDEN), 29):
        data = bytearray(GOLDEN)
        data[place] ^= 0x40
        first, second = ours(bytes(data)), theirs(bytes(data))
        assert (first is None) == (second is None)
        if first is None:
            refused += 1
        else:
            np.testing.assert_array_equal(first, second)
    assert refused > len(GOLDEN) // 29 // 2
