"""Numbers of the stream format, each with its section. Part of the format (SPEC section 10)."""

from __future__ import annotations

import numpy as np

__all__ = [
    "CODERS",
    "CODER_CODES",
    "DTYPES",
    "DTYPE_CODES",
    "FORMAT_VERSION",
    "HEADER_READ_AHEAD",
    "LAYERS",
    "LAYER_CODES",
    "MAGIC",
    "MAX_AXES",
    "MAX_BRICK_VOXELS",
    "MAX_EVALUATIONS_PER_WORD",
    "MAX_FREE_EVALUATIONS",
    "MAX_FREE_LATENTS",
    "MAX_GRID_INDEX",
    "MAX_GRID_STEP",
    "MAX_HEADER_SIZE",
    "MAX_INTEGER_BOUND",
    "MAX_LATENTS_PER_WORD",
    "MAX_LEVELS",
    "MAX_MAPPED_FLOAT",
    "MAX_MAPPED_INTEGER",
    "MAX_PARTICLES",
    "MAX_RESTORATIONS",
    "MAX_ROUNDS",
    "MAX_ROW_PARTICLES",
    "MAX_SEGMENTS",
    "MAX_SIGMA_BYTES",
    "MAX_SPECIAL_VALUES",
    "MAX_STEPS",
    "MAX_TILE_ROWS",
    "MAX_TILE_WORDS",
    "MIN_GRID_STEP",
    "REFERRING",
    "REFINEMENTS",
    "SAMPLE_FRACTION_BITS",
]

MAGIC = b"PSCb"  # section 3
FORMAT_VERSION = 1  # section 3: kept for ever

LAYERS = {1: "bounded", 2: "lossless"}  # section 3.4
LAYER_CODES = {name: code for code, name in LAYERS.items()}

CODERS = {  # section 8.1: what codes the integers of a layer
    0: "zstd",
    1: "context",
    2: "jpegxl",
    3: "jpegls",
    4: "htj2k",
    5: "jpeg2000",
    6: "pcodec",
    9: "interpolation",
    10: "refinement",
    11: "neural",
    12: "neural-refinement",
}  # 7 (SZ3) and 8 (SPERR) are reserved
REFINEMENTS = ("refinement", "neural-refinement")  # of a bounded level below, always
REFERRING = ("zstd", "context", "neural", *REFINEMENTS)  # coders that can use the level below
CODER_CODES = {name: code for code, name in CODERS.items()}

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
MAX_RESTORATIONS = 16  # passes of `restart` that a level is the summary of
MAX_SEGMENTS = 32768  # of one layer
MAX_SIGMA_BYTES = 4096  # of the sigma tables
MAX_SPECIAL_VALUES = 15
MAX_TILE_WORDS = 1 << 24  # of one level
MAX_TILE_ROWS = 4096  # rows of H the pca family may reach on one tile
MAX_ROW_PARTICLES = 32  # of the pca family, so that Gram sums stay below 2^53
MAX_MAPPED_INTEGER = 1 << 38  # sample times range then stays below 2^63
MAX_MAPPED_FLOAT = 2.0**125  # decoded values then stay finite in single precision
MAX_GRID_INDEX = 1 << 31  # indices of a bounded layer are smaller in magnitude
MAX_INTEGER_BOUND = (1 << 31) - 1
MIN_GRID_STEP = 2.0**-1000  # of floats
MAX_GRID_STEP = 2.0**90
MAX_FREE_EVALUATIONS = 512  # of the network, for each coded tile
MAX_EVALUATIONS_PER_WORD = 512  # beyond those
MAX_FREE_LATENTS = 1 << 20  # symbols of a two-stage brick
MAX_LATENTS_PER_WORD = 4096  # beyond those

HEADER_READ_AHEAD = 1024  # not normative: the first ranged read
