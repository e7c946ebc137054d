"""Our own codec on one volume: every brick coded once per setting, every byte counted."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipelines.archiving.options import ArchiveOptions
from pipelines.archiving.plan import VariablePlan, brick_prior
from pipelines.evaluation.point import cpu_seconds
from pipelines.progress import Progress
from psc_volumetric.codec import (
    BrickOptions,
    EncodedBrick,
    Guarantee,
    IntensityMapping,
    decode_brick,
    encode_brick,
)
from psc_volumetric.errors import NumericalError, PriorMismatchError
from psc_volumetric.methods.protocol import Resources
from psc_volumetric.methods.registry import AUTO, REGISTRY
from psc_volumetric.prior import Prior, installed
from psc_volumetric.prior.finding import domain_of, newest
from psc_volumetric.threads import at_most
from psc_volumetric.tiling import TileGrid
from psc_volumetric.views import ViewRequest
from psc_volumetric.views.brick import view_brick

__all__ = ["OurChoice", "OurVolume", "Run", "code_volume", "our_name", "workers"]

Task = TypeVar("Task")
Result = TypeVar("Result")
Run = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]
DECODED = ViewRequest()


def our_name(variant: str) -> str:
    """Name of our codec with a variant, as in points: ``"ours-psc"``, ``"ours-none:fast"``."""
    return f"ours-{variant}"


@contextmanager
def workers(jobs: int) -> Iterator[Run]:
    """A ``map`` that does its work here, or in ``jobs`` processes; results keep their order."""
    if jobs <= 1:
        yield map
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        yield pool.map


@dataclass(frozen=True)
class OurChoice:
    """One way to code a volume.

    Attributes
    ----------
    archive : ArchiveOptions
        Step, effort, setting, coders and device.
    base : str
        Base method, as `psc_volumetric.codec.encode_brick` takes it.
    mode : str
        ``"lossy"``, ``"bounded"`` or ``"lossless"``.
    max_error : float or None
        Bound in stored units.
    decodes : bool
        Whether the last level is decoded from the bytes, as proof and for times; else the values
        are those that the encoder found by decoding, the same integers.
    view : ViewRequest
        What is measured of the last level: the mean, or a view.
    """

    archive: ArchiveOptions
    base: str
    mode: str
    max_error: float | None
    decodes: bool
    view: ViewRequest = DECODED


@dataclass(frozen=True, eq=False)
class _Brick:
    """One brick to code, with all that a process needs."""

    values: NDArray[np.generic]
    measured: NDArray[np.bool_]
    position: tuple[int, ...]
    variable: VariablePlan
    prior: str | None
    choice: OurChoice


@dataclass(frozen=True, eq=False)
class _Outcome:
    """Bytes, squared error and largest error over measured voxels, up to each level.

    ``decoded`` are the stored values at the last one.
    """

    nbytes: list[int]
    squared: list[float]
    largest: list[float]
    method: str
    decoded: NDArray[np.generic]
    encode_s: float
    decode_s: float


@dataclass(eq=False)
class OurVolume:
    """What a volume takes with one choice.

    Attributes
    ----------
    nbytes, squared, largest : list
        Bytes, summed squared error and largest error over measured voxels, stored units, up to
        each level. Bricks with fewer levels count with their last one.
    methods : dict
        Method of bricks, as in metadata -> (bricks, bytes).
    decoded : array
        Values of the last level, stored dtype and shape.
    encode_s, decode_s : float
        CPU seconds over all bricks; encoding includes the encoder's own decoding.
    """

    decoded: NDArray[np.generic]
    nbytes: list[int] = field(default_factory=lambda: [0])
    squared: list[float] = field(default_factory=lambda: [0.0])
    largest: list[float] = field(default_factory=lambda: [0.0])
    methods: dict[str, tuple[int, int]] = field(default_factory=dict)
    encode_s: float = 0.0
    decode_s: float = 0.0

    def add(self, outcome: _Outcome) -> None:
        """Count one brick."""
        levels = max(len(self.nbytes), len(outcome.nbytes))
        self.nbytes = _combine(sum, self.nbytes, outcome.nbytes, levels)
        self.squared = _combine(sum, self.squared, outcome.squared, levels)
        self.largest = _combine(max, self.largest, outcome.largest, levels)
        bricks, nbytes = self.methods.get(outcome.method, (0, 0))
        self.methods[outcome.method] = (bricks + 1, nbytes + outcome.nbytes[-1])
        self.encode_s += outcome.encode_s
        self.decode_s += outcome.decode_s

    def psnr_db(self, level: int, peak: float, voxels: int) -> float:
        """PSNR of a level over the measured voxels."""
        error = self.squared[level]
        return 10 * math.log10(peak**2 * voxels / error) if error else math.inf


def _combine(
    rule: Callable[[tuple[Any, Any]], Any], first: list[Any], second: list[Any], levels: int
) -> list[Any]:
    """Level by level; the shorter list goes on with its last entry."""
    one, two = ([*x, *[x[-1]] * (levels - len(x))] for x in (first, second))
    return [rule(pair) for pair in zip(one, two, strict=True)]


def code_volume(
    values: NDArray[np.generic],
    measured: NDArray[np.bool_],
    variable: VariablePlan,
    prior: str | None,
    choice: OurChoice,
    run: Run,
    progress: Progress,
) -> OurVolume:
    """Code every brick of a volume once.

    Parameters
    ----------
    values, measured : arrays of one shape
        Stored values, and where they are measurements.
    variable : VariablePlan
        Bricks, mapping and special values.
    prior : str or None
    choice : OurChoice
    run : callable
        From `workers`.
    progress : Progress
        Advances by one per brick.
    """
    spec = variable.spec
    boxes = {position: spec.box(position) for position in spec.positions()}
    bricks = (
        _Brick(
            values[box].reshape(spec.valid(position)),
            measured[box].reshape(spec.valid(position)),
            position,
            variable,
            prior,
            choice,
        )
        for position, box in boxes.items()
    )
    total = OurVolume(np.empty_like(values))
    for box, outcome in zip(boxes.values(), run(_code_brick, bricks), strict=True):
        total.add(outcome)
        total.decoded[box] = outcome.decoded.reshape(values[box].shape)
        progress.advance()
    return total


@at_most(1)
def _code_brick(brick: _Brick) -> _Outcome:
    """Encode a brick, and decode it from its bytes when the choice says so."""
    begin = cpu_seconds()
    coded = _encode(brick)
    middle = cpu_seconds()
    decoded = brick.values if coded.last is None else coded.last
    if brick.choice.decodes:
        decoded = _decode(brick, coded)
    end = cpu_seconds()
    if brick.choice.view.is_generated:
        return _viewed(brick, coded, middle - begin)
    index = coded.index
    grid = TileGrid(brick.variable.spec.valid(brick.position), brick.variable.spec.tile_shape)
    squared, largest = np.zeros(index.levels), np.zeros(index.levels)
    for number, record in enumerate(coded.records):
        box = grid.box(number) if len(coded.records) == len(grid) else np.s_[:, :, :]
        squared += np.asarray(record.mse) * int(brick.measured[box].sum())
        largest = np.maximum(largest, record.max_error)
    return _Outcome(
        nbytes=[index.level_nbytes(level) for level in range(index.levels)],
        squared=squared.tolist(),
        largest=largest.tolist(),
        method=coded.method,
        decoded=decoded,
        encode_s=middle - begin,
        decode_s=end - middle if brick.choice.decodes else 0.0,
    )


def _viewed(brick: _Brick, coded: EncodedBrick, encode_s: float) -> _Outcome:
    """A view of the last level, with its own errors; ``decode_s`` is what drawing it takes."""
    begin = cpu_seconds()
    view = view_brick(
        lambda start, length: coded.data[start : start + length],
        coded.index,
        brick.choice.view,
        Resources(lambda digest: _named_prior(brick, digest), brick.choice.archive.device),
    ).values
    error = np.abs(view.astype(np.float64) - brick.values.astype(np.float64))[brick.measured]
    return _Outcome(
        nbytes=[len(coded.data)],
        squared=[float((error**2).sum())],
        largest=[float(error.max(initial=0.0))],
        method=coded.method,
        decoded=view,
        encode_s=encode_s,
        decode_s=cpu_seconds() - begin,
    )


def _encode(brick: _Brick) -> EncodedBrick:
    variable, choice = brick.variable, brick.choice
    spec, sampled = variable.spec, variable.range
    by_base = choice.base != "none" and variable.is_lossy and sampled is not None
    named = choice.base != AUTO or choice.archive.prior is not None
    by_prior = by_base and named and REGISTRY.may_need_prior(choice.base)
    kept_anyway = choice.mode == "lossy" and not by_base
    return encode_brick(
        brick.values,
        position=brick.position,
        shape=spec.brick_shape,
        mapping=IntensityMapping(sampled.low, sampled.high) if by_base and sampled else None,
        parameters=choice.archive.parameters(),
        prior=brick_prior(_prior_name(brick)) if by_prior and brick.prior else None,
        guarantee=Guarantee(
            "lossless" if kept_anyway else choice.mode,
            choice.max_error,
            coders=choice.archive.coder_names,
            is_light=choice.archive.is_light,
        ),
        options=BrickOptions(
            special_values=spec.special_values,
            is_thorough=choice.archive.is_thorough,
            device=choice.archive.device,
            base=choice.base if by_base else "none",
            tile_shape=spec.tile_shape,
        ),
    )


def _decode(brick: _Brick, coded: EncodedBrick) -> NDArray[np.generic]:
    """Last level from the bytes.

    Raises
    ------
    NumericalError : other values than the encoder's (kind ``"self-test"``).
    """
    decoded = decode_brick(
        lambda start, length: coded.data[start : start + length],
        selection=_whole(brick.values.shape),
        prior=lambda digest: _named_prior(brick, digest),
        device=brick.choice.archive.device,
    ).values
    if coded.last is not None and decoded.tobytes() != coded.last.tobytes():
        raise NumericalError(
            f"brick {brick.position}: decoding gave other values than the encoder's",
            kind="self-test",
            hint="run `psc-archive doctor --conformance`",
        )
    return decoded


def _whole(shape: tuple[int, ...]) -> tuple[slice, slice, slice]:
    z, y, x = (slice(0, n) for n in shape)
    return z, y, x


def _prior_name(brick: _Brick) -> str:
    """The prior of the volume's domain for the base method of this choice."""
    assert brick.prior is not None
    if brick.choice.base == AUTO:
        return brick.prior  # it was named
    if brick_prior(brick.prior).kind == REGISTRY.entry(brick.choice.base).network:
        return brick.prior
    return newest(domain_of(brick.prior), REGISTRY.ending(brick.choice.base), installed())


def _named_prior(brick: _Brick, digest: str) -> Prior:
    """The prior that the brick was coded with."""
    if brick.prior is None:
        raise PriorMismatchError(
            f"expected a brick without a network, found one of prior {digest}", kind="no-prior"
        )
    return brick_prior(_prior_name(brick))
