"""Reading a sealed archive: any region of any variable, at any quality level.

Opening reads two small objects. Each read of a brick is checked against the manifest (listed,
size, digest of the header), against the brick's own header (position, shape, dtype, prior) and by
the checksums inside the brick, so a lost, cut, swapped, changed or foreign brick is an error and
never plausible values.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.archive.access import SealedStore, load_manifest
from psc_volumetric.archive.brick_checks import check_index, named, placed
from psc_volumetric.archive.decoded import DecodedRegion, decoded_regions, new_owner
from psc_volumetric.archive.fetched import NOTHING_FETCHED, Fetched, fetch
from psc_volumetric.archive.layout import VariableSpec, chunk_key
from psc_volumetric.archive.levels import Level, check_level, level_number
from psc_volumetric.archive.opened import OpenArchive
from psc_volumetric.archive.quota import UNLIMITED, Quota
from psc_volumetric.archive.stores import Target, open_store
from psc_volumetric.archive.summary import summarise
from psc_volumetric.archive.unfinished import unfinished_segments
from psc_volumetric.archive.wanted import Wanted
from psc_volumetric.bitstream.index import BrickIndex
from psc_volumetric.errors import (
    FormatError,
    ParameterError,
    PriorMismatchError,
    PscError,
    UnsupportedVersionError,
)
from psc_volumetric.threads import in_order

if TYPE_CHECKING:
    from psc_volumetric.layers.reading import Region

__all__ = ["ArchiveReader", "DecodedRegion"]

INDICES_KEPT = 256
BATCH_BRICKS = 64  # of which bytes are fetched together
BATCH_BYTES = 32 << 20
SMALLEST_SHARE = 0.25  # of a brick's bytes that part of it may take

Selection = tuple[slice, ...]
Box = tuple[slice, slice, slice]
_Part = tuple[tuple[int, ...], Box, Selection]  # position, box inside, place in the result


class ArchiveReader(OpenArchive):
    """A sealed archive, open for reading. Make one with :meth:`open`.

    Attributes
    ----------
    device : str
        Where the network runs: ``"auto"``, ``"cpu"`` or ``"cuda"``; never changes a bit.
    quota : Quota
        What one read may cost.
    owner : int
        Under which what was decoded is kept; open readers of one archive may have the same.

    Notes
    -----
    Everything but voxels is in `psc_volumetric.archive.opened.OpenArchive`.
    """

    def __init__(
        self, sealed: SealedStore, *, device: str = "auto", quota: Quota = UNLIMITED
    ) -> None:
        super().__init__(sealed)
        self.device = device
        self.quota = quota
        self.owner = new_owner()
        self._indices: OrderedDict[str, BrickIndex] = OrderedDict()
        self._lock = threading.Lock()

    @classmethod
    def open(
        cls,
        target: Target,
        *,
        device: str = "auto",
        options: Mapping[str, Any] | None = None,
        quota: Quota = UNLIMITED,
    ) -> Self:
        """Open an archive at a folder, zip file, URL or Zarr store.

        Raises
        ------
        StorageError
            Nothing there, or not readable.
        FormatError
            Kind ``"not-sealed"``, ``"not-an-archive"``, ``"unsupported-version"`` or damage.
        """
        store = open_store(target, options=options)
        return cls(SealedStore(store, load_manifest(store)), device=device, quota=quota)

    # -- voxels -----------------------------------------------------------------------------

    def read(
        self,
        variable: str,
        selection: Selection | None = None,
        *,
        level: Level = None,
        spread: bool = False,
    ) -> NDArray[Any]:
        """Stored values of a region, or their uncertainty.

        Parameters
        ----------
        variable : str
        selection : tuple of slice, optional
            One half-open slice (step 1) per axis; None is everything.
        level : int or str, optional
            0 is the coarsest; None, or one past the last, is everything; names: `level_number`.
        spread : bool
            Return one sigma per voxel (float32, stored units) instead of the values.

        Returns
        -------
        array of the selection's shape, C order, owned by the caller.

        Raises
        ------
        ParameterError
            Unknown variable; selection outside the array (kind ``"roi-outside"``).
        FormatError
            A brick is missing, cut, swapped or damaged; the message names key and region.
        PriorMismatchError
            The prior is neither in the archive nor shipped.
        LimitExceededError
            It costs more than `quota` allows (kind ``"quota"``).
        """
        region = self.read_region(variable, selection, level=level, spread=spread)
        return region.spread if spread and region.spread is not None else region.values

    def read_region(
        self,
        variable: str,
        selection: Selection | None = None,
        *,
        level: Level = None,
        spread: bool = False,
    ) -> DecodedRegion:
        """Like :meth:`read`, values and spread from one decoding."""
        spec = self.described(variable)
        box = self.normalise(spec, selection)
        check_level(level)
        shape = tuple(s.stop - s.start for s in box)
        parts = () if variable in self.kept else self.parts(spec, box)
        headers = (self.brick_index(variable, position) for position, *_ in parts)
        bricks = ((index, level_number(index, level)) for index in headers)
        clock = self.quota.admit(spec, shape, bricks, f"{self.name}: {variable}")
        sigma = np.zeros(shape, np.float32) if spread else None
        if variable in self.kept:  # which have one level, the file's
            return DecodedRegion(self.kept_array(variable)[box], sigma)
        values = np.empty(shape, spec.dtype)
        wanted = Wanted(spec, level, spread, clock)
        for batch in self._batches(spec, box):
            part = partial(self._part, wanted, self._fetch(wanted, batch))
            with in_order(part, batch) as found_parts:
                for target, found in found_parts:
                    values[target] = found.values.reshape(values[target].shape)
                    if sigma is not None and found.spread is not None:
                        sigma[target] = found.spread.reshape(sigma[target].shape)
        return DecodedRegion(values, sigma)

    def read_brick(
        self,
        variable: str,
        position: tuple[int, ...],
        selection: Box | None = None,
        *,
        level: Level = None,
        spread: bool = False,
        fetched: Fetched = NOTHING_FETCHED,
        goes_on: bool = False,
    ) -> DecodedRegion:
        """Part of one brick, decoded anew.

        Parameters
        ----------
        variable : str
        position : tuple of int
            Chunk grid index, all axes.
        selection : (slice, slice, slice), optional
            A (z, y, x) box within its valid part; None is all of it.
        level, spread
            As in :meth:`read`.
        fetched : Fetched
            Bytes of the brick that are here already.
        goes_on : bool
            Whether decoders that were left in the middle go on, and are kept for the next time.
        """
        from psc_volumetric.codec import decode_with
        from psc_volumetric.methods.protocol import Resources

        spec = self.spec(variable)
        key = chunk_key(variable, position)
        valid = spec.valid(position)
        box = (slice(0, valid[0]), slice(0, valid[1]), slice(0, valid[2]))
        box = box if selection is None else selection

        def known(level: int, box: Box, spread: bool) -> Region | None:
            kept, place = decoded_regions(), (self.owner, variable, position, level)
            found = kept.find((*place, True), box) or kept.find((*place, spread), box)
            if found is None:
                return None
            return found.values, found.spread if spread else None

        kept = unfinished_segments().of((self.owner, variable, position)) if goes_on else None
        with self._placing(spec, position, box):
            index = self.brick_index(variable, position, fetched)
            decoded = decode_with(
                lambda start, length: self._sealed.read_range(key, start, length, fetched),
                Resources(self._priors, self.device),
                selection=box,
                level=level_number(index, level),
                spread=spread,
                index=index,
                known=known,
                kept=kept,
            )
        return DecodedRegion(decoded.values, decoded.spread)

    def goes_on(self, variable: str, position: tuple[int, ...], box: Box, level: Level) -> bool:
        """Whether all that a box of a brick takes was begun, so that it costs only what is new."""
        index = self.brick_index(variable, position)
        kept = unfinished_segments().of((self.owner, variable, position))
        return kept.has(index, level_number(index, level), box)

    @contextmanager
    def _placing(self, spec: VariableSpec, position: tuple[int, ...], box: Box) -> Iterator[None]:
        """Errors in the block say which brick and which voxels they are about."""
        try:
            yield
        except (FormatError, PriorMismatchError) as error:
            key = chunk_key(spec.name, position)
            raise placed(error, self.name, key, spec, position, box) from error

    def brick_index(
        self, variable: str, position: tuple[int, ...], fetched: Fetched = NOTHING_FETCHED
    ) -> BrickIndex:
        """Checked header of one brick; the latest 256 are kept."""
        spec = self.spec(variable)
        spec.check_position(position)
        key = chunk_key(variable, position)
        known = self._known_index(key)
        if known is not None:
            return known
        try:
            index = self._sealed.read_index(
                key, lambda i: check_index(i, spec, position, key), fetched
            )
        except UnsupportedVersionError as error:
            raise named(error, self.codings(variable)) from error
        with self._lock:
            self._indices[key] = index
            while len(self._indices) > INDICES_KEPT:
                self._indices.popitem(last=False)
        return index

    def info(self) -> dict[str, Any]:
        """Summary in JSON types; reads metadata and ``tiles/`` only, loads no network."""
        return summarise(self)

    def _repr_html_(self) -> str:
        """What a notebook shows; of a damaged archive, what is wrong."""
        from html import escape

        from psc_volumetric.archive.html import archive_html

        try:
            return archive_html(self, self.info())
        except PscError as error:
            return f"<p><b>{escape(self.name)}</b><br>{escape(str(error))}</p>"

    # -- inside -----------------------------------------------------------------------------

    def _known_index(self, key: str) -> BrickIndex | None:
        with self._lock:
            if key in self._indices:
                self._indices.move_to_end(key)
            return self._indices.get(key)

    def _part(
        self, wanted: Wanted, of_bricks: Mapping[tuple[int, ...], Fetched], part: _Part
    ) -> tuple[Selection, DecodedRegion]:
        """Part of one brick, from memory where it, or what it lies in, was decoded before."""
        from psc_volumetric.layers.planning import decodes_slicewise

        wanted.clock.check()
        position, inside, target = part
        name, fetched = wanted.spec.name, of_bricks.get(position, NOTHING_FETCHED)
        with self._placing(wanted.spec, position, inside):
            index = self.brick_index(name, position, fetched)
        level = level_number(index, wanted.level)

        def decode(box: Box) -> DecodedRegion:
            return self.read_brick(
                name, position, box, level=wanted.level, spread=wanted.spread, fetched=fetched,
                goes_on=True,
            )  # fmt: skip

        if decodes_slicewise(index, level):
            return target, decode(inside)
        place = (self.owner, name, position, level, wanted.spread)
        return target, decoded_regions().get(
            place, inside, units=lambda box: wanted.units(index, box), decode=decode
        )

    def _fetch(self, wanted: Wanted, parts: Sequence[_Part]) -> dict[tuple[int, ...], Fetched]:
        """What a store far away has of these parts, in few requests."""
        if not self._sealed.store.is_remote:
            return {}
        name, kept = wanted.spec.name, decoded_regions()
        places, bricks = {}, {}
        for position, inside, _ in parts:
            key, place = chunk_key(name, position), (self.owner, name, position)
            index = self._known_index(key)
            level = None if index is None else level_number(index, wanted.level)
            if not kept.find((*place, level, wanted.spread), inside):
                places[key], bricks[key] = position, partial(wanted.ranges, place, inside)
        found = fetch(
            self._sealed.store,
            bricks,
            self._known_index,
            lambda key, fetched: self.brick_index(name, places[key], fetched),
        )
        return {places[key]: bytes_of for key, bytes_of in found.items()}

    def _batches(self, spec: VariableSpec, box: Selection) -> Iterator[list[_Part]]:
        """Parts of bricks, as many at a time as may be in memory before they are decoded."""
        batch: list[_Part] = []
        held = 0.0
        for part in self.parts(spec, box):
            entry = self.manifest.entries.get(chunk_key(spec.name, part[0]))
            share = math.prod(s.stop - s.start for s in part[1]) / math.prod(spec.brick_shape)
            nbytes = 0 if entry is None else entry.size * max(share, SMALLEST_SHARE)
            if batch and (held + nbytes > BATCH_BYTES or len(batch) >= BATCH_BRICKS):
                yield batch
                batch, held = [], 0.0
            batch.append(part)
            held += nbytes
        if batch:
            yield batch

    def normalise(self, spec: VariableSpec, selection: Selection | None) -> Selection:
        """A selection with a start and a stop for every axis; ParameterError outside the array."""
        if selection is None:
            return tuple(slice(0, n) for n in spec.shape)
        if len(selection) != spec.ndim:
            raise ParameterError(
                f"{spec.name}: expected {spec.ndim} slices (axes {spec.dims!r}), found "
                f"{len(selection)}",
                kind="bad-roi",
            )
        box = []
        for dim, size, part in zip(spec.dims, spec.shape, selection, strict=True):
            start = 0 if part.start is None else int(part.start)
            stop = size if part.stop is None else int(part.stop)
            if part.step not in (None, 1) or not 0 <= start <= stop <= size:
                raise ParameterError(
                    f"{spec.name}: region {dim}={part.start}:{part.stop} (step {part.step}) is "
                    f"not inside {dim}=0:{size}",
                    kind="roi-outside",
                    hint="give half-open index ranges inside the volume, step 1",
                )
            box.append(slice(start, stop))
        return tuple(box)

    def parts(self, spec: VariableSpec, box: Selection) -> Iterator[_Part]:
        """Bricks a box touches: position, (z, y, x) box inside, place in the result."""
        if any(s.start == s.stop for s in box):
            return
        ranges = [
            range(s.start // c, (s.stop - 1) // c + 1)
            for s, c in zip(box, spec.chunk_shape, strict=True)
        ]
        for position in product(*ranges):
            inside, target = [], []
            for s, c, p in zip(box, spec.chunk_shape, position, strict=True):
                start, stop = max(s.start, p * c), min(s.stop, (p + 1) * c)
                inside.append(slice(start - p * c, stop - p * c))
                target.append(slice(start - s.start, stop - s.start))
            z, y, x = [slice(0, 1)] * (3 - spec.spatial) + inside[spec.lead :]
            yield position, (z, y, x), tuple(target)
