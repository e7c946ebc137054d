"""Text to tokens and back: the byte-pair encoding of CLIP, from its two files.

Encoder only: a stream carries tokens. In the way of CLIP's ``SimpleTokenizer``: lower case, runs of
letters, single digits and runs of other signs, in UTF-8 bytes that are joined as ``merges`` says.
"""

from __future__ import annotations

import functools
import itertools
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from psc_volumetric.errors import ParameterError

__all__ = ["LONGEST_PROMPT", "Tokenizer", "byte_letters"]

LONGEST_PROMPT = 1000  # letters
ENDINGS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")
END_OF_WORD = "</w>"


@dataclass(frozen=True)
class Tokenizer:
    """A vocabulary and its rules.

    Attributes
    ----------
    pieces : sequence of str
        What each token stands for.
    merges : sequence of str
        Pairs that are joined, first ones first, with a space between.
    most : int
        Tokens that a prompt may have.
    """

    pieces: Sequence[str]
    merges: Sequence[str]
    most: int
    _ids: dict[str, int] = field(init=False, repr=False)
    _ranks: dict[tuple[str, ...], int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        ranks = {tuple(pair.split(" ")): rank for rank, pair in enumerate(self.merges)}
        object.__setattr__(self, "_ids", {piece: n for n, piece in enumerate(self.pieces)})
        object.__setattr__(self, "_ranks", ranks)

    @classmethod
    def from_metadata(cls, description: Mapping[str, Any], most: int) -> Tokenizer | None:
        """The one that a prior's description has; None without one.

        Raises
        ------
        ParameterError
            It is not made of two lists of text (kind ``"bad-prompt"``).
        """
        found = description.get("tokenizer")
        if found is None:
            return None
        described = found if isinstance(found, dict) else {}
        pieces, merges = (described.get(name) for name in ("pieces", "merges"))
        if not (_is_text(pieces) and _is_text(merges)):
            raise ParameterError(
                "prior metadata: expected a tokenizer of two lists of text", kind="bad-prompt"
            )
        return cls(pieces, merges, most)

    def encode(self, text: str) -> tuple[int, ...]:
        """Tokens of a prompt, without those around it.

        Raises
        ------
        ParameterError
            Too long, or with what the vocabulary has no token for (kind ``"bad-prompt"``).
        """
        if len(text) > LONGEST_PROMPT:
            raise _refused(f"{len(text)} letters, at most {LONGEST_PROMPT}", "shorten it")
        found: list[int] = []
        for word in _words(" ".join(unicodedata.normalize("NFC", text).lower().split())):
            for piece in self._joined(word):
                if piece not in self._ids:
                    raise _refused(
                        f"{word!r}, for which the prior's vocabulary has no token",
                        "say it in other words",
                    )
                found.append(self._ids[piece])
        if len(found) > self.most:
            raise _refused(f"{len(found)} tokens, at most {self.most}", "shorten it")
        return tuple(found)

    def decode(self, tokens: Sequence[int]) -> str:
        """What tokens say, in lower case."""
        back = {letter: byte for byte, letter in byte_letters().items()}
        joined = "".join(self.pieces[n] for n in tokens).replace(END_OF_WORD, " ")
        data = b"".join(bytes([back[c]]) if c in back else c.encode() for c in joined)
        return data.decode("utf-8", "replace").strip()

    def _joined(self, word: str) -> list[str]:
        letters = byte_letters()
        parts = [letters[byte] for byte in word.encode()]
        parts[-1] += END_OF_WORD
        while len(parts) > 1:
            pairs = list(itertools.pairwise(parts))
            best = min(pairs, key=lambda pair: self._ranks.get(pair, len(self._ranks)))
            if best not in self._ranks:
                break
            merged: list[str] = []
            for part in parts:
                if merged and (merged[-1], part) == best:
                    merged[-1] += part
                else:
                    merged.append(part)
            parts = merged
        return parts


def _is_text(values: object) -> TypeGuard[list[str]]:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def _words(text: str) -> Iterator[str]:
    """English endings, runs of letters, single digits, runs of other signs."""
    at = 0
    while at < len(text):
        ending = next((e for e in ENDINGS if text.startswith(e, at)), None)
        if ending is not None:
            yield ending
            at += len(ending)
            continue
        kind, end = _kind(text[at]), at + 1
        while kind in "LS" and end < len(text) and _kind(text[end]) == kind:
            end += 1
        if kind != " ":
            yield text[at:end]
        at = end


def _kind(letter: str) -> str:
    if letter.isspace():
        return " "
    category = unicodedata.category(letter)[0]
    return category if category in "LN" else "S"


@functools.cache
def byte_letters() -> dict[int, str]:
    """A visible letter for every byte, as GPT-2 and CLIP have it."""
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in own]
    return {byte: chr(byte) for byte in own} | {
        byte: chr(256 + place) for place, byte in enumerate(rest)
    }


def _refused(found: str, hint: str) -> ParameterError:
    return ParameterError(f"prompt: found {found}", kind="bad-prompt", hint=hint)
