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
    "1c2687aee8e88dcf49c57e242c1174534a835b595a19c5c91a3875808df77928b64a7058332130abe0ca78ba"
    "e7e951c2489c12c3e4030891a715fdde419de2aec16b4b5136d4c846fafd669c130aa888efbcb4f0527c60a4"
    "82b7b21d7f22fe0db776c9d41e06d51462e54c2282fc307db4c584d4c1046acd09ecea63b3044bb95524c050"
    "301a35c3c9f4f489d2effc4d4741b9a99e2e14891ec0391076ef5f4ff4ca29cb6e384a6386c6d68115509725"
    "52b2c8b8fb3b8ce10f1677758a9908846bc497da27f1aab5fbadf01a00283b33f0e473aa086878d16682febe"
    "4cdb169d4e17cf7711e2ccff9fcb127129189d2850e00ffdfa29ba7d01d22d72a1a4421b50358e7b7757e5bd"
    "9976f7cccdc1fa50a0926369fabede91e1b28cafd4e5ba2174df7d4c4961a2ef1cbe25bd5245e1aeee0856ca"
    "f07e7a3fbfeca45a69f3e405d790ef835ea7547cf121b8b071b830b6950a1fd164b8d1691e988413bb6452bc"
    "4d78fab9b373bdbcd5ad4b05efe14b1637a7fcea453c796dd18c3add8f1e8167f80016a4b84e5a735b85632b"
    "3d1507f2054ec5c6c88463cdcd68dcb2b727abbb4b9723438a2e5ae9cbede9e8fa1f9ab34e4d999bad04b3e0"
    "369d9684adc30003d3c4a58a65128785b6c917f5c14782d664b0d8e53703a465fe8785e96b0000"
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
