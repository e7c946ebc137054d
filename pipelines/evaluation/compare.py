"""Ours against each peer: Bjontegaard differences, or bytes at the same promise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipelines.evaluation.point import RatePoint
from pipelines.evaluation.results import Comparison, VolumeResult
from psc_volumetric.metrics import bd_psnr_db, bd_rate_percent

__all__ = ["BEST", "averages", "codecs_of", "compare", "curve_of"]

OURS = "ours-"
BEST = "best peer"
ROUNDING = 0.1  # of a bound: single precision near 300 K has steps of 3e-5


def codecs_of(points: Sequence[RatePoint], *, ours: bool) -> list[str]:
    """Names of our codecs, or of the peers, in order of appearance."""
    names = dict.fromkeys(point.codec for point in points)
    return [name for name in names if name.startswith(OURS) == ours]


def curve_of(points: Sequence[RatePoint], codec: str) -> list[RatePoint]:
    """Points of a codec's curve by rate: for ours, the last level of each step.

    Exact points, and those that cost more than a better one, are left out.
    """
    chosen = [p for p in points if p.codec == codec and math.isfinite(p.psnr_db)]
    if codec.startswith(OURS):
        chosen = list({point.parameter.split(",")[0]: point for point in chosen}.values())
    curve: list[RatePoint] = []
    for point in sorted(chosen, key=lambda p: (p.rate_bpv, -p.psnr_db)):
        if not curve or (point.psnr_db > curve[-1].psnr_db and point.rate_bpv > curve[-1].rate_bpv):
            curve.append(point)
    return curve


def compare(points: Sequence[RatePoint], mode: str) -> list[Comparison]:
    """Every one of our streams against every peer of a volume.

    Of curves the first of ours is compared with the others of ours as well.
    """
    if mode == "lossy":
        variants, others = codecs_of(points, ours=True), codecs_of(points, ours=False)
        pairs = [(variants[0], variant) for variant in variants[1:]]
        pairs += [(variant, other) for variant in variants for other in others]
        return [_curves(points, ours, peer) for ours, peer in pairs]
    found = []
    for setting in dict.fromkeys(point.parameter for point in points):
        same = [point for point in points if point.parameter == setting]
        peers = [p for p in same if not p.codec.startswith(OURS) and _counts(p)]
        for own in (p for p in same if p.codec.startswith(OURS)):
            rivals = {p.codec: p.nbytes for p in peers}
            if peers:
                rivals[BEST] = min(rivals.values())
            found += [
                Comparison(own.codec, peer, setting, 100 * (own.nbytes / nbytes - 1))
                for peer, nbytes in rivals.items()
            ]
    return found


def _counts(point: RatePoint) -> bool:
    """Whether a peer kept its promise, or broke a bound by no more than rounding may."""
    return point.holds or (
        point.target is not None and point.max_error <= (1 + ROUNDING) * point.target
    )


def _curves(points: Sequence[RatePoint], ours: str, peer: str) -> Comparison:
    own, other = curve_of(points, ours), curve_of(points, peer)
    if min(len(own), len(other)) < 2:
        return Comparison(ours, peer, "", None)
    pairs = [([p.rate_bpv for p in curve], [p.psnr_db for p in curve]) for curve in (other, own)]
    (anchor_rates, anchor_psnrs), (rates, psnrs) = pairs
    return Comparison(
        ours,
        peer,
        "",
        bd_rate_percent(anchor_rates, anchor_psnrs, rates, psnrs),
        bd_psnr_db(anchor_rates, anchor_psnrs, rates, psnrs),
    )


def averages(results: Sequence[VolumeResult]) -> list[dict[str, Any]]:
    """Means over the volumes of each set.

    Returns
    -------
    list of dict
        ``group``, ``ours``, ``peer``, ``setting``, ``bytes_percent`` (of the geometric mean of
        the ratios), ``psnr_db`` (mean) and ``volumes``: how many had a value for each.
    """
    grouped: dict[tuple[str, str, str, str], list[Comparison]] = {}
    for result in results:
        for entry in result.comparisons:
            key = (result.group, entry.ours, entry.peer, entry.setting)
            grouped.setdefault(key, []).append(entry)
    rows = []
    for (group, ours, peer, setting), entries in grouped.items():
        ratios = [1 + e.bytes_percent / 100 for e in entries if e.bytes_percent is not None]
        gains = [e.psnr_db for e in entries if e.psnr_db is not None]
        rows.append(
            {
                "group": group,
                "ours": ours,
                "peer": peer,
                "setting": setting,
                "bytes_percent": 100 * (math.exp(float(np.log(ratios).mean())) - 1)
                if ratios
                else None,
                "psnr_db": float(np.mean(gains)) if gains else None,
                "volumes": [len(ratios), len(gains), len(entries)],
            }
        )
    return rows
