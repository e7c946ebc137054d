"""What one read, or one restore, of an archive may cost: bytes, network evaluations, seconds.

The limits of the format keep a brick or a document from being absurd. A quota is
the reader's own: how much of their machine a service, or somebody who opens the archive of a
stranger, wants to spend on one region. Bytes and evaluations are counted from the headers of
bricks before anything is decoded; time is looked at between bricks.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

from psc_volumetric.archive.layout import VariableSpec
from psc_volumetric.bitstream.index import BrickIndex
from psc_volumetric.errors import LimitExceededError, ParameterError

__all__ = ["UNLIMITED", "Cost", "Deadline", "Quota", "cost_of"]


Brick = tuple[BrickIndex, int]


@dataclass(frozen=True)
class Cost:
    """What reading a region takes.

    Attributes
    ----------
    stored_bytes : int
        Of the bricks that it touches, up to the level, whole.
    decoded_bytes : int
        Of the region's values.
    evaluations : int
        Of networks, for all tiles of these bricks.
    """

    stored_bytes: int = 0
    decoded_bytes: int = 0
    evaluations: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.stored_bytes + other.stored_bytes,
            self.decoded_bytes + other.decoded_bytes,
            self.evaluations + other.evaluations,
        )


@dataclass(frozen=True)
class Quota:
    """The most that one read, or restoring, may cost; None: only the limits of the format hold.

    Attributes
    ----------
    stored_bytes, decoded_bytes, evaluations : int or None
        As in `Cost`.
    seconds : float or None
        From the beginning of the read; the brick at work is finished.
    """

    stored_bytes: int | None = None
    decoded_bytes: int | None = None
    evaluations: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and not 0 < value < math.inf:
                raise ParameterError(
                    f"{field.name} must be above 0, found {value!r}", kind="bad-quota"
                )

    @property
    def is_unlimited(self) -> bool:
        """Whether nothing is refused."""
        return self == UNLIMITED

    def admit(
        self, spec: VariableSpec, shape: Sequence[int], bricks: Iterable[Brick], where: str
    ) -> Deadline:
        """Let a read begin, or refuse it; what comes back is asked between its bricks.

        Parameters
        ----------
        spec : VariableSpec
        shape : sequence of int
            Of the region.
        bricks : iterable of (BrickIndex, int)
            As for `cost_of`; taken only where there is a limit that they count for.
        where : str
            For messages.

        Raises
        ------
        LimitExceededError : it costs more (kind ``"quota"``).
        """
        counts = self.stored_bytes is not None or self.evaluations is not None
        return self.begin(cost_of(spec, shape, bricks if counts else ()), where)

    def begin(self, cost: Cost, where: str) -> Deadline:
        """Let something begin that costs so much; else as `admit`."""
        for name in ("stored_bytes", "decoded_bytes", "evaluations"):
            most, wanted = getattr(self, name), getattr(cost, name)
            if most is not None and wanted > most:
                raise _exceeded(where, f"{wanted} {name.replace('_', ' ')}", most)
        return Deadline(self.seconds, where)


class Deadline:
    """When a read has to end."""

    def __init__(self, seconds: float | None, where: str) -> None:
        self._seconds = seconds
        self._where = where
        self._start = time.monotonic()

    def check(self) -> None:
        """Refuse to go on when the time is over (LimitExceededError, kind ``"quota"``)."""
        if self._seconds is not None:
            spent = time.monotonic() - self._start
            if spent > self._seconds:
                raise _exceeded(self._where, f"{spent:.3g} seconds", self._seconds)


def _exceeded(where: str, found: str, most: float) -> LimitExceededError:
    return LimitExceededError(
        f"{where}: {found}, the quota is {most:g}",
        kind="quota",
        hint="read a smaller region or a lower level, or allow more",
    )


def cost_of(spec: VariableSpec, shape: Sequence[int], bricks: Iterable[Brick]) -> Cost:
    """What a region costs.

    Parameters
    ----------
    spec : VariableSpec
    shape : sequence of int
        Of the region.
    bricks : iterable of (BrickIndex, int)
        Headers of the bricks that it touches, and the level that is read of each.
    """
    stored = evaluations = 0
    for index, level in bricks:
        stored += index.level_nbytes(level)
        if level > 0:  # level 0 of a network's method is made of block means
            evaluations += int(getattr(index.fields, "evaluations", 0))
    return Cost(stored, math.prod(shape) * spec.dtype.itemsize, evaluations)


UNLIMITED = Quota()
