"""The residual decoder written from the text alone reads what the package writes."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from reference_decoder.context import decode_integers as read
from reference_decoder.fields import Fields, Refused

from psc_volumetric.coders.context import coder
from psc_volumetric.coders.context.coder import decode_integers, encode_integers
from psc_volumetric.coders.context.fit import fit_predictors
from psc_volumetric.coders.context.given import Cells, Given
from psc_volumetric.coders.context.way import FORESEEN, LIGHT, PLAIN, Way
from psc_volumetric.errors import FormatError

Integers = NDArray[np.int64]

# A stream written once; (3, 14, 15) integers. It must decode to the same for ever.
GOLDEN = bytes.fromhex(
    "01c0f2fcffffffffff01f2050a018c980c19214b517b46c70140f402d7b302920327b70346ee033cc7043f00"
    "06010100d0029f01391682014c2265328e01203f47cd01501d0c3e55192a008002850106033e34493f38ee01"
    "720742890110133763112d0c251440100a07090d2d11382f03240e0f2a360b19000fffff44ffb761ebda6aad"
    "1b9e3118c9ec5702bfb71fa7c170beb3850f87c377e3fc5ce656b970e33f4cbcc72f5081ad76086e684c6853"
    "99a19a1415934885b428f58e314767d7b111ffd70324adce799421c58d9dbaee42989186585e92bd1f3c9297"
    "45c04f139dd576b5022f91b6c240532e742498f81259e4da74321f804e54729d12fb1b16bd3065b94fc908d5"
    "5713da832e5eb2384ee5066c10dfa9b10d36d7fea5d79d503d825423bf73c29a462ac0d48ff2a44e005fbcd9"
    "e79e8c3c82212448bb0233f8a27c36a12865476d52c8c7bdf2c835b2458f31efbe879a069caf5f6cb3e588ae"
    "e64162506b0ac1c081476f440e5d50ff4b5a13f7d619fa4b017abab846035f04856d7b1bbd1210dfa3ae737f"
    "30d4da9407d1aaa446254d1e17ff2db546e2d1c15681441120e82e0e873e6d57f9a6a6156f6b117676ba88ba"
    "2b8d7c7205ffc802c48b2917493efeb1e6552cfcff07f5c4187c5596d6068aaa1fa41c50e1eada13a5c5ca6b"
    "97f3b136fac38038a7ca9a92f69227bc9039231cebb94870d07acf68b21c19707a37935d569bc036b998b420"
    "516c57a1a7581f7f8f7424a33ac5406685d7434f54542e2d0c02da73e3a4cda5b1621de7a384c5f52b651314"
    "914715551c975b3a4c489a162cb0a3cded033fecbb3227152398066ec133f72c611f"
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


QUICK = ("scan", "loud", "listed", "packed")


def each(plain: object, *others: object) -> list[Any]:
    """Every case in the plain way; in the other ways few, unless slow tests are asked for."""
    ways: list[Any] = [(name, plain) for name in CASES]
    for name in CASES:
        marks = () if name in QUICK else pytest.mark.slow
        ways += [pytest.param(name, way, marks=marks) for way in others]
    return ways


@pytest.mark.parametrize(("name", "given"), each("nothing", "reference", "light"))
def test_both_decoders_agree(name: str, given: str) -> None:
    values, random = CASES[name], np.random.default_rng(8)
    reference = None
    if given == "reference":
        near = values * 16 + random.integers(-20, 21, values.shape)
        reference = np.clip(near, -(1 << 31), (1 << 31) - 1)
    data = encode_integers(values, reference=reference, way=LIGHT if given == "light" else PLAIN)
    assert (data[0] & 2 > 0) == (name == "listed")
    assert (data[0] & 4 > 0) == (given == "light" and name not in ("packed", "constant"))
    np.testing.assert_array_equal(read(data, values.shape, reference), values)
    back = decode_integers(data, values.shape, reference=reference, what="test")
    np.testing.assert_array_equal(back, values)


@pytest.mark.parametrize(
    ("name", "cells"), each((4, False), (0, False), (1, False), (900, False), (4, True))
)
def test_both_decoders_agree_on_cells(name: str, cells: tuple[int, bool]) -> None:
    width, is_light = cells
    values, random = CASES[name], np.random.default_rng(8)
    below, above = random.integers(0, width + 1, (2, *values.shape))
    known = Cells(values - below, values + above)
    data = encode_integers(values, cells=known, way=LIGHT if is_light else PLAIN)
    np.testing.assert_array_equal(read(data, values.shape, cells=known), values)
    back = decode_integers(data, values.shape, cells=known, what="test")
    np.testing.assert_array_equal(back, values)
    if name == "scan" and width < 4:
        assert len(data) < len(encode_integers(values)) - 200


def test_the_stored_stream_decodes() -> None:
    shape = (3, 14, 15)
    for values in (decode_integers(GOLDEN, shape, what="test"), read(GOLDEN, shape)):
        assert hashlib.sha256(values.astype("<i8").tobytes()).hexdigest() == GOLDEN_DIGEST


Extents = tuple[int, int, int]


def ours(data: bytes, shape: Extents = (3, 14, 15), may_foresee: bool = False) -> Integers | None:
    try:
        return decode_integers(data, shape, may_foresee=may_foresee, what="test")
    except FormatError:
        return None


def theirs(data: bytes, shape: Extents = (3, 14, 15), may_foresee: bool = False) -> Integers | None:
    try:
        return read(data, shape, may_foresee=may_foresee)
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


def walk(shape: tuple[int, ...], seed: int, step: float) -> Integers:
    """A walk along the rows, as far as 32 bits go."""
    moved = np.random.default_rng(seed).normal(0, step, shape)
    return np.cumsum(moved, 2).clip(-(1 << 31), (1 << 31) - 1).astype(np.int64)


def waves(shape: tuple[int, ...], seed: int, noise: float = 9) -> Integers:
    """Waves along all axes, with noise that is now and then loud."""
    z, y, x = np.indices(shape)
    smooth = 3000 * np.sin(x / 5 + y / 7 + z / 3)
    loud = np.random.default_rng(seed).standard_t(2, shape) * noise
    values: Integers = np.rint(smooth + loud).astype(np.int64)
    return values


FORESEEN_CASES = {
    "one-slice": scan((1, 20, 20), 11),
    "two-slices": scan((2, 14, 15), 12),
    "five-slices": scan((5, 8, 11), 13),
    "one-row-each": waves((8, 1, 31), 14),
    "one-column-each": waves((4, 40, 1), 15),
    "tall": waves((300, 1, 1), 16),
    "long": waves((1, 1, 300), 17),
    "two-by-two": waves((60, 2, 2), 18),
    "constant-parts": np.where(np.indices((3, 12, 12))[1] % 6 > 2, 7, scan((3, 12, 12), 19)),
    "binary": np.random.default_rng(20).integers(0, 2, (3, 9, 9)),
    "listed": CASES["listed"],
    "multiples": scan((2, 12, 12), 21) * 400003,
    "loud": CASES["loud"],
    # the package counts in 32 bits up to 2^22, then in 64
    "to-2-22": (walk((2, 10, 12), 22, 5e5) >> 2).clip(0, (1 << 22) - 1),
    "beyond-2-22": walk((2, 10, 12), 22, 3e6),
    "to-2-31": np.where(
        np.indices((2, 12, 14))[2] % 7 > 3,
        (1 << 31) - 1 - abs(walk((2, 12, 14), 23, 1e5)),
        abs(walk((2, 12, 14), 24, 1e3)) - (1 << 31),
    ),
}
GIVEN = ("nothing", "reference", "narrow cells", "wide cells", "cells of one")


def given_for(values: Integers, kind: str, random: np.random.Generator) -> dict[str, Any]:
    if kind == "nothing":
        return {}
    if kind == "reference":
        near = values * 16 + random.integers(-40, 41, values.shape)
        return {"reference": np.clip(near, -(1 << 31), (1 << 31) - 1)}
    width = {"narrow cells": 4, "wide cells": 900, "cells of one": 1}[kind]
    below, above = random.integers(0, width + 1, (2, *values.shape))
    return {"cells": Cells(values - below, values + above)}


def foreseen(values: Integers, given: dict[str, Any]) -> int:
    """Both decoders give the values back; returns the variant."""
    data = encode_integers(values, way=FORESEEN, **given)
    theirs = read(data, values.shape, may_foresee=True, **given)
    np.testing.assert_array_equal(theirs, values)
    ours = decode_integers(data, values.shape, may_foresee=True, what="test", **given)
    np.testing.assert_array_equal(ours, values)
    return data[0]


@pytest.mark.parametrize(
    "kind", [*GIVEN[:3], *(pytest.param(kind, marks=pytest.mark.slow) for kind in GIVEN[3:])]
)
def test_both_decoders_agree_on_networks(kind: str) -> None:
    for number, (name, values) in enumerate(FORESEEN_CASES.items()):
        variant = foreseen(values, given_for(values, kind, np.random.default_rng(number)))
        assert variant in (9, 11), name


def anything(random: np.random.Generator) -> Integers:
    """A small array of one of five kinds."""
    shape = tuple(int(n) for n in random.integers((1, 1, 3), (4, 8, 12), endpoint=True))
    seed, kind = int(random.integers(1 << 30)), random.integers(5)
    far = random.integers(-(1 << 31), 1 << 31, shape)
    if kind == 0:  # one stands out
        values = far >> random.integers(20, 32)
        values.reshape(-1)[random.integers(values.size)] = far.reshape(-1)[0]
        return values
    if kind == 1:
        return waves(shape, seed, 2.0 ** random.integers(8)) * int(random.integers(1, 1 << 14))
    if kind == 2:
        return walk(shape, seed, 2.0 ** random.integers(8, 30))
    if kind == 3:  # nearly constant
        return np.where(random.random(shape) < 0.2, far >> random.integers(32), 5)
    return random.choice(far.reshape(-1)[:3], shape)


def test_both_decoders_agree_on_networks_whatever_the_values() -> None:
    variants = []
    for seed in range(240):
        random = np.random.default_rng(seed)
        values = anything(random)
        kind = str(random.choice(GIVEN))
        variants.append(foreseen(values, given_for(values, kind, random)))
    assert sum(variant in (9, 11) for variant in variants) > 60


def test_both_decoders_agree_on_networks_whatever_the_predictors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of streams that no fit would write: guesses leave all bounds before they are cut."""
    sizes, random = set(), np.random.default_rng(41)

    def far(index: Integers, given: Given, *, is_light: bool) -> tuple[Integers, Integers]:
        found = fit_predictors(index, given, is_light=is_light)
        return tuple(random.integers(-511, 512, (2, part.shape[1])) << 6 for part in found)  # type: ignore[return-value]

    monkeypatch.setattr(coder, "fit_predictors", far)
    for number in range(12):
        top = 1 << (21, 22, 31)[number % 3]  # of 32 bits in memory, and of 64
        values = walk((3, 10, 20), number, top / 4000).clip(-top // 2, top // 2)
        values[0, 0, :2] = -top // 2, top // 2 - 1
        kind = GIVEN[number % 4]
        variant = foreseen(values, given_for(values, kind, np.random.default_rng(number)))
        sizes.add((number % 3, variant))
    assert {(0, 9), (1, 9), (2, 9)} <= sizes


NETWORK = scan((3, 10, 11), 31)


def both(data: bytes, may_foresee: bool = True, values: Integers = NETWORK) -> str:
    """Kind of the package's error, "" for none; the other decoder refuses the same."""
    try:
        ours = decode_integers(data, values.shape, may_foresee=may_foresee, what="test")
    except FormatError as error:
        with pytest.raises(Refused):
            read(data, values.shape, may_foresee=may_foresee)
        return error.kind
    np.testing.assert_array_equal(ours, values)
    np.testing.assert_array_equal(read(data, values.shape, may_foresee=may_foresee), values)
    return ""


def test_a_network_is_refused_where_none_may_be_named() -> None:
    plain, data = encode_integers(NETWORK), encode_integers(NETWORK, way=FORESEEN)
    assert (plain[0], data[0]) == (1, 9)
    assert both(data) == both(plain) == both(plain, may_foresee=False) == ""
    assert both(data, may_foresee=False) == "bad-payload"


@pytest.mark.parametrize("variant", [4, 6, 8, 10, 12, 13, 14, 15, 16, 25, 137])
def test_other_variants_are_refused(variant: int) -> None:
    data = encode_integers(NETWORK, way=FORESEEN)
    assert both(bytes([variant]) + data[1:]) == "bad-payload"


@pytest.mark.parametrize("network", [1, 2, 127, 255])
def test_a_network_that_is_not_in_the_text_is_refused(network: int) -> None:
    data = encode_integers(NETWORK, way=FORESEEN)
    f = Fields(data[9:])  # divisor, top, gaps, cut
    for _ in range(2):
        f.varint(1 << 32)
    for _ in range(2 * f.varint(64)):
        f.varint(1 << 32)
    place = 9 + f.at + 1
    assert data[place] == 0
    assert both(data[:place] + bytes([network]) + data[place + 1 :]) == "unknown-network"


def leb128(number: int) -> bytes:
    digits = [number >> shift & 127 for shift in range(0, max(number.bit_length(), 1), 7)]
    return bytes([*(digit | 128 for digit in digits[:-1]), digits[-1]])


@pytest.mark.parametrize(("way", "expected"), [(LIGHT, ""), (PLAIN, ""), (FORESEEN, "bad-payload")])
def test_the_list_of_a_stream_names_no_network(way: Way, expected: str) -> None:
    """Each integer of the list once, without a model of their own."""
    random = np.random.default_rng(33)
    steps = random.integers(1, 4, (1, 1, 500)) + 5000 * (random.random(500) < 0.02)
    values = np.cumsum([-7, *steps.reshape(-1)]).reshape(1, 1, -1)
    listed = encode_integers(steps, way=way)
    assert listed[0] == {LIGHT: 5, PLAIN: 1, FORESEEN: 9}[way]
    data = b"\2" + (-7).to_bytes(8, "little", signed=True) + leb128(500) + leb128(len(listed))
    data += listed + np.arange(501).astype("<u2").tobytes()
    assert both(data, values=values) == expected


def test_both_decoders_refuse_the_same_damage_with_networks() -> None:
    data, found = encode_integers(NETWORK, way=FORESEEN), []
    for place in range(0, len(data), 13):
        damaged = data[:place] + bytes([data[place] ^ 0x40]) + data[place + 1 :]
        first, second = (decoder(damaged, (3, 10, 11), True) for decoder in (ours, theirs))
        assert (first is None) == (second is None)
        if first is not None and second is not None:
            np.testing.assert_array_equal(first, second)
        found.append(first is None)
    assert sum(found) > len(found) // 2
