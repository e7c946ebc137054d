"""Bytes that only the owner of a key can read: the format of age (age-encryption.org/v1, X25519).

What is encrypted here is opened by ``age -d -i KEYFILE`` and the other way round; keys are those of
``age-keygen``. A file says neither for whom it is nor by whom.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

from psc_volumetric.errors import ChecksumError, FormatError, ParameterError
from psc_volumetric.extras import require

__all__ = ["Identity", "Recipient", "decrypt", "encrypt", "identities_in", "recipients_in"]

VERSION = b"age-encryption.org/v1"
LABEL = b"age-encryption.org/v1/X25519"
CHUNK, TAG = 64 << 10, 16
COLUMNS = 64
MAX_HEADER = 1 << 20
PUBLIC, SECRET = "age", "age-secret-key-"
_SIGNS = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_GENERATOR = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)


@dataclass(frozen=True)
class Recipient:
    """Whom something is encrypted for; ``raw`` are 32 bytes."""

    raw: bytes

    def __str__(self) -> str:
        return _bech32(PUBLIC, self.raw)


@dataclass(frozen=True)
class Identity:
    """The secret half of a key; ``raw`` are 32 bytes and never shown."""

    raw: bytes

    def __repr__(self) -> str:
        return f"Identity(recipient={self.recipient})"

    @classmethod
    def make(cls) -> Identity:
        """A new key (ExtraMissingError: the extra ``sign`` is not installed)."""
        require("sign", "making a key")
        return cls(os.urandom(32))

    @property
    def recipient(self) -> Recipient:
        """The public half."""
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

        return Recipient(
            X25519PrivateKey.from_private_bytes(self.raw).public_key().public_bytes_raw()
        )

    @property
    def text(self) -> str:
        """As a key file has it."""
        return _bech32(SECRET, self.raw).upper()


def recipients_in(text: str) -> tuple[Recipient, ...]:
    """The recipients in a text: ``age1...``, or a file of such lines.

    Raises
    ------
    ParameterError : there is none, or a damaged one (kind ``"bad-key"``).
    """
    found = tuple(Recipient(raw) for raw in _keys(text, PUBLIC))
    if not found:
        raise _bad_key("a recipient, which begins with age1")
    return found


def identities_in(text: str) -> tuple[Identity, ...]:
    """The keys in a file of ``age-keygen``; lines that begin with ``#`` are passed over.

    Raises
    ------
    ParameterError : there is none, or a damaged one (kind ``"bad-key"``).
    """
    found = tuple(Identity(raw) for raw in _keys(text, SECRET))
    if not found:
        raise _bad_key("a key, which begins with AGE-SECRET-KEY-1")
    return found


def _bad_key(expected: str) -> ParameterError:
    return ParameterError(
        f"expected {expected}, found none that is whole",
        kind="bad-key",
        hint="`psc-archive identity FILE` or `age-keygen` makes one",
    )


def encrypt(data: bytes, recipients: Sequence[Recipient]) -> bytes:
    """Encrypt for some recipients, each of whom can open it alone.

    Raises
    ------
    ExtraMissingError : the extra ``sign`` is not installed.
    """
    require("sign", "encrypting headers")
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    file_key, nonce = os.urandom(16), os.urandom(16)
    header = VERSION + b"\n"
    for recipient in recipients:
        once = X25519PrivateKey.generate()
        share = once.public_key().public_bytes_raw()
        secret = once.exchange(X25519PublicKey.from_public_bytes(recipient.raw))
        wrap = ChaCha20Poly1305(_derive(secret, share + recipient.raw, LABEL))
        body = _base64(wrap.encrypt(bytes(12), file_key, None))
        header += b"-> X25519 " + _base64(share) + b"\n" + body + b"\n"
    header += b"---"
    mark = _base64(hmac.digest(_derive(file_key, b"", b"header"), header, "sha256"))
    stream = ChaCha20Poly1305(_derive(file_key, nonce, b"payload"))
    starts = range(0, max(1, len(data)), CHUNK)
    chunks = [
        stream.encrypt(_nonce(n, last=start == starts[-1]), data[start : start + CHUNK], None)
        for n, start in enumerate(starts)
    ]
    return b"".join([header, b" ", mark, b"\n", nonce, *chunks])


def decrypt(data: bytes, identities: Sequence[Identity], *, where: str) -> bytes:
    """Open what was encrypted for one of these keys.

    Raises
    ------
    ParameterError : it is for none of them (kind ``"wrong-identity"``).
    FormatError : it is no age file, or damaged (kind ``"bad-encryption"``).
    ExtraMissingError : the extra ``sign`` is not installed.
    """
    require("sign", "reading encrypted headers")
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    stanzas, header, mark, rest = _parse(data, where)
    keys = (_unwrap(s, identity, where) for s in stanzas for identity in identities)
    file_key = next((key for key in keys if key is not None), None)
    if file_key is None:
        raise ParameterError(
            f"{where}: encrypted for {len(stanzas)} key(s), and this is none of them",
            kind="wrong-identity",
            hint="name the key file of somebody it was encrypted for",
        )
    expected = hmac.digest(_derive(file_key, b"", b"header"), header, "sha256")
    if not hmac.compare_digest(expected, mark):
        raise ChecksumError(f"{where}: the header was changed", kind="bad-encryption")
    nonce, payload = rest[:16], rest[16:]
    if len(nonce) < 16:
        raise _bad(where, "it is cut")
    stream, step = ChaCha20Poly1305(_derive(file_key, nonce, b"payload")), CHUNK + TAG
    starts = range(0, max(1, len(payload)), step)
    plain = []
    try:
        for n, start in enumerate(starts):
            last = start == starts[-1]
            plain.append(stream.decrypt(_nonce(n, last=last), payload[start : start + step], None))
    except InvalidTag as error:
        raise ChecksumError(
            f"{where}: the encrypted bytes are damaged", kind="bad-encryption"
        ) from error
    if len(plain) > 1 and not plain[-1]:
        raise _bad(where, "an empty piece at its end")
    return b"".join(plain)


def _derive(key: bytes, salt: bytes, info: bytes) -> bytes:
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(SHA256(), 32, salt or None, info).derive(key)


def _nonce(number: int, *, last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([last])


def _unwrap(stanza: tuple[list[bytes], bytes], identity: Identity, where: str) -> bytes | None:
    """The key of the file, if this stanza is for this identity."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    words, body = stanza
    if words[0] != b"X25519":
        return None
    share = _unbase64(words[1], where) if len(words) == 2 else b""
    if len(share) != 32 or len(body) != 16 + TAG:
        raise _bad(where, "a key of another length")
    private = X25519PrivateKey.from_private_bytes(identity.raw)
    try:
        secret = private.exchange(X25519PublicKey.from_public_bytes(share))
    except ValueError as error:  # all zeros
        raise _bad(where, "a key that is none") from error
    wrap = ChaCha20Poly1305(_derive(secret, share + identity.recipient.raw, LABEL))
    try:
        return wrap.decrypt(bytes(12), body, None)
    except InvalidTag:
        return None


