"""Evaluation results as Markdown tables, one section per set of volumes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pipelines.evaluation.compare import BEST, averages, codecs_of, curve_of
from pipelines.evaluation.options import EvaluateOptions
from pipelines.evaluation.point import RatePoint
from pipelines.evaluation.report import codec_title, signed, speed
from pipelines.evaluation.results import VolumeResult
from psc_volumetric.metrics import interpolate_at_rate

__all__ = ["markdown"]

_DASH = "-"
_SLACK = 0.05  # peers come within some per cent of the rates they are brought to


def markdown(results: Sequence[VolumeResult], options: EvaluateOptions) -> str:
    """Tables for documentation.

    Parameters
    ----------
    results : sequence of VolumeResult
    options : EvaluateOptions
        What was asked for; its mode decides which tables there are.

    Returns
    -------
    str
        Ends with a line break.
    """
    sections = {"lossy": _lossy, "bounded": _bounded, "lossless": _lossless}
    lines: list[str] = []
    for group in dict.fromkeys(result.group for result in results):
        chosen = [result for result in results if result.group == group and result.points]
        if group:
            lines += [f"### {group}, {options.mode}", ""]
        if chosen:
            lines += [*_volumes(chosen), *sections[options.mode](chosen, options)]
    return "\n".join(lines).rstrip() + "\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return [*(f"| {' | '.join(row)} |" for row in (head, rule, *rows)), ""]


def _volumes(results: Sequence[VolumeResult]) -> list[str]:
    return _table(
        ["volume", "shape", "type", "range", "prior of ours"],
        [
            [r.name, " x ".join(map(str, r.shape)), r.dtype, f"{r.peak:g}", r.prior or "none"]
            for r in results
        ],
    )


def _codecs(results: Sequence[VolumeResult]) -> list[str]:
    points = [point for result in results for point in result.points]
    return [*codecs_of(points, ours=True), *codecs_of(points, ours=False)]


def _at_rate(
    result: VolumeResult, codec: str, rate: float, read: Callable[[RatePoint], float | None]
) -> float | None:
    """Value of a codec's curve at a rate; None outside the curve or without values."""
    found = [(point.rate_bpv, read(point)) for point in curve_of(result.points, codec)]
    known = [(at, value) for at, value in found if value is not None]
    if len(known) < 2:
        return None
    rates, values = [at for at, _ in known], [value for _, value in known]
    return interpolate_at_rate(rates, values, rate, slack=_SLACK)


def _lossy(results: Sequence[VolumeResult], options: EvaluateOptions) -> list[str]:
    codecs = _codecs(results)
    titles = [codec_title(codec, "lossy") for codec in codecs]
    rows = []
    for result in results:
        for rate in options.bpv:
            cells = [_at_rate(result, codec, rate, lambda p: p.psnr_db) for codec in codecs]
            best = max((cell for cell in cells if cell is not None), default=None)
            shown = [_bold(f"{c:.2f}", c == best) if c is not None else _DASH for c in cells]
            rows.append([result.name, f"{rate:g}", *shown])
    lines = ["PSNR in dB at a rate, read from each curve between its points:", ""]
    lines += _table(["volume", "bpv", *titles], rows)
    lines += _likeness(results, options, codecs, titles)
    lines += _perception(results, options, codecs, titles)
    lines += ["BD-rate (negative: ours needs fewer bytes) and BD-PSNR of ours over each peer:", ""]
    return [*lines, *_differences(results, "lossy"), *_methods(results, "lossy")]


def _bold(text: str, wanted: bool) -> str:
    return f"**{text}**" if wanted else text


