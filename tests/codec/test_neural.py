"""Coders whose streams name a network: what they save, when an encoder takes them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from psc_volumetric.archive.readme import specification_files
from psc_volumetric.bitstream.layer_fields import default_segment
from psc_volumetric.codec import CodecParameters, Guarantee, decode_brick, encode_brick
from psc_volumetric.coders.context import networks
from psc_volumetric.coders.registry import EXACT_CODERS
from psc_volumetric.layers.coder_choice import CoderChoice
from psc_volumetric.methods.registry import read_index
from psc_volumetric.tiling import TileGrid

SHAPE = (6, 96, 96)
OWN = ("context", "neural")


def head(seed: int) -> np.ndarray:
    """Magnitudes of a slice whose outer frequencies were never measured, as scanners fill them."""
    rng = np.random.default_rng(seed)
    z, y, x = np.indices(SHAPE)
    inside = (y - 48) ** 2 + (x - 48) ** 2 < 1500 - 40 * z
    signal = np.where(inside, 300 + 90 * np.sin(x / 9 + z / 3) * np.cos(y / 7), 0)
    measured = np.fft.fft2(signal + rng.normal(0, 6, SHAPE) + 1j * rng.normal(0, 6, SHAPE))
    measured[:, 14:82] = 0
    measured[:, :, 14:82] = 0
    return np.rint(np.abs(np.fft.ifft2(measured))).astype("<i2")


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 40, SHAPE).astype("<i2")


def choice(values: np.ndarray) -> str:
    """The coder that an encoder takes of these two."""
    segments = TileGrid(SHAPE, default_segment(SHAPE))
    found = CoderChoice(values, None, segments, list(range(len(segments))))
    return found.best(Guarantee("lossless", coders=OWN), 1.0).coder


def test_a_network_is_taken_where_it_saves_enough() -> None:
    coded = {name: len(EXACT_CODERS[name].encode(head(1), None)) for name in OWN}
    assert coded["neural"] < 0.97 * coded["context"]
    assert choice(head(1)) == "neural"


def test_a_network_that_tells_nothing_is_not_waited_for() -> None:
    coded = {name: len(EXACT_CODERS[name].encode(noise(1), None)) for name in OWN}
    assert coded["neural"] < 1.01 * coded["context"]
    assert choice(noise(1)) == "context"


@pytest.mark.parametrize("bound", [None, 3.0])
def test_a_default_brick_of_a_head_names_the_network(bound: float | None) -> None:
    values = head(2)
    guarantee = Guarantee("lossless" if bound is None else "bounded", bound)
    data = encode_brick(
        values, position=(0, 0, 0), shape=SHAPE, mapping=None, prior=None,
        parameters=CodecParameters(), guarantee=guarantee,
    )  # fmt: skip

    def read(at: int, n: int) -> bytes:
        return data.data[at : at + n]

    assert read_index(read, len(data.data)).coding.endswith(":neural")
    back = decode_brick(read, selection=(slice(None),) * 3)
    assert int(np.abs(back.values.astype(int) - values).max()) <= (bound or 0)


def test_an_archive_with_its_specification_has_the_networks() -> None:
    found = specification_files()
    stored = found["specification/networks.safetensors"]
    assert stored == Path(networks.PATH).read_bytes()
    digest = hashlib.sha256(stored).hexdigest().encode()
    assert digest in found["specification/SPEC-v1.md"]
