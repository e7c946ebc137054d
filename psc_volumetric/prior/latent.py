"""What is around the network of a latent prior: the decoder, and the text that it is told.

Part of the format (SPEC 6.10).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.errors import FormatError
from psc_volumetric.prior.parts import Parts, part
from psc_volumetric.prior.program import Program
from psc_volumetric.prior.step import RESIDUAL_LIMIT, is_integer

__all__ = [
    "LATENT",
    "POSITIONS",
    "TOKENS",
    "LatentSpace",
    "Words",
    "read_space",
]

LATENT = "latent"
TOKENS, POSITIONS = "text.tokens", "text.positions"
MOST_ELEMENTS = 1 << 16  # of a latent: sums of its Gram matrix stay below 2^63
MOST_TOKENS = 1 << 17  # of a vocabulary


@dataclass(frozen=True, eq=False)
class Words:
    """From tokens to the register ``text``.

    Attributes
    ----------
    tokens : (vocabulary, width) int64
    positions : (n, width) int64
    begin, end, pad : int
        Tokens around those of a prompt, and after them.
    """

    tokens: NDArray[np.int64]
    positions: NDArray[np.int64]
    begin: int
    end: int
    pad: int

    @property
    def most(self) -> int:
        """Tokens that a prompt may have."""
        return len(self.positions) - 2

    def register(self, prompt: Sequence[int]) -> NDArray[np.int64]:
        """(width, n) integers of a prompt.

        Raises
        ------
        FormatError
            Too many tokens, or one that there is not (kind ``"bad-prompt"``).
        """
        if len(prompt) > self.most or any(not 0 <= n < len(self.tokens) for n in prompt):
            raise FormatError(
                f"prompt: expected at most {self.most} tokens below {len(self.tokens)}, found "
                f"{len(prompt)} up to {max(prompt, default=0)}",
                kind="bad-prompt",
            )
        padding = [self.pad] * (self.most - len(prompt))
        rows = self.tokens[[self.begin, *prompt, self.end, *padding]] + self.positions
        register: NDArray[np.int64] = np.clip(rows, -RESIDUAL_LIMIT, RESIDUAL_LIMIT).T.copy()
        return register


@dataclass(frozen=True, eq=False)
class LatentSpace:
    """What a latent prior has beside its network.

    Attributes
    ----------
    decoder : Program
        From a latent of the network's tile to one plane of pixels.
    words : Words or None
        None for a network that reads no text.
    """

    decoder: Program
    words: Words | None

    @property
    def voxels(self) -> tuple[int, int, int]:
        """Voxels that a latent stands for."""
        return (1, self.decoder.out_tile, self.decoder.out_tile)

    def register(self, prompt: Sequence[int]) -> NDArray[np.int64] | None:
        """What the network is told; FormatError where it cannot be."""
        if self.words is not None:
            return self.words.register(prompt)
        if prompt:
            raise FormatError(
                f"prompt: expected none, for the prior reads no text, found {len(prompt)} tokens",
                kind="bad-prompt",
            )
        return None


def read_space(parts: Parts, network: Program) -> LatentSpace:
    """Decoder and words of a bundle, checked against its network.

    Raises
    ------
    FormatError
        One of them does not fit (kind ``"bad-prior"``), or breaks a limit or a bound.
    """
    if network.slices * network.tile**2 > MOST_ELEMENTS:
        raise FormatError(
            f"prior: expected latents of at most {MOST_ELEMENTS} numbers, found "
            f"{network.slices * network.tile**2}",
            kind="bad-prior",
        )
    decoder = Program.from_dict(part(parts.identity, "decoder", dict), parts.tensors)
    ends = (decoder.slices, decoder.tile, decoder.outputs, decoder.levels)
    if ends != (network.slices, network.tile, 1, 1) or not decoder.out_tile or decoder.has_tokens:
        raise FormatError(
            f"prior: expected a decoder from {network.slices} channels of extent {network.tile} to "
            f"one, found {decoder.slices} of {decoder.tile} to {decoder.outputs}",
            kind="bad-prior",
        )
    return LatentSpace(decoder, _words(parts, network))


def _words(parts: Parts, network: Program) -> Words | None:
    if network.text is None:
        return None
    width, places = network.text
    known = parts.tensors.get(TOKENS)
    count = 0 if known is None or known.ndim != 2 else len(known)
    marks = part(parts.identity, "text", dict)
    ids = [marks.get(name) for name in ("begin", "end", "pad")]
    whole = all(is_integer(n) and 0 <= n < count for n in ids)
    if not whole or len(marks) != len(ids) or places < len(ids) or count > MOST_TOKENS:
        raise FormatError(
            f"prior: expected begin, end and pad among {count} tokens of at most {MOST_TOKENS}, "
            f"and 3 places or more, found {marks!r:.80} and {places}",
            kind="bad-prior",
        )
    begin, end, pad = (int(n) for n in ids if n is not None)
    tokens = parts.table(TOKENS, (count, width), RESIDUAL_LIMIT)
    return Words(tokens, parts.table(POSITIONS, (places, width), RESIDUAL_LIMIT), begin, end, pad)
