"""What every base method promises, asked of all that are registered and of somebody else's."""

from __future__ import annotations

import functools
from itertools import product

import numpy as np
import pytest

from psc_volumetric.bitstream.header import BrickHeader
from psc_volumetric.bitstream.index import write_brick
from psc_volumetric.bitstream.sections import joined
from psc_volumetric.codec import BrickOptions, Guarantee, decode_brick, encode_brick
from psc_volumetric.errors import FormatError, UnsupportedVersionError
from psc_volumetric.methods.entries import OWN
from psc_volumetric.methods.parameters import CodecParameters
from psc_volumetric.methods.protocol import EncodeJob, Resources
from psc_volumetric.methods.registry import REGISTRY, read_index
from psc_volumetric.needed import byte_ranges, whole_units
from psc_volumetric.prior import Prior, load_prior, resolve_prior
from psc_volumetric.values.mapping import IntensityMapping
from psc_volumetric.values.special import SpecialMap

NAMES = [*(entry.name for entry in OWN), "toy"]
SHAPE = (8, 64, 64)
VALID = (5, 64, 50)
HOLE = -30000
QUICK = CodecParameters(effort=1, step=0.2)
CUT = (slice(2, 4), slice(10, 64), slice(0, 33))
LOSSY = Guarantee()
BOUNDED = Guarantee("bounded", 3.0, coders=("zstd",))
LOSSLESS = Guarantee("lossless", 3.0, coders=("zstd",))


def field() -> np.ndarray:
    z, y, x = np.indices(VALID)
    waves = 400 * np.sin(x / 9) * np.cos(y / 7 + z / 3) + 200 * (x > y)
    values = (waves + np.random.default_rng(3).normal(0, 9, VALID)).astype("<i2")
    values[1, 5:9, 7:30] = HOLE
    return values


def prior_of(name: str) -> Prior:
    """The smallest prior of the method's kind."""
    return load_prior("test-tiny" + REGISTRY.ending(name))


def job_of(values: np.ndarray, name: str) -> EncodeJob:
    special = SpecialMap.find(values, (HOLE,)) if values.dtype.kind == "i" else None
    header = BrickHeader("none", values.dtype, (0, 0, 0), SHAPE, VALID)
    mapping, prior = IntensityMapping(-700.0, 700.0), prior_of(name)
    return EncodeJob(values, header, special, None, mapping, QUICK, prior, VALID)


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest, toy_installed: None) -> str:
    return str(request.param)


@pytest.fixture
def brick(name: str):
    return brick_of(name)


def brick_of(name: str, guarantee: Guarantee = LOSSY):
    """A brick for whoever only reads it; the toy's class is another one in each test."""
    return coded(name, guarantee) if name == "toy" else coded_once(name, guarantee)


@functools.cache
def coded_once(name: str, guarantee: Guarantee):
    return coded(name, guarantee)


def coded(name: str, guarantee: Guarantee = LOSSY):
    return encode_brick(
        field(),
        position=(0, 0, 0),
        shape=SHAPE,
        mapping=IntensityMapping(-700.0, 700.0),
        parameters=QUICK,
        prior=prior_of(name),
        guarantee=guarantee,
        options=BrickOptions(special_values=(HOLE,), base=name),
    )


def decoded(data: bytes, selection=(slice(None),) * 3, level: int | None = None):
    return decode_brick(
        lambda start, length: data[start : start + length],
        selection=selection,
        level=level,
        prior=resolve_prior,
        spread=True,
    )


def test_levels_are_what_the_encoder_said(name: str, brick) -> None:
    source = REGISTRY.method(name).source(job_of(field(), name), Resources())
    assert source is not None
    base = source.at_step().finish()
    assert base.method == name
    assert len(base.levels) == len(base.sections) == len(base.fields.sections())
    assert brick.index.base_levels == len(base.levels)
    for level, expected in enumerate(base.levels):
        found = decoded(brick.data, level=level)
        assert found.values.tobytes() == expected.tobytes()
        assert found.spread is not None and np.isfinite(found.spread).all()
        assert found.spread[field() == HOLE].max() == 0
        assert (found.values == HOLE).sum() == (field() == HOLE).sum()


def test_a_region_is_the_slice_of_the_whole(brick) -> None:
    for level in range(brick.index.levels):
        whole, part = decoded(brick.data, level=level), decoded(brick.data, CUT, level)
        assert part.values.tobytes() == np.ascontiguousarray(whole.values[CUT]).tobytes()
        assert part.spread.tobytes() == np.ascontiguousarray(whole.spread[CUT]).tobytes()


