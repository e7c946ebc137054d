"""Sections 2.2, 5.2 and 5.3 of SPEC-v1.md: shifts, square roots, noise, block transform."""

from __future__ import annotations

import math

import numpy as np

from reference_decoder.tables import gaussian

PLANE = np.array(
    [
        [5793, 5793, 5793, 5793, 5793, 5793, 5793, 5793],
        [8035, 6811, 4551, 1598, -1598, -4551, -6811, -8035],
        [7568, 3135, -3135, -7568, -7568, -3135, 3135, 7568],
        [6811, -1598, -8035, -4551, 4551, 8035, 1598, -6811],
        [5793, -5793, -5793, 5793, 5793, -5793, -5793, 5793],
        [4551, -8035, 1598, 6811, -6811, -1598, 8035, -4551],
        [3135, -7568, 7568, -3135, -3135, 7568, -7568, 3135],
        [1598, -4551, 6811, -8035, 8035, -6811, 4551, -1598],
    ],
    np.int64,
)
DEPTH = {
    1: np.array([[16384]], np.int64),
    2: np.array([[11585, 11585], [11585, -11585]], np.int64),
    4: np.array(
        [
            [8192, 8192, 8192, 8192],
            [10703, 4433, -4433, -10703],
            [8192, -8192, -8192, 8192],
            [4433, -10703, 10703, -4433],
        ],
        np.int64,
    ),
    8: PLANE,
}
ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)


def rshift(values: np.ndarray, bits: int) -> np.ndarray:
    """Rounding shift of section 2.2."""
    return (values + (1 << (bits - 1))) >> bits


def isqrt(values: np.ndarray) -> np.ndarray:
    """Floor of the square root, exact."""
    flat = [math.isqrt(int(v)) for v in np.asarray(values).reshape(-1)]
    return np.array(flat, np.int64).reshape(np.shape(values))


def matmul(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Exact product of integer matrices; through float64 where no sum can reach 2^53."""
    bound = int(np.abs(a).max(initial=0)) * int(np.abs(b).max(initial=0)) * a.shape[-1]
    if bound < 1 << 53:
        return (a.astype(np.float64) @ b.astype(np.float64)).astype(np.int64)
    return a @ b


def threefry(key: tuple[int, int], c0: np.ndarray, c1: np.ndarray) -> tuple:
    """Threefry-2x32-20 of section 5.2."""
    k = [np.uint32(key[0]), np.uint32(key[1])]
    k.append(k[0] ^ k[1] ^ np.uint32(0x1BD11BDA))
    x0, x1 = c0.astype(np.uint32) + k[0], c1.astype(np.uint32) + k[1]
    for i in range(20):
        x0 = x0 + x1
        r = ROTATIONS[i % 8]
        x1 = ((x1 << np.uint32(r)) | (x1 >> np.uint32(32 - r))) ^ x0
        if i % 4 == 3:
            j = i // 4 + 1
            x0 = x0 + k[j % 3]
            x1 = x1 + k[(j + 1) % 3] + np.uint32(j)
    return x0, x1


def noise(seed: int, tile: int, pass_number: int, particles: int, elements: int) -> np.ndarray:
    """(particles, elements) normal numbers with 11 fraction bits."""
    with np.errstate(over="ignore"):
        c0 = np.arange(elements // 4)[None, :] + np.zeros((particles, 1), np.int64)
        c1 = (64 * pass_number + np.arange(particles))[:, None] + np.zeros_like(c0)
        a, b = threefry((seed, tile), c0, c1)
    index = np.stack([a & 0xFFFF, a >> 16, b & 0xFFFF, b >> 16], axis=-1)
    return gaussian()[index.astype(np.int64)].reshape(particles, elements)


def forward(tiles: np.ndarray) -> np.ndarray:
    """(n, slices, t, t) -> (n, coefficients): x, then y, then depth."""
    n, slices, size, _ = tiles.shape
    k = size // 8
    blocks = tiles.reshape(n, slices, k, 8, k, 8).transpose(0, 2, 4, 1, 3, 5)
    blocks = rshift(np.einsum("fx,...zyx->...zyf", PLANE, blocks), 14)
    blocks = rshift(np.einsum("fy,...zyx->...zfx", PLANE, blocks), 14)
    blocks = rshift(np.einsum("fz,...zyx->...fyx", DEPTH[slices], blocks), 14)
    return blocks.reshape(n, -1)


def inverse(coefficients: np.ndarray, slices: int, size: int) -> np.ndarray:
    """(n, coefficients) -> (n, slices, t, t): depth, then y, then x."""
    n, k = len(coefficients), size // 8
    blocks = coefficients.reshape(n, k, k, slices, 8, 8)
    blocks = rshift(np.einsum("fz,...fyx->...zyx", DEPTH[slices], blocks), 14)
    blocks = rshift(np.einsum("fy,...zfx->...zyx", PLANE, blocks), 14)
    blocks = rshift(np.einsum("fx,...zyf->...zyx", PLANE, blocks), 14)
    return blocks.transpose(0, 3, 1, 4, 2, 5).reshape(n, slices, size, size)
