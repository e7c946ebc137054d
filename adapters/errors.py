"""The one error the adapters raise on purpose.

The adapters do not know the codec, so they carry their own error type; callers tell cases apart by
``kind``, a stable append-only word. Messages and hints never hold patient identifiers.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["SourceError"]


class SourceError(Exception):
    """A source cannot be read, or a source format cannot be written back.

    Parameters
    ----------
    message : str
        What was expected, what was found, and where. Never a patient identifier.
    kind : str
        Stable word for programs and tests, for example ``"truncated"`` or ``"nothing-found"``.
    path : Path, optional
        The file or folder concerned; put in front of the message.
    hint : str, optional
        What to do about it; appended to the message.
    """

    def __init__(
        self, message: str, *, kind: str, path: Path | None = None, hint: str | None = None
    ) -> None:
        text = message if path is None else f"{str(path)!r}: {message}"
        super().__init__(text if hint is None else f"{text}; {hint}")
        self.message = message
        self.kind = kind
        self.path = path
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        """Keep every field when a worker process hands the error back."""
        return (_rebuild, (self.message, self.kind, self.path, self.hint))


def _rebuild(message: str, kind: str, path: Path | None, hint: str | None) -> SourceError:
    return SourceError(message, kind=kind, path=path, hint=hint)
