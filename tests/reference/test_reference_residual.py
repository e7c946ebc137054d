"""The residual decoder written from the text alone reads what the package writes."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from numpy.typing import NDArray
from reference_decoder.fields import Refused
from reference_decoder.residual import decode_integers as read

from psc_volumetric.coding.residual import decode_integers, encode_integers
from psc_volumetric.errors import FormatError

Integers = NDArray[np.int64]

# A stream written once; (3, 14, 15) integers. It must decode to the same for ever.
GOLDEN = bytes.fromhex(
    "01c0f2fcffffffffff01f2050a018c980c19214b517b46c70140f402d7b302920327b70346ee033cc7043f00"
    "06010100f202cf010354604d00a70106011800000000000000000000000000000000000000ba028f011b8201"
    "6083010e8701020208430e322e0207110b0609482600000911060b0049ffc976a935d8266f1c2687aee8e88d"
    "cf49c57e242c117457710927d190a8e6118160283ef72a04bccf57532cdc1d9988f9df6a9c2271e358cf22e5"
    "2d0b10220443004fda961c6609aa5e37a9706d477626daa9fc7e0ef850885a3d03b686fc92344f3245115fa2"
    "8df20da1f4176317abcc5f8a123d300a4103d6c9f30d90d816c42ecb8225a7eae5b211c464950d35f868b33e"
    "153a03cbecee2a6d55768423b0f2309c75eb4ddfc3c58e83ddc169cabfb17615429a6d729397bfb387e22192"
    "086514b072b863a02aab6c11426b5a024c3df8d745554cb39e301c4a5f0a49a3e65d5bf4cb9b79d941fd7381"
    "4804b173f882b3fffcb7849f256b8b2200094db6da2e6cc74566bd85489827abaa5e3437f26089be577c7858"
    "d6c394543d19a2beee0d52fc5e1fb26e98feb8f1abedab4206d8b68ce3febc5dce02e846eac80491b45b6838"
    "f0358de8d864caf86236e6c649485f5aa7fe538e763142d68645cbc87a83c687a853eb5bb14629c7e4e4b1aa"
    "51a8deebf6c4b6bdd4c60497aa72ade8860c210eb4f67e88a95a620b811382463233e51c2db92310a7ea711e"
    "83dbd510a8182b39f1a56d8f6ec1fd8932a96c596125cd368256251a307342f27376c2b8dee1801fe43c042c"
    "84a58e0e9af6d546067ff7e0179621297a1765f7a21d110000"
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
    "rough": np.cumsum(np.random.default_rng(7).normal(0, 1e6, (2, 12, 12)), 2).astype(np.int64),
}


@pytest.mark.parametrize("given", ["nothing", "reference", "reference-and-spread"])
@pytest.mark.parametrize("name", CASES)
def test_both_decoders_agree(name: str, given: str) -> None:
    values, random = CASES[name], np.random.default_rng(8)
    reference = spread = None
    if given != "nothing":
        near = values * 16 + random.integers(-20, 21, values.shape)
        reference = np.clip(near, -(1 << 31), (1 << 31) - 1)
    if given.endswith("spread"):
        spread = random.integers(0, 60, values.shape)
    data = encode_integers(values, reference=reference, spread=spread)
    np.testing.assert_array_equal(read(data, values.shape, reference, spread), values)
    back = decode_integers(data, values.shape, reference=reference, spread=spread, what="test")
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
