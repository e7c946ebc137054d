"""How evaluation results are shown: lines for people, and one document for programs."""

from __future__ import annotations

import importlib.metadata
import math
import platform
from collections.abc import Sequence
from typing import Any

from pipelines.evaluation.compare import BEST, averages
from pipelines.evaluation.options import WHOLE, EvaluateOptions
from pipelines.evaluation.peers.exact import BOUNDED_PEERS, LOSSLESS_PEERS
from pipelines.evaluation.peers.rates import PEERS
from pipelines.evaluation.point import RatePoint
from pipelines.evaluation.results import VolumeResult

__all__ = ["codec_title", "document", "result_lines", "signed", "speed", "summary_lines"]

_CODECS = ("avif", "htj2k", "jpeg2k", "jpegls", "jpegxl", "pcodec", "sperr", "sz3", "zfp", "zstd")


def codec_title(codec: str, mode: str) -> str:
    """Name of a codec for people."""
    known: dict[str, Any] = {"lossy": PEERS, "bounded": BOUNDED_PEERS, "lossless": LOSSLESS_PEERS}
    if codec.startswith("ours-"):
        variant = codec.removeprefix("ours-")
        named, _, view = variant.removeprefix(WHOLE).partition("@")
        base, _, coders = named.partition(":")
        main = base == ("auto" if mode == "lossy" else "none")
        words = [
            "whole archives" if variant.startswith(WHOLE) else "ours",
            "" if main else f"base {base}",
            f"{coders} coders" if coders else "",
        ]
        words.append(f"view {view}" if view else "")
        return ", ".join(word for word in words if word)
    return str(known[mode][codec].title) if codec in known[mode] else codec


