"""One exception tree for the codec and the archive.

Errors are grouped by what a caller would do about them. ``kind`` is a stable, append-only
machine-readable word; the message is for people and may change.
"""

from __future__ import annotations

__all__ = [
    "ChecksumError",
    "ExtraMissingError",
    "FormatError",
    "InstallationError",
    "LimitExceededError",
    "NumericalError",
    "ParameterError",
    "PriorMismatchError",
    "PscError",
    "StorageError",
    "UnsupportedVersionError",
]


class PscError(Exception):
    """Base of every error this package raises on purpose.

    Parameters
    ----------
    message : str
        What was expected, what was found, and where. Never a patient identifier.
    kind : str
        Stable word for programs and tests, for example ``"bad-magic"``.
    hint : str, optional
        What to do about it; appended to the message.

    Attributes
    ----------
    message : str
        The text without the hint.
    """

    def __init__(self, message: str, *, kind: str, hint: str | None = None) -> None:
        super().__init__(message if hint is None else f"{message}; {hint}")
        self.message = message
        self.kind = kind
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        """Keep ``kind`` and ``hint`` when a worker process hands the error back."""
        return (_rebuild, (type(self), self.message, self.kind, self.hint))


def _rebuild(cls: type[PscError], message: str, kind: str, hint: str | None) -> PscError:
    return cls(message, kind=kind, hint=hint)


class FormatError(PscError):
    """The bytes are not a stream or archive this version can read."""


class UnsupportedVersionError(FormatError):
    """The bytes name a format version, method or feature this reader does not know.

    They are whole as far as this reader can tell: another release of psc-archive, or the package
    that wrote them, reads them. Nothing takes it for damage.
    """


class ChecksumError(FormatError):
    """Stored and computed check values differ: damage, or a decoder that diverged."""


class LimitExceededError(FormatError):
    """A length or count in the bytes exceeds what a conforming reader accepts."""


class PriorMismatchError(PscError):
    """The prior a stream was coded with is missing, or is not the one offered."""


class ParameterError(PscError, ValueError):
    """An argument is outside its documented range."""


class NumericalError(PscError):
    """The numbers cannot be coded exactly, or a device failed its self-test."""


class StorageError(PscError):
    """The store refused: target exists, key missing, not writable."""


class InstallationError(ImportError):
    """The installation lacks something of its own, or has it altered.

    No `PscError`: neither bytes nor arguments are at fault, so nothing that collects those as
    damage may take it for one.

    Parameters
    ----------
    message : str
        What was expected, what was found, and where.
    hint : str
        What mends the installation; appended to the message.
    kind : str
        Stable word for programs and tests.
    """

    kind = "installation"

    def __init__(self, message: str, *, hint: str, kind: str = "installation") -> None:
        super().__init__(f"{message}; {hint}")
        self.message = message
        self.hint = hint
        self.kind = kind

    def __reduce__(self) -> tuple[object, ...]:
        """Keep kind and hint when a worker process hands the error back."""
        return (_rebuild_installation, (type(self), self.message, self.hint, self.kind))


class ExtraMissingError(InstallationError):
    """Something asked for takes packages that are not installed; kind ``"extra-missing"``.

    Parameters
    ----------
    message : str
        What takes which extra, and what was not found.
    hint : str
        The command that installs it; appended to the message.
    """

    kind = "extra-missing"

    def __init__(self, message: str, *, hint: str, kind: str = "extra-missing") -> None:
        super().__init__(message, hint=hint, kind=kind)


def _rebuild_installation(
    cls: type[InstallationError], message: str, hint: str, kind: str
) -> InstallationError:
    return cls(message, hint=hint, kind=kind)
