"""Numbers of the stream format, each with its section in ``SPEC-v1.md``. Part of the format."""

from __future__ import annotations

import numpy as np

__all__ = [
    "DTYPES",
    "DTYPE_CODES",
    "FORMAT_VERSION",
    "HEADER_READ_AHEAD",
    "MAGIC",
    "MAX_AXES",
    "MAX_BRICK_VOXELS",
    "MAX_HEADER_SIZE",
    "MAX_LEVELS",
    "MAX_MAPPED_FLOAT",
    "MAX_MAPPED_INTEGER",
    "MAX_PARTICLES",
    "MAX_ROUNDS",
    "MAX_ROW_PARTICLES",
    "MAX_SPECIAL_VALUES",
    "MAX_STEPS",
    "MAX_TILE_ROWS",
    "METHODS",
    "METHOD_CODES",
    "SAMPLE_FRACTION_BITS",
]

MAGIC = b"PSCb"  # section 3
FORMAT_VERSION = 0  # section 3: experimental until the rate-distortion defaults settle

METHODS = {0: "constant", 1: "lossless", 2: "psc"}  # section 3
METHOD_CODES = {name: code for code, name in METHODS.items()}

DTYPES = {  # section 3; all little-endian
    0: np.dtype("bool"),
    1: np.dtype("<u1"),
    2: np.dtype("<i1"),
    3: np.dtype("<u2"),
    4: np.dtype("<i2"),
    5: np.dtype("<u4"),
    6: np.dtype("<i4"),
    7: np.dtype("<f4"),
    8: np.dtype("<f8"),
    9: np.dtype("<u8"),
    10: np.dtype("<i8"),
}
DTYPE_CODES = {dtype: code for code, dtype in DTYPES.items()}

SAMPLE_FRACTION_BITS = 11  # section 5: one normalised unit is 2048

# Limits a conforming reader enforces (section 10).
MAX_AXES = 8
MAX_BRICK_VOXELS = 1 << 26
MAX_HEADER_SIZE = 1 << 20
MAX_LEVELS = 16
MAX_STEPS = 250
MAX_PARTICLES = 64
MAX_ROUNDS = 4096
MAX_SPECIAL_VALUES = 15
MAX_TILE_ROWS = 4096  # rows of H the pca family may reach on one tile
MAX_ROW_PARTICLES = 32  # of the pca family, so that Gram sums stay below 2^53
MAX_MAPPED_INTEGER = 1 << 38  # sample times range then stays below 2^63
MAX_MAPPED_FLOAT = 2.0**125  # decoded values then stay finite in single precision

HEADER_READ_AHEAD = 1024  # not normative: the first ranged read
