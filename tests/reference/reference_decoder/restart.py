"""Section 5, schedule ``restart``: PCA rows, float8 quantiser."""

from __future__ import annotations

import numpy as np

from reference_decoder.exact import isqrt, matmul, rshift
from reference_decoder.fields import Header
from reference_decoder.prior import Prior
from reference_decoder.single_pass import check_digest, renoise, summarise
from reference_decoder.symbols import AdaptiveModel, RangeDecoder

SAMPLE_LIMIT = 8191


def float8(code: int) -> int:
    """Section 5.6."""
    index = min(code & 127, 126)
    exponent, mantissa = index >> 3, index & 7
    value = mantissa << 2 if exponent == 0 else (8 + mantissa) << (exponent + 1)
    return -value if code >= 128 else value


class Measured:
    """Rows of H and what was measured along them."""

    def __init__(self, elements: int) -> None:
        self.rows = np.zeros((0, elements), np.int64)
        self.values = np.zeros(0, np.int64)

    def project(self, x0: np.ndarray) -> np.ndarray:
        """Section 5.5; x0 (s, n)."""
        if len(self.rows):
            error = self.values[:, None] - rshift(matmul(self.rows, x0.T), 14)
            x0 = x0 + rshift(matmul(error.T, self.rows), 14)
        return np.clip(x0, -SAMPLE_LIMIT, SAMPLE_LIMIT)


def run(prior: Prior, h: Header, tile: int, data: bytes, last: int, shape: tuple = ()):
    """Decode one tile to level ``last`` >= 0: mean and spread (slices, t, t).

    ``shape`` is that of what is measured, the tile's where it is not given.
    """
    shape = shape or h.tile
    coder, model = RangeDecoder(data), AdaptiveModel(256)
    measured = Measured(int(np.prod(shape)))
    ends = (0, *h.level_ends)
    for level in range(1, last + 1):
        for number in range(ends[level - 1], ends[level]):
            samples = _posterior(prior, h, tile, measured, number, shape)
            rows = principal_rows(samples, h.rows_per_round)
            values = [float8(model.decode(coder)) for _ in rows]
            measured.rows = np.concatenate([measured.rows, rows])
            measured.values = np.concatenate([measured.values, np.array(values, np.int64)])
        newest = measured.rows[-h.rows_per_round :].sum(0)
        check_digest(coder, newest, np.full_like(newest, measured.values.sum()))
    first = ends[-1] + last * h.restorations
    numbers = range(first, first + h.restorations)
    passes = [_posterior(prior, h, tile, measured, number, shape) for number in numbers]
    return summarise(np.concatenate(passes).reshape(-1, *shape))


def _posterior(
    prior: Prior, h: Header, tile: int, measured: Measured, number: int, shape: tuple
) -> np.ndarray:
    """One pass: (s, n) samples consistent with the measurements."""
    x0 = np.zeros((h.particles, *shape), np.int64)
    for i, level in enumerate(h.noise_levels):
        x = renoise(prior, x0, h, tile, number * len(h.noise_levels) + i, level, centred=False)
        flat = prior.denoise(x, level).reshape(h.particles, -1)
        x0 = measured.project(flat).reshape(x0.shape)
    return x0.reshape(h.particles, -1)


def pairs(size: int) -> list[list[tuple[int, int]]]:
    """Round-robin order of section 5.5."""
    players, rounds = list(range(size)), []
    for _ in range(size - 1):
        couples = [(players[i], players[size - 1 - i]) for i in range(size // 2)]
        rounds.append([(min(c), max(c)) for c in couples])
        players = [players[0], players[-1], *players[1:-1]]
    return rounds


def _angle(app: int, aqq: int, apq: int) -> tuple[int, int]:
    """Cosine and sine with 28 fraction bits."""
    d, one = aqq - app, 1 << 56
    root = int(isqrt(np.array([(d >> 1) ** 2 + apq**2]))[0])
    t = (abs(apq) << 28) // max(1, (abs(d) >> 1) + root)
    norm = int(isqrt(np.array([one + t * t]))[0])
    cos, sin = one // norm, (t << 28) // norm
    if apq == 0:
        sin = 0
    return cos, -sin if (d < 0) != (apq < 0) else sin


def _rotate(m: np.ndarray, p: int, q: int, cos: int, sin: int) -> None:
    upper, lower = m[p].copy(), m[q].copy()
    m[p] = rshift(cos * upper - sin * lower, 28)
    m[q] = rshift(sin * upper + cos * lower, 28)


def jacobi(gram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues and eigenvectors (rows, 28 fraction bits) after six sweeps."""
    size = len(gram)
    shift = int(np.trace(gram)).bit_length() - 30
    a = gram >> shift if shift >= 0 else gram << -shift
    v = np.eye(size, dtype=np.int64) << 28
    for _ in range(6):
        for couples in pairs(size):
            angles = [_angle(int(a[p, p]), int(a[q, q]), int(a[p, q])) for p, q in couples]
            turns = list(zip(couples, angles, strict=True))
            for m in (a, a.T, v):
                for (p, q), (cos, sin) in turns:
                    _rotate(m, p, q, cos, sin)
            for p, q in couples:
                a[p, q] = a[q, p] = 0
    return np.diagonal(a).copy(), v


def principal_rows(samples: np.ndarray, rows: int) -> np.ndarray:
    """Section 5.5: unit rows with 14 fraction bits, strongest first."""
    size, n = samples.shape
    centred = size * samples - samples.sum(0)
    gram = matmul(centred, centred.T)
    if not np.trace(gram):
        return np.zeros((0, n), np.int64)
    eigenvalues, vectors = jacobi(gram)
    order = sorted(range(size), key=lambda i: (-eigenvalues[i], i))[:rows]
    found = [_unit_row(rshift(vectors[i], 13), centred) for i in order if eigenvalues[i] > 1 << 14]
    return np.array(found, np.int64).reshape(-1, n)


def _unit_row(weights: np.ndarray, centred: np.ndarray) -> np.ndarray:
    direction = matmul(weights[None], centred)[0]
    largest, exponent = int(np.abs(direction).max()), 0
    for shift in (16, 8, 4, 2, 1):
        if largest >= 1 << (22 + shift):
            largest >>= shift
            exponent += shift
    direction = direction >> exponent
    norm = max(1, int(isqrt(np.array([(direction * direction).sum()]))[0]))
    row = ((direction << 14) + (norm >> 1)) // norm
    peak = int(np.argmax(np.abs(row)))  # the first of equals
    return -row if row[peak] < 0 else row
