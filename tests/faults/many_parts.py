"""Tiny archives in memory, one object of each changed, and what then reads that object.

The parts of `tests.faults.many`, each with its share of the cases. Everything is drawn from one
``random.Random``, so that a find is its part and its number.
"""

from __future__ import annotations

import contextlib
import os
import random
import struct
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import netCDF4
import nibabel
import numpy as np
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from zarr.storage import MemoryStore

from pipelines.archiving.archive import ArchiveOptions, archive, plan
from pipelines.archiving.succession import predecessor_of
from pipelines.checking.tombstones import read_tombstone
from psc_volumetric.archive.access import SealedStore
from psc_volumetric.archive.age import Identity, decrypt, encrypt
from psc_volumetric.archive.checking import verify_sealed
from psc_volumetric.archive.layout import MANIFEST_KEY
from psc_volumetric.archive.manifest import Entry, Manifest
from psc_volumetric.archive.reader import ArchiveReader
from psc_volumetric.archive.salvage import Salvage
from psc_volumetric.archive.signature import public_keys, sign, signer_of
from psc_volumetric.archive.zarr_stores import ZarrStore
from psc_volumetric.archive.zipped import CheckedZip
from tests.faults import archive_mutations as hostile
from tests.faults.kept_parts import read_other_bytes, read_other_words
from tests.faults.sources import smooth, write_dicom
from tests.faults.trees import Tree, entry_of, pack_zip, read_tree
from tests.fuzz.targets import brick_header

__all__ = ["PARTS", "Case", "Specimen", "specimens"]

damage = hostile.MUTATORS["brick_decode"][0]  # flips, cuts, repeats, noise
Bytes = dict[str, bytes]


class InMemory(ZarrStore):
    """Objects of a dictionary, behind the door that all readers use."""

    def __init__(self, tree: Bytes) -> None:
        super().__init__(MemoryStore(), "memory")
        self.tree = tree
        self.is_remote = False

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes | None:
        """Bytes of a key, or of a range of it."""
        data = self.tree.get(key)
        if data is None:
            return None
        return data[start:] if length is None else data[start : start + length]

    def size(self, key: str) -> int | None:
        """Size of an object."""
        data = self.tree.get(key)
        return None if data is None else len(data)

    def listing(self, prefix: str = "") -> list[str]:
        """Keys, sorted."""
        return sorted(key for key in self.tree if key.startswith(prefix))


@dataclass(frozen=True)
class Specimen:
    """A tiny good archive and the manifest entries of its objects."""

    name: str
    tree: Bytes
    entries: dict[str, Entry]

    def changed(self, changes: Tree) -> SealedStore:
        """The archive with other objects, which its manifest vouches for."""
        tree, entries = dict(self.tree), dict(self.entries)
        for key, data in changes.items():
            if isinstance(data, bytes) and self.tree.get(key) is not data:
                tree[key], entries[key] = data, entry_of(data)
        for key in self.tree.keys() - changes.keys():
            del tree[key], entries[key]
        return SealedStore(InMemory(tree), Manifest(entries))


def _write_fields(folder: Path, shift: int = 0) -> Path:
    """Two small fields of floats, a text variable, a group and a fill value."""
    path = folder / "fields.nc"
    with netCDF4.Dataset(path, "w") as nc:
        for name, size in (("time", 2), ("lat", 18), ("lon", 20)):
            nc.createDimension(name, size)
            nc.createVariable(name, "f8", (name,))[:] = np.arange(size) * 1.5
        nc["time"].units = "days since 2000-01-01"
        for name in ("ta", "ps"):
            field_ = nc.createVariable(name, "f4", ("time", "lat", "lon"), fill_value=-9999.0)
            field_[:] = smooth((2, 18, 20)).astype("f4") / 8 + shift
            field_.units = "K"
        nc.createVariable("station", str, ("lat",))[:] = np.array([f"s{n}" for n in range(18)], "O")
        nc.createGroup("run").title = "a group"
    return path


def _write_scan(folder: Path, shift: int = 0) -> Path:
    path = folder / "scan.nii"
    values = smooth((9, 8, 6, 2)) + np.int16(shift)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([2.0, 2.0, 3.0, 1.0])), path)
    return path


