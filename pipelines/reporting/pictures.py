"""Slices as PNG pictures inside a page."""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

__all__ = ["Palette", "Picture", "Scale", "draw", "draw_colours", "scale_of"]

Values = NDArray[Any]
Doubles = NDArray[np.float64]
LONGEST = 300  # pixels
NOT_A_NUMBER = (120, 120, 120)
CATEGORIES = 12
LIGHTS = ((140, 100), (85, 60), (195, 55))  # of each five: five steps nearly close the circle

# Colours of the maps, dark to light, evenly rising in lightness: readable in grey and by people
# who do not see red or green.
_STOPS = {
    "grey": [(0, 0, 0), (255, 255, 255)],
    "heat": [
        (8, 8, 30), (70, 20, 110), (160, 40, 100), (225, 90, 60), (250, 165, 40), (252, 250, 190),
    ],
    "field": [
        (20, 25, 80), (35, 90, 150), (50, 145, 150),
        (95, 190, 125), (190, 220, 80), (253, 245, 190),
    ],
}  # fmt: skip
Palette = NDArray[np.uint8]


@dataclass(frozen=True)
class Scale:
    """Values at the dark and at the light end, physical units."""

    low: float
    high: float


@dataclass(frozen=True)
class Picture:
    """A drawn slice.

    Attributes
    ----------
    uri : str
        ``data:image/png;base64,...``
    width, height : int
        In CSS pixels; their ratio is that of the voxels' extents.
    """

    uri: str
    width: int
    height: int

    @property
    def nbytes(self) -> int:
        """What it adds to a page."""
        return len(self.uri)


def scale_of(values: Values, *, zero: bool = False) -> Scale:
    """From the 0.5th to the 99.5th percentile; from 0 to the latter with ``zero``."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return Scale(0.0, 1.0)
    if zero:
        return Scale(0.0, float(np.percentile(finite, 99.5)) or float(finite.max()) or 1.0)
    low, high = (float(part) for part in np.percentile(finite, (0.5, 99.5)))
    return Scale(low, high if high > low else low + 1.0)


def draw(
    values: Values, scale: Scale, palette: str, pitch: tuple[float, float], *, labels: bool = False
) -> Picture:
    """Draw rows and columns of physical values.

    Parameters
    ----------
    values : (rows, columns) array
    scale : Scale
        Unused for ``labels``.
    palette : {"grey", "heat", "field"}
    pitch : (float, float)
        Extents of a voxel, downwards and to the right.
    labels : bool
        Give every value a colour of its own.
    """
    small = _reduced(np.asarray(values, np.float64), largest=palette == "heat", labels=labels)
    if labels:
        pixels = _categories()[np.where(np.isfinite(small), small, 0).astype(np.int64) % CATEGORIES]
        pixels[small == 0] = 0
    else:
        share = (small - scale.low) / (scale.high - scale.low)
        at = np.clip(np.nan_to_num(share, nan=0.0, posinf=1.0, neginf=0.0) * 255, 0, 255)
        pixels = _palette(palette)[np.rint(at).astype(np.int64)]
    pixels[np.isnan(small)] = NOT_A_NUMBER
    if palette == "grey" and not labels and not np.isnan(small).any():
        pixels = pixels[..., 0].copy()  # of one pixel, too, whose strides are else those of colours
    return Picture(_uri(pixels), *_extent(values.shape, pitch))


def draw_colours(mixed: Doubles, pitch: tuple[float, float]) -> Picture:
    """Draw rows and columns of red, green and blue, which are from 0 to 1."""
    samples = [_reduced(mixed[..., n], largest=False, labels=False) for n in range(mixed.shape[-1])]
    pixels = np.rint(np.stack(samples, -1) * 255).astype(np.uint8)
    return Picture(_uri(pixels), *_extent(mixed.shape[:2], pitch))


def _uri(pixels: NDArray[np.uint8]) -> str:
    data = bytes(imagecodecs.png_encode(pixels, level=9))
    return "data:image/png;base64," + base64.b64encode(data).decode("ascii")


def _extent(shape: tuple[int, ...], pitch: tuple[float, float]) -> tuple[int, int]:
    height, width = shape[0] * pitch[0], shape[1] * pitch[1]
    unit = LONGEST / max(height, width)
    return max(1, round(width * unit)), max(1, round(height * unit))


def _reduced(values: Doubles, *, largest: bool, labels: bool) -> Doubles:
    """Blocks of a large picture: their mean, their largest value, or one of them for labels."""
    rows, columns = (math.ceil(n / (2 * LONGEST)) for n in values.shape)
    if rows == columns == 1:
        return values
    if labels:
        return values[::rows, ::columns]
    height, width = (-(-n // b) for n, b in zip(values.shape, (rows, columns), strict=True))
    room = np.full((height * rows, width * columns), np.nan)
    room[: values.shape[0], : values.shape[1]] = values
    tiles = room.reshape(height, rows, width, columns).transpose(0, 2, 1, 3)
    blocks = tiles.reshape(height, width, rows * columns)
    empty = np.isnan(blocks).all(-1)
    blocks[empty] = 0
    made: Doubles = np.nanmax(blocks, axis=-1) if largest else np.nanmean(blocks, axis=-1)
    made[empty] = np.nan
    return made


def _palette(name: str) -> Palette:
    stops = np.array(_STOPS[name], np.float64)
    at = np.linspace(0, len(stops) - 1, 256)
    channels = [np.interp(at, range(len(stops)), stops[:, c]) for c in range(3)]
    colours: Palette = np.rint(np.stack(channels, -1)).astype(np.uint8)
    return colours


def _categories() -> Palette:
    """Colours far from one another: around the circle by the golden angle, in three lights."""
    numbers = np.arange(CATEGORIES)
    phases = (numbers * 0.381966 % 1.0)[:, None] + np.array([0.0, 1 / 3, 2 / 3])
    centre, span = np.array(LIGHTS)[numbers // 5].T[..., None]
    colours: Palette = np.rint(centre + span * np.cos(2 * math.pi * phases)).astype(np.uint8)
    return colours
