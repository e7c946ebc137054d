"""Fused CPU loops for noise, block transform and particle statistics.

Not part of the format: the same integers as :mod:`psc_volumetric.methods.psc.noise`,
:mod:`psc_volumetric.methods.psc.transform` and :mod:`psc_volumetric.methods.psc.structured`, tested
against them. Integers ride in float64 inside the transform, where every sum stays below 2^53.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from numpy.typing import NDArray

from psc_volumetric.entropy.tables import gaussian_table
from psc_volumetric.machine_code import compiled
from psc_volumetric.methods.psc.noise import centring_gain
from psc_volumetric.methods.psc.structured import VARIANCE_LIMIT, Prediction, StructuredSensing
from psc_volumetric.methods.psc.transform import BASIS_BITS, basis
from psc_volumetric.prior.fused import run_split

__all__ = ["FusedSensing", "advance"]

HALF = float(1 << (BASIS_BITS - 1))
SCALE = 2.0**-BASIS_BITS
WORD = np.uint64(0xFFFFFFFF)


@compiled()
def _threefry(k0, k1, c0, c1):  # type: ignore[no-untyped-def]
    """One Threefry-2x32-20 block; words in uint64."""
    mask = np.uint64(0xFFFFFFFF)
    k2 = k0 ^ k1 ^ np.uint64(0x1BD11BDA)
    x0 = (c0 + k0) & mask
    x1 = (c1 + k1) & mask
    for i in range(20):
        j = i & 7
        r = 13
        if j == 1:
            r = 15
        elif j == 2:
            r = 26
        elif j == 3:
            r = 6
        elif j == 4:
            r = 17
        elif j == 5:
            r = 29
        elif j == 6:
            r = 16
        elif j == 7:
            r = 24
        x0 = (x0 + x1) & mask
        x1 = (((x1 << np.uint64(r)) | (x1 >> np.uint64(32 - r))) & mask) ^ x0
        if i & 3 == 3:
            n = (i >> 2) + 1
            m = n % 3
            a = k0 if m == 0 else (k1 if m == 1 else k2)
            b = k1 if m == 0 else (k2 if m == 1 else k0)
            x0 = (x0 + a) & mask
            x1 = (x1 + b + np.uint64(n)) & mask
    return x0, x1


@compiled()
def _advance(x0, seed, tiles, first, particles, alpha, sigma, gain, table, out) -> None:  # type: ignore[no-untyped-def]
    """x0, out (rows, n) int32; row = tile * particles + particle; gain 0: independent noise."""
    low = np.uint64(0xFFFF)
    shift = np.uint64(16)
    half = np.int64(1 << 15)
    limit = np.int64(32767)
    noise = np.empty((particles, 4), np.int64)
    for tile in range(x0.shape[0] // particles):
        for quad in range(x0.shape[1] // 4):
            for p in range(particles):
                a, b = _threefry(
                    np.uint64(seed), np.uint64(tiles[tile]), np.uint64(quad), np.uint64(first + p)
                )
                noise[p, 0] = table[a & low]
                noise[p, 1] = table[a >> shift]
                noise[p, 2] = table[b & low]
                noise[p, 3] = table[b >> shift]
            for lane in range(4):
                i = 4 * quad + lane
                total = np.int64(0)
                for p in range(particles):
                    total += noise[p, lane]
                for p in range(particles):
                    z = noise[p, lane]
                    if gain:
                        z = ((particles * z - total) * gain + half) >> np.int64(16)
                    row = tile * particles + p
                    v = (np.int64(x0[row, i]) * alpha + z * sigma + half) >> np.int64(16)
                    out[row, i] = min(max(v, -limit), limit)


@functools.cache
def _noise_table() -> NDArray[np.int32]:
    return gaussian_table().astype(np.int32)


def advance(
    x0: torch.Tensor,
    seed: int,
    tiles: NDArray[np.int64],
    pass_number: int,
    particles: int,
    alpha: int,
    sigma: int,
    *,
    together: bool,
) -> torch.Tensor:
    """Noisy particles: (alpha * x0 + sigma * noise + 2^15) >> 16, saturating at +-32767.

    Parameters
    ----------
    x0 : (b * particles, slices, tile, tile) int32
        Denoised particles.
    seed, tiles, pass_number, particles
        Key and counter of the noise, as for :func:`psc_volumetric.methods.psc.noise.gaussian`.
    alpha, sigma : int
        16 fraction bits.
    together : bool
        Centred noise (:func:`psc_volumetric.methods.psc.noise.centred`).
    """
    gain = np.int64(centring_gain(particles) if together else 0)
    out = torch.empty(x0.shape, dtype=torch.int32)
    source, target = x0.reshape(len(x0), -1).numpy(), out.reshape(len(x0), -1).numpy()

    def rows(part: slice) -> None:
        whole = slice(part.start // particles, -(-part.stop // particles))
        _advance(
            source[part], seed, tiles[whole], pass_number * 64, particles, alpha, sigma, gain,
            _noise_table(), target[part],
        )  # fmt: skip

    run_split(rows, len(x0), particles)
    return out


@compiled()
def _round(value: float) -> float:
    return math.floor((value + HALF) * SCALE)


@compiled()
def _forward_block(b, t, plane, depth, slices) -> None:  # type: ignore[no-untyped-def]
    """In place: x, then y, then depth; b, t (slices, 8, 8) float64. ``plane`` is (freq, sample)."""
    acc = np.empty(64, np.float64)
    for z in range(slices):
        for y in range(8):
            for k in range(8):
                acc[k] = 0.0
            for x in range(8):
                v = b[z, y, x]
                for k in range(8):
                    acc[k] += v * plane[k, x]
            for k in range(8):
                t[z, y, k] = _round(acc[k])
        for k in range(8):
            for x in range(8):
                acc[x] = 0.0
            for y in range(8):
                m = plane[k, y]
                for x in range(8):
                    acc[x] += m * t[z, y, x]
            for x in range(8):
                b[z, k, x] = _round(acc[x])
    for k in range(slices):
        for i in range(64):
            acc[i] = 0.0
        for z in range(slices):
            m = depth[k, z]
            for y in range(8):
                for x in range(8):
                    acc[y * 8 + x] += m * b[z, y, x]
        for y in range(8):
            for x in range(8):
                t[k, y, x] = _round(acc[y * 8 + x])


@compiled()
def _inverse_block(b, t, plane, depth, slices) -> None:  # type: ignore[no-untyped-def]
    """In place: depth, then y, then x; result in ``b``."""
    acc = np.empty(64, np.float64)
    for z in range(slices):
        for i in range(64):
            acc[i] = 0.0
        for k in range(slices):
            m = depth[k, z]
            for y in range(8):
                for x in range(8):
                    acc[y * 8 + x] += m * b[k, y, x]
        for y in range(8):
            for x in range(8):
                t[z, y, x] = _round(acc[y * 8 + x])
    for z in range(slices):
        for y in range(8):
            for x in range(8):
                acc[x] = 0.0
            for k in range(8):
                m = plane[k, y]
                for x in range(8):
                    acc[x] += m * t[z, k, x]
            for x in range(8):
                b[z, y, x] = _round(acc[x])
        for y in range(8):
            for x in range(8):
                acc[x] = 0.0
            for k in range(8):
                v = b[z, y, k]
                for x in range(8):
                    acc[x] += v * plane[k, x]
            for x in range(8):
                t[z, y, x] = _round(acc[x])


@compiled()
def _forward(x, c, plane, depth) -> None:  # type: ignore[no-untyped-def]
    """X (n, slices, tile, tile) int32 -> c (n, blocks^2 * slices * 64) int32."""
    n, slices, tile, _ = x.shape
    k = tile // 8
    b = np.empty((slices, 8, 8), np.float64)
    t = np.empty((slices, 8, 8), np.float64)
    for i in range(n):
        for by in range(k):
            for bx in range(k):
                for z in range(slices):
                    for y in range(8):
                        for w in range(8):
                            b[z, y, w] = x[i, z, by * 8 + y, bx * 8 + w]
                _forward_block(b, t, plane, depth, slices)
                at = (by * k + bx) * slices * 64
                for z in range(slices):
                    for y in range(8):
                        for w in range(8):
                            c[i, at + z * 64 + y * 8 + w] = np.int32(t[z, y, w])


@compiled()
def _statistics(c, gain, floor, mean, variance) -> None:  # type: ignore[no-untyped-def]
    """C (particles, n) int32; mean and calibrated variance (n,) int64."""
    s, n = c.shape
    log = 0
    while (1 << log) < s:
        log += 1
    for i in range(n):
        total = np.int64(0)
        square = np.int64(0)
        for p in range(s):
            v = np.int64(c[p, i])
            total += v
            square += v * v
        sample = (s * square - total * total) // (s * (s - 1))
        v = ((gain[i] * sample) >> 16) + floor[i]
        variance[i] = min(max(v, np.int64(1)), np.int64(VARIANCE_LIMIT))
        mean[i] = (total + s // 2) >> log


@compiled()
def _project(c, known, values, x, plane, depth) -> None:  # type: ignore[no-untyped-def]
    """Replace measured coefficients of c (particles, n) int32 and invert into x, int32."""
    s, slices, tile, _ = x.shape
    k = tile // 8
    b = np.empty((slices, 8, 8), np.float64)
    t = np.empty((slices, 8, 8), np.float64)
    for i in range(s):
        for by in range(k):
            for bx in range(k):
                at = (by * k + bx) * slices * 64
                for z in range(slices):
                    for y in range(8):
                        for w in range(8):
                            j = at + z * 64 + y * 8 + w
                            b[z, y, w] = values[j] if known[j] else c[i, j]
                _inverse_block(b, t, plane, depth, slices)
                for z in range(slices):
                    for y in range(8):
                        for w in range(8):
                            x[i, z, by * 8 + y, bx * 8 + w] = np.int32(t[z, y, w])


class FusedSensing(StructuredSensing):
    """:class:`StructuredSensing` on the CPU with fused transform and statistics."""

    def _bases(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return basis(8).astype(np.float64), basis(self.transform.slices).astype(np.float64)

    def observe(self, x0: torch.Tensor, level: int) -> tuple[torch.Tensor, Prediction]:
        """As the parent; coefficients are int32."""
        s, plane_depth = self.particles, self._bases()
        x = x0.numpy()
        c = torch.empty((self.tiles, s, self.transform.coefficients), dtype=torch.int32)
        gain = self.gain[level][self._classes].numpy()
        floor = self.floor[level][self._classes].numpy()
        mean = torch.empty((self.tiles, self.transform.coefficients), dtype=torch.int64)
        variance = torch.empty_like(mean)

        def tiles(part: slice) -> None:
            for tile in range(part.start, part.stop):
                coefficients = c[tile].numpy()
                _forward(x[tile * s : (tile + 1) * s], coefficients, *plane_depth)
                _statistics(coefficients, gain, floor, mean[tile].numpy(), variance[tile].numpy())

        run_split(tiles, self.tiles, 1)
        return c, Prediction(mean, variance)

    def project(self, coefficients: torch.Tensor) -> torch.Tensor:
        """As the parent; returns int32."""
        s, plane_depth = self.particles, self._bases()
        slices, tile = self.transform.slices, self.transform.tile
        x = torch.empty((self.tiles * s, slices, tile, tile), dtype=torch.int32)

        def tiles(part: slice) -> None:
            for number in range(part.start, part.stop):
                _project(
                    coefficients[number].numpy(),
                    self.known[number].numpy(),
                    self.values[number].numpy(),
                    x[number * s : (number + 1) * s].numpy(),
                    *plane_depth,
                )

        run_split(tiles, self.tiles, 1)
        return x
