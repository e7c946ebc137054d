"""Coders whose values can be read slice after slice, as far as they are wanted.

Part of the format (SPEC sections 8.9 and 8.10).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.coders.words import (
    cells_of,
    fixed_point,
    from_words,
    parted_streams,
    words_of,
)

if TYPE_CHECKING:
    from psc_volumetric.coders.context.decoder import IntegerDecoder

__all__ = ["SLICEWISE", "SliceDecoder"]

Values = NDArray[np.generic]
Integers = NDArray[np.int64]
Triple = tuple[int, int, int]

SLICEWISE = {  # coder -> whether it refines, and whether its streams may name a network
    "context": (False, False),
    "refinement": (True, False),
    "neural": (False, True),
    "neural-refinement": (True, True),
}


class SliceDecoder:
    """Values of an array of one of these coders, as far as they are wanted.

    Parameters
    ----------
    data, shape, dtype, what
        As for :meth:`Coder.decode`, which raises the same errors.
    coder : str
        One of `SLICEWISE`.

    Attributes
    ----------
    done : int
        Slices that were given out.

    Notes
    -----
    As of `psc_volumetric.coders.context.decoder.IntegerDecoder`.
    """

    def __init__(
        self, data: bytes, shape: Triple, dtype: np.dtype[np.generic], *, coder: str, what: str
    ) -> None:
        from psc_volumetric.coders.context.decoder import IntegerDecoder

        self.done = 0
        self._shape, self._dtype, self._what = shape, dtype, what
        self._refines, may_foresee = SLICEWISE[coder]
        self._words = [
            IntegerDecoder(stream, shape, what=what, may_foresee=may_foresee)
            for stream in parted_streams(data, dtype, what)
        ]
        self._known: list[Integers] = []  # of words before the last, which the next one takes

    @property
    def nbytes(self) -> int:
        """Bytes in memory between two calls."""
        known = sum(part.nbytes for part in self._known)
        return known + sum(word.nbytes for word in self._words)

    @property
    def networks(self) -> tuple[int | None, ...]:
        """What its streams name, before they are decoded."""
        return tuple(word.network for word in self._words)

    @staticmethod
    def sees(end: int, depth: int, dtype: np.dtype[np.generic], *, refines: bool) -> int:
        """How many slices of the reference values up to slice ``end`` take.

        What is given is looked at one slice behind each voxel; with the lower word of 64 bits also
        at the upper ones there.
        """
        ahead = 2 if refines and dtype.itemsize == 8 else 1
        return min(end + ahead, depth)

    def slices(self, end: int, reference: Values | None, first: int) -> Values:
        """Values of the slices from ``done`` to ``end``, which is above it.

        Parameters
        ----------
        end : int
        reference : array or None
            As for :meth:`Coder.decode`, from slice ``first`` on, at most one before `done`, as far
            as :meth:`sees` says.
        first : int
        """
        depth, last, words = self._shape[0], len(self._words) - 1, []
        for number, word in enumerate(self._words):
            stop = min(end + (last - number) * self._refines, depth)
            if stop > word.done:
                found = self._read(number, word, stop, reference, first)
                if number < last:
                    self._keep(number, found, stop)
                else:
                    words.append(found)
        words = [*(known[self.done : end] for known in self._known), *words]
        self.done = end
        return from_words(words, self._dtype, what=self._what)

    def _read(
        self, number: int, word: IntegerDecoder, stop: int, reference: Values | None, first: int
    ) -> Integers:
        """More slices of one word."""
        if reference is None:
            return word.slices(stop)
        seen = word.window(stop).seen
        if not self._refines:
            near = reference[seen.start - first : seen.stop - first]
            return word.slices(stop, reference=fixed_point(words_of(near)[number]))
        near = reference[:, seen.start - first : seen.stop - first]
        cells = cells_of(near, [known[seen] for known in self._known[:number]])
        return word.slices(stop, cells=cells)

    def _keep(self, number: int, found: Integers, stop: int) -> None:
        if number == len(self._known):
            self._known.append(np.empty(self._shape, np.int64))
        self._known[number][stop - len(found) : stop] = found
