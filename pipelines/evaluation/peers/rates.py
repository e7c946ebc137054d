"""Other codecs brought to given rates on the same volume."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from pipelines.evaluation.peers.codecs import (
    Coded,
    code_av1,
    code_htj2k,
    code_jpeg2000,
    code_jpegxl,
    code_sperr,
    code_sz3,
    code_vvc,
    code_x265,
    code_zfp,
    code_zfp_rate,
)
from pipelines.evaluation.peers.vvc import has_vvc
from pipelines.evaluation.point import CodedSize, RatePoint, Reference, cpu_seconds
from psc_volumetric.errors import ParameterError
from psc_volumetric.metrics import rate_bpv

__all__ = ["PEERS", "Peer", "missing_peers", "peer_points"]

_TOLERANCE = 0.02
_TRIES = 10


@dataclass(frozen=True)
class Peer:
    """A lossy codec to compare with.

    Attributes
    ----------
    name, title : str
        Word for the command line, and name for people.
    code : callable
        (stack (n, y, x) of a real dtype, parameter) -> `Coded`.
    bounds : (float, float)
        Parameter range from the highest rate to the lowest.
    logarithmic : bool
        Whether the search works in the logarithm of the parameter.
    label : str
        What the parameter is called.
    whole : bool
        Whether the parameter is a whole number.
    is_rate : bool
        Whether the parameter is the rate itself, so that nothing has to be searched.
    needs : str
        Distribution that provides it.
    """

    name: str
    title: str
    code: Callable[..., Coded]
    bounds: tuple[float, float]
    logarithmic: bool
    label: str
    whole: bool = False
    is_rate: bool = False
    needs: str = "imagecodecs"

    def parameter(self, position: float) -> float:
        """Parameter at a position between 0 (highest rate) and 1 (lowest)."""
        fine, coarse = self.bounds
        if self.logarithmic:
            value = fine * (coarse / fine) ** position
        else:
            value = fine + (coarse - fine) * position
        return float(round(value)) if self.whole else value


PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        Peer("jpeg2000", "JPEG 2000, slices", code_jpeg2000, (100.0, 10.0), False, "psnr level"),
        Peer("htj2k", "HTJ2K, slices", code_htj2k, (1e-6, 1.0), True, "quantiser"),
        Peer("jpegxl", "JPEG XL e7, slices", code_jpegxl, (0.05, 25.0), True, "distance"),
        Peer(
            "av1", "AV1 libaom, 12-bit inter", code_av1, (99.0, 0.0), False, "quality", whole=True
        ),
        Peer("sperr", "SPERR-3D", code_sperr, (16.0, 0.002), True, "bpp", is_rate=True),
        Peer("sz3", "SZ3-3D", code_sz3, (1e-5, 0.5), True, "abs / range"),
        Peer("zfp", "ZFP-3D accuracy", code_zfp, (1e-5, 16.0), True, "tolerance / range"),
        Peer("zfp-rate", "ZFP-3D rate", code_zfp_rate, (16.0, 0.05), True, "bpv", is_rate=True),
        Peer("x265", "x265 slow, 12-bit inter", code_x265, (1.0, 51.0), False, "crf", needs="av"),
        Peer(
            "vvc",
            "VVC libvvenc slow, 10-bit inter",
            code_vvc,
            (1.0, 63.0),
            False,
            "qp",
            whole=True,
            needs="imageio_ffmpeg",
        ),
    )
}


def missing_peers(names: Sequence[str], known: Sequence[str] = tuple(PEERS)) -> dict[str, str]:
    """Peers of the list that cannot run here, each with the reason in words.

    Raises
    ------
    ParameterError : a name that is not known.
    """
    found: dict[str, str] = {}
    for name in names:
        if name not in known:
            raise ParameterError(
                f"unknown peer {name!r}; known are {', '.join(known)}", kind="unknown-peer"
            )
        needs = PEERS[name].needs if name in PEERS else "imagecodecs"
        if importlib.util.find_spec(needs) is None:
            extra = "av1" if needs == "imageio_ffmpeg" else "bench"
            found[name] = f"{needs} is not installed (pip install 'psc-archive[{extra}]')"
        elif name == "vvc" and not has_vvc():
            found[name] = "the FFmpeg of imageio-ffmpeg has no libvvenc"
    return found


class _Search:
    """Points of one peer on one volume; every setting is coded once and decoded when chosen."""

    def __init__(self, peer: Peer, reference: Reference) -> None:
        self.peer = peer
        self.reference = reference
        self.tried: dict[float, tuple[float, float, Coded, float]] = {}
        self.points: dict[float, RatePoint] = {}

    def rate(self, position: float) -> float:
        """Rate at a position, bits per voxel."""
        parameter = self.peer.parameter(position)
        if parameter not in self.tried:
            begin = cpu_seconds()
            coded = self.peer.code(self.reference.stack, parameter)
            seconds = cpu_seconds() - begin
            rate = rate_bpv(coded.nbytes, self.reference.stack.size)
            self.tried[parameter] = (position, rate, coded, seconds)
        return self.tried[parameter][1]

    def approach(self, target: float) -> None:
        """Code settings ever closer to a rate, until near enough or none is left between."""
        if self.rate(1.0) >= target:
            return
        for _ in range(_TRIES):
            sides = [(position, rate) for position, rate, _, _ in self.tried.values()]
            if any(abs(rate - target) <= _TOLERANCE * target for _, rate in sides):
                return
            fine = max((s for s in sides if s[1] > target), default=(0.0, math.inf))
            coarse = min(s for s in sides if s[1] < target and s[0] > fine[0])
            share = 0.5
            if math.isfinite(fine[1]):  # where a straight line through both meets the target
                share = math.log(fine[1] / target) / math.log(fine[1] / coarse[1])
            share = min(0.9, max(0.1, share))
            position = fine[0] + share * (coarse[0] - fine[0])
            if self.peer.parameter(position) in self.tried:
                return
            self.rate(position)

    def nearest(self, target: float) -> RatePoint:
        """Decode and measure the setting whose rate is nearest to the target."""
        parameter = min(self.tried, key=lambda p: abs(math.log(self.tried[p][1] / target)))
        if parameter not in self.points:
            _, _, coded, encode_s = self.tried[parameter]
            begin = cpu_seconds()
            decoded = coded.decode()
            decode_s = cpu_seconds() - begin
            text = f"{self.peer.label} {parameter:.4g}"
            size = CodedSize(self.peer.name, text, coded.nbytes, encode_s, decode_s)
            self.points[parameter] = self.reference.point(size, decoded)
        return replace(self.points[parameter], target=target)


def peer_points(peer: Peer, reference: Reference, targets_bpv: Sequence[float]) -> list[RatePoint]:
    """One point per target rate.

    Parameters
    ----------
    peer : Peer
    reference : Reference
        Whole volume.
    targets_bpv : sequence of float
        Rates to come close to. The nearest point tried is given with its true rate, also where
        the codec cannot go as low or as high as asked.

    Returns
    -------
    list of RatePoint, one per target, in the order of the targets.
    """
    search = _Search(peer, reference)
    for target in targets_bpv:
        if peer.is_rate:
            fine, coarse = peer.bounds
            share = math.log(target / fine) / math.log(coarse / fine)
            search.rate(min(1.0, max(0.0, share)))
        else:
            search.approach(target)
    return [search.nearest(target) for target in targets_bpv]
