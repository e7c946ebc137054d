"""Restoring from Python: `restore` files, or a part of them."""

from __future__ import annotations

from pipelines.restoring.restore import RestoreOptions, RestoreReport, restore

__all__ = ["RestoreOptions", "RestoreReport", "restore"]
