"""The toy's encoder and decoder."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from psc_toy.fields import ToyFields
from psc_volumetric.arrays import Values
from psc_volumetric.bitstream.frames import pack_frame, unpack_frame
from psc_volumetric.bitstream.index import BrickIndex
from psc_volumetric.bitstream.sections import ReadRange, read_section
from psc_volumetric.methods.protocol import DecodedBrick, EncodedBase, EncodeJob, Resources
from psc_volumetric.tiling import Box, TileGrid
from psc_volumetric.values.special import SpecialMap

COARSE = 4


@dataclass(frozen=True)
class ToyMethod:
    """Codes 16-bit integers."""

    name: str = "toy"

    def source(self, job: EncodeJob, resources: Resources) -> ToySource | None:
        """Look at a brick."""
        return ToySource(job) if job.values.dtype == np.dtype("<i2") else None

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
        """Decode a region; only the section of the level is read."""
        assert isinstance(index.fields, ToyFields)
        what = f"brick {index.position}"
        special = SpecialMap.unpack(
            read_section(read, index.section("special"), what=what), index.valid, index.dtype
        )
        name = ("coarse", "fine")[level]
        data = read_section(read, index.section(name), what=what)
        values = _unpacked(data, index.valid, level, index.fields.step, what)[box].copy()
        sigma = np.full(values.shape, index.fields.step / 12**0.5, np.float32) if spread else None
        if special is not None:
            special.apply(values, box)
            if sigma is not None:
                sigma[special.index[box] > 0] = 0
        return DecodedBrick(values, sigma)


METHOD = ToyMethod()


@dataclass(frozen=True)
class ToySource:
    """A brick to be rounded."""

    job: EncodeJob

    def reaches(self, step: float) -> bool:
        """Down to one stored unit."""
        return step >= 1

    def at_step(self) -> ToyAttempt:
        """At the step of the job."""
        return ToyAttempt(self.job, max(1, round(self.job.step)))

    def at_error(self, mse: float, *, limit: float) -> ToyAttempt:
        """A uniform error has a mean square of a twelfth of the step squared."""
        return ToyAttempt(self.job, max(1, int((12 * mse) ** 0.5)))


@dataclass(frozen=True)
class ToyAttempt:
    """One step."""

    job: EncodeJob
    step: int

    def _parts(self) -> tuple[bytes, bytes]:
        clean = self.job.values
        if self.job.special is not None:
            clean = self.job.special.fill(clean, 0)
        steps = np.rint(clean / self.step).astype("<i2")
        return pack_frame(steps[::COARSE].tobytes()), pack_frame(steps.tobytes())

    def _levels(self) -> tuple[Values, ...]:
        shape, levels = self.job.header.valid, []
        for level, data in enumerate(self._parts()):
            values = _unpacked(data, shape, level, self.step, "toy encoder")
            if self.job.special is not None:
                self.job.special.apply(values, (slice(None),) * 3)
            levels.append(values)
        return tuple(levels)

    @property
    def nbytes(self) -> int:
        """Of both sections."""
        return sum(map(len, self._parts()))

    @property
    def mse(self) -> float:
        """Measured."""
        return self.job.mse(self._levels()[-1])

    def finish(self) -> EncodedBase:
        """Nothing is left to do."""
        coarse, fine = self._parts()
        tiles = len(TileGrid(self.job.header.valid, self.job.tile))
        return EncodedBase(
            "toy",
            ToyFields(self.step),
            (("coarse", coarse), ("fine", fine)),
            self._levels(),
            ((len(coarse) // tiles, len(fine) // tiles),) * tiles,
            needs_network=False,
        )


def _unpacked(data: bytes, shape: tuple[int, int, int], level: int, step: int, what: str) -> Values:
    slices = -(-shape[0] // COARSE) if level == 0 else shape[0]
    plain = unpack_frame(data, 2 * slices * shape[1] * shape[2], what)
    steps = np.frombuffer(plain, "<i2").reshape(slices, *shape[1:]).astype(np.int64)
    values: Values = np.clip(steps * step, -32768, 32767).astype("<i2")
    return values if level else np.repeat(values, COARSE, axis=0)[: shape[0]].copy()