def versions() -> dict[str, str]:
    """Versions that the numbers depend on."""
    import imagecodecs

    found = {"python": platform.python_version(), "machine": platform.machine()}
    for name in ("psc-archive", "numpy", "torch", "imagecodecs", "av"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    for codec in _CODECS:
        tell = getattr(imagecodecs, f"{codec}_version", None)
        if tell is not None:
            found[codec] = str(tell())
    return found


def document(results: Sequence[VolumeResult], options: EvaluateOptions) -> dict[str, Any]:
    """Everything as plain JSON values.

    Returns
    -------
    dict
        ``mode``, ``settings``, ``versions``, ``volumes`` (with every point) and ``averages``.
    """
    return {
        "mode": options.mode,
        "settings": options.to_dict(),
        "versions": versions(),
        "volumes": [result.to_dict() for result in results],
        "averages": averages(results),
    }


def signed(value: float | None, unit: str, digits: int = 1) -> str:
    """A difference with its sign, or a dash where there is none."""
    return "-" if value is None else f"{value:+.{digits}f}{unit}"


def speed(result: VolumeResult, seconds: float | None) -> str:
    """Source megabytes per second of CPU time."""
    size = math.prod(result.shape) * _item_size(result.dtype)
    return f"{size / seconds / 1e6:.1f}" if seconds else "-"


def _item_size(dtype: str) -> int:
    import numpy as np

    return int(np.dtype(dtype).itemsize)


def _psnr(value: float) -> str:
    return "exact" if math.isinf(value) else f"{value:.2f}"


def _optional(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _lossy_row(point: RatePoint, *, perceived: bool) -> list[str]:
    likeness = point.quality
    parts = ("-", "-", "-", "-")
    if likeness is not None:
        spectrum = f"{likeness.spectrum_error_db:.2f}"
        parts = (
            _optional(likeness.ssim, 4),
            _optional(likeness.haarpsi, 4),
            spectrum,
            _optional(likeness.border, 3),
        )
    return [
        point.codec,
        point.parameter,
        "" if point.target is None else f"{point.target:g}",
        f"{point.rate_bpv:.4f}",
        _psnr(point.psnr_db),
        *parts,
        *(_perceived(point) if perceived else ()),
        str(point.nbytes),
        _optional(point.encode_s, 1),
        _optional(point.decode_s, 1),
    ]


def _perceived(point: RatePoint) -> list[str]:
    """Cells of `_PERCEIVED_HEAD`."""
    seen = point.perception
    if seen is None:
        return ["-"] * len(_PERCEIVED_HEAD)
    return [
        _optional(seen.swd, 1),
        _optional(seen.kernel_distance, 1),
        _optional(seen.noise_gap_octaves, 2),
        _optional(seen.gradient_gap, 3),
    ]


def _lossy_table(points: Sequence[RatePoint]) -> list[str]:
    perceived = any(point.perception is not None for point in points)
    head = list(_LOSSY_HEAD)
    if perceived:
        at = head.index("bytes")
        head[at:at] = _PERCEIVED_HEAD
    return _aligned(head, [_lossy_row(point, perceived=perceived) for point in points])


def _exact_row(result: VolumeResult, point: RatePoint) -> list[str]:
    ratio = math.prod(result.shape) * _item_size(result.dtype) / point.nbytes
    return [
        point.codec,
        point.parameter,
        f"{point.rate_bpv:.4f}",
        f"{ratio:.2f}",
        f"{point.max_error:.6g}",
        "yes" if point.holds else "NO",
        _psnr(point.psnr_db),
        str(point.nbytes),
        speed(result, point.encode_s),
        speed(result, point.decode_s),
    ]


_LOSSY_HEAD = (
    "codec", "setting", "target", "bpv", "PSNR", "SSIM", "HaarPSI", "spec", "bord", "bytes",
    "enc s", "dec s",
)  # fmt: skip
_PERCEIVED_HEAD = ("SWD", "KD", "noise", "grad")
_EXACT_HEAD = (
    "codec", "promise", "bpv", "ratio", "max error", "kept", "PSNR", "bytes",
    "enc MB/s", "dec MB/s",
)  # fmt: skip
_WORDS = 2  # columns of words stand on the left of the table, those of numbers on the right


def _aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Give every column the width of its longest entry, with two blanks in between."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return [
        "  "
        + "  ".join(
            entry.ljust(width) if number < _WORDS else entry.rjust(width)
            for number, (entry, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in (head, *rows)
    ]


def result_lines(result: VolumeResult) -> list[str]:
    """The table of one volume."""
    shape = " x ".join(map(str, result.shape))
    name = f"{result.group}: {result.name}" if result.group else result.name
    lines = [
        f"{name}: {shape} {result.dtype}, range {result.peak:g}, prior {result.prior or 'not used'}"
    ]
    if result.mode == "lossy":
        lines += _lossy_table(result.points)
    else:
        lines += _aligned(_EXACT_HEAD, [_exact_row(result, point) for point in result.points])
    for entry in result.comparisons:
        if result.mode != "lossy" and entry.peer != BEST:
            continue
        title = BEST if entry.peer == BEST else codec_title(entry.peer, result.mode)
        text = f"bytes {signed(entry.bytes_percent, ' %')}"
        if result.mode == "lossy":
            text = f"BD-rate {signed(entry.bytes_percent, ' %')}, BD-PSNR "
            text += signed(entry.psnr_db, " dB", 2)
        setting = f", {entry.setting}" if entry.setting else ""
        lines.append(f"  {entry.ours} against {title}{setting}: {text}")
    for setting, methods in result.methods.items():
        for method, (bricks, nbytes) in methods.items():
            count = "1 brick" if bricks == 1 else f"{bricks} bricks"
            lines.append(f"  {setting}: {count} {method}, {nbytes} bytes")
    return [*lines, *(f"  note: {note}" for note in result.notes)]


def summary_lines(results: Sequence[VolumeResult], mode: str) -> list[str]:
    """Means over the volumes of each set; nothing for a single volume."""
    if len(results) < 2:
        return []
    lines = ["means over volumes:"]
    for row in averages(results):
        if mode != "lossy" and row["peer"] != BEST:
            continue
        title = BEST if row["peer"] == BEST else codec_title(row["peer"], mode)
        gain = f", {signed(row['psnr_db'], ' dB', 2)}" if mode == "lossy" else ""
        have, _, every = row["volumes"]
        group = f"{row['group']}: " if row["group"] else ""
        setting = f", {row['setting']}" if row["setting"] else ""
        lines.append(
            f"  {group}{row['ours']} against {title}{setting}: bytes "
            f"{signed(row['bytes_percent'], ' %')}{gain} ({have} of {every} volumes)"
        )
    return lines
