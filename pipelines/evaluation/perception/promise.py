"""Whether a drawn view keeps the promise of low rates, read from the curves of an evaluation.

The promise, from the paper's claim: at the same rate the view is nearer to how the source looks
than another codec in patches (SWD) and in spectrum, and has at most 2.5 dB less than the mean of
the same bytes. The aim is half the other codec's SWD.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psc_volumetric.metrics import interpolate_at_rate

__all__ = ["MOST_BELOW_MEAN_DB", "Kept", "kept_promises", "read_curve"]

MOST_BELOW_MEAN_DB = 2.5
SLACK = 0.05  # of a rate that curves are extended by
MEASURES: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "psnr_db": lambda p: p["psnr_db"],
    "swd": lambda p: (p["perception"] or {}).get("swd"),
    "spectrum_db": lambda p: (p["quality"] or {}).get("spectrum_error_db"),
}


@dataclass(frozen=True)
class Kept:
    """A view beside another codec at one rate of one volume.

    Attributes
    ----------
    volume, peer : str
    bpv : float
    below_mean_db : float
        PSNR of the mean less that of the view.
    swd, spectrum_db : (float, float)
        Of the view and of the other codec.
    below_peer_db : float
        PSNR of the other codec less that of the view.
    at_coarsest : bool
        The other codec cannot go as low: its numbers are those of its lowest rate, which is higher.
    """

    volume: str
    peer: str
    bpv: float
    below_mean_db: float
    swd: tuple[float, float]
    spectrum_db: tuple[float, float]
    below_peer_db: float
    at_coarsest: bool

    @property
    def holds(self) -> bool:
        """The view is nearer in both measures and near enough to the mean."""
        nearer = self.swd[0] < self.swd[1] and self.spectrum_db[0] < self.spectrum_db[1]
        return nearer and self.below_mean_db <= MOST_BELOW_MEAN_DB

    @property
    def halves(self) -> bool:
        """And has half the SWD."""
        return self.holds and 2 * self.swd[0] <= self.swd[1]


def read_curve(
    points: Sequence[Mapping[str, Any]], codec: str, measure: str, bpv: float
) -> float | None:
    """A measure of a codec at a rate; None outside its curve.

    Parameters
    ----------
    points : sequence of mapping
        As ``psc-archive evaluate --json`` gives them for a volume.
    codec, measure : str
        The measure is ``"psnr_db"``, ``"swd"`` or ``"spectrum_db"``.
    bpv : float
    """
    own = {p["rate_bpv"]: MEASURES[measure](p) for p in points if p["codec"] == codec}
    known = {rate: value for rate, value in own.items() if value is not None}
    if len(known) < 2:
        return None
    return interpolate_at_rate(list(known), list(known.values()), bpv, slack=SLACK)


def kept_promises(
    volume: Mapping[str, Any], rates: Sequence[float], mean: str, view: str, peers: Sequence[str]
) -> list[Kept]:
    """The view beside every peer at every rate where both have numbers.

    Parameters
    ----------
    volume : mapping
        As in the document of ``psc-archive evaluate --perception --json``.
    rates : sequence of float
        Bits per voxel.
    mean, view : str
        Codecs, such as ``"ours-wavelet"`` and ``"ours-wavelet@sample"``.
    peers : sequence of str
    """
    points, found = volume["points"], []
    for bpv in rates:
        own = {m: read_curve(points, view, m, bpv) for m in MEASURES}
        above = read_curve(points, mean, "psnr_db", bpv)
        for peer in peers:
            other, at_coarsest = _peer(points, peer, bpv)
            numbers = [*own.values(), above, *other.values()]
            if any(n is None for n in numbers):
                continue
            psnr, swd, spectrum = (float(own[m] or 0) for m in MEASURES)
            found.append(
                Kept(
                    volume["name"],
                    peer,
                    bpv,
                    float(above or 0) - psnr,
                    (swd, float(other["swd"] or 0)),
                    (spectrum, float(other["spectrum_db"] or 0)),
                    float(other["psnr_db"] or 0) - psnr,
                    at_coarsest,
                )
            )
    return found


def _peer(
    points: Sequence[Mapping[str, Any]], codec: str, bpv: float
) -> tuple[dict[str, float | None], bool]:
    """A peer at a rate, or at its lowest where that is higher."""
    own = [p for p in points if p["codec"] == codec]
    coarsest = min(own, key=lambda p: p["rate_bpv"], default=None)
    if coarsest is not None and coarsest["rate_bpv"] > (1 + SLACK) * bpv:
        return {m: read(coarsest) for m, read in MEASURES.items()}, True
    return {m: read_curve(points, codec, m, bpv) for m in MEASURES}, False
