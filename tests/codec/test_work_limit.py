"""A brick cannot ask for more evaluations of the network than its bytes can pay for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from psc_volumetric.bitstream import constants as c
from psc_volumetric.bitstream.header import BrickHeader
from psc_volumetric.bitstream.index import write_brick
from psc_volumetric.errors import FormatError
from psc_volumetric.methods.parameters import CodecParameters
from psc_volumetric.methods.psc.fields import PscFields
from psc_volumetric.methods.psc.parameters import stream_parameters
from psc_volumetric.methods.registry import REGISTRY, read_index
from psc_volumetric.values.mapping import IntensityMapping

SHAPE, TILE, TILES = (64, 512, 512), (8, 64, 64), 512


def fields(words: int, tiles: int, parameters: CodecParameters) -> PscFields:
    """Fields of a brick with as many tiles that have one level of so many words."""
    stream = replace(stream_parameters(parameters, 100, 0), level_ends=())
    last = stream_parameters(parameters, 100, 0).level_ends[-1]
    row = (words,) * tiles + (0,) * (TILES - tiles)
    return PscFields(
        bytes(16), TILE, IntensityMapping(0.0, 1000.0), replace(stream, level_ends=(last,)), (row,)
    )


def written(psc: PscFields) -> bytes:
    header = BrickHeader("psc", np.dtype("<i2"), (0, 0, 0), SHAPE, SHAPE)
    sections = [("special", b""), ("base", b""), ("level1", bytes(4 * sum(psc.words[0])))]
    data, _ = write_brick(header, sections, methods=REGISTRY, fields=psc)
    return data


@pytest.mark.parametrize("rounds", [50, 341])
def test_a_few_bytes_do_not_buy_millions_of_evaluations(rounds: int) -> None:
    psc = fields(1, 20, CodecParameters(setting="paper", rounds=rounds))
    data = written(psc)
    assert 20 * psc.parameters.evaluations > 200 * len(data)
    for refuse in (lambda: read_index(lambda s, n: data[s : s + n]), psc.check_work):
        with pytest.raises(FormatError) as caught:
            refuse()
        assert caught.value.kind == "limit"
        assert str(20 * psc.parameters.evaluations) in str(caught.value)


@pytest.mark.parametrize("effort", range(1, 10))
def test_every_effort_fits_with_a_single_word(effort: int) -> None:
    psc = fields(1, TILES, CodecParameters(effort=effort))
    data = written(psc)
    assert read_index(lambda s, n: data[s : s + n]).fields == psc
    assert psc.parameters.evaluations <= c.MAX_FREE_EVALUATIONS + c.MAX_EVALUATIONS_PER_WORD
