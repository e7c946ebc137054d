"""Which exact coder codes the segments of a layer: the one with the fewest bytes. Encoder only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from psc_volumetric.arrays import Triple, Values
from psc_volumetric.bitstream.constants import REFERRING, REFINEMENTS
from psc_volumetric.coders.registry import EXACT_CODERS, LIGHT_CODERS
from psc_volumetric.errors import FormatError, ParameterError
from psc_volumetric.layers.guarantee import Guarantee
from psc_volumetric.threads import in_order, mapped
from psc_volumetric.tiling import Box, TileGrid

__all__ = ["WAITED_FOR", "Coded", "CoderChoice", "extent_of"]

# A network must save so much, since reading takes up to half as much time again; of a refinement
# less, so that the level below, which the network makes smaller, is not left out for the rest.
WAITED_FOR = {"neural": 1.03, "neural-refinement": 1.01}
SAMPLED = 2  # segments on which coders are compared
OWN = ("context", "neural", *REFINEMENTS)  # coders that no foreign library decides about


def extent_of(values: Values) -> Triple:
    """Extents (z, y, x) of an array of three axes."""
    z, y, x = values.shape
    return z, y, x


@dataclass(frozen=True)
class Coded:
    """Segments under one coder, which may refer to the level below."""

    coder: str
    on_base: bool
    pieces: list[bytes]


@dataclass(frozen=True)
class CoderChoice:
    """Segments to be coded, and the search for the coder that codes them in the fewest bytes.

    ``cells`` are (2, z, y, x): the least and the largest that each value can be, where the level
    below says it. ``is_light`` is that of the guarantee.
    """

    values: Values
    below: Values | None
    segments: TileGrid
    wanted: list[int]
    cells: Values | None = None
    is_light: bool = False

    def best(self, guarantee: Guarantee, penalty: float) -> Coded:
        """Compare on a sample of segments, then code all with the best that can."""
        count = len(self.wanted)
        chosen = sorted({count // 3, 2 * count // 3}) if count > SAMPLED else range(count)
        sample = [self.wanted[i] for i in chosen]
        candidates = list(self._candidates(guarantee))
        scored = []
        tried = mapped(lambda candidate: self._encode(*candidate, sample), candidates)
        for order, ((coder, on_base), pieces) in enumerate(zip(candidates, tried, strict=True)):
            if pieces is not None:
                size = sum(map(len, pieces)) * (penalty if on_base else 1.0)
                size *= WAITED_FOR.get(coder, 1.0)
                scored.append((size, order, coder, on_base, pieces))
        for _, _, coder, on_base, pieces in sorted(scored, key=lambda item: item[:2]):
            known = dict(zip(sample, pieces, strict=True))
            rest = [number for number in self.wanted if number not in known]
            others = self._encode(coder, on_base, rest)
            if others is None:
                continue
            known |= zip(rest, others, strict=True)
            whole = [known[number] for number in self.wanted]
            trusted = guarantee.is_proven_later and coder in OWN
            if trusted or self._verified(coder, on_base, whole):
                return Coded(coder, on_base, whole)
        raise ParameterError(
            f"no coder of {guarantee.allowed} can code {self.values.dtype} values of this brick",
            kind="no-coder",
            hint="allow 'zstd', which takes everything",
        )

    def _candidates(self, guarantee: Guarantee) -> Iterator[tuple[str, bool]]:
        possible, reference = self.below is not None, guarantee.reference
        for coder in guarantee.allowed:
            if coder in REFINEMENTS:
                if reference != "none" and self.cells is not None:
                    yield coder, True
            elif coder in EXACT_CODERS:
                if reference != "base" or not possible or coder not in REFERRING:
                    yield coder, False
                if reference != "none" and possible and coder in REFERRING:
                    yield coder, True

    def _encode(self, coder: str, on_base: bool, numbers: Sequence[int]) -> list[bytes] | None:
        """Pieces of the segments ``numbers``; None if the coder cannot take one of them."""
        boxes = [self.segments.box(n) for n in numbers]
        writer = (LIGHT_CODERS if self.is_light else EXACT_CODERS)[coder]
        if not all(writer.suits(self.values[box]) for box in boxes):
            return None

        def encode(box: Box) -> bytes:
            return writer.encode(self._cut(self.values, box), self._under(coder, on_base, box))

        try:
            return mapped(encode, boxes)
        except ParameterError:  # a library refuses an array that others take
            return None

    def _verified(self, coder: str, on_base: bool, pieces: list[bytes]) -> bool:
        """Decode everything again with the decoder that ships, and compare every bit."""

        def is_same(numbered: tuple[int, bytes]) -> bool:
            box = self.segments.box(numbered[0])
            source = self._cut(self.values, box)
            try:
                decoded = EXACT_CODERS[coder].decode(
                    numbered[1],
                    extent_of(source),
                    source.dtype,
                    self._under(coder, on_base, box),
                    what=coder,
                )
            except FormatError:
                return False
            return decoded.tobytes() == source.tobytes()

        with in_order(is_same, zip(self.wanted, pieces, strict=True)) as same:
            return all(same)

    def _under(self, coder: str, on_base: bool, box: Box) -> Values | None:
        found = self.cells if coder in REFINEMENTS else self.below
        return self._cut(found, box) if on_base and found is not None else None

    @staticmethod
    def _cut(values: Values, box: Box) -> Values:
        return np.ascontiguousarray(values[(..., *box)])
