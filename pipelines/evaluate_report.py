"""How evaluation results are shown: a table for people and a picture of the curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.peers import PEERS, RatePoint

if TYPE_CHECKING:
    from pipelines.evaluate import VolumeResult

__all__ = ["draw_curves", "result_lines"]


def _row(point: RatePoint) -> str:
    psnr = "exact" if math.isinf(point.psnr_db) else f"{point.psnr_db:.2f}"
    target = "" if point.target_bpv is None else f"{point.target_bpv:g}"
    return (
        f"  {point.codec:<10}{point.parameter:<26}{target:>8}{point.rate_bpv:>10.4f}"
        f"{psnr:>9}{point.nbytes:>12}{point.seconds:>9.1f}"
    )


def result_lines(result: VolumeResult) -> list[str]:
    """The table of one volume."""
    shape = " x ".join(map(str, result.shape))
    lines = [
        f"{result.name}: {shape} {result.dtype}, peak {result.peak:g}, prior {result.prior}",
        f"  {'codec':<10}{'setting':<26}{'target':>8}{'bpv':>10}{'PSNR dB':>9}{'bytes':>12}"
        f"{'seconds':>9}",
        *map(_row, result.points),
    ]
    for peer, gain in result.gains_db.items():
        text = "rates do not overlap" if gain is None else f"{gain:+.2f} dB"
        lines.append(f"  BD-PSNR of psc over {PEERS[peer].title}: {text}")
    return [*lines, *(f"  note: {note}" for note in result.notes)]


def draw_curves(results: Sequence[VolumeResult], target: Path) -> None:
    """Draw one rate-distortion diagram per volume into one PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [result for result in results if result.points]
    figure, axes = pyplot.subplots(
        max(len(shown), 1), 1, figsize=(7, 4.5 * max(len(shown), 1)), squeeze=False
    )
    for result, axis in zip(shown, axes[:, 0], strict=False):
        for codec in dict.fromkeys(point.codec for point in result.points):
            chosen = sorted(
                (p for p in result.points if p.codec == codec and math.isfinite(p.psnr_db)),
                key=lambda point: point.rate_bpv,
            )
            title = PEERS[codec].title if codec in PEERS else "psc (levels and steps)"
            axis.plot([p.rate_bpv for p in chosen], [p.psnr_db for p in chosen], "o-", label=title)
        axis.set(xscale="log", xlabel="bits per voxel, all bytes", ylabel="PSNR dB")
        axis.set_title(result.name, fontsize="small")
        axis.grid(visible=True, alpha=0.3)
        axis.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(target, dpi=120)
    pyplot.close(figure)
