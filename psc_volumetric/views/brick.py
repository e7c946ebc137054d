"""The view of one brick: drawn, then brought back to all that its bytes say."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.arrays import Values
from psc_volumetric.bitstream.index import BrickIndex
from psc_volumetric.bitstream.sections import ReadRange, read_section
from psc_volumetric.codec import decode_brick
from psc_volumetric.errors import ParameterError
from psc_volumetric.methods.av1.fields import Av1Fields
from psc_volumetric.methods.foresight.fields import ForesightFields
from psc_volumetric.methods.latent.fields import LatentFields
from psc_volumetric.methods.protocol import DecodedBrick, Resources
from psc_volumetric.methods.psc.fields import PscFields
from psc_volumetric.methods.two_stage.fields import TwoStageFields
from psc_volumetric.methods.wavelet.cells import Cells as WaveletCells
from psc_volumetric.methods.wavelet.cells import cells_around, cells_of
from psc_volumetric.methods.wavelet.fields import WaveletFields
from psc_volumetric.tiling import Box
from psc_volumetric.values.special import SpecialMap
from psc_volumetric.views.cells import Cells
from psc_volumetric.views.request import REFINED, SAMPLE, ViewRequest
from psc_volumetric.views.sample import Around, drawn, drawn_around

if TYPE_CHECKING:
    from psc_volumetric.methods.psc.cells import Stated
    from psc_volumetric.views.tiles import TileCells

__all__ = ["BrickView", "BrickViews", "view_brick"]

Doubles = NDArray[np.float64]

NO_CELLS = Around(np.zeros(0), np.zeros(0))
MOST_ROUNDS = 100
ROOM = 1.5  # deviations between a value and the limits
PUSH = 1.5  # of what a coefficient lies outside its cell


@dataclass(frozen=True)
class BrickView:
    """A view of a brick.

    Attributes
    ----------
    values : (z, y, x) array
        Of the stored dtype.
    contradictions : int
        Numbers of the stream that coding these values again would change; 0 unless special values
        or limits of the format leave no room.
    """

    values: Values
    contradictions: int


def view_brick(
    read: ReadRange, index: BrickIndex, request: ViewRequest, resources: Resources
) -> BrickView:
    """Decode a whole brick, and draw what its bytes leave open.

    Parameters
    ----------
    read : callable
        ``read(offset, length) -> bytes``.
    index : BrickIndex
    request : ViewRequest
    resources : Resources
        Where the prior is, and the device; neither changes a view but by rounding.

    Raises
    ------
    ParameterError
        Kind ``"no-view"``: the brick's method has no such view.
    FormatError, PriorMismatchError
        As for decoding.
    """
    return BrickViews(read, index, resources).view(request)


class BrickViews:
    """Several views of one brick, which is decoded once.

    Parameters
    ----------
    read, index, resources
        As for `view_brick`.
    """

    def __init__(self, read: ReadRange, index: BrickIndex, resources: Resources) -> None:
        self._read, self._index, self._resources = read, index, resources

    @cached_property
    def decoded(self) -> DecodedBrick:
        """The mean and its sigma."""
        return decode_brick(
            self._read,
            selection=_whole(self._index),
            prior=self._resources.priors,
            spread=True,
            device=self._resources.device,
            index=self._index,
            denoisers=self._resources.denoisers,
        )

    def view(self, request: ViewRequest) -> BrickView:
        """One of them; raises as `view_brick`."""
        spread = self.decoded.spread
        if not request.is_generated or spread is None or not spread.any():
            return BrickView(self.decoded.values, 0)
        if not np.isfinite(spread).all():  # wider than a sigma can say: nothing tells what to draw
            return BrickView(self.decoded.values, 0)
        with np.errstate(over="ignore", invalid="ignore"):  # a stream may state any step
            return self._drawn(request, spread)

    def _drawn(self, request: ViewRequest, spread: NDArray[np.float32]) -> BrickView:
        fields, seed = self._index.fields, request.seed
        key = f"{seed} {request.name} {self._index.position}".encode()
        if isinstance(fields, PscFields):
            from psc_volumetric.views.tiles import drawn_by_prior

            held = self._held(self._stated[1])
            return held.within(drawn_by_prior(self._stated[0], request.name, seed, held.clean))
        if request.name == REFINED:
            return self._refined(request)
        if isinstance(fields, LatentFields):
            return self._of_latents(request)
        if request.name != SAMPLE:
            raise _no_view(self._index, request, "psc and latent have")
        if isinstance(fields, WaveletFields):
            cells = self._cells(fields)
            held = self._held(cells)
            return held.within(drawn(held.clean, held.limited(spread), cells, key))
        if isinstance(fields, Av1Fields | TwoStageFields):
            held = self._held(NO_CELLS)
            held = replace(held, cells=Around.of(held.clean, spread))
            return held.within(drawn_around(held.clean, held.limited(spread), key))
        raise _no_view(
            self._index,
            request,
            "psc, latent, av1, wavelet, posterior, foresight and two-stage have",
        )

    def _cells(self, fields: WaveletFields) -> WaveletCells:
        """Cells of the wavelet's coefficients."""
        if not isinstance(fields, ForesightFields) or not fields.glimpses:
            return cells_of(self._read, self._index)
        from psc_volumetric.methods.foresight.method import numbers_of

        steps, depth, _ = numbers_of(self._read, self._index, fields, self._resources)
        return cells_around(steps, depth, fields)

    def _of_latents(self, request: ViewRequest) -> BrickView:
        """Drawn in the latent space; what is above the base holds, too."""
        from psc_volumetric.views.latents import drawn_latents

        read, index, resources = self._read, self._index, self._resources
        values, wrong = drawn_latents(read, index, resources, request.name, request.seed)
        return replace(self._held(NO_CELLS).kept(values), contradictions=wrong)

    def _refined(self, request: ViewRequest) -> BrickView:
        """Latents drawn inside what their numbers stand for, then decoded."""
        fields = self._index.fields
        if not isinstance(fields, TwoStageFields) or not fields.latent_step:
            raise _no_view(self._index, request, "two-stage with quantised scalars has")
        from psc_volumetric.views.refined import refined

        drawn = refined(self._read, self._index, self._resources, request.seed)
        return self._held(NO_CELLS).kept(drawn)

    @cached_property
    def _stated(self) -> tuple[Stated, TileCells]:
        from psc_volumetric.views.tiles import TileCells, stated_tiles

        stated = stated_tiles(self._read, self._index, self._resources)
        return stated, TileCells.of(stated)

    def _held(self, cells: Cells) -> _Held:
        return _Held.of(self._read, self._index, self.decoded.values, cells)


