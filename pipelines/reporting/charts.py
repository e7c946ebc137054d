"""Charts as SVG, drawn by the page's own template from a few numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Bar", "Line", "bars", "line", "nice_number"]

WIDTH, HEIGHT = 560, 180


@dataclass(frozen=True)
class Bar:
    """One bar: its name, what is written at its end, and its share of the longest."""

    name: str
    said: str
    share: float


@dataclass(frozen=True)
class Line:
    """Points of a curve in the units of a chart of `WIDTH` times `HEIGHT`, and its axes.

    Attributes
    ----------
    points : tuple of (x, y, text)
        Left to right; the text is what a pointer over the point says.
    path : str
        ``points`` attribute of an SVG polyline.
    x_ticks, y_ticks : tuple of (place, text)
    marks : tuple of (x, text)
        Upright lines.
    """

    points: tuple[tuple[float, float, str], ...]
    path: str
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    marks: tuple[tuple[float, str], ...] = ()


def nice_number(value: float) -> str:
    """A number as people write it: few digits, no exponent where none is needed."""
    if not math.isfinite(value):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def bars(parts: Sequence[tuple[str, float, str]]) -> list[Bar]:
    """Bars of (name, size, text), the longest as long as the chart."""
    longest = max((size for _, size, _ in parts), default=0) or 1
    return [Bar(name, said, size / longest) for name, size, said in parts]


def line(
    x: Sequence[float],
    y: Sequence[float],
    texts: Sequence[str],
    *,
    from_zero: bool = False,
    marks: Sequence[tuple[float, str]] = (),
) -> Line | None:
    """A curve through points; None for fewer than two of them, or where nothing is finite."""
    known = [
        (a, b, text)
        for a, b, text in zip(x, y, texts, strict=True)
        if math.isfinite(a) and math.isfinite(b)
    ]
    if len(known) < 2:
        return None
    left = min(min(a for a, _, _ in known), *(a for a, _ in marks), math.inf)
    right = max(max(a for a, _, _ in known), *(a for a, _ in marks), -math.inf)
    low = 0.0 if from_zero else min(b for _, b, _ in known)
    high = max(b for _, b, _ in known)
    width, height = (right - left) or 1.0, (high - low) or 1.0

    def at_x(a: float) -> float:
        return round((a - left) / width * WIDTH, 1)

    def at_y(b: float) -> float:
        return round(HEIGHT - (b - low) / height * HEIGHT, 1)

    points = tuple((at_x(a), at_y(b), text) for a, b, text in known)
    return Line(
        points,
        " ".join(f"{a},{b}" for a, b, _ in points),
        tuple((at_x(left + width * n / 4), nice_number(left + width * n / 4)) for n in range(5)),
        tuple((at_y(low + height * n / 3), nice_number(low + height * n / 3)) for n in range(4)),
        tuple((at_x(a), text) for a, text in marks),
    )
