"""Reading a sealed archive: any region of any variable, at any quality level.

Opening reads two small objects. Each read of a brick is checked against the manifest (listed,
size, digest of the header), against the brick's own header (position, shape, dtype, prior) and by
the checksums inside the brick, so a lost, cut, swapped, changed or foreign brick is an error and
never plausible values.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.archive.access import SealedStore, load_manifest
from psc_volumetric.archive.brick_checks import check_index, placed
from psc_volumetric.archive.layout import VariableSpec, chunk_key
from psc_volumetric.archive.levels import Level, check_level, level_number
from psc_volumetric.archive.opened import OpenArchive
from psc_volumetric.archive.quota import UNLIMITED, Quota
from psc_volumetric.archive.stores import Target, open_store
from psc_volumetric.archive.summary import summarise
from psc_volumetric.bitstream.index import BrickIndex
from psc_volumetric.errors import FormatError, ParameterError, PriorMismatchError
from psc_volumetric.threads import in_order

__all__ = ["ArchiveReader", "DecodedRegion"]

INDICES_KEPT = 256

Selection = tuple[slice, ...]
Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class DecodedRegion:
    """Stored values of a region; ``spread`` is one sigma per voxel (float32) or None."""

    values: NDArray[Any]
    spread: NDArray[np.float32] | None


class ArchiveReader(OpenArchive):
    """A sealed archive, open for reading. Make one with :meth:`open`.

    Attributes
    ----------
    device : str
        Where the network runs: ``"auto"``, ``"cpu"`` or ``"cuda"``; never changes a bit.
    quota : Quota
        What one read may cost.

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
        if spread and region.spread is not None:
            return region.spread
        return region.values

    def read_region(
        self,
        variable: str,
        selection: Selection | None = None,
        *,
        level: Level = None,
        spread: bool = False,
    ) -> DecodedRegion:
        """Like :meth:`read`, values and spread from one decoding."""
        spec = self.spec(variable)
        box = self._normalise(spec, selection)
        check_level(level)
        shape = tuple(s.stop - s.start for s in box)
        headers = (self.brick_index(variable, position) for position, *_ in self._bricks(spec, box))
        bricks = ((index, level_number(index, level)) for index in headers)
        clock = self.quota.admit(spec, shape, bricks, f"{self.name}: {variable}")
        values = np.empty(shape, spec.dtype)
        sigma = np.zeros(shape, np.float32) if spread else None

        def read(brick: tuple[tuple[int, ...], Box, Selection]) -> tuple[Selection, DecodedRegion]:
            clock.check()
            position, inside, target = brick
            return target, self.read_brick(variable, position, inside, level=level, spread=spread)

        with in_order(read, self._bricks(spec, box)) as parts:
            for target, found in parts:
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
    ) -> DecodedRegion:
        """Part of one brick; ``selection`` is a (z, y, x) box within its valid part."""
        from psc_volumetric.codec import decode_brick

        spec = self.spec(variable)
        key = chunk_key(variable, position)
        valid = spec.valid(position)
        box = (slice(0, valid[0]), slice(0, valid[1]), slice(0, valid[2]))
        box = box if selection is None else selection
        try:
            index = self.brick_index(variable, position)
            decoded = decode_brick(
                lambda start, length: self._sealed.read_range(key, start, length),
                selection=box,
                level=level_number(index, level),
                prior=self._priors,
                spread=spread,
                device=self.device,
                index=index,
            )
        except (FormatError, PriorMismatchError) as error:
            raise placed(error, self.name, key, spec, position, box) from error
        return DecodedRegion(decoded.values, decoded.spread)

    def brick_index(self, variable: str, position: tuple[int, ...]) -> BrickIndex:
        """Checked header of one brick; the latest 256 are kept."""
        spec = self.spec(variable)
        spec.check_position(position)
        key = chunk_key(variable, position)
        with self._lock:
            if key in self._indices:
                self._indices.move_to_end(key)
                return self._indices[key]
        index = self._sealed.read_index(key, lambda i: check_index(i, spec, position, key))
        with self._lock:
            self._indices[key] = index
            while len(self._indices) > INDICES_KEPT:
                self._indices.popitem(last=False)
        return index

    def info(self) -> dict[str, Any]:
        """Summary in JSON types; reads metadata and ``tiles/`` only, loads no network."""
        return summarise(self)

    # -- inside -----------------------------------------------------------------------------

    def _normalise(self, spec: VariableSpec, selection: Selection | None) -> Selection:
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

    def _bricks(
        self, spec: VariableSpec, box: Selection
    ) -> Iterator[tuple[tuple[int, ...], Box, Selection]]:
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
