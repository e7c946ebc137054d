"""The base method ``foresight``: ``posterior`` with foreseen coefficients (SPEC 3.13)."""

from __future__ import annotations

from dataclasses import dataclass

from psc_volumetric.bitstream.index import BrickIndex
from psc_volumetric.bitstream.sections import ReadRange, read_section
from psc_volumetric.errors import FormatError
from psc_volumetric.methods.foresight.coder import decode_foreseen
from psc_volumetric.methods.foresight.fields import ForesightFields
from psc_volumetric.methods.foresight.guess import Seer
from psc_volumetric.methods.foresight.source import ForesightSource
from psc_volumetric.methods.posterior.method import (
    METHOD as POSTERIOR,
)
from psc_volumetric.methods.posterior.method import corrected, estimator_of, network_of
from psc_volumetric.methods.posterior.network import Estimator
from psc_volumetric.methods.protocol import DecodedBrick, EncodeJob, Resources
from psc_volumetric.methods.wavelet.coder import Steps
from psc_volumetric.methods.wavelet.synthesis import synthesise
from psc_volumetric.methods.wavelet.transform import dequantise
from psc_volumetric.tiling import Box

__all__ = ["METHOD", "ForesightMethod", "numbers_of"]


@dataclass(frozen=True)
class ForesightMethod:
    """:class:`psc_volumetric.methods.protocol.BaseMethod` with one level."""

    name: str = "foresight"

    def source(self, job: EncodeJob, resources: Resources) -> ForesightSource | None:
        """As `posterior` has it, with its errors."""
        source = POSTERIOR.source(job, resources)
        return None if source is None else ForesightSource(source)

    def decode(
        self,
        read: ReadRange,
        index: BrickIndex,
        *,
        box: Box,
        level: int,
        resources: Resources,
        spread: bool,
    ) -> DecodedBrick:
        """Decode a region: all coefficients, with what was foreseen, then as `posterior`."""
        fields = index.fields
        if not isinstance(fields, ForesightFields):
            what = f"brick {index.position}"
            raise FormatError(f"{what}: has no fields of its method", kind="bad-method")
        if not fields.glimpses:
            return POSTERIOR.decode(
                read, index, box=box, level=level, resources=resources, spread=spread
            )
        steps, depth, estimator = numbers_of(read, index, fields, resources)
        samples = synthesise(dequantise(steps, depth), depth)
        return corrected(read, index, samples, estimator, box=box, spread=spread)


def numbers_of(
    read: ReadRange, index: BrickIndex, fields: ForesightFields, resources: Resources
) -> tuple[Steps, int, Estimator]:
    """Numbers of quantiser steps (z, y, x) that are foreseen, splits of z, and the network.

    Raises
    ------
    FormatError
        Damaged bytes.
    PriorMismatchError
        The network is missing or another one.
    """
    what = f"brick {index.position}"
    assert fields.view is not None  # where something is foreseen
    levels = [fields.view.level, *(glimpse.level for glimpse in fields.glimpses)]
    prior = network_of(fields.view, levels, resources, what)
    estimator = estimator_of(prior, resources)
    data = read_section(read, index.section("base"), what=what)
    seer = Seer(estimator, fields.view, fields.glimpses)
    steps, depth = decode_foreseen(data, index.valid, seer, what=what)
    return steps, depth, estimator


METHOD = ForesightMethod()
