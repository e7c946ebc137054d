"""When an archive keeps its source files as they are, and whether values are read out of them."""

from __future__ import annotations

from adapters.base import SourceItem
from pipelines.archiving.options import ArchiveOptions

__all__ = ["keeps_originals", "original_notes", "reads_originals"]


def keeps_originals(item: SourceItem, options: ArchiveOptions) -> bool:
    """Whether files are kept because nobody can make their bytes again."""
    exact = options.mode == "lossless" or _all_exact(item)
    return bool(item.bytes_beyond_remaking) and exact


def _all_exact(item: SourceItem) -> bool:
    return bool(item.volumes) and all(volume.exact_only for volume in item.volumes)


def reads_originals(item: SourceItem, options: ArchiveOptions) -> bool:
    """Whether values stay in the files, which are kept: coding them as well would only add."""
    kept = bool(item.volumes) and all(volume.kept for volume in item.volumes)
    return kept and (options.mode == "lossless" or _all_exact(item))


def original_notes(item: SourceItem, options: ArchiveOptions) -> list[str]:
    """What has to be said of files that are kept."""
    if not keeps_originals(item, options):
        return []
    what = " and ".join(item.bytes_beyond_remaking)
    how = "values are read out of it" if reads_originals(item, options) else "beside its values"
    return [f"the original is kept, {how}: nobody can make again {what}"]
