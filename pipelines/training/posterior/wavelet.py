"""The wavelet codec in torch, on any device: what a brick decodes to, made while training.

The transform is that of `methods.wavelet.transform` in single precision. An encoder decides
coefficient after coefficient from those before; here all of a band decide at once, twice, each time
with the neighbours of the last round. Tests hold the result against real streams.
"""

from __future__ import annotations

import torch

from psc_volumetric.methods.wavelet import kernel
from psc_volumetric.methods.wavelet.fit import PRICE
from psc_volumetric.methods.wavelet.transform import (
    LIFTING,
    LIFTING_BITS,
    WEIGHT_BITS,
    Band,
    axis_splits,
    band_weights,
    bands,
)

__all__ = ["analyse", "code", "dequantise", "quantise", "synthesise"]

Tensor = torch.Tensor

FACTORS = tuple(number / (1 << LIFTING_BITS) for number in LIFTING)
ROUNDS = 2  # of decisions; after these less than one coefficient in a hundred changes
FIRST_THRESHOLD = 0.65  # of a step, before anything is known of the neighbours
UNIT = 1 << kernel.BITS  # of the kernel's shares of magnitudes


def _shape(values: Tensor) -> tuple[int, int, int]:
    z, y, x = values.shape
    return z, y, x


def _around(high: Tensor, count: int) -> Tensor:
    before = torch.cat([high[:1], high])[:count]
    return before + torch.cat([high, high[-1:]])[:count]


def _between(low: Tensor, count: int) -> Tensor:
    return low[:count] + torch.cat([low[1:], low[-1:]])[:count]


def _split(samples: Tensor) -> Tensor:
    low, high = samples[0::2].clone(), samples[1::2].clone()
    for number, factor in enumerate(FACTORS):
        if number % 2:
            low += factor * _around(high, len(low))
        else:
            high += factor * _between(low, len(high))
    return torch.cat([low, high])


def _merge(split: Tensor) -> Tensor:
    count = (len(split) + 1) // 2
    low, high = split[:count].clone(), split[count:].clone()
    for number in (3, 2, 1, 0):
        if number % 2:
            low -= FACTORS[number] * _around(high, len(low))
        else:
            high -= FACTORS[number] * _between(low, len(high))
    out = torch.empty_like(split)
    out[0::2], out[1::2] = low, high
    return out


def analyse(values: Tensor, depth: int) -> Tensor:
    """Coefficients (z, y, x) float32 of samples; z is split ``depth`` times."""
    out = values.clone()
    for axis, extent in axis_splits(_shape(values), depth):
        part = out[tuple(slice(n) for n in extent)]
        part.copy_(_split(part.movedim(axis, 0)).movedim(0, axis))
    return out


def synthesise(coefficients: Tensor, depth: int) -> Tensor:
    """Samples (z, y, x) float32 of coefficients; the inverse of `analyse`."""
    out = coefficients.clone()
    for axis, extent in reversed(axis_splits(_shape(out), depth)):
        part = out[tuple(slice(n) for n in extent)]
        part.copy_(_merge(part.movedim(axis, 0)).movedim(0, axis))
    return out


def dequantise(numbers: Tensor, step: float, depth: int) -> Tensor:
    """Coefficients (z, y, x) float32 from their numbers of quantiser steps."""
    out = numbers.to(torch.float32, copy=True)
    shape = _shape(numbers)
    for band, weight in zip(bands(shape, depth), band_weights(shape, depth), strict=True):
        out[_box(band)] *= step * weight / (1 << WEIGHT_BITS)
    return out


def quantise(coefficients: Tensor, step: float, depth: int) -> Tensor:
    """Numbers of quantiser steps (z, y, x) float32, close to those of `wavelet_fit.quantise`."""
    numbers = torch.zeros_like(coefficients)
    shape = _shape(coefficients)
    found = bands(shape, depth)
    for band, weight in zip(found, band_weights(shape, depth), strict=True):
        scaled = coefficients[_box(band)] * ((1 << WEIGHT_BITS) / (step * weight))
        magnitude = scaled.abs()
        elsewhere = _expected_elsewhere(band, found, numbers)
        chosen = torch.floor(magnitude + (1 - FIRST_THRESHOLD))
        for _ in range(ROUNDS):
            chosen = _decide(magnitude, _expected_inside(chosen) + elsewhere)
        numbers[_box(band)] = torch.copysign(chosen, scaled)
    return numbers