_MADE: dict[str, tuple[Callable[..., Path], dict[str, Any]]] = {
    "dicom": (write_dicom, {"coders": "fast"}),
    "nifti": (_write_scan, {"coders": "smallest"}),
    "netcdf": (_write_fields, {"coders": "fast", "max_error": 0.5}),
    "bounded": (_write_fields, {"mode": "bounded", "max_error": 0.01, "coders": "zstd"}),
    "lossy": (_write_scan, {"mode": "lossy", "base": "wavelet", "step": 0.05}),
}


def specimens(names: Sequence[str] = tuple(_MADE), *, shift: int = 0) -> list[Specimen]:
    """Make the good archives; of the same sources with other values, where there is a shift."""
    made = []
    with tempfile.TemporaryDirectory() as place:
        for name in names:
            write, options = _MADE[name]
            work = Path(place) / name
            work.mkdir()
            target = work / "archive.psc.zarr"
            archive(plan(write(work, shift), str(target), ArchiveOptions(**options)))
            tree = {k: v for k, v in read_tree(target).items() if isinstance(v, bytes)}
            entries = {key: entry_of(data) for key, data in tree.items() if key != MANIFEST_KEY}
            made.append(Specimen(name, tree, entries))
    return made


# --- what is changed, and who reads it ------------------------------------------------------------


@dataclass
class Case:
    """What a part may draw from.

    Attributes
    ----------
    good : Specimen
    rng : random.Random
    """

    good: Specimen
    rng: random.Random

    def mutated(self, *mutations: Callable[[Tree, random.Random], None]) -> SealedStore:
        """The archive after one of these changes."""
        tree: Tree = dict(self.good.tree)
        with contextlib.suppress(*hostile.UNCHANGEABLE):
            self.rng.choice(mutations)(tree, self.rng)
        return self.good.changed(tree)


def _open(case: Case, sealed: SealedStore) -> ArchiveReader:
    reader = ArchiveReader(sealed)
    reader.info()
    predecessor_of(reader)
    for name in reader.groups:
        reader.group_attributes(name)
    return reader


def read_metadata(case: Case) -> None:
    """Other attributes, shapes, types, codecs: opened, described, and one variable read."""
    reader = _open(case, case.mutated(hostile._metadata))
    for name in reader.variables:
        reader.read(name, level=0)


def read_headers(case: Case) -> None:
    """Other headers of bricks: parsed, and asked for every place that they know."""
    keys = sorted(key for key, entry in case.good.entries.items() if entry.head is not None)
    stream = case.good.tree[case.rng.choice(keys)]
    with contextlib.suppress(*hostile.UNCHANGEABLE):
        stream = case.rng.choice(hostile.MUTATORS["brick_header"])(stream, case.rng)
    brick_header(stream)


def read_bricks(case: Case) -> None:
    """Other bricks: first and last level, values and sigma."""
    reader = ArchiveReader(case.mutated(hostile._brick, hostile._brick, hostile._swap_bricks))
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        for name in reader.variables:
            reader.read_region(name, level=case.rng.choice((None, 0)), spread=True)


def rescue_bricks(case: Case) -> None:
    """Damaged bricks whose manifest is the old one: found, and the rest is read."""
    sealed = case.mutated(hostile._brick, hostile._lose, hostile._swap_bricks)
    damaged = SealedStore(sealed.store, Manifest(case.good.entries))
    list(verify_sealed(damaged))
    reader = ArchiveReader(damaged)
    salvage = Salvage(reader)
    for name in reader.variables:
        salvage.read(name)
        salvage.mask(name)


def read_plain(case: Case) -> None:
    """Other chunks and metadata of plain arrays: tile tables, coordinates, text."""
    reader = ArchiveReader(case.mutated(hostile._chunk, hostile._beside, hostile._metadata))
    for name in reader.variables:
        reader.tile_table(name)
    for name in (*reader.arrays, *reader.metadata.get("coordinates", ())):
        np.asarray(reader.plain(name).values)


def read_source(case: Case) -> None:
    """Another source document, other blobs."""
    reader = ArchiveReader(case.mutated(hostile._source, hostile._source, hostile._blobs))
    record = reader.source()
    for name in record.blobs:
        record.blobs[name]


