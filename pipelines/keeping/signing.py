"""Signing an archive: a file beside it says who vouches for its manifest."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipelines.collection import refuse_folder
from pipelines.key_files import read_key_file
from psc_volumetric.archive.access import read_manifest
from psc_volumetric.archive.companions import (
    SIGNATURE_SUFFIX,
    companion_name,
    read_companion,
    write_companion,
)
from psc_volumetric.archive.signature import sign as sign_bytes
from psc_volumetric.archive.signature import signer_of
from psc_volumetric.archive.stores import open_store
from psc_volumetric.errors import FormatError, StorageError

__all__ = ["Signed", "sign", "sign_lines"]


@dataclass(frozen=True)
class Signed:
    """A signature that was made, or was there.

    Attributes
    ----------
    archive, signature : str
        The archive and the file with the signature.
    manifest : str
        Digest of the manifest.
    signer : str
        Fingerprint of the key, as ``ssh-keygen -l`` shows it.
    was_there : bool
    """

    archive: str
    signature: str
    manifest: str
    signer: str
    was_there: bool

    def to_dict(self) -> dict[str, Any]:
        """JSON-able record."""
        return asdict(self)


def sign(archive: str, key: Path, signature: Path | None = None) -> Signed:
    """Sign the manifest of a sealed archive; the archive itself is not written to.

    Parameters
    ----------
    archive : str
        Path or URL.
    key : Path
        Private Ed25519 key without a passphrase, OpenSSH or PEM, that nobody else may read.
    signature : Path, optional
        File for the signature; None is the place beside the archive, ``ARCHIVE.sig``.

    Raises
    ------
    FormatError : the archive is not sealed, or its manifest is damaged. Its objects are not read.
    ParameterError : kind ``"no-key"``, ``"bad-key"``; a folder of archives.
    StorageError : kind ``"target-exists"``: another signature is there; none is ever replaced.
    ExtraMissingError : the extra ``sign`` is not installed.
    """
    refuse_folder(archive)
    secret = read_key_file(key, secret=True)
    store = open_store(archive)
    try:
        data, manifest = read_manifest(store)
    finally:
        store.close()
    text, signer = sign_bytes(data, secret, where=str(key))
    place = str(signature or companion_name(archive, SIGNATURE_SUFFIX))
    base = place.removesuffix(SIGNATURE_SUFFIX)
    suffix = SIGNATURE_SUFFIX if place.endswith(SIGNATURE_SUFFIX) else ""
    was_there = read_companion(base, suffix) is not None
    if not write_companion(base, suffix, text):
        _refuse_other(read_companion(base, suffix) or b"", data, place, signer.fingerprint)
    return Signed(archive, place, manifest.digest, signer.fingerprint, was_there)


def _refuse_other(found: bytes, manifest: bytes, place: str, signer: str) -> None:
    """Refuse a signature that is there, unless it is one by this key over this manifest."""
    try:
        if signer_of(found, manifest, where=place).fingerprint == signer:
            return
    except FormatError:
        pass
    raise StorageError(
        f"{place}: another signature is there",
        kind="target-exists",
        hint="none is replaced; write this one elsewhere with --signature",
    )


def sign_lines(signed: Signed) -> list[str]:
    """The outcome for people."""
    return [
        f"{'there' if signed.was_there else 'signed':<9} {signed.signature}",
        f"          by {signed.signer}, manifest {signed.manifest}",
    ]