def _parse(data: bytes, where: str) -> tuple[list[tuple[list[bytes], bytes]], bytes, bytes, bytes]:
    """Stanzas (words, body), what is authenticated, by what, and what follows."""
    lines = data[:MAX_HEADER].split(b"\n")
    if lines[0] != VERSION:
        raise _bad(where, "it does not begin as one")
    stanzas: list[tuple[list[bytes], bytes]] = []
    at, used = 1, len(VERSION) + 1
    while at + 1 < len(lines) and lines[at].startswith(b"-> "):
        words = lines[at][3:].split(b" ")
        if not all(re.fullmatch(rb"[\x21-\x7e]+", word) for word in words):
            raise _bad(where, "words that are none")
        used, at, body = used + len(lines[at]) + 1, at + 1, b""
        while True:
            if at + 1 >= len(lines) or len(lines[at]) > COLUMNS:
                raise _bad(where, "its header is cut")
            body, used, full = body + lines[at], used + len(lines[at]) + 1, len(lines[at])
            at += 1
            if full < COLUMNS:
                break
        stanzas.append((words, _unbase64(body, where)))
    if at + 1 >= len(lines) or not stanzas or not lines[at].startswith(b"--- "):
        raise _bad(where, "its header is cut")
    mark = _unbase64(lines[at][4:], where)
    if len(mark) != 32:
        raise _bad(where, "a mark of another length")
    return stanzas, data[: used + 3], mark, data[used + len(lines[at]) + 1 :]


def _base64(data: bytes) -> bytes:
    return base64.b64encode(data).rstrip(b"=")


def _unbase64(text: bytes, where: str) -> bytes:
    try:
        data = base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except binascii.Error as error:
        raise _bad(where, "it is no base64") from error
    if _base64(data) != text:
        raise _bad(where, "base64 that nobody writes so")
    return data


def _bad(where: str, found: str) -> FormatError:
    return FormatError(
        f"{where}: expected a file encrypted with age, found something else ({found})",
        kind="bad-encryption",
        hint="it is damaged; get it from another copy",
    )


def _keys(text: str, prefix: str) -> list[bytes]:
    """Keys of a kind in a text; ParameterError for one that is damaged."""
    words = [
        word for line in text.splitlines() if not line.startswith("#") for word in line.split()
    ]
    found = []
    for word in words:
        if not word.lower().startswith(f"{prefix}1"):
            continue
        raw = _unbech32(prefix, word)
        if raw is None or len(raw) != 32:
            raise _bad_key(f"a key that begins with {prefix}1")
        found.append(raw)
    return found


def _polymod(values: Sequence[int]) -> int:
    check = 1
    for value in values:
        top, check = check >> 25, (check & 0x1FFFFFF) << 5 ^ value
        for bit, term in enumerate(_GENERATOR):
            check ^= term if top >> bit & 1 else 0
    return check


def _expanded(prefix: str) -> list[int]:
    return [ord(sign) >> 5 for sign in prefix] + [0] + [ord(sign) & 31 for sign in prefix]


def _bech32(prefix: str, raw: bytes) -> str:
    """Text of a key (BIP 173, without its limit of length)."""
    bits = int.from_bytes(raw, "big") << (-8 * len(raw) % 5)
    count = -(-8 * len(raw) // 5)
    values = [bits >> 5 * n & 31 for n in reversed(range(count))]
    check = _polymod([*_expanded(prefix), *values, *[0] * 6]) ^ 1
    values += [check >> 5 * n & 31 for n in reversed(range(6))]
    return f"{prefix}1{''.join(_SIGNS[value] for value in values)}"


def _unbech32(prefix: str, text: str) -> bytes | None:
    """The bytes of a key, None for a text that is none."""
    lower = text.lower()
    values = [_SIGNS.find(sign) for sign in lower[len(prefix) + 1 :]]
    if text not in (lower, text.upper()) or min(values, default=-1) < 0 or len(values) < 6:
        return None
    if _polymod([*_expanded(prefix), *values]) != 1:
        return None
    bits, spare = 0, 5 * (len(values) - 6) % 8
    for value in values[:-6]:
        bits = bits << 5 | value
    if spare > 4 or bits & ((1 << spare) - 1):
        return None
    return (bits >> spare).to_bytes(5 * (len(values) - 6) // 8, "big")
