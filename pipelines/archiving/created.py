"""When an archive was made, as its metadata say it."""

from __future__ import annotations

import datetime
import os

__all__ = ["created_now"]


def created_now() -> str:
    """Time for an archive's metadata; ``SOURCE_DATE_EPOCH`` fixes it for reproducible archives."""
    fixed = os.environ.get("SOURCE_DATE_EPOCH")
    moment = (
        datetime.datetime.fromtimestamp(int(fixed), datetime.UTC)
        if fixed is not None and fixed.isdigit()
        else datetime.datetime.now(datetime.UTC)
    )
    return moment.isoformat(timespec="seconds")
