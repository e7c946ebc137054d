"""What a base method is: the contract between the codec and the folders beside this file.

A method codes the values of a brick with loss, in one or more quality levels that are decoded from
bytes alone. Exact layers may stand on top of it (:mod:`psc_volumetric.layers`); it knows nothing of
them, nor of the other methods. :mod:`psc_volumetric.methods.registry` lists the methods.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.arrays import Triple, Values
from psc_volumetric.bitstream.header import BrickHeader
from psc_volumetric.bitstream.index import BrickIndex
from psc_volumetric.bitstream.methods import MethodFields
from psc_volumetric.bitstream.sections import ReadRange
from psc_volumetric.bitstream.value_limits import ValueLimits
from psc_volumetric.bitstream.wire import FieldWriter
from psc_volumetric.methods.parameters import CodecParameters
from psc_volumetric.tiling import Box
from psc_volumetric.values.mapping import IntensityMapping
from psc_volumetric.values.special import SpecialMap

if TYPE_CHECKING:
    from psc_volumetric.prior import Prior, PriorSource

__all__ = [
    "Attempt",
    "BaseMethod",
    "DecodedBrick",
    "EncodeJob",
    "EncodedBase",
    "Resources",
    "Source",
]

Coverage = tuple[float, float, float]


@dataclass(frozen=True)
class EncodeJob:
    """A brick to be coded with loss.

    Attributes
    ----------
    values : (vz, vy, vx) array
        Stored values, little-endian.
    header : BrickHeader
        Its method is that of the caller; a method puts in its own name.
    special : SpecialMap or None
        Voxels that are not measurements; a method sees their neighbours.
    limits : ValueLimits or None
        That decoded values stay within; they stand in the header of the brick.
    mapping : IntensityMapping
        Stored values to normalised units.
    parameters : CodecParameters
        Quantiser step and effort.
    prior : Prior or None
        The network to code with, for methods that have one.
    tile : (z, y, x)
        Tiles of the records of a method without tiles of its own.
    seed : int
        Key of the noise, 0 <= seed < 2**32.
    is_thorough : bool
        Whether fewer bytes at the same error are worth up to twice the time.
    is_draft : bool
        Whether bytes and error need only be told roughly, as quickly as can be.
    """

    values: Values
    header: BrickHeader
    special: SpecialMap | None
    limits: ValueLimits | None
    mapping: IntensityMapping
    parameters: CodecParameters
    prior: Prior | None
    tile: Triple
    seed: int = 0
    is_thorough: bool = False
    is_draft: bool = False

    @property
    def step(self) -> float:
        """Quantiser step in stored units."""
        return self.parameters.step * (self.mapping.high - self.mapping.low) / 2

    def mse(self, decoded: Values) -> float:
        """Mean squared error of decoded values, over measured voxels; NaN if there is none."""
        inside = np.ones(self.values.shape, bool)
        if self.special is not None:
            inside = self.special.index == 0
        error = decoded[inside].astype(np.float64) - self.values[inside].astype(np.float64)
        return float(np.mean(error**2)) if error.size else math.nan


@dataclass(frozen=True)
class Resources:
    """What a method may use besides bytes; never changes a bit.

    Attributes
    ----------
    priors : callable or None
        Digest -> :class:`~psc_volumetric.prior.Prior`.
    device : str
        ``"auto"``, ``"cpu"`` or ``"cuda"``.
    denoisers : callable or None
        (prior, device) -> the network on a device; None takes the fastest one that passes the
        self-test. For the self-test itself and for comparing carriers.
    """

    priors: PriorSource | None = None
    device: str = "auto"
    denoisers: Callable[[Prior, str], Any] | None = None


@dataclass(frozen=True)
class EncodedBase:
    """A coded base method before layers are added.

    Attributes
    ----------
    method : str
    fields : MethodFields
    sections : tuple of (name, bytes)
        As `MethodFields.sections` names them.
    levels : tuple of (z, y, x) arrays
        Stored values a reader gets at each level.
    tile_nbytes : tuple of tuples
        Bytes per tile and level.
    needs_network : bool
        Whether its last level takes a network to decode.
    coverage : tuple of (float, float, float)
        Share of voxels within 1, 2 and 3 sigma at each level; empty where nothing was measured.
    choice : str
        Why this method, in words; empty where there was no choice.
    compared : mapping
        Method -> bytes at the same error, of every method that was coded near it: those of its
        coding for the one that was taken, scaled to the error for the others.
    """

    method: str
    fields: MethodFields
    sections: tuple[tuple[str, bytes], ...]
    levels: tuple[Values, ...]
    tile_nbytes: tuple[tuple[int, ...], ...]
    needs_network: bool
    coverage: tuple[Coverage, ...] = ()
    choice: str = ""
    compared: Mapping[str, int] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes with header fields."""
        head = FieldWriter()
        self.fields.write(head)
        return len(head) + sum(len(data) for _, data in self.sections)


class Attempt(Protocol):
    """One coding of a brick, not yet finished: its sigma is not measured."""

    @property
    def nbytes(self) -> int:
        """Bytes without header fields."""
        ...

    @property
    def mse(self) -> float:
        """Mean squared error in stored units over measured voxels."""
        ...

    @property
    def step(self) -> float:
        """Quantiser step in stored units; 0 where the method has none."""
        ...

    def finish(self) -> EncodedBase:
        """The base with everything that a reader needs."""
        ...


class Source(Protocol):
    """A brick that a method has looked at and can code."""

    def reaches(self, step: float) -> bool:
        """Whether errors as small as those of a quantiser step in stored units can be had."""
        ...

    def at_step(self) -> Attempt:
        """The coding at the quantiser step of the job."""
        ...

    def at_error(self, mse: float, *, limit: float) -> Attempt | None:
        """The smallest coding with at most this squared error, or one near it.

        A coding that will stay far above ``limit`` bytes need not be searched for to the end.
        None when the method does not search.
        """
        ...


@dataclass(frozen=True)
class DecodedBrick:
    """Decoded region: stored values, and one sigma per voxel in stored units if asked for."""

    values: Values
    spread: NDArray[np.float32] | None = None


class BaseMethod(Protocol):
    """One way of coding bricks with loss.

    Attributes
    ----------
    name : str
        As users, metadata and the registry call it.
    """

    @property
    def name(self) -> str:
        """As users, metadata and the registry call it."""
        ...

    def source(self, job: EncodeJob, resources: Resources) -> Source | None:
        """Look at a brick; None when the method cannot code it."""
        ...

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
        """Decode a region at one of the method's levels, reading only what it needs.

        Raises
        ------
        FormatError
            Damaged or impossible bytes.
        PriorMismatchError
            The prior is missing or another one.
        """
        ...
