"""Signatures over a manifest: Ed25519, in the format of OpenSSH (``ssh-keygen -Y``).

A signature is a file of its own that OpenSSH makes and checks, too, so that neither needs this
package. It says who vouches for the manifest, and with it for every byte of the archive:

    ssh-keygen -Y sign -n psc-archive -f KEY manifest.json
    ssh-keygen -Y verify -n psc-archive -f SIGNERS -I NAME -s scan.psc.zarr.sig < manifest.json
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from psc_volumetric.errors import ChecksumError, FormatError, ParameterError
from psc_volumetric.extras import require

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

__all__ = ["NAMESPACE", "PublicKey", "public_keys", "sign", "signer_of"]

NAMESPACE = "psc-archive"
MAGIC, VERSION = b"SSHSIG", 1
KEY_TYPE = b"ssh-ed25519"
HASHES = {b"sha512": hashlib.sha512, b"sha256": hashlib.sha256}
BEGIN, END = b"-----BEGIN SSH SIGNATURE-----", b"-----END SSH SIGNATURE-----"
LINE = 70
LARGEST = 1 << 16  # bytes of a key file or of a signature
_PUBLIC = re.compile(rb"\bssh-ed25519[ \t]+([A-Za-z0-9+/]+=*)")
_HINT = "make one with `ssh-keygen -t ed25519 -f KEY`, which also writes KEY.pub"


@dataclass(frozen=True)
class PublicKey:
    """An Ed25519 key that signatures are checked with.

    Attributes
    ----------
    raw : bytes
        32 bytes.
    """

    raw: bytes

    @property
    def blob(self) -> bytes:
        """As OpenSSH writes it."""
        return _string(KEY_TYPE) + _string(self.raw)

    @property
    def fingerprint(self) -> str:
        """What ``ssh-keygen -l`` shows: ``SHA256:...``."""
        digest = base64.b64encode(hashlib.sha256(self.blob).digest()).decode("ascii")
        return f"SHA256:{digest.rstrip('=')}"


def public_keys(data: bytes, *, where: str) -> tuple[PublicKey, ...]:
    """The keys in a file: ``KEY.pub``, several such lines, OpenSSH's allowed signers, or PEM.

    Raises
    ------
    ParameterError : there is no Ed25519 key in it (kind ``"bad-key"``).
    ExtraMissingError : the extra ``sign`` is not installed.
    """
    require("sign", "checking a signature")
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    found: list[PublicKey] = []
    if b"-----BEGIN PUBLIC KEY-----" in data:
        try:
            loaded = load_pem_public_key(data)
        except (ValueError, UnsupportedAlgorithm):
            loaded = None
        if isinstance(loaded, Ed25519PublicKey):
            found.append(PublicKey(loaded.public_bytes_raw()))
    for text in _PUBLIC.findall(data):
        try:
            fields = _Fields(base64.b64decode(text, validate=True), where)
            if fields.string() == KEY_TYPE and len(raw := fields.string()) == 32:
                found.append(PublicKey(raw))
        except (binascii.Error, FormatError):
            continue
    if not found:
        raise ParameterError(
            f"{where}: expected an Ed25519 public key, found none", kind="bad-key", hint=_HINT
        )
    return tuple(found)


def sign(manifest: bytes, key: bytes, *, where: str) -> tuple[bytes, PublicKey]:
    """Sign the bytes of a manifest.

    Parameters
    ----------
    manifest : bytes
    key : bytes
        A private key file: OpenSSH's own format or PEM, without a passphrase.
    where : str
        The file's name, for messages.

    Returns
    -------
    signature : bytes
        The text of ``scan.psc.zarr.sig``.
    signer : PublicKey

    Raises
    ------
    ParameterError : no Ed25519 key, or one with a passphrase (kind ``"bad-key"``).
    ExtraMissingError : the extra ``sign`` is not installed.
    """
    private = _private_key(key, where)
    public = PublicKey(private.public_key().public_bytes_raw())
    hashed = b"sha512"
    signed = private.sign(_signed(hashed, manifest))
    blob = (
        MAGIC
        + VERSION.to_bytes(4, "big")
        + b"".join(map(_string, (public.blob, NAMESPACE.encode(), b"", hashed)))
        + _string(_string(KEY_TYPE) + _string(signed))
    )
    text = base64.b64encode(blob)
    lines = [text[at : at + LINE] for at in range(0, len(text), LINE)]
    return b"\n".join([BEGIN, *lines, END, b""]), public


def _private_key(data: bytes, where: str) -> Ed25519PrivateKey:
    require("sign", "signing an archive")
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import (
        load_pem_private_key,
        load_ssh_private_key,
    )

    load = load_ssh_private_key if b"BEGIN OPENSSH" in data else load_pem_private_key
    try:
        key = load(data, password=None)
    except TypeError as error:  # it is encrypted
        raise ParameterError(
            f"{where}: the key has a passphrase",
            kind="bad-key",
            hint=f"let OpenSSH or its agent sign: ssh-keygen -Y sign -n {NAMESPACE} -f {where} "
            "manifest.json, and name the result with --signature",
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ParameterError(
            f"{where}: expected a private key of OpenSSH or PEM, found something else",
            kind="bad-key",
            hint=_HINT,
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ParameterError(
            f"{where}: expected an Ed25519 key, found another kind", kind="bad-key", hint=_HINT
        )
    return key


def signer_of(signature: bytes, manifest: bytes, *, where: str) -> PublicKey:
    """Whose valid signature over these bytes it is; whether to trust them is not asked here.

    Raises
    ------
    FormatError : no signature of this kind (kind ``"bad-signature"``).
    ChecksumError : it is one over other bytes (the same kind).
    ExtraMissingError : the extra ``sign`` is not installed.
    """
    require("sign", "checking a signature")
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    fields = _Fields(_unarmoured(signature, where), where)
    try:
        if fields.take(len(MAGIC)) != MAGIC or fields.number() != VERSION:
            raise _bad(where, "it is of another version")
        key, namespace, reserved, hashed = (fields.string() for _ in range(4))
        public, signed = _Fields(key, where), _Fields(fields.string(), where)
        if fields.left or reserved or namespace != NAMESPACE.encode() or hashed not in HASHES:
            raise _bad(where, f"it is for {namespace[:40]!r}, not for {NAMESPACE!r}")
        if public.string() != KEY_TYPE or signed.string() != KEY_TYPE:
            raise _bad(where, "it is not of Ed25519")
        raw, value = public.string(), signed.string()
        Ed25519PublicKey.from_public_bytes(raw).verify(value, _signed(hashed, manifest))
    except InvalidSignature as error:
        raise ChecksumError(
            f"{where}: the signature is not over this manifest",
            kind="bad-signature",
            hint="the archive or its signature was changed, or one of them is another's",
        ) from error
    except ValueError as error:  # a key of another length
        raise _bad(where, "its key is none") from error
    return PublicKey(raw)


def _signed(hashed: bytes, manifest: bytes) -> bytes:
    """What is signed: the purpose, and the digest of the manifest."""
    digest = HASHES[hashed](manifest).digest()
    return MAGIC + b"".join(map(_string, (NAMESPACE.encode(), b"", hashed, digest)))


def _unarmoured(signature: bytes, where: str) -> bytes:
    lines = signature.strip().split()
    text = b" ".join(lines[:3]), b" ".join(lines[-3:])
    if len(signature) > LARGEST or text != (BEGIN, END):
        raise _bad(where, "it does not begin and end as one of OpenSSH")
    try:
        return base64.b64decode(b"".join(lines[3:-3]), validate=True)
    except binascii.Error as error:
        raise _bad(where, "it is no base64") from error


def _bad(where: str, found: str) -> FormatError:
    return FormatError(
        f"{where}: expected a signature of `psc-archive sign`, found something else ({found})",
        kind="bad-signature",
        hint="sign the archive again, after comparing it with a copy that you trust",
    )


def _string(data: bytes) -> bytes:
    """Bytes with their length before them, as OpenSSH writes all fields."""
    return len(data).to_bytes(4, "big") + data


class _Fields:
    """Fields of a key or signature, one after the other; FormatError where they are cut."""

    def __init__(self, data: bytes, where: str) -> None:
        self._data = data
        self._where = where

    @property
    def left(self) -> int:
        return len(self._data)

    def take(self, length: int) -> bytes:
        if length > len(self._data):
            raise _bad(self._where, "it is cut")
        taken, self._data = self._data[:length], self._data[length:]
        return taken

    def number(self) -> int:
        return int.from_bytes(self.take(4), "big")

    def string(self) -> bytes:
        return self.take(self.number())