def read_listing(case: Case) -> None:
    """Objects lost or added, a manifest whose own digest is right and whose entries are not."""
    tree: Tree = dict(case.good.tree)
    case.rng.choice((hostile._lose, hostile._add, hostile._manifest))(tree, case.rng)
    if tree.get(MANIFEST_KEY) is case.good.tree[MANIFEST_KEY]:
        entries = {k: entry_of(v) for k, v in tree.items() if k != MANIFEST_KEY}  # type: ignore[arg-type]
        tree[MANIFEST_KEY] = Manifest(entries).to_bytes()
    objects = {key: data for key, data in tree.items() if isinstance(data, bytes)}
    manifest = Manifest.from_bytes(objects[MANIFEST_KEY], where="memory")
    sealed = SealedStore(InMemory(objects), manifest)
    list(verify_sealed(sealed, sample=0.2))
    _open(case, sealed)


def read_manifest_bytes(case: Case) -> None:
    """Other bytes of a manifest."""
    data = case.good.tree[MANIFEST_KEY]
    changed = hostile._change_document(data, case.rng)
    if case.rng.random() < 0.3:
        changed = damage(data, case.rng)
    Manifest.from_bytes(changed, where="memory")


class _OneFile:
    """A zip file in memory, as `CheckedZip` reads it."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)

    async def read(self, start: int, length: int) -> bytes:
        """Part of the file."""
        return self._data[start : start + length]

    def close(self) -> None:
        """Nothing to release."""


def read_zip(case: Case) -> None:
    """Another directory, other headers, members of a zip file."""
    small = {key: case.good.tree[key][:200] for key in sorted(case.good.tree)[:6]}
    data = pack_zip(dict(small))
    for _ in range(case.rng.choice((1, 1, 3))):
        data = (hostile._change_record if case.rng.random() < 0.7 else damage)(data, case.rng)
    try:
        packed = CheckedZip("memory.zip", lambda: _OneFile(data))
    except (zipfile.BadZipFile, EOFError, UnicodeError, NotImplementedError, struct.error):
        return  # what `open_store` turns into "not-an-archive"
    store = ZarrStore(packed, "memory.zip")
    for key in store.listing():
        store.size(key)
        store.get(key)


def read_beside(case: Case) -> None:
    """Signatures, keys, tombstones and encrypted headers."""
    kind = case.rng.randrange(4)
    known = _beside()
    if kind == 0:
        signer_of(damage(known.signature, case.rng), b"manifest", where="memory.sig")
    elif kind == 1:
        public_keys(damage(known.public_key, case.rng), where="key.pub")
    elif kind == 2:
        read_tombstone(hostile._change_document(_STONE, case.rng), "memory.retired.json")
    else:
        decrypt(damage(known.hidden, case.rng), [known.identity], where="memory")


@dataclass(frozen=True)
class _Beside:
    signature: bytes
    public_key: bytes
    hidden: bytes
    identity: Identity


@cache
def _beside() -> _Beside:
    """What stands beside an archive, made once; the keys differ from run to run."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    identity = Identity(os.urandom(32))
    signature, _ = sign(b"manifest", private, where="key")
    hidden = encrypt(bytes(range(256)) * 300, [identity.recipient])
    return _Beside(signature, public, hidden, identity)


_STONE = (
    b'{"archive": "scan.psc.zarr", "manifest": null, "source": null, "created": null, "bytes": 9, '
    b'"retired": "2026-11-28T09:00:00+00:00", "by": "a@b", "reason": "scanned anew", '
    b'"successor": null, "program": "psc-archive 0"}'
)


def read_kept(case: Case) -> None:
    """Values out of kept originals: of other bytes, or under other words."""
    (read_other_bytes if case.rng.random() < 0.8 else read_other_words)(case.rng)


PARTS: dict[str, tuple[Callable[[Case], None], int]] = {
    "metadata": (read_metadata, 12),
    "headers": (read_headers, 35),
    "bricks": (read_bricks, 16),
    "rescue": (rescue_bricks, 1),
    "plain": (read_plain, 3),
    "source": (read_source, 10),
    "listing": (read_listing, 3),
    "manifest": (read_manifest_bytes, 10),
    "zip": (read_zip, 5),
    "beside": (read_beside, 5),
    "kept": (read_kept, 5),
}  # with its share of the cases
