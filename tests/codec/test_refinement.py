"""Refinement: one lossless stream whose first part is a level within a bound."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from psc_volumetric.codec import (
    BrickOptions,
    CodecParameters,
    Guarantee,
    decode_brick,
    encode_brick,
)
from psc_volumetric.conformance.damage import split
from psc_volumetric.errors import FormatError, ParameterError
from psc_volumetric.methods.registry import read_index

SHAPE = (24, 96, 96)
REFINED = Guarantee("lossless", 2.0, coders=("context", "refinement"))


def scan(shape: tuple[int, int, int], noise: float) -> np.ndarray:
    z, y, x = np.indices(shape)
    smooth = 400 * np.sin(x / 17 + z / 9) * np.cos(y / 23) + 300 * (np.hypot(y - 40, x - 50) < 30)
    return 1000 + smooth + np.random.default_rng(3).normal(0, noise, shape)


def brick(values: np.ndarray, guarantee: Guarantee, **options):
    return encode_brick(
        values,
        position=(0, 0, 0),
        shape=values.shape,
        mapping=None,
        prior=None,
        parameters=CodecParameters(),
        guarantee=guarantee,
        options=BrickOptions(**options),
    )


def decode(data: bytes, **options) -> np.ndarray:
    whole = {"selection": (slice(None),) * 3, **options}
    return decode_brick(lambda at, n: data[at : at + n], **whole).values


def methods(data: bytes) -> str:
    return read_index(lambda at, n: data[at : at + n], len(data)).coding


@pytest.mark.parametrize("noise", [3.0, 20.0])
def test_the_bounded_level_is_nearly_free(noise: float) -> None:
    values = np.rint(scan(SHAPE, noise)).astype("<i2")
    alone = len(brick(values, Guarantee("lossless", coders=("context",))).data)
    apart = len(brick(values, Guarantee("lossless", 2.0, "none", ("context",))).data)
    encoded = brick(values, REFINED)
    assert encoded.method == "none+bounded:context+lossless:refinement"
    assert len(encoded.data) < 1.03 * alone < apart
    assert decode(encoded.data).tobytes() == values.tobytes()
    off = np.abs(decode(encoded.data, level=0).astype(int) - values)
    assert 0 < off.max() <= 2


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"])
def test_every_dtype_comes_back(dtype: str) -> None:
    smooth = scan((4, 32, 34), 9.0)
    kind, size = dtype[0], int(dtype[1])
    if size == 1:
        smooth = np.clip(smooth / 9, 0, 127 if kind == "i" else 255)
    values = smooth.astype(f"<{dtype}")
    if size == 8 and kind != "f":
        values = (values.astype("<i8") << 20).astype(values.dtype)
    if kind == "f":
        values[0, :3] = -0.0
        values[1, 4, 2:9] = np.nan
        values[2, 2, 2] = -np.inf
    elif size < 8:  # a bounded level has no room for the whole range of 64 bits
        values[0, 0, 0], values[2, 31, 33] = np.iinfo(dtype).min, np.iinfo(dtype).max
    encoded = brick(values, replace(REFINED, reference="base"))
    assert methods(encoded.data).endswith("refinement")
    assert decode(encoded.data).tobytes() == values.tobytes()
    near = decode(encoded.data, level=0)
    finite = np.isfinite(values) if kind == "f" else np.ones(values.shape, bool)
    assert near[~finite].tobytes() == values[~finite].tobytes()
    off = [abs(a - b) for a, b in zip(near[finite].tolist(), values[finite].tolist(), strict=True)]
    assert max(off) <= 2


def test_any_region_of_any_level() -> None:
    values = np.rint(scan((4, 200, 60), 6.0)).astype("<u2")
    values[:, :20, :20] = 0
    encoded = brick(values, REFINED, special_values=(0.0,))
    below, random = decode(encoded.data, level=0), np.random.default_rng(1)
    for _ in range(5):
        starts = [int(random.integers(0, n)) for n in values.shape]
        box = tuple(
            slice(a, int(random.integers(a, n)) + 1)
            for a, n in zip(starts, values.shape, strict=True)
        )
        assert np.array_equal(decode(encoded.data, selection=box), values[box])
        assert np.array_equal(decode(encoded.data, selection=box, level=0), below[box])


def test_voxels_that_are_exact_below_take_nothing() -> None:
    values = np.rint(scan((4, 40, 40), 9.0)).astype("<i2")
    values[:, 5:] = -2000
    marked = brick(values, REFINED, special_values=(-2000.0,))
    crop = brick(np.ascontiguousarray(values[:, :5]), REFINED)
    sizes = [split(data.data).layers[1][1] for data in (marked, crop)]
    assert len(sizes[0][0]) < len(sizes[1][0]) + 100


def test_a_level_that_costs_too_much_is_left_out() -> None:
    values = np.rint(scan(SHAPE, 6.0)).astype("<i2")
    asked = replace(REFINED, budget=0.02)
    assert methods(brick(values, asked).data) == "none+bounded:context+lossless:refinement"
    assert methods(brick(values, replace(asked, budget=-0.5)).data) == "none+lossless:context"
    few = np.ascontiguousarray(values[:2, :20, :20])
    assert methods(brick(few, asked).data) == "none+lossless:context"
    labels = (values > 1000).astype("<i2")
    assert methods(brick(labels, asked).data) == "none+lossless:context"
    with pytest.raises(ParameterError, match="budget"):
        Guarantee("bounded", 2.0, budget=0.02)


def test_headers_of_refinements_that_refine_nothing_are_refused() -> None:
    values = np.rint(scan((3, 20, 22), 4.0)).astype("<i2")
    parts = split(brick(values, REFINED).data)
    alone = replace(parts, layers=parts.layers[1:], sections=())
    for wrong in (
        parts.with_layer(1, on_base=False).join(),
        parts.with_layer(0, coder="refinement").join(),
        alone.join(),
    ):
        with pytest.raises(FormatError) as caught:
            methods(wrong)
        assert caught.value.kind == "bad-layer"


def test_a_bounded_level_that_is_another_one_is_refused() -> None:
    """Cells without any value that occurs: damage that no checksum saw."""
    values = (np.rint(scan((3, 20, 22), 4.0)) * 50).astype("<i2")
    parts = split(brick(values, replace(REFINED, max_error=20.0)).data)
    fields, _ = parts.layers[0]
    assert fields.grid is not None
    moved = parts.with_layer(0, grid=replace(fields.grid, offset=int(fields.grid.offset) + 25))
    with pytest.raises(FormatError) as caught:
        decode(moved.join())
    assert caught.value.kind in ("bad-payload", "bad-symbol")
