"""The package and the decoder written from SPEC-v1.md agree on every bit, and on what is bad."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from reference_decoder import Refused, decode, parse

from psc_volumetric.codec import (
    BrickOptions,
    CodecParameters,
    Guarantee,
    IntensityMapping,
    decode_brick,
    encode_brick,
)
from psc_volumetric.errors import FormatError
from psc_volumetric.golden import VECTORS
from psc_volumetric.methods.av1.frames import decode_frames
from psc_volumetric.methods.psc.fields import StreamParameters
from psc_volumetric.methods.psc.parameters import stream_parameters
from psc_volumetric.prior import Prior, load_prior, resolve_prior


@dataclass(frozen=True)
class ShortPaper(CodecParameters):
    """The paper's setting with fewer steps, particles and rows."""


@stream_parameters.register
def _shortened(
    chosen: ShortPaper, levels: int, seed: int, *, coarser: float = 1.0
) -> StreamParameters:
    plain = CodecParameters(setting="paper", step=chosen.step, rounds=chosen.rounds)
    full = stream_parameters(plain, levels, seed, coarser=coarser)
    short = full.noise_levels[::6]
    return replace(full, noise_levels=short, particles=6, rows_per_round=4, restorations=3)


def field(shape: tuple[int, int, int]) -> np.ndarray:
    """Waves, an edge and noise between about 500 and 1700."""
    z, y, x = np.indices(shape)
    waves = 1000 + 300 * np.sin(x / 9) * np.cos(y / 7 + z / 3) + 200 * (x > y)
    return waves + np.random.default_rng(3).normal(0, 20, shape)


def floats(holes: bool) -> np.ndarray:
    values = (field((8, 64, 64)) / 7).astype("<f4")
    if holes:
        values[0, 0, :9] = np.nan
        values[3, 10:20, 30:] = np.float32(-9999.0)
        values[7, 63, 63], values[6, 1, 1] = np.inf, -np.inf
        values.view("<u4")[5, 5, 5] = 0x7FC00123
    return values


TILE = (8, 64, 64)
FAST = CodecParameters(effort=1)
CASES = {
    "uint16": (field(TILE).astype("<u2"), TILE, FAST, ()),
    "int16-edge": (field((5, 70, 30)).astype("<i2") - 900, (8, 128, 64), FAST, ()),
    "fine-step": (
        field((3, 40, 50)).astype("<u2"),
        TILE,
        CodecParameters(effort=1, step=0.002),
        (),
    ),
    "effort-2": (field((8, 30, 64)).astype("<i4") * 1000, TILE, CodecParameters(effort=2), ()),
    "flat": (np.where(np.indices((8, 64, 64))[2] > 3, 7, 9).astype("u1"), TILE, FAST, ()),
    "float32": (floats(False), TILE, replace(FAST, step=0.2), ()),
    "float32-special": (floats(True), TILE, FAST, (-9999.0,)),
    "float64": (field((2, 64, 64)) * 1e-9, TILE, FAST, ()),
    "paper": (field((8, 64, 64)).astype("<i2"), TILE, ShortPaper(setting="paper", rounds=2), ()),
    "paper-edge": (floats(True)[:5, :41], TILE, ShortPaper(setting="paper", rounds=1), (-9999.0,)),
}


def slow(names: Iterable[str], *long: str) -> list[Any]:
    """Names as parameters; those that take a decoder in plain Python long are marked."""
    return [pytest.param(n, marks=pytest.mark.slow) if n in long else n for n in names]


@pytest.fixture(scope="module")
def prior() -> Prior:
    return load_prior("test-tiny")


def encode(name: str, prior: Prior | None) -> tuple[bytes, int]:
    values, shape, parameters, special = CASES[name]
    finite = values[np.isfinite(values) & (values != -9999)]
    encoded = encode_brick(
        values,
        position=(0, 3, 1, 2),
        shape=shape,
        mapping=IntensityMapping(float(finite.min()), float(finite.max())),
        parameters=parameters,
        prior=prior,
        options=BrickOptions(
            base="psc",
            special_values=special,
            seed=11,
        ),
    )
    return encoded.data, len(encoded.records[0].mse)


def package_decode(data: bytes, prior: Prior | None, level: int | None):
    return decode_brick(
        lambda start, length: data[start : start + length],
        selection=(slice(None), slice(None), slice(None)),
        level=level,
        prior=None if prior is None else lambda digest: prior,
        spread=True,
    )


@pytest.mark.parametrize(
    "name", slow(CASES, "fine-step", "effort-2", "float32", "paper", "paper-edge")
)
def test_both_decoders_give_the_same_bits_at_every_level(name: str, prior: Prior) -> None:
    data, levels = encode(name, prior)
    assert parse(data).method == "psc"
    for level in range(levels):
        ours = package_decode(data, prior, level)
        theirs = decode(data, prior.files(), level)
        assert theirs.values.dtype == ours.values.dtype
        assert theirs.values.tobytes() == ours.values.tobytes(), f"values at level {level}"
        assert theirs.spread.tobytes() == ours.spread.tobytes(), f"spread at level {level}"


@pytest.mark.parametrize("code", ["?", "u1", "i1", "<u2", "<i4", "<f4", "<f8", "<u8", "<i8"])
def test_exact_methods_agree_for_every_dtype(code: str) -> None:
    for values in (field((3, 5, 7)), np.full((3, 5, 7), 65.0)):
        stored = (values.astype("<i8") % 100 > 50) if code == "?" else values.astype(code)
        data = encode_brick(
            stored,
            position=(),
            shape=(4, 8, 8),
            mapping=None,
            parameters=FAST,
            prior=None,
            guarantee=Guarantee(coders=("zstd",)),
        ).data
        assert decode(data).values.tobytes() == stored.tobytes()
        assert package_decode(data, None, None).values.tobytes() == stored.tobytes()


