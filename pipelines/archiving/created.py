"""When an archive was made, as its metadata say it."""

from __future__ import annotations

import datetime
import os

from psc_volumetric.errors import ParameterError

__all__ = ["created_now"]

_EPOCH = "SOURCE_DATE_EPOCH"


def created_now() -> str:
    """Time for an archive's metadata; ``SOURCE_DATE_EPOCH`` fixes it for reproducible archives.

    Raises
    ------
    ParameterError : that is no number of seconds (kind ``"bad-time"``).
    """
    fixed = os.environ.get(_EPOCH, "")
    try:
        moment = (
            datetime.datetime.fromtimestamp(int(fixed), datetime.UTC)
            if fixed
            else datetime.datetime.now(datetime.UTC)
        )
    except (ValueError, OverflowError, OSError) as error:
        raise ParameterError(
            f"expected seconds since 1970 in {_EPOCH}, found {fixed[:80]!r}",
            kind="bad-time",
            hint="unset it, or give for example what `git log -1 --format=%ct` prints",
        ) from error
    return moment.isoformat(timespec="seconds")
