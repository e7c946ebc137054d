"""One measured point of a codec, and the volume that points are measured against."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.evaluation.borders import border_ratios
from pipelines.evaluation.perception.features import FeatureNetwork, Features, feature_network
from pipelines.evaluation.perception.measure import Perception, measure_perception
from pipelines.evaluation.quality import Quality, measure_quality
from psc_volumetric.arrays import Triple
from psc_volumetric.metrics import max_error, psnr_db, rate_bpv

__all__ = ["CodedSize", "RatePoint", "Reference", "cpu_seconds"]


def cpu_seconds() -> float:
    """CPU time so far, with that of programs which were run and have ended, FFmpeg for one."""
    ended = os.times()
    return time.process_time() + ended.children_user + ended.children_system


@dataclass(frozen=True)
class RatePoint:
    """One setting of one codec on one volume.

    Attributes
    ----------
    codec : str
        Name of the codec.
    parameter : str
        The setting that gave the point, in the codec's own words.
    nbytes, rate_bpv : int, float
        Every byte, and bits per source voxel.
    psnr_db : float
        Peak is the data range of the volume; infinite when all values are equal.
    max_error : float
        Largest error over the measured voxels, stored units.
    encode_s, decode_s : float or None
        Seconds of CPU time, one thread where the codec lets us choose. None for what was not run
        by itself; our encoder decodes as well to measure.
    target : float or None
        What was asked for: bits per voxel, or the bound in stored units.
    holds : bool
        False when a bound or losslessness was asked for and the decoded values break it.
    level : int or None
        Quality level of our stream.
    quality : Quality or None
        None when only PSNR was asked for.
    perception : Perception or None
        None when it was not asked for.
    """

    codec: str
    parameter: str
    nbytes: int
    rate_bpv: float
    psnr_db: float
    max_error: float
    encode_s: float | None = None
    decode_s: float | None = None
    target: float | None = None
    holds: bool = True
    level: int | None = None
    quality: Quality | None = None
    perception: Perception | None = None

    def to_dict(self) -> dict[str, object]:
        """The point as plain JSON values."""
        quality = None if self.quality is None else dict(vars(self.quality))
        perception = None if self.perception is None else dict(vars(self.perception))
        return {**vars(self), "quality": quality, "perception": perception}


@dataclass(frozen=True)
class CodedSize:
    """What is known of a coded volume before it is compared with its source."""

    codec: str
    parameter: str
    nbytes: int
    encode_s: float | None = None
    decode_s: float | None = None
    target: float | None = None
    level: int | None = None


@dataclass(frozen=True, eq=False)
class Reference:
    """A volume as the peers see it.

    Attributes
    ----------
    stack : (n, y, x) array
        Slices of the stored dtype, special values replaced by the mean of the others.
    mask : bool array of the same shape, or None
        Voxels that are measurements; None when all are.
    low, peak : float
        Smallest measured value and data range, stored units.
    wants_quality : bool
        Whether points get more than PSNR and the largest error.
    wants_perception : bool
        Whether they get distances between distributions.
    prior : str or None
        Prior of the volume's domain, whose denoiser gives features.
    window : (low, high)
        Stored values that are -1 and 1 to it.
    grids : mapping
        Name -> spacing (z, y, x) of borders to look for.
    depth : int
        Slices of one volume; 0 for all.
    """

    stack: NDArray[np.generic]
    mask: NDArray[np.bool_] | None
    low: float
    peak: float
    wants_quality: bool = True
    wants_perception: bool = False
    prior: str | None = None
    window: tuple[float, float] = (0.0, 1.0)
    grids: Mapping[str, Triple] = field(default_factory=dict)
    depth: int = 0

    def point(
        self, size: CodedSize, decoded: NDArray[np.generic], bound: float | None = None
    ) -> RatePoint:
        """Compare decoded values, (n, y, x) of any real dtype, with the source.

        ``bound`` is the largest error that was promised; None promises nothing.
        """
        largest = max_error(self.stack, decoded, self.mask)
        return RatePoint(
            **vars(size),
            rate_bpv=rate_bpv(size.nbytes, self.stack.size),
            psnr_db=psnr_db(self.stack, decoded, self.peak, self.mask),
            max_error=largest,
            holds=bound is None or largest <= bound,
            **self.likeness(decoded),
        )

    def likeness(self, decoded: NDArray[np.generic]) -> dict[str, Any]:
        """``quality`` and ``perception`` of decoded values, as far as they are wanted.

        Voxels that are no measurements count as equal.
        """
        if self.mask is not None and (self.wants_quality or self.wants_perception):
            decoded = np.where(self.mask, decoded, self.stack)
        found: dict[str, Any] = {"quality": None, "perception": None}
        if self.wants_quality:
            quality = measure_quality(self.stack, decoded, self.low, self.peak)
            depth = self.depth or len(self.stack)
            borders = border_ratios(self.stack, decoded, self.grids, depth)
            found["quality"] = replace(quality, borders=borders)
        if self.wants_perception:
            found["perception"] = measure_perception(
                self.stack, decoded, self.low, self.peak, self.features, self._network
            )
        return found

    @property
    def _network(self) -> FeatureNetwork | None:
        return None if self.prior is None else feature_network(self.prior, *self.window)

    @cached_property
    def features(self) -> Features | None:
        """What the denoiser sees in the source; None without one."""
        network = self._network
        return None if network is None else network.features(self.stack)
