"""Codes of layers and coders, and their names. Part of the format (SPEC 3.4 and 8.1).

Apart from the other constants because they take nothing to import: a command line shows them.
"""

from __future__ import annotations

__all__ = ["CODERS", "CODER_CODES", "LAYERS", "LAYER_CODES"]

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
}  # 7 (SZ3) and 8 (SPERR) are reserved
CODER_CODES = {name: code for code, name in CODERS.items()}