def _likeness(
    results: Sequence[VolumeResult],
    options: EvaluateOptions,
    codecs: Sequence[str],
    titles: Sequence[str],
) -> list[str]:
    """SSIM, HaarPSI, spectrum error and borders at the middle one of the rates."""
    if not options.wants_quality:
        return []
    rate = sorted(options.bpv)[len(options.bpv) // 2]
    reads: list[tuple[str, int, Callable[[RatePoint], float | None]]] = [
        ("SSIM", 4, lambda p: p.quality.ssim if p.quality else None),
        ("HaarPSI", 4, lambda p: p.quality.haarpsi if p.quality else None),
        ("spectrum, dB", 2, lambda p: p.quality.spectrum_error_db if p.quality else None),
        ("borders", 3, lambda p: p.quality.border if p.quality else None),
    ]
    rows = []
    for result in results:
        for name, digits, read in reads:
            cells = [_at_rate(result, codec, rate, read) for codec in codecs]
            shown = [f"{cell:.{digits}f}" if cell is not None else _DASH for cell in cells]
            rows.append([result.name, name, *shown])
    lines = [
        f"Likeness at {rate:g} bpv (spectrum: mean absolute gap, smaller is better; borders: 1 is "
        "best):",
        "",
    ]
    return lines + _table(["volume", "measure", *titles], rows)


def _perception(
    results: Sequence[VolumeResult],
    options: EvaluateOptions,
    codecs: Sequence[str],
    titles: Sequence[str],
) -> list[str]:
    """Distances between distributions at every rate; the least of each row is bold."""
    if not options.wants_perception:
        return []
    reads: list[tuple[str, int, Callable[[RatePoint], float | None]]] = [
        ("SWD", 1, lambda p: p.perception.swd if p.perception else None),
        ("kernel distance", 1, lambda p: p.perception.kernel_distance if p.perception else None),
        ("noise, octaves", 2, lambda p: p.perception.noise_gap_octaves if p.perception else None),
        ("gradients", 3, lambda p: p.perception.gradient_gap if p.perception else None),
    ]
    rows = []
    for result in results:
        for rate in options.bpv:
            for name, digits, read in reads:
                cells = [_at_rate(result, codec, rate, read) for codec in codecs]
                best = min((cell for cell in cells if cell is not None), default=None)
                shown = [
                    _bold(f"{c:.{digits}f}", c == best) if c is not None else _DASH for c in cells
                ]
                rows.append([result.name, f"{rate:g}", name, *shown])
    lines = ["Distance from how the source looks (0: like it), read from each curve:", ""]
    return lines + _table(["volume", "bpv", "measure", *titles], rows)


def _differences(results: Sequence[VolumeResult], mode: str) -> list[str]:
    """Ours against each peer, and one another: a column per volume, and the mean."""
    rows = []
    for row in averages(results):
        if mode == "bounded" and row["peer"] != BEST:
            continue
        key = (row["ours"], row["peer"], row["setting"])
        cells = []
        for result in results:
            same = [e for e in result.comparisons if (e.ours, e.peer, e.setting) == key]
            cells.append(_difference(same[0].bytes_percent, same[0].psnr_db) if same else _DASH)
        peer = row["peer"] if row["peer"] == BEST else codec_title(row["peer"], mode)
        label = f"{codec_title(row['ours'], mode)} over {peer}"
        label += f", {row['setting']}" if mode == "bounded" else ""
        have, _, every = row["volumes"]
        mean = _bold(_difference(row["bytes_percent"], row["psnr_db"]), wanted=have > 0)
        rows.append([label, *cells, f"{mean} ({have} of {every})"])
    return _table(["", *(result.name for result in results), "mean"], rows)


def _difference(percent: float | None, gain: float | None) -> str:
    parts = [signed(percent, " %")] + ([signed(gain, " dB", 2)] if gain is not None else [])
    return ", ".join(parts)


def _cells(
    results: Sequence[VolumeResult],
    codec: str,
    setting: str,
    show: Callable[[VolumeResult, RatePoint], str],
) -> list[str]:
    """One cell per volume for a codec and a setting."""
    cells = []
    for result in results:
        same = [p for p in result.points if (p.codec, p.parameter) == (codec, setting)]
        cells.append(show(result, same[0]) if same else _DASH)
    return cells


def _lossless(results: Sequence[VolumeResult], options: EvaluateOptions) -> list[str]:
    head = ["codec", *(result.name for result in results)]
    codecs = _codecs(results)

    def size(result: VolumeResult, point: RatePoint) -> str:
        best = min(p.nbytes for p in result.points if p.holds)
        broken = "" if point.holds else " (not exact)"
        return _bold(f"{point.rate_bpv:.3f}", point.nbytes == best) + broken

    def speeds(result: VolumeResult, point: RatePoint) -> str:
        return f"{speed(result, point.encode_s)} / {speed(result, point.decode_s)}"

    def rows(show: Any) -> list[list[str]]:
        return [
            [codec_title(codec, "lossless"), *_cells(results, codec, "lossless", show)]
            for codec in codecs
        ]

    lines = ["Bits per voxel, all bytes:", "", *_table(head, rows(size))]
    lines += [
        "Encoding / decoding, source MB per second of CPU time:",
        "",
        *_table(head, rows(speeds)),
    ]
    lines += ["Bytes of ours over each peer:", "", *_differences(results, "lossless")]
    return lines + _methods(results, "lossless")


def _bounded(results: Sequence[VolumeResult], options: EvaluateOptions) -> list[str]:
    settings = dict.fromkeys(point.parameter for result in results for point in result.points)

    def size(result: VolumeResult, point: RatePoint) -> str:
        rivals = [p.nbytes for p in result.points if p.parameter == point.parameter and p.holds]
        text = _bold(f"{point.rate_bpv:.3f}", point.nbytes == min(rivals, default=0))
        return f"{text} ({point.max_error:.4g}{'' if point.holds else ', broken'})"

    rows = [
        [setting, codec_title(codec, "bounded"), *_cells(results, codec, setting, size)]
        for setting in settings
        for codec in _codecs(results)
    ]
    head = ["promise", "codec", *(result.name for result in results)]
    lines = ["Bits per voxel, all bytes (largest error found, stored units):", ""]
    lines += _table(head, [row for row in rows if any(cell != _DASH for cell in row[2:])])
    lines += ["Bytes of ours over the best peer (none that broke the bound by 10 % or more):", ""]
    return [*lines, *_differences(results, "bounded"), *_methods(results, "bounded")]


def _methods(results: Sequence[VolumeResult], mode: str) -> list[str]:
    """Which method won how many bricks, over all volumes, steps and bounds."""
    totals: dict[tuple[str, str], tuple[int, int]] = {}
    for result in results:
        for setting, methods in result.methods.items():
            codec = codec_title(setting.split(", ")[0], mode)
            for method, (bricks, nbytes) in methods.items():
                before = totals.get((codec, method), (0, 0))
                totals[codec, method] = (before[0] + bricks, before[1] + nbytes)
    rows = [[*key, str(bricks), str(nbytes)] for key, (bricks, nbytes) in totals.items()]
    lines = ["Methods that our encoder chose:", ""]
    return lines + _table(["codec", "method", "bricks", "bytes"], rows)
