"""Plans and reports of archiving as lines of text."""

from __future__ import annotations

from pipelines.commands.archive_report import plan_lines, report_lines

__all__ = ["plan_lines", "report_lines"]
