"""Whether an archive is the one that was sealed: its manifest's digest, and who signed it.

A manifest vouches for every byte of an archive, but not for itself: who changes both makes another
valid archive. What was written down elsewhere tells the two apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipelines.key_files import read_key_file
from psc_volumetric.archive.checking import Finding
from psc_volumetric.archive.companions import SIGNATURE_SUFFIX, companion_name, read_companion
from psc_volumetric.archive.layout import MANIFEST_KEY
from psc_volumetric.archive.manifest import Manifest
from psc_volumetric.archive.signature import PublicKey, public_keys, signer_of
from psc_volumetric.archive.stores import target_text
from psc_volumetric.errors import FormatError, ParameterError

__all__ = ["ANYBODY", "Trust"]


@dataclass(frozen=True)
class Trust:
    """What is known of an archive from elsewhere.

    Attributes
    ----------
    expect : str or None
        Digest of its manifest, 64 hexadecimal digits.
    keys : tuple of PublicKey
        Who may have signed it; empty: nobody is asked for.
    signature : str or None
        File of this machine with the signature; None is the one beside the archive.

    Raises
    ------
    ParameterError : kind ``"bad-digest"``; ``"no-public-key"``: a signature, and nobody to trust.
    """

    expect: str | None = None
    keys: tuple[PublicKey, ...] = ()
    signature: str | None = None

    def __post_init__(self) -> None:
        if self.expect is not None and not re.fullmatch("[0-9a-f]{64}", self.expect):
            raise ParameterError(
                f"expected the digest of a manifest, 64 hexadecimal digits, found {self.expect!r}",
                kind="bad-digest",
                hint="`psc-archive archive`, `info` and `verify` print it",
            )
        if self.signature is not None and not self.keys:
            raise ParameterError(
                "a signature says nothing without the key of somebody you trust",
                kind="no-public-key",
                hint="name it with --public-key",
            )

    @classmethod
    def of(
        cls,
        expect: str | None = None,
        key_files: tuple[Path, ...] = (),
        signature: Path | None = None,
    ) -> Trust:
        """Read the key files.

        Raises
        ------
        ParameterError : as above; kind ``"no-key"``, ``"bad-key"``.
        ExtraMissingError : keys take the extra ``sign``.
        """
        keys = [
            key for path in key_files for key in public_keys(read_key_file(path), where=str(path))
        ]
        digest = None if expect is None else expect.strip().lower().removeprefix("sha256:")
        return cls(digest, tuple(keys), None if signature is None else str(signature))

    def findings(self, archive: str, data: bytes, manifest: Manifest) -> Iterator[Finding]:
        """What is not as it is known from elsewhere.

        Parameters
        ----------
        archive : str
            Path or URL.
        data : bytes
            The manifest as it is stored.
        manifest : Manifest
        """
        name = target_text(archive)
        if self.expect not in (None, manifest.digest):
            yield Finding(
                MANIFEST_KEY,
                "other-manifest",
                f"{name}: expected the manifest {self.expect}, found {manifest.digest}: this is "
                "another archive, or it was changed together with its manifest",
            )
        if self.keys:
            finding = self._of_signature(archive, data)
            if finding is not None:
                yield finding

    def _of_signature(self, archive: str, data: bytes) -> Finding | None:
        where = self.signature or target_text(companion_name(archive, SIGNATURE_SUFFIX))
        if self.signature is None:
            text = read_companion(archive, SIGNATURE_SUFFIX)
        else:
            text = read_key_file(Path(self.signature))
        if text is None:
            name = target_text(archive)
            return Finding(MANIFEST_KEY, "not-signed", f"{name}: there is no signature {where}")
        try:
            signer = signer_of(text, data, where=where)
        except FormatError as error:
            return Finding(MANIFEST_KEY, error.kind, str(error))
        if signer in self.keys:
            return None
        return Finding(
            MANIFEST_KEY,
            "unknown-signer",
            f"{where}: signed by {signer.fingerprint}, who is none of those you trust: "
            + ", ".join(key.fingerprint for key in self.keys),
        )


ANYBODY = Trust()
