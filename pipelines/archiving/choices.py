"""Words that options of archiving take; nothing heavy is imported, so that help shows them fast."""

from __future__ import annotations

__all__ = [
    "CODER_SETS",
    "DEIDENTIFY",
    "DEVICES",
    "ERROR_UNITS",
    "LEVEL_CHOICES",
    "MODES",
    "PREVIEWS",
    "SPEEDS",
    "SUPERSEDES",
]

MODES = ("lossless", "bounded", "lossy")
ERROR_UNITS = ("stored", "physical", "relative")
PREVIEWS = ("none", "psc")
DEVICES = ("auto", "cpu", "cuda")
DEIDENTIFY = ("basic", "basic-shifted-dates")  # as `adapters.dicom.deidentify` has them
CODER_SETS = ("smallest", "fast")
LEVEL_CHOICES = ("auto", "one")
SPEEDS = (1, 9)  # smallest archives, and fastest

SUPERSEDES = "supersedes"  # key in the provenance
