"""Evaluation results as one picture: a panel per volume."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipelines.evaluation.compare import codecs_of, curve_of
from pipelines.evaluation.point import RatePoint
from pipelines.evaluation.report import codec_title
from pipelines.evaluation.results import VolumeResult
from psc_volumetric.errors import ParameterError
from psc_volumetric.extras import require

__all__ = ["draw_results"]

Draw = Callable[[VolumeResult, Any], None]

_COLUMNS = 2
_PANEL = (6.4, 4.4)  # inches
_MARKERS = "osv^<>DPX*"


def draw_results(results: Sequence[VolumeResult], mode: str, target: Path) -> None:
    """Draw PSNR over rate, rate over bound, or bars of rates, by mode.

    Where perception was measured, the distance of patches over rate stands beside the PSNR.

    Parameters
    ----------
    results : sequence of VolumeResult
    mode : str
    target : Path
        ``.png`` or ``.svg``; replaced when it is there.

    Raises
    ------
    ParameterError : another suffix (kind ``"bad-picture"``).
    """
    check_picture(target)
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    draws: dict[str, Draw] = {"lossy": _curves, "bounded": _bounds, "lossless": _bars}
    shown: list[tuple[VolumeResult, Draw]] = []
    for result in (result for result in results if result.points):
        shown.append((result, draws[mode]))
        if any(point.perception is not None for point in result.points):
            shown.append((result, _distances))
    columns = min(_COLUMNS, max(1, len(shown)))
    rows = max(1, -(-len(shown) // columns))
    figure, axes = pyplot.subplots(
        rows, columns, figsize=(_PANEL[0] * columns, _PANEL[1] * rows), squeeze=False
    )
    for (result, draw), axis in zip(shown, axes.flat, strict=False):
        draw(result, axis)
        title = f"{result.group}: {result.name}" if result.group else result.name
        axis.set_title(f"{title}, {' x '.join(map(str, result.shape))}", fontsize="small")
        axis.grid(visible=True, alpha=0.3)
        axis.set_axisbelow(True)
    for axis in axes.flat[len(shown) :]:
        axis.set_axis_off()
    figure.tight_layout()
    figure.savefig(target, dpi=130)
    pyplot.close(figure)


def check_picture(target: Path) -> None:
    """Refuse names that are neither PNG nor SVG, before anything is measured.

    Raises
    ------
    ParameterError : another suffix (kind ``"bad-picture"``).
    ExtraMissingError : nothing here draws.
    """
    require("bench", "drawing results", "matplotlib")
    if target.suffix.lower() not in (".png", ".svg"):
        raise ParameterError(
            f"expected a picture ending in .png or .svg, found {target.name!r}",
            kind="bad-picture",
        )


def _order(result: VolumeResult) -> list[str]:
    return [*codecs_of(result.points, ours=True), *codecs_of(result.points, ours=False)]


def _style(codec: str, number: int) -> dict[str, Any]:
    """Ours is black and thick; peers keep a colour and marker in all panels."""
    if codec.startswith("ours-"):
        lines = ("-", "--", ":")
        return {"color": "black", "linewidth": 2.2, "marker": "o", "linestyle": lines[number % 3]}
    known = sorted(_MARKER_OF)
    place = known.index(codec) if codec in _MARKER_OF else number
    return {"color": f"C{place % 10}", "linewidth": 1.1, "marker": _MARKERS[place % 10]}


_MARKER_OF = {
    "av1", "htj2k", "jpeg2000", "jpegls", "jpegxl", "sperr", "sz3", "vvc", "x265", "zfp",
    "zfp-rate",
}  # fmt: skip


def _curves(result: VolumeResult, axis: Any) -> None:
    _over_rate(result, axis, lambda point: point.psnr_db)
    axis.set(ylabel="PSNR, dB")


def _distances(result: VolumeResult, axis: Any) -> None:
    _over_rate(result, axis, lambda p: p.perception.swd if p.perception else None)
    axis.set(ylabel="distance of patches (SWD), less is better", yscale="log")


def _over_rate(result: VolumeResult, axis: Any, read: Callable[[RatePoint], float | None]) -> None:
    """A line per codec."""
    for number, codec in enumerate(_order(result)):
        found = [(p.rate_bpv, read(p)) for p in curve_of(result.points, codec)]
        known = [(rate, value) for rate, value in found if value is not None]
        if known:
            axis.plot(
                *zip(*known, strict=True),
                label=codec_title(codec, result.mode),
                markersize=4,
                **_style(codec, number),
            )
    _plain_logarithm(axis, "rate, bits per voxel (all bytes)")
    axis.legend(fontsize="x-small")


def _plain_logarithm(axis: Any, label: str) -> None:
    """Logarithmic x with labels such as 0.05 instead of powers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set(xscale="log", xlabel=label)
    axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())


def _bounds(result: VolumeResult, axis: Any) -> None:
    for number, codec in enumerate(_order(result)):
        points = [p for p in result.points if p.codec == codec and p.target is not None]
        points.sort(key=lambda point: point.target or 0.0)
        axis.plot(
            [point.target for point in points],
            [point.rate_bpv for point in points],
            label=codec_title(codec, result.mode),
            markersize=4,
            **_style(codec, number),
        )
        broken = [point for point in points if not point.holds]
        axis.plot([p.target for p in broken], [p.rate_bpv for p in broken], "rx", markersize=10)
    _plain_logarithm(axis, "largest error allowed, stored units (red cross: broken)")
    axis.set(ylabel="rate, bits per voxel (all bytes)")
    axis.legend(fontsize="x-small")


def _bars(result: VolumeResult, axis: Any) -> None:
    points = sorted(result.points, key=lambda point: -point.nbytes)
    names = [codec_title(point.codec, result.mode) for point in points]
    colours = ["black" if point.codec.startswith("ours-") else "C0" for point in points]
    bars = axis.barh(names, [point.rate_bpv for point in points], color=colours)
    axis.bar_label(bars, fmt="%.3f", fontsize="x-small", padding=2)
    axis.margins(x=0.12)
    axis.set(xlabel="rate, bits per voxel (all bytes)")
    axis.tick_params(axis="y", labelsize="x-small")
