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
    "720742890110133763112d0c251440100a07090d2d11382f03240e0f2a360b19000f00c200096529a2d5aeda"
    "d8155e0154167478a1306ba35cc621d27792697424738b654dda452628183236f5ab4ec0e85a19f5bc79dce4"
    "979cbb0ac78d6ebae4b7457cce0491e78cea6682f358a8cc2204c872a3be291acc6d5bc1d9abb5a3d88fadab"
    "d9826f34d9a5c0cd8e81bb6e4133ddf416d6a5edf4de49255ecb59914cbadd73fb201b0ffc5ae018aa6f1b81"
    "a9a1a2ab270ea9dbf6be0211cbf94af17f7c98ce7d34ca931bc01d20a820f6fcc4889084886ba9d86bcf76a2"
    "5df1dd27928e403b84aad8d82205f37b0d475060fc863e8bd1059008236d6e00367a47eee49e8c8466ea29cd"
    "22efd60af62e99a409b30e9c1259e1fb58368ef572f0a3ca0d3d02e8de5657878fe67fcf2ad301722038c390"
    "f51e2dc401869fec42dcfc7e6991c1e3b5f482afd8abe38d3bff4cde078d564fa02a2b8f2d7299525735d810"
    "4bd179ceb943d785357aaf0c2a5690fb413c7da521acdcd791525ac43b8fb219089f15efcd46d109ce43f5a3"
    "93952cde4b2ba53636b933d1d64b5f0976c267a0c931c46f680e9e87598aec4a971b0b6e40ca2eac36717cfd"
    "ee06da1717e2c699a22ec9ed415a4d43671e0473e182f4996f6ec9011af8bb53ea13cfd0c433ac4ff8de3fa5"
    "8155c50c06d80f3b483aa7d74b96b2eb92fb5f37087503638fc5c0762739b74ab400"
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
