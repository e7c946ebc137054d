"""Bricks whose segments name a network: both decoders agree, and refuse the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from reference_decoder import Refused, context_network, decode, parse
from reference_decoder.fields import crc32c

from psc_volumetric.codec import (
    BrickOptions,
    CodecParameters,
    Guarantee,
    decode_brick,
    encode_brick,
)
from psc_volumetric.errors import FormatError

Values = NDArray[np.generic]
SHAPE = (2, 12, 14)
EXACT = Guarantee("lossless", coders=("neural",))
ON_BOUNDED = Guarantee("lossless", 2.0, "base", ("neural",))
REFINED = Guarantee("lossless", 2.0, "base", ("neural", "neural-refinement"))


def scan(code: str) -> Values:
    z, y, x = np.indices(SHAPE)
    noise = np.random.default_rng(5).normal(0, 4, SHAPE)
    values: Values = 300 + 100 * np.sin(x / 5 + z) * np.cos(y / 4) + 90 * (x > y) + noise
    if code == "<u8":
        return values.astype(code) * np.uint64(1 << 40) + np.uint64(77)
    return np.greater(values, 340) if code == "?" else values.astype(code)


def encoded(values: Values, guarantee: Guarantee) -> bytes:
    return encode_brick(
        values,
        position=(),
        shape=(2, 16, 16),
        mapping=None,
        parameters=CodecParameters(effort=1),
        prior=None,
        guarantee=guarantee,
        options=BrickOptions(),
    ).data


def package_decode(data: bytes, level: int | None = None) -> tuple[Values, Values]:
    decoded = decode_brick(
        lambda start, length: data[start : start + length],
        selection=(slice(None), slice(None), slice(None)),
        level=level,
        spread=True,
    )
    assert decoded.spread is not None
    return decoded.values, decoded.spread


CASES = [
    *((code, EXACT, [11]) for code in ("?", "u1", "<i2", "<i4", "<f4", "<f8", "<u8")),
    *((code, ON_BOUNDED, [11, 11]) for code in ("<i2", "<f4")),
    *((code, REFINED, [11, 12]) for code in ("<u2", "<f4", "<f8")),
]


@pytest.mark.parametrize(("code", "guarantee", "coders"), CASES)
def test_bricks_with_networks_agree(code: str, guarantee: Guarantee, coders: list[int]) -> None:
    data = encoded(scan(code), guarantee)
    assert [layer.coder for layer in parse(data).layers] == coders
    for level in range(len(coders)):
        ours, theirs = package_decode(data, level), decode(data, level=level)
        assert theirs.values.tobytes() == ours[0].tobytes(), f"values at level {level}"
        assert theirs.spread.tobytes() == ours[1].tobytes(), f"spread at level {level}"
    assert decode(data).values.tobytes() == scan(code).tobytes()


def changed(data: bytes, old: bytes, new: bytes) -> bytes:
    """Other bytes at a place of the header that occurs once."""
    size = int.from_bytes(data[8:12], "little")
    head = data[: size - 4]
    assert head.count(old) == 1
    head = head.replace(old, new)
    return head + crc32c(head).to_bytes(4, "little") + data[size:]


PLAIN = Guarantee("lossless", coders=("context",))
PLAIN_REFINED = Guarantee("lossless", 2.0, "base", ("context", "refinement"))
# kind, reference and coder of a layer: what stands there, and what is put there
ALLOWED = {
    "coder neural without a network": (PLAIN, "020001", "02000b"),
    "coder neural-refinement without a network": (PLAIN_REFINED, "02010a", "02010c"),
}
REFUSED = {
    "a network in coder context": (EXACT, "02000b", "020001", "bad-payload"),
    "a network in coder refinement": (REFINED, "02010c", "02010a", "bad-payload"),
    "a network in a bounded layer of coder context": (REFINED, "01000b", "010001", "bad-payload"),
    "a bounded layer that refines": (REFINED, "01000b", "01000c", "bad-layer"),
    "a bounded layer with a reference to nothing": (REFINED, "01000b", "01010b", "bad-layer"),
    "a refinement without reference": (REFINED, "02010c", "02000c", "bad-layer"),
    "a refinement of nothing": (EXACT, "02000b", "02010c", "bad-layer"),
    "a reference to nothing": (EXACT, "02000b", "02010b", "bad-layer"),
    "a coder that nobody knows": (EXACT, "02000b", "02000d", "unknown-layer"),
}


@pytest.mark.parametrize("name", ALLOWED)
def test_streams_may_name_a_network_and_need_not(name: str) -> None:
    guarantee, old, new = ALLOWED[name]
    values = scan("<i2")
    data = changed(encoded(values, guarantee), bytes.fromhex(old), bytes.fromhex(new))
    assert package_decode(data)[0].tobytes() == values.tobytes()
    assert decode(data).values.tobytes() == values.tobytes()


@pytest.mark.parametrize("name", REFUSED)
def test_both_decoders_refuse_networks_elsewhere(name: str) -> None:
    guarantee, old, new, kind = REFUSED[name]
    data = changed(encoded(scan("<i2"), guarantee), bytes.fromhex(old), bytes.fromhex(new))
    with pytest.raises(FormatError) as refused:
        package_decode(data)
    assert refused.value.kind == kind
    with pytest.raises(Refused):
        decode(data)


def test_another_file_of_networks_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    data = bytearray(context_network.PATH.read_bytes())
    data[-1] ^= 1
    (tmp_path / "networks.safetensors").write_bytes(data)
    monkeypatch.setattr(context_network, "PATH", tmp_path / "networks.safetensors")
    context_network.networks.cache_clear()
    with pytest.raises(Refused, match="another file"):
        decode(encoded(scan("<i2"), EXACT))
