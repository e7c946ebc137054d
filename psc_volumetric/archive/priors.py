"""Priors kept inside an archive, and finding them again by digest."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from psc_volumetric.errors import FormatError, PriorMismatchError
from psc_volumetric.of_process import OwnLock

if TYPE_CHECKING:
    from psc_volumetric.prior import Prior

__all__ = ["EmbeddedPriors", "prior_prefix"]

KEPT = 4

_lock = OwnLock()
_loaded: OrderedDict[str, Prior] = OrderedDict()


def prior_prefix(digest: str) -> str:
    """Folder of a prior's files in the tree."""
    return f"priors/{digest}/"


class EmbeddedPriors:
    """A ``PriorSource``: first the priors of an archive, then the shipped ones.

    Parameters
    ----------
    keys : iterable of str
        Keys of the archive; those under ``priors/`` are used.
    read : callable
        Key -> its checked bytes.

    Notes
    -----
    A loaded prior is kept for the whole process under its digest, which is checked when it is
    loaded; at most four are kept.
    """

    def __init__(self, keys: Mapping[str, object], read: Callable[[str], bytes]) -> None:
        self._files: dict[str, list[str]] = {}
        for key in keys:
            parts = key.split("/", 2)
            if parts[0] == "priors" and len(parts) == 3 and len(parts[1]) == 64:
                self._files.setdefault(parts[1], []).append(key)
        self._read = read

    @property
    def digests(self) -> tuple[str, ...]:
        """Digests of the priors in the archive."""
        return tuple(sorted(self._files))

    def __call__(self, digest: str) -> Prior:
        """Prior with this digest (64 hex digits, or the first 32).

        Raises
        ------
        PriorMismatchError
            Neither in the archive nor shipped with this package.
        """
        digest = digest.lower()
        with _lock:
            for known in _loaded:
                if known.startswith(digest):
                    _loaded.move_to_end(known)
                    return _loaded[known]
            prior = self._load(digest)
            _loaded[prior.digest] = prior
            while len(_loaded) > KEPT:
                _loaded.popitem(last=False)
            return prior

    def _load(self, digest: str) -> Prior:
        from psc_volumetric.prior import prior_from_files, resolve_prior

        if len(digest) < 32:
            raise FormatError(
                f"prior digest {digest!r}: expected at least 32 hex digits", kind="bad-digest"
            )
        for full, keys in self._files.items():
            if full.startswith(digest):
                prefix = prior_prefix(full)
                files = {key.removeprefix(prefix): self._read(key) for key in keys}
                return prior_from_files(files, full)
        try:
            return resolve_prior(digest)
        except PriorMismatchError as error:
            held = ", ".join(self.digests) or "none"
            raise PriorMismatchError(
                f"the archive needs prior {digest}; it holds {held}, and this installation ships "
                "no such prior",
                kind="prior-missing",
                hint="the archive was made without it (archive --no-prior-inside): its README.txt "
                "names a release of psc-archive that ships it",
            ) from error