def test_the_writer_knows_what_a_reader_finds(brick) -> None:
    data = brick.data
    assert read_index(lambda start, length: data[start : start + length], len(data)) == brick.index
    assert brick.index.nbytes == len(data) == brick.index.level_nbytes(brick.index.levels - 1)
    sizes = [brick.index.level_nbytes(level) for level in range(brick.index.levels)]
    assert sizes == sorted(sizes)


def test_coding_twice_gives_the_same_bytes(name: str, brick) -> None:
    assert coded(name).data == brick.data


def test_a_level_needs_only_its_bytes(brick) -> None:
    for level in range(brick.index.levels):
        end = brick.index.level_nbytes(level)
        seen = decode_brick(
            lambda start, length, end=end: brick.data[:end][start : start + length],
            selection=(slice(None),) * 3,
            level=level,
            prior=resolve_prior,
        )
        assert seen.values.shape == VALID


PLACES = [(slice(None),) * 3, CUT, (slice(0, 1), slice(3, 4), slice(5, 6))]


@pytest.mark.parametrize("guarantee", [LOSSY, BOUNDED, LOSSLESS], ids=lambda given: given.mode)
def test_what_is_read_was_known_from_the_header(name: str, guarantee: Guarantee) -> None:
    """Whoever fetches the ranges beforehand asks for nothing that is not decoded, nor twice."""
    brick = brick_of(name, guarantee)
    for level, place in product(range(brick.index.levels), PLACES):
        z, y, x = (slice(*s.indices(n)[:2]) for s, n in zip(place, VALID, strict=True))
        known = joined(byte_ranges(brick.index, (z, y, x), level))
        asked = []

        def read(start: int, length: int, asked=asked) -> bytes:
            asked.append((start, length))
            return brick.data[start : start + length]

        decode_brick(
            read,
            selection=(z, y, x),
            level=level,
            prior=resolve_prior,
            index=brick.index,
        )
        assert known == joined([*known, *asked])
        assert name == "toy" or known == joined(asked)  # the toy does without its first section
        box = whole_units(brick.index, (z, y, x), level)
        assert all(
            b.start <= s.start and s.stop <= b.stop for b, s in zip(box, (z, y, x), strict=True)
        )
        assert joined(byte_ranges(brick.index, box, level)) == known


def test_exact_layers_stand_on_it(name: str) -> None:
    bounded = brick_of(name, BOUNDED)
    error = decoded(bounded.data).values.astype(int) - field()
    assert np.abs(error).max() <= 3
    exact = coded(name, Guarantee("lossless", coders=("zstd",)))
    assert decoded(exact.data).values.tobytes() == field().tobytes()
    assert bounded.method.startswith(name) and exact.method.startswith(name)


def test_damage_is_noticed(brick) -> None:
    data = bytearray(brick.data)
    data[-3] ^= 16
    with pytest.raises(FormatError):
        decoded(bytes(data))
    with pytest.raises(FormatError):
        decoded(brick.data[:-1])


def test_values_it_cannot_code_are_refused_by_none(name: str) -> None:
    values = field().astype("<i8") * (1 << 40)
    assert REGISTRY.method(name).source(job_of(values, name), Resources()) is None


def test_an_attempt_at_an_error_knows_its_own(name: str) -> None:
    source = REGISTRY.method(name).source(job_of(field(), name), Resources())
    attempt = source.at_error(100.0, limit=1e9)
    if attempt is None:
        assert REGISTRY.entry(name).needs_prior
        return
    base = attempt.finish()
    inside = field() != HOLE
    error = base.levels[-1].astype(float)[inside] - field()[inside]
    assert np.mean(error**2) == pytest.approx(attempt.mse)
    assert attempt.nbytes <= base.nbytes


def test_codes_and_names_lead_to_one_another(name: str) -> None:
    entry = REGISTRY.entry(name)
    assert REGISTRY.name_of(entry.code) == name and REGISTRY.code_of(name) == entry.code
    assert REGISTRY.method(name).name == name


def test_a_method_that_is_not_installed_is_named_as_such(toy_installed: None) -> None:
    brick = coded("toy")
    REGISTRY.__dict__["entries"] = {entry.name: entry for entry in OWN}
    with pytest.raises(UnsupportedVersionError, match="install the package") as caught:
        decoded(brick.data)
    assert caught.value.kind == "unknown-method"


def test_a_header_of_step_zero_is_refused_by_the_plug_in(toy_installed: None) -> None:
    from psc_toy.fields import ToyFields  # type: ignore[import-not-found]

    header = BrickHeader("toy", np.dtype("<i2"), (0,), SHAPE, VALID)
    data, _ = write_brick(
        header, [("special", b""), ("coarse", b""), ("fine", b"")], methods=REGISTRY,
        fields=ToyFields(0),
    )  # fmt: skip
    with pytest.raises(FormatError) as caught:
        read_index(lambda start, length: data[start : start + length], len(data))
    assert caught.value.kind == "bad-toy"
