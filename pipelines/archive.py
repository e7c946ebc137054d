"""Archiving from Python: `plan` what will be done, then `archive` it."""

from __future__ import annotations

from pipelines.archiving.archive import ArchiveOptions, ArchivePlan, ItemReport, archive, plan

__all__ = ["ArchiveOptions", "ArchivePlan", "ItemReport", "archive", "plan"]
