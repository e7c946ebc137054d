"""Regions of a view of an archive: bricks are drawn whole, so that any region fits the rest."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.archive.brick_checks import placed
from psc_volumetric.archive.decoded import DecodedRegion, decoded_regions, new_owner
from psc_volumetric.archive.layout import chunk_key
from psc_volumetric.archive.levels import level_number
from psc_volumetric.archive.quota import Cost, cost_of
from psc_volumetric.archive.reader import ArchiveReader, Selection
from psc_volumetric.errors import FormatError, ParameterError, PriorMismatchError
from psc_volumetric.methods.protocol import Resources
from psc_volumetric.tiling import Box
from psc_volumetric.views import ViewRequest

__all__ = ["Viewer"]


class Viewer:
    """Reads a view of an archive as `ArchiveReader` reads its mean.

    Parameters
    ----------
    reader : ArchiveReader
        Stays open as long as this is used.
    request : ViewRequest
    """

    def __init__(self, reader: ArchiveReader, request: ViewRequest) -> None:
        self._reader = reader
        self._request = request
        self._owner = new_owner()

    def read(
        self,
        variable: str,
        selection: Selection | None = None,
        *,
        level: int | str | None = None,
        spread: bool = False,
    ) -> NDArray[Any]:
        """Values of a region; with ``spread`` one sigma per voxel, which is that of the mean.

        Raises
        ------
        ParameterError
            A level is asked for (kind ``"bad-level"``): a view is of all that there is. Kind
            ``"no-view"``: a brick is coded by a method that has none. Others, and what it may
            cost, as `ArchiveReader.read`.
        """
        if spread or not self._request.is_generated:
            return self._reader.read(variable, selection, level=level, spread=spread)
        if level is not None:
            raise ParameterError(
                f"view {self._request.name}: expected no quality level, found {level!r}",
                kind="bad-level",
                hint="a view is drawn from all bytes there are; leave the level out",
            )
        spec = self._reader.spec(variable)
        box = self._reader.normalise(spec, selection)
        shape, name = tuple(s.stop - s.start for s in box), self._reader.name
        clock = self._reader.quota.begin(self._cost(variable, box, shape), f"{name}: {variable}")
        values = np.empty(shape, spec.dtype)
        for position, inside, target in self._reader.parts(spec, box):
            clock.check()
            whole = self._whole(variable, position)
            values[target] = self._region(variable, position, whole, inside).reshape(
                values[target].shape
            )
        return values

    def _cost(self, variable: str, box: tuple[slice, ...], shape: tuple[int, ...]) -> Cost:
        """What a view of a region takes; headers are read where a limit counts for them."""
        spec, quota = self._reader.spec(variable), self._reader.quota
        if quota.stored_bytes is None and quota.evaluations is None:
            return cost_of(spec, shape, ())
        headers = [self._reader.brick_index(variable, p[0]) for p in self._reader.parts(spec, box)]
        cost = cost_of(spec, shape, [(index, level_number(index, None)) for index in headers])
        total = sum(self._request.evaluations(index.fields) for index in headers)
        return replace(cost, evaluations=total)

    def _whole(self, variable: str, position: tuple[int, ...]) -> Box:
        z, y, x = (slice(0, size) for size in self._reader.spec(variable).valid(position))
        return z, y, x

    def _region(
        self, variable: str, position: tuple[int, ...], whole: Box, inside: Box
    ) -> NDArray[Any]:
        found = decoded_regions().get(
            (self._owner, variable, position),
            inside,
            units=lambda _: whole,
            decode=lambda box: self._drawn(variable, position, whole).cut(whole, box),
        )
        return found.values

    def _drawn(self, variable: str, position: tuple[int, ...], whole: Box) -> DecodedRegion:
        from psc_volumetric.views.brick import view_brick

        reader = self._reader
        key = chunk_key(variable, position)
        try:
            index = reader.brick_index(variable, position)
            view = view_brick(
                lambda start, length: reader.sealed.read_range(key, start, length),
                index,
                self._request,
                Resources(reader.prior_source(), reader.device),
            )
        except (FormatError, PriorMismatchError) as error:
            spec = reader.spec(variable)
            raise placed(error, reader.name, key, spec, position, whole) from error
        return DecodedRegion(view.values, None)
