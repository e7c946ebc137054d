"""The residual decoder written from the text alone reads what the package writes."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from numpy.typing import NDArray
from reference_decoder.context import decode_integers as read
from reference_decoder.fields import Refused

from psc_volumetric.coders.context.coder import decode_integers, encode_integers
from psc_volumetric.coders.context.given import Cells
from psc_volumetric.errors import FormatError

Integers = NDArray[np.int64]

# A stream written once; (3, 14, 15) integers. It must decode to the same for ever.
GOLDEN = bytes.fromhex(
    "01c0f2fcffffffffff01f2050a018c980c19214b517b46c70140f402d7b302920327b70346ee033cc7043f00"
    "06010100d0029f01391682014c2265328e01203f47cd01501d0c3e55192a008002850106033e34493f38ee01"
    "720742890110133763112d0c251440100a07090d2d11382f03240e0f2a360b19000f46ff3dffc172a57c7795"
    "edb89f755f914510eed9d44446229e3f6c11184948c32b5057f733ab4eaf8b914c5a4ccf62fecb36638020b1"
    "a283a9e81443fc00ab619881cc142a99a393dda8add42cd965414c38738a2fe9e21afdf923be91937551602d"
    "69c62a062850140e53ab76e598c2915afa296f7f2ee300eee773ee50c3c27513160402a613847b4d105ab405"
    "1421fd7b380876b8f0e63cbac5fd852a048186a372358bcd8f8cf0488b10bd9a2c797a2437f780e4fc8cd93b"
    "ad265b9dc8055bc52fe2012b294149d9ac0e9bbe11f89afe1d66cec2bdf938adaeccaac6f39c003b47b1e76b"
    "32f2f0edce3c05478711f1ff43689aeb1bc3bdcbf3aa944142aa8c88af48ff755b82647e9ae33dd7debe89a1"
    "b3f1e390255b5cf9cf4f8d3526d165696d2f3b5f66b2484156cda0de760f480fa09723c11447db5aab1a2fbc"
    "e07a4995870d720452971d9bc88c0ce26748121e366b4ba44bb4329fca97e5267bdfc5f475eff7b2156062a7"
    "9c1f2f104e2a5e7a26737ed784f9a3992bd541b97f24303bc1cba770b42ca9883293e3b682b79432f32a2259"
    "264541dc14a863b886cadc7cf0e07f557733962cd1007aab82a2b0c889c994f725c3cb226af6bf5872923d8d"
    "e653db2789e262691b3f4f822b42d1b3bbb58c69efbc83bf840496448d31"
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


@pytest.mark.parametrize("width", [0, 1, 4, 900])
@pytest.mark.parametrize("name", CASES)
def test_both_decoders_agree_on_cells(name: str, width: int) -> None:
    values, random = CASES[name], np.random.default_rng(8)
    below, above = random.integers(0, width + 1, (2, *values.shape))
    cells = Cells(values - below, values + above)
    data = encode_integers(values, cells=cells)
    np.testing.assert_array_equal(read(data, values.shape, cells=cells), values)
    back = decode_integers(data, values.shape, cells=cells, what="test")
    np.testing.assert_array_equal(back, values)
    if name == "scan" and width < 4:
        assert len(data) < len(encode_integers(values)) - 200


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
