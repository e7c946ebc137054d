"""The prompt of a brick: tokens to bytes and back. Part of the format (SPEC section 3.12).

A prompt is coded as its tokens: a vocabulary made from text says most words in one number, which is
less than any coder of letters needs for so few of them, and a decoder needs no tokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence

from psc_volumetric.errors import FormatError

__all__ = ["pack_prompt", "unpack_prompt"]

MOST = 254


def pack_prompt(tokens: Sequence[int], vocabulary: int) -> bytes:
    """Count, and the tokens as the digits of one number; no byte for no token."""
    if not tokens:
        return b""
    number = 0
    for token in reversed(tokens):
        number = number * vocabulary + token
    return bytes([len(tokens)]) + number.to_bytes(_size(len(tokens), vocabulary), "little")


def unpack_prompt(data: bytes, vocabulary: int, what: str) -> tuple[int, ...]:
    """Inverse of :func:`pack_prompt`.

    Raises
    ------
    FormatError
        The bytes are no prompt in a vocabulary of this size (kind ``"bad-prompt"``).
    """
    if not data:
        return ()
    count, number = data[0], int.from_bytes(data[1:], "little")
    fits = 1 <= count <= MOST and vocabulary > 0 and len(data) == 1 + _size(count, vocabulary)
    if not fits or number >= vocabulary**count:
        raise FormatError(
            f"{what}: expected a prompt of 1..{MOST} tokens below {vocabulary}, found "
            f"{len(data)} bytes that say {count}",
            kind="bad-prompt",
            hint="the chunk is damaged, run `psc-archive verify`",
        )
    return tuple(number // vocabulary**place % vocabulary for place in range(count))


def _size(count: int, vocabulary: int) -> int:
    """Bytes of the largest number of so many digits."""
    largest: int = vocabulary**count - 1
    return -(-largest.bit_length() // 8)
