"""Which base method codes a brick: the smallest at the error of the first that is asked for.

Encoder only; a reader finds the method in the header.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from psc_volumetric.arrays import Triple
from psc_volumetric.methods.parameters import FINEST_OF_PRIOR, LARGEST_STEP, SMALLEST_STEP
from psc_volumetric.methods.protocol import Attempt, EncodedBase, EncodeJob, Resources, Source
from psc_volumetric.methods.registry import AUTO, REGISTRY
from psc_volumetric.methods.search import SLOPE, few_slices
from psc_volumetric.of_process import OwnLock
from psc_volumetric.prior.bundle import DENOISER

__all__ = ["AUTO", "Choice", "encode_base"]

SAMPLE_TILES = (1, 2, 2)  # that a prior is tried on
SAMPLE_DEPTH = 4  # as many times more slices where the network knows no tiles
WORTH_A_SAMPLE = 3  # times as large a brick has to be
LARGE = 1 << 19  # voxels of a brick that is coded once
VERDICTS_KEPT = 256
FARTHEST = 1.5  # in steps: that bytes at one error are guessed from those at another
NEAR = 1.25  # likewise, that they are told: within some 10 %, as slopes of real curves differ
FIRST_TRIED = ("wavelet", "av1")  # of methods that need no prior: the first gives the error


@dataclass(frozen=True)
class Choice:
    """How a brick is to be coded with loss.

    Attributes
    ----------
    base : EncodedBase or None
        None when no method can or should code the brick.
    bound : float or None
        Bound of a grid in place of a lossy method, where none has steps as fine as the one asked
        for: a method divides the range of a brick into 22 bits, a bounded layer into 31.
    """

    base: EncodedBase | None
    bound: float | None = None


def encode_base(job: EncodeJob, resources: Resources, *, base: str, lossy: bool) -> Choice:
    """Code a brick with the method asked for, or with the one that is smallest.

    Parameters
    ----------
    job : EncodeJob
    resources : Resources
    base : str
        Name of a method, or ``"auto"``.
    lossy : bool
        Whether no exact level follows. Exact levels alone are smaller than on top of a base that
        nobody asked for.
    """
    sources = _Sources(job, resources)
    tried: Sequence[str] = ()
    if job.prior is not None and REGISTRY.may_need_prior(base):
        if base != AUTO:
            tried = [base]
        elif job.parameters.step >= FINEST_OF_PRIOR or not sources.reach(job.step):
            # a network has nothing to tell about the last bits
            tried = _names(job.prior.kind, is_thorough=job.is_thorough)
    for name in tried:
        if base == AUTO and (why := _loses_on_a_sample(name, job, resources)):
            return Choice(_without_prior(sources, why))
        source = sources.of(name)
        if source is None:
            continue
        first = source.at_step().finish()
        return Choice(first if base != AUTO else _or_smaller(first, job, sources.without_prior()))
    if lossy and not sources.reach(job.step) and sources.without_prior():
        half = job.step / 2
        exact = job.values.dtype.kind == "f"
        return Choice(None, half if exact else float(max(math.floor(half), 1)))
    if base == AUTO:
        return Choice(_without_prior(sources, "no prior for these values") if lossy else None)
    asked = sources.of(base)
    if asked is None:
        return Choice(None)
    return Choice(replace(asked.at_step().finish(), choice=f"{base}: asked for"))


class _Sources:
    """What the methods make of a brick; each looks at it once, and only when it is asked."""

    def __init__(self, job: EncodeJob, resources: Resources) -> None:
        self.job, self.resources = job, resources
        self._found: dict[str, Source | None] = {}

    def of(self, name: str) -> Source | None:
        """The source of a method; None when it cannot code the brick."""
        if name not in self._found:
            self._found[name] = REGISTRY.method(name).source(self.job, self.resources)
        return self._found[name]

    def without_prior(self) -> dict[str, Source]:
        """Those of ``auto`` that need no prior, in the order in which they are tried."""
        found = {name: self.of(name) for name in _names()}
        return {name: source for name, source in found.items() if source is not None}

    def reach(self, step: float) -> bool:
        """Whether one of them has errors as small as those of a quantiser step."""
        found = filter(None, map(self.of, _names()))
        return any(source.reaches(step) for source in found)


def _names(network: str | None = None, *, is_thorough: bool = False) -> list[str]:
    """Methods of ``auto`` with a kind of prior, or without one, in the order they are tried."""
    found = [
        entry
        for entry in REGISTRY.entries.values()
        if entry.in_auto
        and (is_thorough or entry.in_place_of is None)
        and (entry.network if entry.needs_prior else None) == network
    ]
    replaced = {entry.in_place_of for entry in found}
    names = [entry.name for entry in found if entry.name not in replaced]
    return sorted(
        names, key=lambda name: FIRST_TRIED.index(name) if name in FIRST_TRIED else len(FIRST_TRIED)
    )


def _loses_on_a_sample(name: str, job: EncodeJob, resources: Resources) -> str | None:
    """Why a method with a prior need not code the brick, in words; None where it may win.

    A network takes its time. A few tiles of the middle are coded with it, and with
    the others at the same error; they do worse there than in the whole brick, because they learn
    as they go and look farther than a tile. Steps within a factor of two share a verdict, which is
    remembered: a target is searched for by coding the same brick at several steps.
    """
    assert job.prior is not None
    tiled = job.prior.kind == DENOISER
    tiles = job.prior.tile_shape if tiled else job.tile
    z, y, x = (n * t for n, t in zip(SAMPLE_TILES, tiles, strict=True))
    extents = (z if tiled else SAMPLE_DEPTH * z, y, x)
    if job.header.voxels < WORTH_A_SAMPLE * math.prod(map(min, extents, job.header.valid)):
        return None
    part = _middle(job, extents, tiles)
    part = _at_step(part, 4.0 ** round(math.log(job.parameters.step, 4)))
    key = (name, job.prior.digest, part.parameters, part.mapping, _digest(part))
    return _remembered(key, lambda: _verdict(name, part, resources))


_verdicts: dict[Hashable, Any] = {}
_lock = OwnLock()
V = TypeVar("V")
Sizes = dict[str, int | None]  # bytes at an error; None of a method that was left far from it


def _remembered(key: Hashable, find: Callable[[], V]) -> V:
    """A verdict that was found before, or is now."""
    with _lock:
        if key in _verdicts:
            found: V = _verdicts[key]
            return found
    found = find()
    with _lock:
        _verdicts[key] = found
        while len(_verdicts) > VERDICTS_KEPT:
            _verdicts.pop(next(iter(_verdicts)))
    return found


def _digest(part: EncodeJob) -> bytes:
    special = b"" if part.special is None else part.special.pack()
    return hashlib.sha256(part.values.tobytes() + special).digest()


def _verdict(name: str, part: EncodeJob, resources: Resources) -> str | None:
    """Why a method with a prior loses on a part of a brick, in words; None where it does not."""
    sources = _Sources(part, resources)
    with_prior = sources.of(name)
    if with_prior is None:
        return None
    coded = with_prior.at_step().finish()
    mse = part.mse(coded.levels[-1])
    for other, source in sources.without_prior().items() if mse > 0 else ():
        best, _ = _smallest({other: source}, mse, limit=coded.nbytes)
        if best is not None:
            return (
                f"{name} loses on a sample, {coded.nbytes} bytes against {best.nbytes} of {other}"
            )
    return None


def _middle(job: EncodeJob, extents: tuple[int, ...], tiles: Triple) -> EncodeJob:
    """The job for whole tiles in the middle of a brick."""
    box = []
    for size, extent, tile in zip(job.header.valid, extents, tiles, strict=True):
        start = max(size - extent, 0) // 2 // tile * tile
        box.append(slice(start, min(start + extent, size)))
    z, y, x = box
    values = np.ascontiguousarray(job.values[z, y, x])
    valid = (values.shape[0], values.shape[1], values.shape[2])
    whole = tuple(-(-n // t) * t for n, t in zip(valid, tiles, strict=True))
    header = replace(job.header, shape=(whole[0], whole[1], whole[2]), valid=valid)
    special = None if job.special is None else job.special.part((z, y, x))
    return replace(job, values=values, header=header, special=special, tile=valid)


def _or_smaller(first: EncodedBase, job: EncodeJob, sources: Mapping[str, Source]) -> EncodedBase:
    """A base, or one of another method with at most its error and fewer bytes."""
    if not sources:
        return first
    mse = job.mse(first.levels[-1])
    if not mse > 0:
        return replace(first, choice=f"{first.method}: no error")
    best, sizes = _smallest(sources, mse, limit=first.nbytes)
    chosen = first
    if best is not None:
        coded = best.finish()
        sizes[coded.method] = coded.nbytes
        chosen = coded if coded.nbytes < first.nbytes else first
    sizes[first.method] = first.nbytes
    why = f"{chosen.method}{_against(chosen.method, sizes)} at RMSE {math.sqrt(mse):.4g}"
    return replace(chosen, choice=why, compared=_told(sizes))


def _without_prior(sources: _Sources, reason: str) -> EncodedBase | None:
    """The smallest coding at the error that the first method has at the step of the job.

    A large brick is coded once: drafts of a few of its slices decide on method and step. None when
    no method can code the brick.
    """
    job, names = sources.job, list(sources.without_prior())
    if not names:
        return None
    if len(names) == 1 or job.header.voxels < LARGE:
        chosen, sizes = _best_of(sources.without_prior())
        coded = chosen.finish()
        why = f"{coded.method}: {reason}" + _against(coded.method, sizes)
        return replace(coded, choice=why, compared=_told(sizes))
    name, ratio, sizes = _by_few_slices(job, sources.resources, names)
    source = _Sources(_at_step(job, job.parameters.step * ratio), sources.resources).of(name)
    assert source is not None  # as it was for this brick at the other step
    coded = source.at_step().finish()
    why = f"{coded.method}: {reason}, on a few slices" + _against(coded.method, sizes)
    return replace(coded, choice=why, compared={name: coded.nbytes})


def _by_few_slices(
    job: EncodeJob, resources: Resources, names: Sequence[str]
) -> tuple[str, float, Sizes]:
    """Method for a large brick, its step over that of the job, and bytes of all on a sample.

    A target is searched for by coding the same brick at several steps. So powers of two around the
    step are looked at, and remembered: the nearer one decides on the method, and between both its
    step does not jump. That of the first method is the job's own, and takes no second look.
    """
    extents = tuple(part.stop - part.start for part in few_slices(job.header.valid))
    few = replace(_middle(job, extents, (1, 1, 1)), is_draft=True, is_thorough=False)
    octave, share = divmod(math.log2(job.parameters.step), 1)
    nearer, away = (1, 1 - share) if share > 0.5 else (0, share)

    def verdict(one_up: int) -> tuple[str, float, Sizes]:
        part = _at_step(few, 2.0 ** (octave + one_up))

        def find() -> tuple[str, float, Sizes]:
            sample = _Sources(part, resources).without_prior()
            sample = {name: sample[name] for name in names if name in sample}
            if not sample:  # nothing is measured there
                return names[0], 1.0, {}
            best, step, sizes = _best_at_equal_error(sample)
            return best, step / part.step, sizes

        return _remembered((*names, part.parameters, part.mapping, _digest(part)), find)

    name, ratio, sizes = verdict(nearer)
    if name != names[0]:
        other, farther, _ = verdict(1 - nearer)
        if other == name:
            ratio = ratio ** (1 - away) * farther**away
    return name, ratio, sizes


def _at_step(job: EncodeJob, step: float) -> EncodeJob:
    """The job with another quantiser step, the nearest there is."""
    step = min(max(step, SMALLEST_STEP), LARGEST_STEP)
    return replace(job, parameters=replace(job.parameters, step=step))


def _best_at_equal_error(sources: Mapping[str, Source]) -> tuple[str, float, Sizes]:
    """Method with the fewest bytes at the error that the first has at its step, about; its step.

    And the bytes of all. Those of a coding far from the error are good enough to guess the method
    from drafts, and are not told.
    """
    (name, first), *others = sources.items()
    base = first.at_step()
    best, fewest, step = name, base.nbytes, base.step
    sizes: Sizes = {name: base.nbytes}
    for name, source in others:
        if not (base.mse > 0 and source.reaches(math.sqrt(12 * base.mse))):
            continue
        attempt = source.at_error(base.mse, limit=base.nbytes)
        if attempt is None:
            continue
        far = _steps_away(attempt, base.mse)
        sizes[name] = round(attempt.nbytes * far) if 1 / NEAR <= far <= NEAR else None
        far = min(max(far, 1 / FARTHEST), FARTHEST)
        if round(attempt.nbytes * far) < fewest:
            best, fewest, step = name, round(attempt.nbytes * far), attempt.step / far
    return best, step, sizes


def _steps_away(attempt: Attempt, mse: float) -> float:
    """The quantiser step of a coding over the one that would have an error, about."""
    far: float = (max(attempt.mse, 1e-300) / mse) ** (1 / SLOPE)
    return far


def _best_of(sources: Mapping[str, Source]) -> tuple[Attempt, Sizes]:
    """The smallest coding at the error that the first has at its step, and the bytes of all."""
    (name, first), *others = sources.items()
    chosen: Attempt = first.at_step()
    sizes: Sizes = {name: chosen.nbytes}
    if others and chosen.mse > 0:
        smaller, more = _smallest(dict(others), chosen.mse, limit=chosen.nbytes)
        sizes |= more
        chosen = smaller or chosen
    return chosen, sizes


def _smallest(
    sources: Mapping[str, Source], mse: float, *, limit: int
) -> tuple[Attempt | None, Sizes]:
    """The smallest coding with at most an error and below ``limit`` bytes; the bytes of all.

    Those of the others are scaled to the error where their search came near it, and not below what
    they lost to: a scaled number is no reason to doubt two real ones. A search that was hopeless
    may end anywhere.
    """
    best: Attempt | None = None
    name_of_best, attempts = "", dict[str, Attempt]()
    for name, source in sources.items():
        if not source.reaches(math.sqrt(12 * mse)):
            continue
        attempt = source.at_error(mse, limit=limit)
        if attempt is None:
            continue
        attempts[name] = attempt
        if attempt.mse <= mse and attempt.nbytes < limit:
            best, name_of_best, limit = attempt, name, attempt.nbytes
    sizes: Sizes = {}
    for name, attempt in attempts.items():
        far = 1.0 if name == name_of_best else _steps_away(attempt, mse)
        near = 1 / NEAR <= far <= NEAR
        sizes[name] = max(round(attempt.nbytes * far), limit) if near else None
    return best, sizes


def _told(sizes: Sizes) -> dict[str, int]:
    """Bytes of the methods that came near the error."""
    return {name: size for name, size in sizes.items() if size is not None}


def _against(name: str, sizes: Sizes) -> str:
    """``": 100 bytes against 120 of psc, av1 given up"``; empty if there is nothing to tell."""
    if sizes.get(name) is None:
        return ""
    others = [other for other in REGISTRY.names if other in sizes and other != name]
    told = [f"{sizes[other]} of {other}" for other in others if sizes[other] is not None]
    left = [other for other in others if sizes[other] is None]
    text = f": {sizes[name]} bytes" if others else ""
    text += f" against {' and '.join(told)}" if told else ""
    return text + (f", {' and '.join(left)} given up" if left else "")
