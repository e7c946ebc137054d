"""Weights of the context model of scales. Part of the format (SPEC section 5.4).

Made once by ``python -m pipelines.fit_scales`` from the training sides of the shipped
recipes, then frozen.
"""

from __future__ import annotations

__all__ = ["BIAS", "FEATURES", "WEIGHTS"]

# name of each feature and its weight, 14 fraction bits
_TABLE = {
    "own variance": 2471,
    "variance, frequencies": 1390,
    "variance, blocks": 1273,
    "own mean": 7655,
    "mean, frequencies": -996,
    "mean, blocks": 8,
    "class": -207,
    "depth": 377,
    "threshold": -32,
    "surprise, frequencies": 6362,
    "expected, frequencies": 1121,
    "surprise, blocks": 3895,
    "expected, blocks": 384,
    "surprise, around": 4034,
    "expected, around": 891,
}
FEATURES = tuple(_TABLE)
WEIGHTS = tuple(_TABLE.values())
BIAS = -13179273  # 22 fraction bits
