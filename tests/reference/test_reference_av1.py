"""Section 3.7: the package and the reader written from SPEC-v1.md agree on streams and samples."""

from __future__ import annotations

import numpy as np
import pytest
from reference_decoder.av1 import check_stream
from reference_decoder.classical import read_classical, sigma, stored
from reference_decoder.fields import Fields, Header, Refused

from psc_volumetric.bitstream.header import BrickHeader
from psc_volumetric.bitstream.wire import FieldReader, FieldWriter
from psc_volumetric.codec import (
    BrickOptions,
    CodecParameters,
    IntensityMapping,
    decode_brick,
    encode_brick,
)
from psc_volumetric.errors import FormatError
from psc_volumetric.methods.av1.fields import Av1Fields
from psc_volumetric.methods.av1.frames import decode_frames, encode_frames
from psc_volumetric.methods.av1.units import split_units
from psc_volumetric.methods.registry import read_index
from psc_volumetric.methods.wavelet.fields import WaveletFields


def field(shape: tuple[int, int, int]) -> np.ndarray:
    z, y, x = np.indices(shape)
    waves = 500 + 300 * np.sin(x / 9 + z) * np.cos(y / 7) + 90 * (x > y)
    return waves + np.random.default_rng(5).normal(0, 9, shape)


@pytest.mark.parametrize("code", ["u1", "<i2", "<u4", "<f4", "<f8"])
@pytest.mark.parametrize("shape", [(1, 20, 33), (4, 41, 30)])
def test_values_and_sigma_are_the_same_bits(code: str, shape: tuple[int, int, int]) -> None:
    values = (field(shape) / (5 if code == "u1" else 1)).astype(code)
    data = encode_brick(
        values,
        position=(),
        shape=shape,
        mapping=IntensityMapping(0, 1000),
        prior=None,
        parameters=CodecParameters(step=0.2),
        options=BrickOptions(base="av1"),
    ).data

    def read(start: int, length: int) -> bytes:
        return data[start : start + length]

    index = read_index(read)
    assert index.fields is not None
    out = FieldWriter()
    index.fields.write(out)
    av1 = read_classical(Fields(out.getvalue()), Header("av1", index.dtype))
    section = index.section("base")
    stream = read(section.offset, section.nbytes)
    order = av1.order()
    turned = (shape[order[0]], shape[order[1]], shape[order[2]])
    check_stream(stream, turned)
    samples = decode_frames(stream, turned, what="test").transpose(np.argsort(order))
    ours = decode_brick(read, selection=(slice(None),) * 3, spread=True)
    assert ours.spread is not None
    assert stored(samples, av1, index.dtype).tobytes() == ours.values.tobytes()
    assert sigma(samples, av1, "av1").tobytes() == ours.spread.tobytes()


def test_both_refuse_the_same_streams() -> None:
    rng = np.random.default_rng(6)
    agreed = {True: 0, False: 0}
    for shape in [(1, 24, 40), (6, 24, 40)]:
        samples = np.clip(field(shape), 0, 4095).astype(np.uint16)
        data = encode_frames(samples, 30, speed=9)
        for number in range(1500):
            damaged = bytearray(data)
            # half of the flips in the first headers, where most of the rules are
            last = len(data) if number % 2 else 30
            for _ in range(rng.integers(1, 3)):
                damaged[rng.integers(last)] ^= 1 << int(rng.integers(8))
            good = [True, True]
            try:
                split_units(bytes(damaged), shape, what="test")
            except FormatError:
                good[0] = False
            try:
                check_stream(bytes(damaged), shape)
            except Refused:
                good[1] = False
            assert good[0] == good[1], bytes(damaged).hex()
            agreed[good[0]] += 1
    assert min(agreed.values()) > 300


@pytest.mark.parametrize("code", ["<i2", "<f8", "<i8", "?"])
@pytest.mark.parametrize("kind", [Av1Fields, WaveletFields])
def test_both_refuse_the_same_fields(
    code: str, kind: type[Av1Fields] | type[WaveletFields]
) -> None:
    numbers = [0.0, 0.5, -3.0, 2.0**-16, 2.0**-17, 2.0**10, 2.0**11, 2.0**26, 2.0**27, 2.0**38]
    numbers += [2.0**n for n in (39, 88, 89, 113, 114, 125)] + [float("nan"), float("inf")]
    dtype = np.dtype(code)
    header = BrickHeader(kind.METHOD, dtype, (), (1, 1, 1), (1, 1, 1))
    for low in numbers:
        for step in numbers:
            for table, axis in ((b"", 0), (b"12", 2), (bytes(4097), 1), (b"", 3), (b"", 41)):
                out = FieldWriter()
                kind(low, step, table, axis).write(out)
                good = [True, True]
                try:
                    kind.read(FieldReader(out.getvalue(), what="test"), header)
                except FormatError:
                    good[0] = False
                try:
                    read_classical(Fields(out.getvalue()), Header(kind.METHOD, dtype))
                except Refused:
                    good[1] = False
                assert good[0] == good[1], (low, step, len(table), axis)
