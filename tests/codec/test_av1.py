"""AV1 as an exact lossy base: streams, their strict reading, and damage."""

from __future__ import annotations

import ctypes
from itertools import pairwise
from pathlib import Path

import imagecodecs
import numpy as np
import pytest

from psc_volumetric.errors import FormatError, NumericalError, ParameterError
from psc_volumetric.methods.av1 import frames as av1
from psc_volumetric.methods.av1.encoder import encode_units, find_ffmpeg
from psc_volumetric.methods.av1.frames import decode_frames, encode_frames, quantiser_step
from psc_volumetric.methods.av1.units import split_units

FAST = 9


def smooth(shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    walk = rng.normal(size=shape).cumsum(1).cumsum(2) * 30 + 2000
    return np.clip(walk, 0, 4095).astype(np.uint16)


@pytest.mark.parametrize(
    "shape",
    [
        (1, 1, 1),
        (1, 70, 64),
        (2, 1, 9),
        (3, 9, 1),
        (5, 16, 17),
        (9, 35, 70),
        (33, 8, 8),
        (17, 2, 48),
    ],
)
@pytest.mark.parametrize("kind", ["smooth", "noise", "constant", "edges"])
def test_small_and_odd_slices_come_back_within_the_step(
    shape: tuple[int, int, int], kind: str
) -> None:
    rng = np.random.default_rng(1)
    samples = {
        "smooth": smooth(shape),
        "noise": rng.integers(0, 4096, shape, dtype=np.uint16),
        "constant": np.full(shape, 3001, np.uint16),
        "edges": rng.integers(0, 2, shape, dtype=np.uint16) * 4095,
    }[kind].astype(np.uint16)
    decoded = decode_frames(encode_frames(samples, 90, speed=FAST), shape, what="test")
    assert decoded.dtype == np.uint16
    assert decoded.shape == shape
    error = np.abs(decoded.astype(float) - samples)
    if kind != "edges":  # the fastest search gives up on black and white noise
        assert np.sqrt(np.mean(error**2)) <= quantiser_step(90)


def test_every_sample_value_survives_the_finest_quality() -> None:
    ramp = np.arange(4096, dtype=np.uint16).reshape(1, 64, 64)
    decoded = decode_frames(encode_frames(ramp, 99, speed=FAST), ramp.shape, what="test")
    error = decoded.astype(int) - ramp
    assert np.abs(error).max() <= 8
    assert abs(error.mean()) < 0.5


def test_quality_falls_and_so_does_the_stream() -> None:
    samples = smooth((6, 64, 64))
    sizes = [len(encode_frames(samples, q, speed=FAST)) for q in (10, 50, 90)]
    assert sizes == sorted(sizes)
    steps = [quantiser_step(q) for q in range(100)]
    assert all(a >= b for a, b in pairwise(steps))
    assert len(set(steps)) == 64 - 1  # the last one is the library's lossless mode


def test_slices_predict_one_another() -> None:
    slice_ = smooth((1, 64, 64))
    one = len(encode_frames(slice_, 80, speed=FAST))
    eight = len(encode_frames(np.repeat(slice_, 8, axis=0), 80, speed=FAST))
    assert eight < 2 * one


class _Image(ctypes.Structure):
    """Start of libaom's aom_image_t (aom/aom_image.h)."""

    _fields_ = (
        *((name, ctypes.c_int) for name in ("fmt", "cp", "tc", "mc", "mono", "csp", "range")),
        *((name, ctypes.c_uint) for name in ("w", "h", "depth", "d_w", "d_h", "r_w", "r_h")),
        *((name, ctypes.c_uint) for name in ("x_shift", "y_shift")),
        ("planes", ctypes.c_void_p * 3),
        ("stride", ctypes.c_int * 3),
    )


def libaom() -> ctypes.CDLL:
    """The libaom that imagecodecs brings for encoding; it can decode as well."""
    folder = Path(imagecodecs.__file__).parent.parent / "imagecodecs.libs"
    found = sorted(folder.glob("libaom*.so*"))
    if not found:
        pytest.skip("no libaom to decode with: only wheels of imagecodecs bring one")
    library = ctypes.CDLL(str(found[0]))
    library.aom_codec_av1_dx.restype = ctypes.c_void_p
    library.aom_codec_get_frame.restype = ctypes.POINTER(_Image)
    return library


def decode_with_libaom(library: ctypes.CDLL, units: list[bytes]) -> np.ndarray:
    context = ctypes.create_string_buffer(256)
    interface = ctypes.c_void_p(library.aom_codec_av1_dx())
    versions = range(10, 60)  # the library takes one number, that of its headers
    assert any(
        library.aom_codec_dec_init_ver(context, interface, None, ctypes.c_long(0), version) == 0
        for version in versions
    )
    slices = []
    for unit in units:
        size = ctypes.c_size_t(len(unit))
        assert library.aom_codec_decode(context, unit, size, None) == 0
        place = ctypes.c_void_p(0)
        while frame := library.aom_codec_get_frame(context, ctypes.byref(place)):
            image = frame.contents
            assert (image.depth, image.mono) == (12, 1)
            rows = ctypes.string_at(image.planes[0], image.d_h * image.stride[0])
            plane = np.frombuffer(rows, "<u2").reshape(image.d_h, -1)
            slices.append(plane[:, : image.d_w].copy())
    library.aom_codec_destroy(context)
    return np.stack(slices)


def test_libaom_gives_the_same_samples_as_dav1d() -> None:
    library = libaom()
    for seed, shape in enumerate([(1, 33, 40), (12, 100, 128), (5, 64, 71), (33, 9, 20)]):
        for quality in (0, 40, 99):
            data = encode_frames(smooth(shape, seed), quality, speed=8)
            units = [b"\x12\x00" + unit for unit in split_units(data, shape, what="test")]
            decoded = decode_with_libaom(library, units)
            assert np.array_equal(decoded, decode_frames(data, shape, what="test"))


def test_another_decoder_gives_the_same_samples() -> None:
    av = pytest.importorskip("av", reason="dav1d of FFmpeg comes with the extra `bench`")
    for seed, shape in enumerate([(1, 33, 40), (12, 100, 128), (5, 64, 71)]):
        data = encode_frames(smooth(shape, seed), 40, speed=6)
        context = av.codec.CodecContext.create("libdav1d", "r")
        frames = [
            frame
            for unit in [*split_units(data, shape, what="test"), None]
            for frame in context.decode(None if unit is None else av.Packet(unit))
        ]
        assert {frame.format.name for frame in frames} == {"gray12le"}
        planes = [
            np.frombuffer(bytes(f.planes[0]), "<u2").reshape(f.height, -1)[:, : f.width]
            for f in frames
        ]
        assert np.array_equal(np.stack(planes), decode_frames(data, shape, what="test"))


def test_parameters_out_of_range_are_refused() -> None:
    for samples, quality in (
        (np.full((1, 8, 8), 4096, np.uint16), 50),
        (np.zeros((1, 8, 8), np.uint16), 100),
        (np.zeros((1, 8, 8), np.uint16), -1),
    ):
        with pytest.raises(ParameterError):
            encode_frames(samples, quality)


def test_a_stream_of_another_shape_is_refused_before_decoding() -> None:
    data = encode_frames(smooth((3, 24, 40)), 50, speed=FAST)
    for shape in [(2, 24, 40), (4, 24, 40), (3, 40, 24), (3, 24, 41), (3, 24, 20000), (3, 0, 40)]:
        with pytest.raises(FormatError) as caught:
            split_units(data, shape, what="test")
        assert caught.value.kind == "bad-av1"


def test_streams_outside_the_subset_are_refused() -> None:
    shape = (3, 24, 40)
    data = encode_frames(smooth(shape), 50, speed=FAST)
    # 12 00 | 0a size | profile .. : every header bit that fixes the kind of stream
    assert data[:3] == b"\x12\x00\x0a"
    size = data[3]
    header = int.from_bytes(data[4 : 4 + size], "big")
    refused = 0
    for bit in range(8 * size):
        changed = (header ^ 1 << (8 * size - 1 - bit)).to_bytes(size, "big")
        try:
            split_units(data[:4] + changed + data[4 + size :], shape, what="test")
        except FormatError:
            refused += 1
    # free: level (5), coding tools (up to 14), colour description (25) and what it shifts
    assert refused >= 8 * size - 50
    unit = data[: data.index(b"\x12\x00", 2)]
    for stream in (
        b"",
        data[2:],  # no delimiter
        data + b"\x12\x00",  # a unit without a frame
        data + unit[2:],  # two shown frames in a unit
        data.replace(b"\x0a", b"\x2a", 1),  # metadata
        data[:4] + data[4 + size :],
        data + b"\x7a\x00",  # padding
        data + b"\x32\xff\xff\xff\xff\x0f",  # size past the end
        unit[:2] + unit[2:] * 40 + data[len(unit) :],  # more frames than slices need
    ):
        with pytest.raises(FormatError) as caught:
            split_units(stream, shape, what="test")
        assert caught.value.kind == "bad-av1"


def test_damage_is_refused_or_decodes_to_the_same_shape() -> None:
    rng = np.random.default_rng(2)
    shape = (4, 40, 33)
    data = encode_frames(smooth(shape), 40, speed=FAST)
    outcomes = {"refused": 0, "decoded": 0}
    for _ in range(600):
        damaged = bytearray(data)
        for _ in range(rng.integers(1, 4)):
            damaged[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
        try:
            assert decode_frames(bytes(damaged), shape, what="test").shape == shape
            outcomes["decoded"] += 1
        except FormatError as error:
            assert error.kind == "bad-av1"
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 50
    for end in range(0, len(data), 7):
        with pytest.raises(FormatError):
            decode_frames(data[:end], shape, what="test")


@pytest.mark.parametrize("through", ["ffmpeg", "libavif"])
def test_both_encoders_write_the_same_format(through: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if through == "libavif":
        monkeypatch.setattr(av1, "find_ffmpeg", lambda: None)
    elif find_ffmpeg() is None:
        pytest.skip("no FFmpeg with libaom: pip install 'psc-archive[av1]'")
    for shape in ((1, 1, 1), (3, 17, 40), (40, 16, 9)):
        samples = smooth(shape)
        data = encode_frames(samples, 80, speed=6)
        assert len(split_units(data, shape, what="test")) == shape[0]
        decoded = decode_frames(data, shape, what="test")
        assert np.sqrt(np.mean((decoded.astype(float) - samples) ** 2)) <= quantiser_step(80)


@pytest.mark.parametrize("program", ["/no/such/program", "false"])
def test_a_program_that_is_no_ffmpeg_is_named(program: str) -> None:
    with pytest.raises(NumericalError, match=program) as caught:
        encode_units(program, smooth((2, 8, 8)), 30, speed=8)
    assert caught.value.kind == "av1-encoder" and "IMAGEIO_FFMPEG_EXE" in str(caught.value)
