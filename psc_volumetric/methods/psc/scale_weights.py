"""Weights of the context model of scales. Part of the format (SPEC section 5.4).

Made once by ``python -m pipelines.development.fit_scales`` from the training sides of the shipped
recipes, then frozen.
"""

from __future__ import annotations

__all__ = ["BIAS", "FEATURES", "WEIGHTS"]

# name of each feature and its weight, 14 fraction bits
_TABLE = {
    "own variance": 2486,
    "variance, frequencies": 1699,
    "variance, blocks": 900,
    "own mean": 6234,
    "mean, frequencies": -1757,
    "mean, blocks": -156,
    "class": -58,
    "depth": 229,
    "threshold": 1788,
    "surprise, frequencies": 6903,
    "expected, frequencies": 1183,
    "surprise, blocks": 3463,
    "expected, blocks": 562,
    "surprise, around": 4603,
    "expected, around": 566,
}
FEATURES = tuple(_TABLE)
WEIGHTS = tuple(_TABLE.values())
BIAS = -14755434  # 22 fraction bits
