"""Checking an archive: shallow (every object is there and unchanged) and deep (it decodes).

Findings name the key, and for bricks the tile and the region, so that one knows what is lost and
what is still good.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from psc_volumetric.archive.access import SealedStore, load_manifest, missing
from psc_volumetric.archive.damage import Finding, Surveyor, tile_at
from psc_volumetric.archive.layout import MANIFEST_KEY, VariableSpec, chunk_key
from psc_volumetric.archive.reader import ArchiveReader
from psc_volumetric.archive.sealing import is_journal
from psc_volumetric.archive.stores import Target, open_store
from psc_volumetric.archive.tiles import TileTable, brick_tiles, short_digest
from psc_volumetric.bitstream.index import BrickIndex
from psc_volumetric.errors import (
    ParameterError,
    PriorMismatchError,
    PscError,
    UnsupportedVersionError,
)
from psc_volumetric.threads import in_order
from psc_volumetric.tiling import Box, TileGrid

__all__ = ["Finding", "OnProgress", "Sample", "verify", "verify_archive", "verify_sealed"]

OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Sample:
    """Which objects of an archive are read; that all are there is always checked.

    Attributes
    ----------
    share : float
        Share of the objects, above 0 and at most 1.
    part : (int, int) or None
        ``(n, t)``, 1 <= n <= t: the n-th of t parts, in place of a share. An object is in one of
        the parts, and stays in it, so that t checks read all.
    seed : int
        Which sample of that share, and another division into parts.
    """

    share: float = 1.0
    part: tuple[int, int] | None = None
    seed: int = 0

    @classmethod
    def of(cls, text: float | str, seed: int = 0) -> Sample:
        """Read ``5%``, ``0.05`` or ``3/7`` (the third of seven parts).

        Raises
        ------
        ParameterError : something else (kind ``"bad-sample"``).
        """
        number, slash, parts = str(text).partition("/")
        if slash and number.isdecimal() and parts.isdecimal() and 1 <= int(number) <= int(parts):
            return cls(part=(int(number), int(parts)), seed=seed)
        percent = number.endswith("%")
        try:
            share = float(number.removesuffix("%")) / (100 if percent else 1)
        except ValueError:
            share = 0.0
        if slash or not 0 < share <= 1:
            raise ParameterError(
                f"expected a share above 0 and at most 1, or a part, found {text!r}",
                kind="bad-sample",
                hint="write it as 5%, as 0.05, or as 3/7 for the third of seven parts",
            )
        return cls(share, seed=seed)

    def has(self, key: str) -> bool:
        """Whether an object belongs to it."""
        digest = hashlib.sha256(f"{self.seed} {key}".encode()).digest()
        place = int.from_bytes(digest[:8], "big")
        if self.part is not None:
            return place * self.part[1] >> 64 == self.part[0] - 1
        return place < self.share * 2.0**64


def verify_archive(
    target: Target,
    *,
    sample: float | str = 1.0,
    deep: bool = False,
    seed: int = 0,
    device: str = "auto",
    options: Mapping[str, Any] | None = None,
    progress: OnProgress | None = None,
) -> Iterator[Finding]:
    """Check an archive, also one too damaged to open.

    Parameters
    ----------
    target : str, path or zarr Store
    sample : float or str
        Which objects (and, deep, bricks) to read: a share, ``0.05`` or ``"5%"``, or ``"3/7"``, the
        third of seven parts. That every object is there, and nothing else, is always checked
        completely.
    deep : bool
        Also decode bricks, compare the SHA-256 of every tile with ``tiles/``, and hold bounded
        levels to the exact ones above them.
    seed : int
        Which sample.
    progress : callable, optional
        ``progress(stage, done, total)``, stage ``"objects"`` or ``"bricks"``.

    Yields
    ------
    Finding

    Raises
    ------
    FormatError, StorageError
        Not an archive, not sealed, or its manifest cannot be used.
    PriorMismatchError
        Deep: bricks need a prior that was left out of the archive and is not here.
    UnsupportedVersionError
        Deep: what is to be decoded is of another release, or of a package that is not here.
    """
    store = open_store(target, options=options)
    sealed = SealedStore(store, load_manifest(store))
    yield from verify_sealed(
        sealed, sample=sample, deep=deep, seed=seed, device=device, progress=progress
    )


def verify_sealed(
    sealed: SealedStore,
    *,
    sample: float | str = 1.0,
    deep: bool = False,
    seed: int = 0,
    device: str = "auto",
    progress: OnProgress | None = None,
) -> Iterator[Finding]:
    """Check an archive whose manifest was read; parameters as in :func:`verify_archive`."""
    chosen = Sample.of(sample, seed)
    yield from _shallow(sealed, chosen, progress, tiles=not deep)
    if deep:
        try:
            reader = ArchiveReader(sealed, device=device)
        except UnsupportedVersionError:
            raise  # whole, as the digests say: that is no damage
        except PscError as error:
            yield Finding("", error.kind, f"bricks cannot be decoded: {error}")
            return
        yield from _deep(reader, chosen, progress)


def verify(
    reader: ArchiveReader,
    *,
    sample: float | str = 1.0,
    deep: bool = False,
    seed: int = 0,
    progress: OnProgress | None = None,
) -> Iterator[Finding]:
    """Check an archive that is open; parameters as in :func:`verify_archive`."""
    chosen = Sample.of(sample, seed)
    yield from _shallow(reader.sealed, chosen, progress, tiles=not deep)
    if deep:
        yield from _deep(reader, chosen, progress)


def _shallow(
    sealed: SealedStore, sample: Sample, progress: OnProgress | None, *, tiles: bool
) -> Iterator[Finding]:
    """Compare objects; ``tiles``: also find out which tiles of a damaged brick are lost."""
    listed, surveyor = sealed.manifest.entries, Surveyor(sealed)
    lists = sealed.store.lists  # a web server does not; then each object is asked for
    present = set(sealed.store.listing() if lists else listed)
    for key in sorted(present - set(listed) - {MANIFEST_KEY}):
        if not is_journal(key):
            yield Finding(key, "foreign-key", f"{key} is in the store but not in the manifest")
    if sealed.store.foreign_bytes:
        yield Finding(
            "",
            "foreign-bytes",
            f"{sealed.name}: {sealed.store.foreign_bytes} bytes of the file belong to no member",
        )
    chosen, read = {key for key in listed if sample.has(key)}, 0
    for key in sorted(listed):
        try:
            if key not in present:
                raise missing(sealed.name, key)
            if key in chosen:
                read += 1
                sealed.compare(key)
            elif not lists:
                sealed.check_size(key)
        except PscError as error:
            yield from surveyor.findings(key, error, tiles=tiles)
        if progress is not None:
            progress("objects", read, len(chosen))


def _deep(reader: ArchiveReader, sample: Sample, progress: OnProgress | None) -> Iterator[Finding]:
    chosen = [
        (name, position)
        for name, spec in reader.variables.items()
        for position in spec.positions()
        if sample.has(chunk_key(name, position))
    ]
    surveyor = Surveyor(reader.sealed, reader)
    tables: dict[str, TileTable | None] = {}
    for name in dict.fromkeys(name for name, _ in chosen):
        try:
            tables[name] = reader.tile_table(name)
        except PscError as error:
            tables[name] = None
            yield Finding(f"tiles/{name}", error.kind, str(error), name)

    def check(brick: tuple[str, tuple[int, ...]]) -> list[Finding]:
        name, position = brick
        damaged = list(_check_brick(reader, surveyor, name, position, tables[name]))
        return damaged or list(_check_bounds(reader, surveyor, name, position))

    with in_order(check, chosen) as findings:
        for number, found in enumerate(findings, start=1):
            yield from found
            if progress is not None:
                progress("bricks", number, len(chosen))


def _check_brick(
    reader: ArchiveReader,
    surveyor: Surveyor,
    name: str,
    position: tuple[int, ...],
    table: TileTable | None,
) -> Iterator[Finding]:
    spec, key = reader.variables[name], chunk_key(name, position)
    try:
        index = reader.brick_index(name, position)
        grid = _record_grid(index, spec, position, table)
    except UnsupportedVersionError:
        raise
    except PscError as error:
        yield surveyor.at(key, error, spec, position, None, 0)
        return
    expected = {} if table is None else dict(brick_tiles(table, spec, position))
    try:
        whole = reader.read_brick(name, position).values
    except UnsupportedVersionError:
        raise
    except PscError as error:
        if isinstance(error, PriorMismatchError) and error.kind == "prior-missing":
            raise  # it was left out of the archive and is not here: that is no damage
        whole = None  # find out which tiles it is
    for number, box in enumerate(map(grid.box, range(len(grid)))):
        try:
            values = reader.read_brick(name, position, box).values if whole is None else whole[box]
        except PscError as error:
            level = _first_lost(reader, name, position, box)
            yield surveyor.at(key, error, spec, position, box, level)
            continue
        little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
        found = short_digest(hashlib.sha256(little.tobytes()).hexdigest())
        wanted = expected.get(grid.position(number))
        if table is not None and found != wanted:
            differs = ParameterError(
                f"{reader.name}: {key}: tile {tile_at(spec, position, box)} decodes to SHA-256 "
                f"{found}, recorded is {wanted}; the decoder of this machine differs, or the tile "
                "was changed",
                kind="decoded-sha256",
            )
            yield surveyor.at(key, differs, spec, position, box, index.levels - 1)


def _first_lost(reader: ArchiveReader, name: str, position: tuple[int, ...], box: Box) -> int:
    """First level of a box of a brick that does not decode."""
    levels = reader.brick_index(name, position).levels
    for level in range(levels - 1):
        try:
            reader.read_brick(name, position, box, level=level)
        except PscError:
            return level
    return levels - 1


def _check_bounds(
    reader: ArchiveReader, surveyor: Surveyor, name: str, position: tuple[int, ...]
) -> Iterator[Finding]:
    """Compare a bounded level with the exact one above it; alone it has nothing to be held to."""
    spec, key = reader.variables[name], chunk_key(name, position)
    try:
        index = reader.brick_index(name, position)
        if not index.is_exact:
            return
        exact = reader.read_brick(name, position).values.astype(np.longdouble)
        for number, layer in enumerate(index.layers):
            if layer.grid is None:
                continue
            level = index.base_levels + number
            near = reader.read_brick(name, position, level=level).values
            measured = np.isfinite(exact)
            error = np.abs(near.astype(np.longdouble) - exact)[measured].max(initial=0.0)
            if not error <= layer.grid.bound:
                broken = ParameterError(
                    f"{reader.name}: {key}: level {layer.kind!r} is off by {error:g}, promised is "
                    f"{layer.grid.bound:g}",
                    kind="bound",
                )
                yield surveyor.at(key, broken, spec, position, None, level)
    except PscError as error:
        yield surveyor.at(key, error, spec, position, None, 0)


def _record_grid(
    index: BrickIndex, spec: VariableSpec, position: tuple[int, ...], table: TileTable | None
) -> TileGrid:
    """Tiles by which the brick was recorded; its own tiles where the record is lost."""
    if table is None:
        return index.grid
    single = sum(1 for _ in brick_tiles(table, spec, position)) == 1
    return TileGrid(index.valid, index.valid if single else spec.tile_shape)
