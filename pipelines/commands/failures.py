"""Exit codes of the command line and how an error is shown: two lines, no traceback."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pipelines.stopping import Stopped
from psc_volumetric.errors import (
    ExtraMissingError,
    FormatError,
    InstallationError,
    ParameterError,
    PriorMismatchError,
    PscError,
    StorageError,
    UnsupportedVersionError,
)

if TYPE_CHECKING:
    from pipelines.checking.verify import VerifyReport

__all__ = [
    "EXIT_CODES",
    "EXIT_DAMAGE",
    "EXIT_EXTRA",
    "EXIT_FORMAT",
    "EXIT_HANGUP",
    "EXIT_INCOMPLETE",
    "EXIT_INSTALLATION",
    "EXIT_INTERNAL",
    "EXIT_INTERRUPTED",
    "EXIT_OK",
    "EXIT_PRIOR",
    "EXIT_RELEASE",
    "EXIT_SOURCE",
    "EXIT_STORAGE",
    "EXIT_TERMINATED",
    "EXIT_USAGE",
    "Failure",
    "checked_code",
    "describe_failure",
]

EXIT_OK = 0
EXIT_INTERNAL = 1
EXIT_USAGE = 2
EXIT_SOURCE = 3
EXIT_FORMAT = 4
EXIT_PRIOR = 5
EXIT_STORAGE = 6
EXIT_DAMAGE = 7
EXIT_INCOMPLETE = 8
EXIT_EXTRA = 9
EXIT_INSTALLATION = 10
EXIT_RELEASE = 11
EXIT_HANGUP = 129
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143

EXIT_CODES = {
    EXIT_OK: "done",
    EXIT_INTERNAL: "internal error",
    EXIT_USAGE: "wrong usage or parameter",
    EXIT_SOURCE: "source cannot be read or archived",
    EXIT_FORMAT: "archive damaged, or none",
    EXIT_PRIOR: "prior missing or not the right one",
    EXIT_STORAGE: "storage problem (target exists, not writable, full)",
    EXIT_DAMAGE: "verification found damage, or a restored file is not its source",
    EXIT_INCOMPLETE: "finished, but something that may hold data was left out",
    EXIT_EXTRA: "needs an extra that is not installed",
    EXIT_INSTALLATION: "this installation is not whole: a file of it is missing or altered",
    EXIT_RELEASE: "archive needs another release of psc-archive, or the package that wrote it",
    EXIT_HANGUP: "stopped by SIGHUP",
    EXIT_INTERRUPTED: "interrupted",
    EXIT_TERMINATED: "stopped by SIGTERM",
}
# Errors of adapters that are about where they write, and not about a source.
_ABOUT_TARGETS = ("target-exists", "target-locked")
_LACKING = {"prior-missing": EXIT_PRIOR, "extra-missing": EXIT_EXTRA}


class Failure:
    """What the command line says and returns for one error.

    Attributes
    ----------
    code : int
        Exit code, a key of `EXIT_CODES`.
    kind, message : str
        Stable word and one sentence.
    hint : str or None
        What to do about it.
    """

    def __init__(self, code: int, kind: str, message: str, hint: str | None) -> None:
        self.code = code
        self.kind = kind
        self.message = " ".join(message.split())
        self.hint = None if hint is None else " ".join(hint.split())

    def lines(self) -> list[str]:
        """The one or two lines for stderr."""
        first = f"error[{self.kind}]: {self.message}"
        return [first] if self.hint is None else [first, f"hint: {self.hint}"]

    def document(self) -> dict[str, object]:
        """The JSON document that takes the place of the result."""
        return {
            "error": {
                "kind": self.kind,
                "message": self.message,
                "hint": self.hint,
                "exit_code": self.code,
            }
        }


def checked_code(reports: Iterable[VerifyReport]) -> int:
    """Exit code for archives that were checked: damage first, then what could not be checked."""
    codes = set()
    for report in reports:
        if report.findings:
            return EXIT_DAMAGE
        if report.not_decoded is not None:
            codes.add(_LACKING.get(report.not_decoded.kind, EXIT_RELEASE))
    return min(codes, default=EXIT_OK)


def _psc_code(error: PscError) -> int:
    from pipelines.restoring.proof import ProofError

    if isinstance(error, ParameterError):
        return EXIT_USAGE
    if isinstance(error, UnsupportedVersionError):
        return EXIT_RELEASE
    if isinstance(error, FormatError):
        return EXIT_FORMAT
    if isinstance(error, ProofError):
        return EXIT_DAMAGE
    if isinstance(error, PriorMismatchError):
        return EXIT_PRIOR
    if isinstance(error, StorageError):
        return EXIT_STORAGE
    return EXIT_INTERNAL


def _stopped(error: KeyboardInterrupt) -> Failure:
    hint = "run the same command again; what was finished stays"
    if isinstance(error, Stopped):
        text = f"stopped by {error.signal.name} before the end"
        return Failure(error.exit_code, "stopped", text, hint)
    return Failure(EXIT_INTERRUPTED, "interrupted", "stopped by the user before the end", hint)


def describe_failure(error: BaseException) -> Failure:
    """Exit code, kind, message and hint for an error of any class."""
    from adapters.errors import SourceError

    if isinstance(error, InstallationError):
        is_extra = isinstance(error, ExtraMissingError)
        code = EXIT_EXTRA if is_extra else EXIT_INSTALLATION
        return Failure(code, error.kind, error.message, error.hint)
    if isinstance(error, PscError):
        return Failure(_psc_code(error), error.kind, error.message, error.hint)
    if isinstance(error, SourceError):
        code = EXIT_STORAGE if error.kind in _ABOUT_TARGETS else EXIT_SOURCE
        text = str(error).removesuffix(f"; {error.hint}")  # which has the path
        return Failure(code, error.kind, text, error.hint)
    if isinstance(error, KeyboardInterrupt):
        return _stopped(error)
    if isinstance(error, OSError):
        return Failure(
            EXIT_STORAGE,
            "storage",
            f"{type(error).__name__}: {error}",
            "check that the path exists, is writable and has free space",
        )
    if isinstance(error, MemoryError):
        from pipelines.archiving.item_report import ItemError

        said = ItemError.of(error)
        return Failure(EXIT_INTERNAL, said.kind, said.message, said.hint)
    return Failure(
        EXIT_INTERNAL,
        "internal",
        f"{type(error).__name__}: {error}",
        "this is a fault of the program; run again with --debug and report the traceback",
    )
