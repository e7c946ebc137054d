"""A file that stays open between reads, where a process asks for that.

Opening a file of thousands of variables takes as long as reading hundreds of them. The reading
process (`adapters.isolation`) keeps the last one open while one read follows another; everywhere
else each read opens and closes, so that nobody's file stays locked.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["KEPT", "KeptOpen"]

_MOST_READ = 256 << 20  # bytes; libraries keep some of what they read until the file is closed


class KeptOpen:
    """At most one open file. Not safe to use from several threads without a lock.

    Attributes
    ----------
    keeps : bool
        Whether files stay open at all.
    """

    def __init__(self) -> None:
        self.keeps = False
        self._handle: Any = None
        self._known: tuple[Any, ...] = ()
        self._left = 0
        self._readers = 0

    def take(self, path: Path, opener: Callable[[Path], Any]) -> Any:
        """Give the open file; it is opened again when it is another one by now.

        Parameters
        ----------
        path : Path
        opener : callable
            Opens it; what it gives has ``close()``.
        """
        if not self.keeps:
            return opener(path)
        state = path.stat()
        known = (path, state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns)
        if self._handle is None or known != self._known or self._left <= 0:
            if self._readers:
                return opener(path)  # the one that is kept is being read
            self.release()
            self._handle = opener(path)
            self._known, self._left = known, _MOST_READ
        self._readers += 1
        return self._handle

    def spent(self, size: int) -> None:
        """Count bytes that were read: after many of them the file is opened again."""
        self._left -= size

    def done(self, handle: Any) -> None:
        """The read is over: close what is not kept."""
        if handle is self._handle:
            self._readers -= 1
        else:
            handle.close()

    def release(self) -> None:
        """Close the file that is kept."""
        handle, self._handle = self._handle, None
        if handle is not None:
            handle.close()


KEPT = KeptOpen()
