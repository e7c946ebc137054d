"""Words that options of archiving take; nothing heavy is imported, so that help shows them fast."""

from __future__ import annotations

__all__ = ["CODER_SETS", "DEVICES", "ERROR_UNITS", "MODES", "PREVIEWS"]

MODES = ("lossless", "bounded", "lossy")
ERROR_UNITS = ("stored", "physical", "relative")
PREVIEWS = ("none", "psc")
DEVICES = ("auto", "cpu", "cuda")
CODER_SETS = ("smallest", "fast")
