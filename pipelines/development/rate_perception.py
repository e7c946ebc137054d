"""Rate against perception over held-out volumes: a table, counts and a picture.

``python -m pipelines.development.rate_perception mr.json ct.json --picture OUT.png``, on documents
of ``psc-archive evaluate --middle 8,192,192 --perception --ours wavelet,wavelet@sample --peers
av1,vvc,jpegxl --bpv 0.01,0.02,0.03,0.05 --json``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from pipelines.evaluation.perception.promise import MEASURES, Kept, kept_promises, read_curve
from psc_volumetric.extras import require

__all__ = ["count_lines", "main", "table_lines"]

MEAN, VIEW = "ours-wavelet", "ours-wavelet@sample"
PEERS = {"av1": "AV1", "vvc": "VVC"}
STYLES = {MEAN: "k-o", VIEW: "k--s", "av1": "C0-^", "vvc": "C3-v", "jpegxl": "C2D"}
TITLES = {MEAN: "wavelet, mean", VIEW: "wavelet, view", **PEERS, "jpegxl": "JPEG XL"}
LABELS = {"psnr_db": "PSNR, dB", "swd": "SWD", "spectrum_db": "spectrum gap, dB"}


def table_lines(volume: dict[str, Any], rates: Sequence[float]) -> Iterator[str]:
    """Rows of one volume, one for each rate."""
    kept = {(k.bpv, k.peer): k for k in kept_promises(volume, rates, MEAN, VIEW, tuple(PEERS))}
    for bpv in rates:
        view = {m: read_curve(volume["points"], VIEW, m, bpv) for m in MEASURES}
        mean = {m: read_curve(volume["points"], MEAN, m, bpv) for m in MEASURES}
        cells = [volume["name"], f"{bpv:g}"]
        cells += [
            _both(mean["swd"], view["swd"], 1),
            _both(mean["spectrum_db"], view["spectrum_db"], 1),
        ]
        known = mean["psnr_db"] is not None and view["psnr_db"] is not None
        cells.append(f"{(mean['psnr_db'] or 0) - (view['psnr_db'] or 0):.2f}" if known else "-")
        cells += [_beside(kept.get((bpv, peer))) for peer in PEERS]
        yield f"| {' | '.join(cells)} |"


def _both(one: float | None, other: float | None, digits: int) -> str:
    return "-" if one is None or other is None else f"{one:.{digits}f}, {other:.{digits}f}"


def _beside(kept: Kept | None) -> str:
    """Share of the peer's SWD and gap, what it costs in dB, and whether the promise holds."""
    if kept is None:
        return "-"
    swd, gap = (a / b if b else 1.0 for a, b in (kept.swd, kept.spectrum_db))
    held = "half" if kept.halves else "yes" if kept.holds else "**no**"
    more = " (its coarsest)" if kept.at_coarsest else ""
    return f"{swd:.2f}, {gap:.2f}, {kept.below_peer_db:+.1f} dB: {held}{more}"


def count_lines(volumes: Sequence[dict[str, Any]], rates: Sequence[float]) -> Iterator[str]:
    """On how many volumes the promise and the aim hold, at each rate and at all."""
    every = [k for v in volumes for k in kept_promises(v, rates, MEAN, VIEW, tuple(PEERS))]
    for peer, title in PEERS.items():
        for bpv in rates:
            own = [k for k in every if k.peer == peer and k.bpv == bpv]
            yield (
                f"{title} at {bpv:g}: holds on {sum(k.holds for k in own)} of {len(own)} volumes, "
                f"with half the SWD on {sum(k.halves for k in own)}"
            )
    names = {v["name"] for v in volumes}
    whole = [n for n in names if all(k.holds for k in every if k.volume == n)]
    yield f"at every rate and beside both: {len(whole)} of {len(names)} volumes"


def _draw(path: Path, volumes: Sequence[dict[str, Any]]) -> None:
    require("bench", "drawing curves", "matplotlib")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.6 * len(volumes), 6.6))
    axes = figure.subplots(3, len(volumes), squeeze=False)
    for column, volume in enumerate(volumes):
        for row, (measure, read) in enumerate(MEASURES.items()):
            axis = axes[row][column]
            for codec, style in STYLES.items():
                own = {p["rate_bpv"]: read(p) for p in volume["points"] if p["codec"] == codec}
                line = sorted((r, v) for r, v in own.items() if v is not None and r < LARGEST)
                if line:
                    axis.plot(*zip(*line, strict=True), style, label=TITLES[codec], markersize=3)
            axis.set_xscale("log")
            axis.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS])
            axis.minorticks_off()
            axis.grid(visible=True, alpha=0.3)
            axis.tick_params(labelsize=6)
            if row == 0:
                axis.set_title(volume["name"], fontsize=7)
            if column == 0:
                axis.set_ylabel(LABELS[measure], fontsize=7)
    axes[0][0].legend(fontsize=6)
    figure.supxlabel("bits per voxel, all bytes", fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=80)


LARGEST = 0.2  # bits per voxel that are drawn
TICKS = (0.01, 0.02, 0.05, 0.1)


def main(
    documents: Annotated[list[Path], typer.Argument(help="From evaluate --perception --json.")],
    bpv: Annotated[str, typer.Option(help="Rates.")] = "0.01,0.02,0.03,0.05",
    picture: Annotated[Path | None, typer.Option(help="Draw curves into this file.")] = None,
) -> None:
    """Print the table and the counts of several evaluations together."""
    rates = [float(part) for part in bpv.split(",")]
    volumes = [v for path in documents for v in json.loads(path.read_text())["volumes"]]
    lines = [
        "| volume | bpv | SWD: mean, view | spectrum: mean, view | view below mean, dB "
        "| beside AV1 | beside VVC |",
        "|---|---:|---:|---:|---:|---|---|",
        *(line for volume in volumes for line in table_lines(volume, rates)),
        "",
        *count_lines(volumes, rates),
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    if picture is not None:
        _draw(picture, volumes)


if __name__ == "__main__":
    typer.run(main)