def code(values: Tensor, step: float, depth: int) -> Tensor:
    """What (z, y, x) float32 values decode to after coding at a quantiser step."""
    middle = values.mean()
    numbers = quantise(analyse(values - middle, depth), step, depth)
    return synthesise(dequantise(numbers, step, depth), depth) + middle


def _box(band: Band) -> tuple[slice, slice, slice]:
    z, y, x = (slice(*part) for part in band.box)
    return z, y, x


def _decide(magnitude: Tensor, expected: Tensor) -> Tensor:
    """The cheapest of the nearest number of steps, the one below, and none."""
    more = PRICE * torch.log2(1 + 1 / expected)
    nearest = torch.floor(magnitude + 0.5)
    least, chosen = magnitude**2, torch.zeros_like(magnitude)
    for number in (nearest, nearest - 1):
        cost = (magnitude - number) ** 2 + PRICE + number * more
        better = (number > 0) & (cost < least)
        least, chosen = torch.where(better, cost, least), torch.where(better, number, chosen)
    return chosen


def _moved(sizes: Tensor, z: int, y: int, x: int) -> Tensor:
    """Magnitudes of the neighbours that many places before; 0 outside the band."""
    out = torch.zeros_like(sizes)
    depth, rows, columns = sizes.shape
    out[z:, max(y, 0) : rows + min(y, 0), max(x, 0) : columns + min(x, 0)] = sizes[
        : depth - z, max(-y, 0) : rows - max(y, 0), max(-x, 0) : columns - max(x, 0)
    ]
    return out


def _cross(sizes: Tensor) -> Tensor:
    """Summed magnitudes of the four neighbours in the plane."""
    return sum(
        (_moved(sizes, 0, y, x) for y, x in ((1, 0), (-1, 0), (0, 1), (0, -1))),
        start=torch.zeros_like(sizes),
    )


def _expected_inside(sizes: Tensor) -> Tensor:
    """Magnitude expected from earlier neighbours in the band, in steps."""
    total = torch.full_like(sizes, kernel.LEAST)
    shares = (
        (kernel.WEST, 0, 0, 1),
        (kernel.FAR_WEST, 0, 0, 2),
        (kernel.NORTH, 0, 1, 0),
        (kernel.NORTH_WEST, 0, 1, 1),
        (kernel.NORTH_EAST, 0, 1, -1),
        (kernel.BEFORE, 1, 0, 0),
        (kernel.FAR_BEFORE, 2, 0, 0),
    )
    for share, z, y, x in shares:
        if z < sizes.shape[0] and abs(y) < sizes.shape[1] and abs(x) < sizes.shape[2]:
            total += share * _moved(sizes, z, y, x)
    total[1:] += kernel.BEFORE_CROSS * _cross(sizes)[:-1]
    return total / UNIT


def _expected_elsewhere(band: Band, found: tuple[Band, ...], numbers: Tensor) -> Tensor:
    """Magnitude expected from the parent and the siblings, in steps."""
    like = numbers[_box(band)]
    total = torch.zeros_like(like)
    if band.parent >= 0:
        parent = found[band.parent]
        halved = [parent.splits[axis] > band.splits[axis] for axis in (1, 2)]
        total += _sampled(numbers[_box(parent)], like, kernel.PARENT, kernel.PARENT_CROSS, halved)
    for other in band.siblings:
        one = numbers[_box(found[other])]
        seen = _sampled(one, like, kernel.SIBLING, kernel.SIBLING_CROSS, [False, False])
        total += seen / len(band.siblings)
    return total / UNIT


def _sampled(numbers: Tensor, like: Tensor, own: int, others: int, halved: list[bool]) -> Tensor:
    """Weighted magnitudes of another band and its six neighbours, at the places of ``like``."""
    sizes = numbers.abs()
    around = _cross(sizes)
    around[1:] += sizes[:-1]
    around[:-1] += sizes[1:]
    seen = own * sizes + others * around
    for axis, half in zip((1, 2), halved, strict=True):
        places = torch.arange(like.shape[axis], device=like.device) >> int(half)
        seen = seen.index_select(axis, places.clamp(max=seen.shape[axis] - 1))
    return seen
