"""Coders whose streams name a network: what they save, when an encoder takes them."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from psc_volumetric.archive.readme import specification_files
from psc_volumetric.bitstream.layer_fields import default_segment
from psc_volumetric.codec import CodecParameters, Guarantee, decode_brick, encode_brick
from psc_volumetric.coders.context import networks
from psc_volumetric.coders.context.coder import decode_integers, encode_integers
from psc_volumetric.coders.context.way import FORESEEN
from psc_volumetric.coders.registry import EXACT_CODERS
from psc_volumetric.coders.slicewise import SliceDecoder
from psc_volumetric.errors import FormatError
from psc_volumetric.layers.coder_choice import CoderChoice
from psc_volumetric.layers.progressive import can_refine
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


def test_threads_share_the_weights_and_nothing_else() -> None:
    coder, parts = EXACT_CODERS["neural"], [head(n)[:4, 20:60, 20:60].copy() for n in range(6)]
    written = [coder.encode(part, None) for part in parts]

    def is_right(job: int) -> bool:
        part, data = parts[job % 6], written[job % 6]
        if job % 2:
            return coder.encode(part, None) == data
        decoder = SliceDecoder(data, part.shape, part.dtype, coder="neural", what="segment")
        ends = (1, 2, 4) if job % 4 else (3, 4)
        found = np.concatenate([decoder.slices(end, None, 0) for end in ends])
        return bool((found == part).all())

    with ThreadPoolExecutor(12) as pool:
        assert all(pool.map(is_right, range(120)))


def test_other_weights_give_an_error_and_never_other_values(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = head(3)[:3, 20:60, 20:60].astype(np.int64)
    data = encode_integers(values, way=FORESEEN)
    weights, biases = networks._weights(0)
    rng, refused = np.random.default_rng(0), 0
    for _ in range(40):
        changed = weights.copy()
        changed[rng.integers(len(changed))] += 9
        monkeypatch.setattr(networks, "_weights", lambda _, found=changed: (found, biases))
        try:
            back = decode_integers(data, values.shape, may_foresee=True, what="segment")
        except FormatError as error:
            assert error.kind == "bad-symbol"
            refused += 1
        else:  # of an input that is 0 here, or of a unit that says nothing
            assert (back == values).all()
    assert refused > 20


def test_coders_with_a_network_alone_make_a_bounded_level_where_it_is_nearly_free() -> None:
    def coding(coders: tuple[str, ...]) -> str:
        guarantee = Guarantee("lossless", 2.0, coders=coders, budget=1.0)
        data = encode_brick(
            head(4), position=(0, 0, 0), shape=SHAPE, mapping=None, prior=None,
            parameters=CodecParameters(), guarantee=guarantee,
        ).data  # fmt: skip
        return read_index(lambda at, n: data[at : at + n], len(data)).coding

    assert (
        coding(("neural", "neural-refinement")) == "none+bounded:neural+lossless:neural-refinement"
    )
    assert coding(("neural", "refinement", "zstd")) == "none+bounded:neural+lossless:refinement"
    assert coding(("neural", "zstd")) == "none+lossless:neural"
    assert can_refine(("context", "neural-refinement"))
    assert not can_refine(("context", "zstd")) and not can_refine(("refinement", "zstd"))
