"""The ablations change what they say, write streams that readers decode, and put things back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipelines.development import ablate
from pipelines.development.measured_tiles import TilePoint, _ends_late, code_tiles
from psc_volumetric.codec import (
    BrickOptions,
    CodecParameters,
    IntensityMapping,
    TileRecord,
    decode_brick,
    encode_brick,
)
from psc_volumetric.errors import ParameterError
from psc_volumetric.methods.psc import parameters, quantiser
from psc_volumetric.methods.psc.denoiser import Denoiser
from psc_volumetric.methods.psc.parameters import stream_parameters
from psc_volumetric.prior import load_prior


def waves() -> np.ndarray:
    z, y, x = np.indices((8, 64, 64))
    texture = np.random.default_rng(3).normal(0, 0.1, x.shape)
    return (0.6 * np.sin(x / 5) * np.cos(y / 6 + z / 3) + texture).astype(np.float32)


def encoded(values: np.ndarray) -> bytes:
    return encode_brick(
        values,
        position=(0,),
        shape=(8, 64, 64),
        mapping=IntensityMapping(-1.0, 1.0),
        parameters=CodecParameters(step=0.3),
        prior=load_prior("test-tiny"),
        options=BrickOptions(device="cpu", base="psc"),
    ).data


def test_every_variant_changes_what_the_codec_does_and_is_undone() -> None:
    def state() -> tuple[object, ...]:
        streams = [stream_parameters(CodecParameters(effort=e), 64, 0) for e in range(1, 10)]
        return (*streams, quantiser.THRIFT)

    before = state()
    found = ablate.variants()
    assert {variant.group for variant in found} == set(ablate.GROUPS)
    assert len({variant.name for variant in found}) == len(found)
    for variant in found:
        with ablate.changed(variant.constants):
            stream = stream_parameters(CodecParameters(effort=variant.effort), 64, 0)
            stream.check()
            other = (stream, quantiser.THRIFT) != (before[4], before[-1])
        assert other, variant.name
        assert state() == before


def test_shapes_cost_as_many_evaluations_as_the_default() -> None:
    for variant in ablate.variants():
        if variant.group == "shape":
            with ablate.changed(variant.constants):
                stream = stream_parameters(CodecParameters(), 64, 0)
            assert len(stream.noise_levels) * stream.particles == 64


def test_streams_of_variants_decode_with_an_unchanged_reader() -> None:
    values = waves()
    plain = encoded(values)
    names = {f"{ablate.PARAMETERS}:FIRST_TIME": 0.6, f"{ablate.QUANTISER}:THRIFT": 0.3}
    with ablate.changed(names):
        other = encoded(values)
    assert other != plain
    whole = (slice(None), slice(None), slice(None))
    decoded = decode_brick(
        lambda start, length: other[start : start + length],
        selection=whole,
        prior=lambda _: load_prior("test-tiny"),
        device="cpu",
    ).values
    assert float(((decoded - values) ** 2).mean()) < 0.03


def test_an_unknown_constant_is_refused_and_nothing_stays_changed() -> None:
    names = {f"{ablate.PARAMETERS}:FIRST_TIME": 0.1, f"{ablate.PARAMETERS}:NO_SUCH": 1}
    with pytest.raises(ParameterError) as caught, ablate.changed(names):
        pass
    assert caught.value.kind == "unknown-constant"
    assert parameters.FIRST_TIME != 0.1


def test_a_row_compares_curves_with_the_right_sign() -> None:
    default = [TilePoint(rate, 20 + 10 * rate, 64, 1.0) for rate in (0.1, 0.2, 0.4)]
    smaller = [TilePoint(0.9 * p.rate_bpv, p.psnr_db, 32, 0.5) for p in default]
    assert ablate.row("same", default, default).endswith("| +0.0 | +0.00 |")
    line = ablate.row("smaller", smaller, default)
    assert line.startswith("| smaller | 32 | 0.50 | 0.1800 | 22.00 | -10.0 | +0.")


def test_more_evaluations_are_counted() -> None:
    denoiser = Denoiser(load_prior("test-tiny"), "cpu")
    tiles = waves()[None]
    assert code_tiles(tiles, CodecParameters(effort=2, step=0.4), denoiser).evaluations == 16
    with ablate.changed({f"{ablate.PARAMETERS}:EFFORTS": {5: (3, 4)}}):
        point = code_tiles(tiles, CodecParameters(effort=5, step=0.4), denoiser)
    assert point.evaluations == 12
    assert 0 < point.header_bpv < point.rate_bpv


@pytest.mark.slow
def test_command_prints_a_line_per_variant(
    sources: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    ablate.main([sources["nifti"]], tiles=1, prior="test-tiny", steps="0.3,1", only="end")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("test-tiny ")
    assert [line.split(" | ")[0] for line in lines[4:7]] == [
        "| default: effort 5", "| pass ends at time 0.05", "| pass ends at time 0.1",
    ]  # fmt: skip
    assert lines[4].endswith("| +0.0 | +0.00 |")
    assert lines[8] == "Of 1 tiles, better ended at an earlier level: 0 at step 0.3, 0 at step 1"


@pytest.mark.parametrize("mse, late", [((4.0, 2.0, 1.0), False), ((4.0, 1.0, 1.0), True)])
def test_a_level_that_does_not_pay_is_seen(mse: tuple[float, ...], late: bool) -> None:
    record = TileRecord((0, 0, 0), nbytes=(10, 10, 10), mse=mse, max_error=(1.0,) * 3, sha256="")
    assert _ends_late(record, 100, step=1.0) == late
