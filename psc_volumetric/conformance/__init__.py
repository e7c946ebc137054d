"""Golden vectors, decoded on every device present.

The vectors ship with the package, so that any machine can prove that it decodes what every other
machine decodes: ``psc-archive doctor --conformance``, or :func:`run`. They are written by
``python -m psc_volumetric.conformance.regenerate`` and by nothing else.
"""

from __future__ import annotations

from psc_volumetric.conformance.runner import ConformanceReport, Outcome, run
from psc_volumetric.golden import Case, load_case, load_cases

__all__ = [
    "Case",
    "ConformanceReport",
    "Outcome",
    "load_case",
    "load_cases",
    "run",
]
