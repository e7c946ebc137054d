"""De-identified copies of DICOM files, which are archived in the place of the files themselves.

An archive gives back what it was made from, so what must not be in it is left out before: headers
are changed by `adapters.dicom.deidentify`, under the key of the pseudonyms. The same files give the
same copies, so that a second run finds what the first one archived.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from adapters import isolation
from adapters.base import Candidate
from adapters.errors import SourceError
from pipelines.archiving.choices import DEIDENTIFY
from pipelines.archiving.options import ArchiveOptions
from pipelines.archiving.pseudonyms import Pseudonyms
from pipelines.scratch import scratch_folder
from psc_volumetric.errors import ParameterError, StorageError
from psc_volumetric.extras import require

__all__ = ["Deidentifier", "check_profile", "deidentifying"]

_SPARE_BYTES = 64 << 20


class Deidentifier:
    """Makes copies in a folder; `deidentifying` gives one.

    Parameters
    ----------
    key : bytes
    profile : str
        One of `DEIDENTIFY`.
    folder : Path
    """

    def __init__(self, key: bytes, profile: str, folder: Path) -> None:
        self._key = key
        self._profile = profile
        self._folder = folder
        self._originals: list[Candidate] = []

    @property
    def stamp(self) -> str:
        """Profile, and which key it is, without the key."""
        return f"{self._profile} {hashlib.sha256(b'stamp' + self._key).hexdigest()[:16]}"

    def copy_of(self, candidate: Candidate) -> tuple[Candidate, tuple[str, ...]]:
        """De-identified copies of the files of an item, and warnings about their pixels.

        Raises
        ------
        SourceError : kind ``"cannot-deidentify"``: no DICOM image, an overlay within the pixels, or
            copies that are no longer one series.
        StorageError : kind ``"no-space"``.
        """
        if candidate.kind != "dicom":
            raise SourceError(
                f"expected a DICOM image, found {candidate.kind}: nobody knows what identifies a "
                "person in it",
                kind="cannot-deidentify",
                path=candidate.paths[0],
                hint="archive it in a run of its own, without --deidentify",
            )
        place = self._folder / f"{len(self._originals):06d}"
        self._originals.append(candidate)
        notes = self._fill(place, candidate)
        found = isolation.discover(place).candidates
        if len(found) != 1:
            shutil.rmtree(place, ignore_errors=True)
            raise SourceError(
                f"expected one series after de-identification, found {len(found)}: what told them "
                "apart was removed",
                kind="cannot-deidentify",
                path=candidate.paths[0],
                hint="try --deidentify basic-shifted-dates, which keeps times",
            )
        return found[0], notes

    def drop(self, copy: Candidate) -> None:
        """Remove copies that `copy_of` made, before all go."""
        shutil.rmtree(copy.paths[0].parent, ignore_errors=True)

    @contextmanager
    def present(self, copy: Candidate) -> Iterator[None]:
        """Make dropped copies again, in their place and of the same bytes, for a block.

        Raises
        ------
        SourceError, StorageError : as `copy_of`.
        """
        place = copy.paths[0].parent
        self._fill(place, self._originals[int(place.name)])
        try:
            yield
        finally:
            self.drop(copy)

    def _fill(self, place: Path, candidate: Candidate) -> tuple[str, ...]:
        """Copies of an item in a new folder; gives the warnings."""
        self._check_room(candidate)
        try:
            place.mkdir()
            return isolation.deidentify(candidate.paths, place, self._key, self._profile)
        except (SourceError, OSError):
            shutil.rmtree(place, ignore_errors=True)
            raise

    def _check_room(self, candidate: Candidate) -> None:
        needed = sum(path.stat().st_size for path in candidate.paths) + _SPARE_BYTES
        free = shutil.disk_usage(self._folder).free
        if free < needed:
            raise StorageError(
                f"de-identified copies need {needed} bytes of disk space, found {free} in "
                f"{str(self._folder.parent)!r}",
                kind="no-space",
                hint="set TMPDIR to a larger disk",
            )


def check_profile(profile: str | None, *, has_key: bool) -> None:
    """Refuse a profile that there is not, or one without a key (kind ``"bad-deidentify"``)."""
    if profile is None:
        return
    if profile not in DEIDENTIFY:
        raise ParameterError(
            f"deidentify must be one of {', '.join(DEIDENTIFY)}, found {profile!r}",
            kind="bad-deidentify",
        )
    if not has_key:
        raise ParameterError(
            "UIDs and patient ids are mapped by a keyed hash, found no key",
            kind="bad-deidentify",
            hint="make one with `psc-archive pseudonyms make KEYFILE`, name it with --pseudonyms",
        )


@contextmanager
def deidentifying(
    profile: str | None,
    key: Pseudonyms | None,
    options: ArchiveOptions,
    target: str,
    *,
    beside: bool = False,
) -> Iterator[Deidentifier | None]:
    """Give a `Deidentifier` whose copies are gone after the block; None without a profile.

    With `beside` they stand beside a target that is a folder, where other machines reach them.

    Raises
    ------
    ParameterError : kind ``"bad-deidentify"``: there is no such profile, no key, or originals are
        to be kept as well.
    ExtraMissingError : the library of rules is not installed.
    """
    if profile is None:
        yield None
        return
    check_profile(profile, has_key=key is not None)
    assert key is not None
    if options.keep_original:
        raise ParameterError(
            "files are either kept as they are or de-identified",
            kind="bad-deidentify",
            hint="leave --keep-original or --deidentify out",
        )
    require("deidentify", "--deidentify")
    with scratch_folder(target, 0, purpose="de-identifying", beside=beside) as folder:
        yield Deidentifier(key.key, profile, folder)
