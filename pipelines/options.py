"""The options of archiving."""

from __future__ import annotations

from pipelines.archiving.options import ArchiveOptions

__all__ = ["ArchiveOptions"]
