"""Whether an archive is whole and unchanged, and still decodes to what was recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, TypedDict, Unpack

from pipelines.checking.priors_outside import outside_text
from pipelines.checking.trust import ANYBODY, Trust
from pipelines.collection import archives_at, archives_in, folder_of
from pipelines.progress import Progress, Silent
from psc_volumetric.archive.access import SealedStore, read_manifest
from psc_volumetric.archive.checking import Finding, verify_sealed
from psc_volumetric.archive.outside import priors_outside
from psc_volumetric.archive.reader import ArchiveReader
from psc_volumetric.archive.stores import open_store, target_text
from psc_volumetric.errors import (
    ExtraMissingError,
    InstallationError,
    ParameterError,
    PriorMismatchError,
    PscError,
    StorageError,
    UnsupportedVersionError,
)

__all__ = [
    "NotDecoded",
    "VerifyReport",
    "reports_document",
    "verify",
    "verify_all",
    "verify_here",
    "verify_lines",
]

SHOWN = 12  # other places of one damaged object


@dataclass(frozen=True)
class NotDecoded:
    """Why not all was checked that was asked for: this machine lacks something.

    Attributes
    ----------
    kind : str
        ``"prior-missing"``, ``"extra-missing"``, or that of an `UnsupportedVersionError`.
    message : str
        What it is, and where it is to be had.
    """

    kind: str
    message: str


@dataclass(frozen=True)
class VerifyReport:
    """Outcome of one check.

    Attributes
    ----------
    archive : str
    deep : bool
        Whether bricks were decoded too.
    sample : float or str
        Share, or part, that was read.
    checked : dict
        Number of objects, and of bricks for a deep check.
    findings : tuple of Finding
        What is wrong; empty when all is well.
    manifest : str or None
        Digest of the manifest; None where it cannot be read.
    priors_outside : tuple of str
        Digests of priors that bricks need and that were left out of the archive; empty where
        something is wrong.
    not_decoded : NotDecoded or None
        Why bricks were not decoded; their bytes were checked, unless `was_read` says otherwise.
    """

    archive: str
    deep: bool
    sample: float | str
    checked: dict[str, int]
    findings: tuple[Finding, ...]
    manifest: str | None = None
    priors_outside: tuple[str, ...] = ()
    not_decoded: NotDecoded | None = None

    @property
    def was_read(self) -> bool:
        """Whether anything is known of it; not of one whose manifest another release reads."""
        return bool(self.findings) or self.manifest is not None

    @property
    def outcome(self) -> str:
        """``"ok"``, ``"damaged"``, or ``"not-checked"``: whole as far as this machine can tell."""
        if self.findings:
            return "damaged"
        return "ok" if self.not_decoded is None else "not-checked"

    def to_dict(self) -> dict[str, Any]:
        """JSON-able record."""
        return {
            "archive": self.archive,
            "ok": self.outcome == "ok",
            "manifest": self.manifest,
            "deep": self.deep,
            "sample": self.sample,
            "checked": self.checked,
            "priors_outside": list(self.priors_outside),
            "not_decoded": None if self.not_decoded is None else dict(vars(self.not_decoded)),
            "findings": [finding.to_dict() for finding in self.findings],
        }


class How(TypedDict, total=False):
    """How an archive is checked: what `verify` takes besides its place."""

    sample: float | str
    deep: bool
    seed: int
    device: str
    trust: Trust
    progress: Progress | None


def verify(
    archive: str,
    *,
    sample: float | str = 1.0,
    deep: bool = False,
    seed: int = 0,
    device: str = "auto",
    trust: Trust = ANYBODY,
    progress: Progress | None = None,
) -> VerifyReport:
    """Check an archive and list everything that is wrong.

    Parameters
    ----------
    archive : str
        Path or URL.
    sample : float or str
        Which objects to read: a share (``0.05``, ``"5%"``) or a part (``"3/7"``, the third of
        seven); presence is always checked completely.
    deep : bool
        Also decode bricks and compare the digest of every tile.
    seed : int
        Which sample; another number takes another one.
    device : str
        Where the network runs.
    trust : Trust
        What is known of the archive from elsewhere.
    progress : Progress, optional

    Raises
    ------
    FormatError : not an archive, not sealed, or the manifest itself is damaged.
    StorageError : nothing is there.
    PriorMismatchError : bricks are to be decoded with a prior that is neither inside nor here.
    UnsupportedVersionError : another release reads the archive, or what is to be decoded of it.
    """
    shown = progress or Silent()
    checked: dict[str, int] = {}

    def tell(stage: str, done: int, total: int) -> None:
        if stage not in checked:
            shown.begin(stage, total)
        shown.advance(done - checked.get(stage, 0))
        checked[stage] = done

    store = open_store(archive)
    try:
        data, manifest = read_manifest(store)
        findings = list(trust.findings(archive, data, manifest))
        sealed = SealedStore(store, manifest)
        findings += verify_sealed(
            sealed, sample=sample, deep=deep, seed=seed, device=device, progress=tell
        )
        outside = () if findings else _priors_outside(sealed)
    finally:
        store.close()
    name = target_text(archive)
    return VerifyReport(name, deep, sample, checked, tuple(findings), manifest.digest, outside)


def verify_here(archive: str, **how: Unpack[How]) -> VerifyReport:
    """Check an archive as deep as this machine can; the report says where that is not deep enough.

    Where bricks take a prior that was left out of the archive and does not ship here, an extra that
    is not installed, or another release, their bytes are checked; where the archive as a whole is
    of another release, nothing is. That is no damage: it is about this machine. Parameters and
    errors are otherwise those of `verify`.
    """
    try:
        return verify(archive, **how)
    except UnsupportedVersionError as error:
        lacking = NotDecoded(error.kind, str(error))
    except (ExtraMissingError, PriorMismatchError) as error:
        if not how.get("deep") or error.kind not in ("extra-missing", "prior-missing"):
            raise
        lacking = NotDecoded(error.kind, str(error))
    shallow = how.copy()
    shallow["deep"] = False
    try:
        return replace(verify(archive, **shallow), not_decoded=lacking)
    except UnsupportedVersionError:
        sample = how.get("sample", 1.0)
        return VerifyReport(target_text(archive), False, sample, {}, (), not_decoded=lacking)


def _priors_outside(sealed: SealedStore) -> tuple[str, ...]:
    """Digests of priors that were left out of an archive; none where it cannot be opened."""
    try:
        return priors_outside(ArchiveReader(sealed))
    except PscError:
        return ()


def verify_all(target: str, **how: Unpack[How]) -> list[VerifyReport]:
    """Check an archive, or every archive in a folder or bucket and below; see `verify`.

    In a folder, an archive that cannot be opened is a finding like others, and one that cannot be
    decoded here keeps nobody from the others: see `verify_here`.

    Raises
    ------
    StorageError : the folder holds no archive (kind ``"not-found"``).
    ParameterError : one digest is expected of several archives (kind ``"several-archives"``).
    InstallationError : bricks of the archive take what is not installed (an `ExtraMissingError`),
        or the installation is not whole; a note says of which archive.
    PriorMismatchError : the prior of the archive is neither inside nor here; likewise.
    UnsupportedVersionError : another release reads the archive.
    """
    folder = folder_of(target)
    if folder is None:
        found = archives_at(target) or [target]
    else:
        found = [str(path) for path in archives_in(folder)]
    if not found:
        raise StorageError(
            f"{target}: expected an archive or a folder of archives, found none in it",
            kind="not-found",
            hint="check the path",
        )
    trust = how.get("trust", ANYBODY)
    if len(found) > 1 and (trust.expect or trust.signature):
        raise ParameterError(
            f"expected one archive to compare with one digest or signature, found {len(found)}",
            kind="several-archives",
            hint="name one of them; keys alone are asked of all",
        )
    reports = []
    check = verify if found == [target] else verify_here
    for path in found:
        try:
            reports.append(check(path, **how))
        except (InstallationError, PriorMismatchError) as error:
            error.add_note(f"{path} cannot be decoded here; without --deep its bytes are checked")
            raise
        except PscError as error:
            if found == [target]:
                raise
            finding = Finding("", error.kind, str(error))
            deep, sample = how.get("deep", False), how.get("sample", 1.0)
            reports.append(VerifyReport(path, deep, sample, {}, (finding,)))
    return reports


def reports_document(reports: Sequence[VerifyReport]) -> dict[str, Any]:
    """JSON-able record: of the one archive, or of all under ``archives``."""
    if len(reports) == 1:
        return reports[0].to_dict()
    documents = [report.to_dict() for report in reports]
    return {"ok": all(document["ok"] for document in documents), "archives": documents}


def verify_lines(report: VerifyReport) -> list[str]:
    """The outcome for people: what is wrong, with array, tile, level, voxels and place."""
    lines = []
    for _, alike in groupby(report.findings, key=lambda finding: (finding.key, finding.kind)):
        first, *others = alike
        lines.append(f"damage[{first.kind}] {first.place}".rstrip() + f": {first.message}")
        lines += [f"  and {other.place}" for other in others[:SHOWN]]
        if len(others) > SHOWN:
            lines.append(f"  and {len(others) - SHOWN} more places (--json has all)")
    counts = ", ".join(f"{count} {stage}" for stage, count in report.checked.items())
    how = "decoded and compared" if report.deep else "read and compared"
    verdict = f"{len(report.findings)} problem(s)" if report.findings else "no damage"
    lines.append(f"{verdict} in {report.archive} ({counts or 'nothing'} {how})")
    lacking = report.not_decoded
    if lacking is not None and not report.was_read:
        return [f"not checked[{lacking.kind}] {lacking.message}"]
    if lacking is not None:
        lines.append(f"not checked[{lacking.kind}] what bricks decode to: {lacking.message}")
    lines += [f"prior {outside_text(d)}" for d in report.priors_outside]
    return lines if report.manifest is None else [*lines, f"manifest {report.manifest}"]