LAYERED = {
    "bounded": (Guarantee("bounded", 3.0, "none", ("zstd",)), None),
    "both": (Guarantee("lossless", 3.0, "none", ("zstd",)), None),
    "both-on-base": (Guarantee("lossless", 3.0, "base", ("zstd",)), None),
    "region": (Guarantee("lossy", coders=("zstd",)), (slice(1, 3), slice(2, 9), slice(30, 50))),
    "region-in-bounded": (
        Guarantee("bounded", 2.5, "base", ("zstd",)),
        (slice(1, 3), slice(2, 9), slice(30, 50)),
    ),
}


LAYERED_CASES = [
    *((name, code, "none") for name in LAYERED for code in ("u1", "<i2", "<u4", "<f4", "<f8")),
    *((name, code, "none") for name in LAYERED for code in ("<u8", "<i8")),
    ("both-on-base", "<i2", "psc"),
    ("region-in-bounded", "<f4", "psc"),
    *(pytest.param(n, c, "psc", marks=pytest.mark.slow) for n in LAYERED for c in ("<i2", "<f4")),
]


@pytest.mark.parametrize(("name", "code", "base"), LAYERED_CASES)
def test_layers_agree_at_every_level(name: str, code: str, base: str, prior: Prior) -> None:
    guarantee, region = LAYERED[name]
    values = (field((5, 24, 64)) / (8 if code == "u1" else 1)).astype(code)
    if values.dtype.kind == "f":
        values[0, 0, :9] = np.nan
        values[3, 10:20, 30:] = -9999
    mask = np.zeros(values.shape, bool)
    mask[region or (slice(0, 0),)] = True
    data = encode_brick(
        values,
        position=(1,),
        shape=(8, 64, 64),
        mapping=IntensityMapping(0, 2000),
        prior=prior,
        parameters=FAST,
        guarantee=guarantee,
        options=BrickOptions(
            special_values=(-9999.0,),
            base=base,
            exact_mask=mask,
        ),
    ).data
    header = parse(data)
    levels = len(header.layers) + (len(header.level_ends) + 1 if header.method == "psc" else 0)
    for level in range(levels):
        ours = package_decode(data, prior, level)
        theirs = decode(data, prior.files(), level)
        assert theirs.values.tobytes() == ours.values.tobytes(), f"values at level {level}"
        assert theirs.spread.tobytes() == ours.spread.tobytes(), f"spread at level {level}"


def test_both_decoders_refuse_what_is_cut_or_flipped(prior: Prior) -> None:
    data, _ = encode("int16-edge", prior)
    header = int.from_bytes(data[8:12], "little")
    bad = [data[:-4], data + b"\0", b"PSCc" + data[4:], data[: header - 1]]
    places = [*range(4, header, 7), header, len(data) - 1]
    bad += [data[:i] + bytes([data[i] ^ 4]) + data[i + 1 :] for i in places]
    for stream in bad:
        with pytest.raises(Refused):
            decode(stream, prior.files())
        with pytest.raises(FormatError):
            read = stream[: len(stream)]
            from psc_volumetric.methods.registry import read_index

            index = read_index(lambda start, length, s=read: s[start : start + length], len(read))
            decode_brick(
                lambda start, length, s=read: s[start : start + length],
                selection=(slice(None), slice(None), slice(None)),
                prior=lambda digest: prior,
                index=index,
            )


def test_another_prior_is_refused(prior: Prior) -> None:
    data, _ = encode("flat", prior)
    files = prior.files()
    weights = bytearray(files["models/integer.safetensors"])
    weights[-1] ^= 1
    with pytest.raises(Refused, match="prior"):
        decode(data, {**files, "models/integer.safetensors": bytes(weights)})


def golden_vectors() -> list[str]:
    index = VECTORS / "index.json"
    return json.loads(index.read_text())["cases"] if index.is_file() else []


def frames(data: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    """The package's AV1 library; the reference decoder has none."""
    try:
        return decode_frames(data, shape, what="golden vector")
    except FormatError as error:
        raise Refused(str(error)) from error


@pytest.mark.parametrize(
    "name",
    slow(
        golden_vectors(),
        "fast-fine-step-uint16",
        "fast-effort5-int16",
        # of the kinds that the cases above make anew
        "fast-edge-uint16",
        "fast-flat-tile-int16",
        "fast-int32-float-range",
        "fast-nan-float32",
        "layers-on-base-int16",
        "layers-region-float32",
        "foresight-nan-float32",
        "foresight-layers-int16",
        "foresight-four-scales-int16",
        "prior-ct-body-2-posterior",
        "prior-ct-body-3-posterior",
        "prior-mr-head-2-posterior",
        "prior-mr-head",
        "prior-ct-body",
        "prior-climate-grid",
    ),
)
def test_golden_vectors_decode_alike(name: str, prior: Prior) -> None:
    stream = (VECTORS / name / "stream.bin").read_bytes()
    case = json.loads((VECTORS / name / "case.json").read_text())
    if "kind" in case:
        with pytest.raises(Refused):
            decode(stream, prior.files(), frames=frames)
        return
    if parse(stream).foreign:
        with pytest.raises(Refused, match="another library"):
            decode(stream, prior.files(), frames=frames)
        return
    files = (resolve_prior(case["prior"]) if case["prior"] else prior).files()
    for level, expected in enumerate(case["levels"]):
        decoded = decode(stream, files, level, frames)
        assert hashlib.sha256(decoded.values.tobytes()).hexdigest() == expected["values"]
        assert hashlib.sha256(decoded.spread.tobytes()).hexdigest() == expected["spread"]