def _no_view(index: BrickIndex, request: ViewRequest, who: str) -> ParameterError:
    return ParameterError(
        f"brick {index.position}: expected a method with the view {request.name}, which only {who},"
        f" found {index.coding}",
        kind="no-view",
        hint="ask for view mean or sample",
    )


@dataclass(frozen=True, eq=False)
class _Held:
    """All that the bytes of a brick say of its values.

    Attributes
    ----------
    index : BrickIndex
    cells : Cells
    special : SpecialMap or None
    clean : (z, y, x) float64
        Decoded, special values replaced by their neighbours as an encoder does it.
    bound : float or None
        Largest distance from ``clean``.
    """

    index: BrickIndex
    cells: Cells
    special: SpecialMap | None
    clean: Doubles
    bound: float | None

    @classmethod
    def of(cls, read: ReadRange, index: BrickIndex, values: Values, cells: Cells) -> _Held:
        what = f"brick {index.position}"
        special = SpecialMap.unpack(
            read_section(read, index.section("special"), what=what), index.valid, index.dtype
        )
        clean = values if special is None else special.fill(values, cells.zero)
        grids = [layer.grid for layer in index.layers if layer.grid is not None]
        return cls(
            index,
            cells,
            special,
            clean.astype(np.float64),
            float(grids[-1].bound) if grids else None,
        )

    def limited(self, spread: NDArray[np.float32]) -> NDArray[np.float32]:
        """A spread that leaves few values outside the limits: cutting them off would brighten."""
        ends = self._ends()
        if ends is None:
            return spread
        room = np.minimum(self.clean - ends[0], ends[1] - self.clean) / ROOM
        return np.minimum(spread, np.maximum(room, 0.0)).astype(np.float32)

    def _ends(self) -> tuple[float, float] | None:
        """Least and largest value; None where there are none."""
        limits, dtype = self.index.limits, self.index.dtype
        if limits is not None:
            return float(limits.least), float(limits.largest)
        if dtype.kind == "f":
            return None
        info = np.iinfo(dtype.str)
        return float(info.min), float(info.max)

    def within(self, values: Doubles) -> BrickView:
        """The nearest values found that agree with everything.

        Cells on one side, limits, bound, special values and integers on the other are projected
        on in turn; the other side has the last word. A coefficient that it moves out of its cell
        is aimed farther in each time.
        """
        whole = self.index.dtype.kind != "f"
        inner = self.cells.inner(whole=whole)
        found = inner.analyse(values)
        aims = inner.moved(values, _finite(inner.nearest(found) - found))
        for _ in range(MOST_ROUNDS):
            stored = self._stored(aims)
            found = self.cells.analyse(self._clean(stored))
            wrong = self.cells.outside(found)
            if not wrong.any():
                break
            aims = inner.moved(aims, _finite(PUSH * (inner.nearest(found) - found)))
        lost = ~np.isfinite(stored)  # past the largest number of the dtype on the way
        stored[lost] = self.clean[lost]
        if self.special is not None:
            self.special.apply(stored, _whole(self.index))
        return BrickView(stored, int(wrong.sum()))

    def kept(self, values: Doubles) -> BrickView:
        """Values with everything that does not come from the base."""
        stored = self._stored(values)
        if self.special is not None:
            self.special.apply(stored, _whole(self.index))
        return BrickView(stored, 0)

    def _clean(self, stored: Values) -> Doubles:
        """As an encoder sees stored values."""
        filled = stored if self.special is None else self.special.fill(stored, self.cells.zero)
        return filled.astype(np.float64)

    def _stored(self, values: Doubles) -> Values:
        dtype, ends = self.index.dtype, self._ends()
        if self.bound is not None:
            values = np.clip(values, self.clean - self.bound, self.clean + self.bound)
        if dtype.kind != "f":
            values = np.rint(values)
        return (values if ends is None else np.clip(values, *ends)).astype(dtype)


def _finite(differences: Doubles) -> Doubles:
    """Differences that can be added; numbers past the largest of the dtype stay where they are."""
    return np.where(np.isfinite(differences), differences, 0.0)


def _whole(index: BrickIndex) -> Box:
    z, y, x = (slice(0, size) for size in index.valid)
    return z, y, x
