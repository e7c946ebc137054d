"""Whether an archive is whole and unchanged, and still decodes to what was recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.collection import archives_in, folder_of
from pipelines.progress import Progress, Silent
from psc_volumetric.archive.checking import Finding, verify_archive
from psc_volumetric.errors import ExtraMissingError, ParameterError, PscError, StorageError

__all__ = [
    "VerifyReport",
    "parse_share",
    "reports_document",
    "verify",
    "verify_all",
    "verify_lines",
]


@dataclass(frozen=True)
class VerifyReport:
    """Outcome of one check.

    Attributes
    ----------
    archive : str
    deep : bool
        Whether bricks were decoded too.
    sample : float
        Share that was read.
    checked : dict
        Number of objects, and of bricks for a deep check.
    findings : tuple of Finding
        What is wrong; empty when all is well.
    """

    archive: str
    deep: bool
    sample: float
    checked: dict[str, int]
    findings: tuple[Finding, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able record."""
        return {
            "archive": self.archive,
            "ok": not self.findings,
            "deep": self.deep,
            "sample": self.sample,
            "checked": self.checked,
            "findings": [finding.to_dict() for finding in self.findings],
        }


def parse_share(text: str) -> float:
    """A share of an archive: ``5%``, ``0.05`` or ``1/20``.

    Raises
    ------
    ParameterError : not a number above 0 and at most 1.
    """
    try:
        if text.endswith("%"):
            share = float(text[:-1]) / 100
        elif "/" in text:
            part, whole = text.split("/")
            share = float(part) / float(whole)
        else:
            share = float(text)
    except (ValueError, ZeroDivisionError) as error:
        raise _bad_share(text) from error
    if not 0 < share <= 1:
        raise _bad_share(text)
    return share


def _bad_share(text: str) -> ParameterError:
    return ParameterError(
        f"expected a share above 0 and at most 1, found {text!r}",
        kind="bad-sample",
        hint="write it as 5%, 0.05 or 1/20",
    )


def verify(
    archive: str,
    *,
    sample: float = 1.0,
    deep: bool = False,
    seed: int = 0,
    device: str = "auto",
    progress: Progress | None = None,
) -> VerifyReport:
    """Check an archive and list everything that is wrong.

    Parameters
    ----------
    archive : str
        Path or URL.
    sample : float
        Share of the objects to read, 0 < sample <= 1; presence is always checked completely.
    deep : bool
        Also decode bricks and compare the digest of every tile.
    seed : int
        Which sample; another number takes another one.
    device : str
        Where the network runs.
    progress : Progress, optional

    Raises
    ------
    FormatError : not an archive, not sealed, or the manifest itself is damaged.
    StorageError : nothing is there.
    """
    shown = progress or Silent()
    checked: dict[str, int] = {}

    def tell(stage: str, done: int, total: int) -> None:
        if stage not in checked:
            shown.begin(stage, total)
        shown.advance(done - checked.get(stage, 0))
        checked[stage] = done

    findings = tuple(
        verify_archive(archive, sample=sample, deep=deep, seed=seed, device=device, progress=tell)
    )
    return VerifyReport(archive, deep, sample, checked, findings)


def verify_all(
    target: str,
    *,
    sample: float = 1.0,
    deep: bool = False,
    seed: int = 0,
    device: str = "auto",
    progress: Progress | None = None,
) -> list[VerifyReport]:
    """Check an archive, or every archive in a folder and the folders in it; see `verify`.

    In a folder, an archive that cannot be opened is a finding like others.

    Raises
    ------
    StorageError : the folder holds no archive (kind ``"not-found"``).
    ExtraMissingError : bricks of one take what is not installed; a note says of which.
    """
    folder = folder_of(target)
    found = [target] if folder is None else [str(path) for path in archives_in(folder)]
    if not found:
        raise StorageError(
            f"{target}: expected an archive or a folder of archives, found none in it",
            kind="not-found",
            hint="check the path",
        )
    reports = []
    for path in found:
        try:
            reports.append(
                verify(path, sample=sample, deep=deep, seed=seed, device=device, progress=progress)
            )
        except ExtraMissingError as error:
            error.add_note(f"{path} cannot be decoded here; without --deep its bytes are checked")
            raise
        except PscError as error:
            if folder is None:
                raise
            finding = Finding("", error.kind, str(error))
            reports.append(VerifyReport(path, deep, sample, {}, (finding,)))
    return reports


def reports_document(reports: Sequence[VerifyReport]) -> dict[str, Any]:
    """JSON-able record: of the one archive, or of all under ``archives``."""
    if len(reports) == 1:
        return reports[0].to_dict()
    documents = [report.to_dict() for report in reports]
    return {"ok": all(document["ok"] for document in documents), "archives": documents}


def verify_lines(report: VerifyReport) -> list[str]:
    """The outcome for people: what is wrong, tile and region included."""
    lines = []
    for finding in report.findings:
        where = "" if finding.tile is None else f" tile {finding.tile}"
        if finding.roi is not None:
            where += " voxels " + " ".join(f"{start}:{stop}" for start, stop in finding.roi)
        lines.append(f"damage[{finding.kind}]{where}: {finding.message}")
    counts = ", ".join(f"{count} {stage}" for stage, count in report.checked.items())
    how = "decoded and compared" if report.deep else "read and compared"
    verdict = f"{len(report.findings)} problem(s)" if report.findings else "no damage"
    return [*lines, f"{verdict} in {report.archive} ({counts} {how})"]
