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
    "06010100d0029f01391682014c2265328e01203f47cd01501d0c3e55192a008002850106033e34493f38ee01"
    "720742890110133763112d0c251440100a07090d2d11382f03240e0f2a360b19000f0049ffc976a935d8266f"
    "1c1ea290c7c65dde269653e8fc0980677cf86c2967ccb93d3db7ee8892bde83549363da6d1700e7fa0526d56"
    "afe472f3002fd6f0dfceb078471a3ddae24c16d51baa85ee1afe9fb2d0908c989bb0fd6e11d368449f074616"
    "811218c574271432d5c14b79e191d6dd1b65d6baf3e1a03d4dac266f64d4ecd580bcf0d641b5cc658d3ed434"
    "4f3a7dba4b730095e73f535357a2e1f617a74727d76cb437cb3e66a8e86d007c8b80a0fb19a6b443ffc4005e"
    "1e1bf1d86750da4e96f1f074a03c4431bcbf439be9c65cee511eafcca707bce7526394eae9e25a2ad504038a"
    "a80218a88f2381596cb3742235be640f30799271f308282930857057f8b6b2028c308401cdc474a76b2431c4"
    "50ebfcb641a4fa7b6225441fea275a4a38aac02512328cf99e9596abeab8bb76cddd08f2e98b76fb1187eead"
    "37d99f9cf8e86f0ae4acc00406f401d0d5103c40134edc2724ab2da63bf11c7ac82e18e97774aa2f084d9f6d"
    "5d3eb9c0155492d21dd3cb42b3e7460485c608b3b3c2461049c14ecdd2cfd38dc90c091be67eb5d488fdb6f8"
    "624530bfc23147789b05b580f15735a40daf4141fe4e83705f90817ad7b8f44f6e1dfea7cf61bd71c7c868cc"
    "47ca98fd9ed9cd3ed6368d839c3c8821e57835c0430f537553d5f7395ce61dbb9e50bc0000"
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
