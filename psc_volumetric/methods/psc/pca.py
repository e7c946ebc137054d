"""PCA rows by exact Gram matrix and fixed-sweep Jacobi. Part of the format (SPEC section 5.5).

AdaSense / PSC Algorithm 1 ("PSC", arXiv:2407.09896v1): centre the posterior samples and append
the top right singular vectors. Departures: the singular vectors come from the particle Gram
matrix (never an SVD call), rotations are 28-bit fixed point, rows are int16 with 14 fraction
bits, and the entry of largest magnitude (the first on ties) is positive.
"""

from __future__ import annotations

import torch

from psc_volumetric.prior.runtime import integer_sqrt

__all__ = ["gram_matrix", "jacobi", "principal_rows"]

FIXED = 28
ROW_BITS = 14
SWEEPS = 6
COLUMNS = 8192


def _rounding_shift(x: torch.Tensor, bits: int) -> torch.Tensor:
    return (x + (1 << (bits - 1))) >> bits


def gram_matrix(samples: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Centre samples in integers and take their Gram matrix, exactly.

    Parameters
    ----------
    samples : (s, n) float64 integers
        |sample| < 2^13, s <= 64, n <= 2^16.

    Returns
    -------
    centred : (s, n) float64
        ``s * sample - sum``.
    gram : (s, s) int64
    """
    centred = samples * len(samples) - samples.sum(0, keepdim=True)
    parts = centred.split(COLUMNS, 1)  # sums of so many products stay below 2^53
    return centred, torch.stack([(part @ part.T).long() for part in parts]).sum(0)


def _pairs(size: int) -> list[tuple[list[int], list[int]]]:
    """Round-robin ordering: size - 1 rounds of size / 2 disjoint pairs."""
    players = list(range(size))
    rounds = []
    for _ in range(size - 1):
        half = [(players[i], players[size - 1 - i]) for i in range(size // 2)]
        rounds.append(([min(p) for p in half], [max(p) for p in half]))
        players = [players[0], players[-1], *players[1:-1]]
    return rounds


def jacobi(gram: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Eigenvectors of a symmetric integer matrix by six cyclic Jacobi sweeps.

    Parameters
    ----------
    gram : (s, s) int64
        Positive semi-definite, s even.

    Returns
    -------
    eigenvalues : (s,) int64
        Scaled so that the trace lies in 2^29..2^30.
    vectors : (s, s) int64
        Row i belongs to eigenvalue i; 28 fraction bits.
    """
    size = len(gram)
    shift = int(gram.diagonal().sum()).bit_length() - 30
    a = (gram >> shift if shift >= 0 else gram << -shift).clone()
    v = torch.eye(size, dtype=torch.int64, device=gram.device) << FIXED
    one = torch.tensor(1 << (2 * FIXED), device=gram.device)
    for _ in range(SWEEPS):
        for p, q in _pairs(size):
            d, b = a[q, q] - a[p, p], a[p, q] * 2
            root = integer_sqrt((d >> 1) ** 2 + (b >> 1) ** 2)
            reach = ((d.abs() >> 1) + root).clamp_min(1)
            t = torch.div((b.abs() >> 1) << FIXED, reach, rounding_mode="floor")
            norm = integer_sqrt(one + t * t)
            cos = torch.div(one, norm, rounding_mode="floor")
            sin = torch.div(t << FIXED, norm, rounding_mode="floor")
            sin = torch.where((d < 0) != (b < 0), -sin, sin)
            sin = torch.where(b == 0, torch.zeros_like(sin), sin)
            _rotate(a, p, q, cos, sin)
            _rotate(a.T, p, q, cos, sin)
            a[p, q] = 0
            a[q, p] = 0
            _rotate(v, p, q, cos, sin)
    return a.diagonal().clone(), v


def _rotate(
    m: torch.Tensor, p: list[int], q: list[int], cos: torch.Tensor, sin: torch.Tensor
) -> None:
    c, s = cos[:, None], sin[:, None]
    upper, lower = m[p], m[q]
    m[p] = _rounding_shift(c * upper - s * lower, FIXED)
    m[q] = _rounding_shift(s * upper + c * lower, FIXED)


def principal_rows(samples: torch.Tensor, rows: int) -> torch.Tensor:
    """Leading principal directions of posterior samples as rows of H.

    Parameters
    ----------
    samples : (s, n) float64 integers
        Denoised particles of one tile, 11 fraction bits.
    rows : int
        Rows wanted, 1 <= rows < s. Directions of numerically zero variance are left out.

    Returns
    -------
    (r, n) int64, r <= rows
        Unit rows with 14 fraction bits, strongest first; largest entry positive.
    """
    size = len(samples)
    centred, gram = gram_matrix(samples)
    if int(gram.diagonal().sum()) == 0:
        return torch.zeros((0, samples.shape[1]), dtype=torch.int64, device=samples.device)
    eigenvalues, vectors = jacobi(gram)
    # unique keys: ties go to the earlier index
    keys = eigenvalues * 64 + torch.arange(size - 1, -1, -1, device=samples.device)
    order = torch.argsort(keys, descending=True)[:rows]
    order = order[eigenvalues[order] > (1 << 30) >> 16]
    weights = _rounding_shift(vectors[order], FIXED - 15).double()
    directions = (weights @ centred).long()
    largest = directions.abs().amax(1)
    exponent = torch.zeros_like(largest)
    for shift in (16, 8, 4, 2, 1):
        big = largest >= (1 << (22 + shift))
        largest = torch.where(big, largest >> shift, largest)
        exponent = exponent + big.long() * shift
    directions = directions >> exponent[:, None]
    norm = integer_sqrt((directions * directions).sum(1)).clamp_min(1)[:, None]
    unit = torch.div((directions << ROW_BITS) + (norm >> 1), norm, rounding_mode="floor")
    n = unit.shape[1]
    index_key = torch.arange(n - 1, -1, -1, device=unit.device)
    peak = (unit.abs() * n + index_key).argmax(1, keepdim=True)
    return torch.where(torch.gather(unit, 1, peak) < 0, -unit, unit)
