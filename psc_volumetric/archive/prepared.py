"""An archive that is complete but not sealed: what it would be can be read before it is promised.

Everything is on disk but ``manifest.json``. The manifest is in memory, so an
:class:`~psc_volumetric.archive.ArchiveReader` works on the tree as it will on the sealed archive.
"""

from __future__ import annotations

from psc_volumetric.archive import packing
from psc_volumetric.archive.access import SealedStore
from psc_volumetric.archive.manifest import Manifest
from psc_volumetric.archive.reader import ArchiveReader
from psc_volumetric.archive.sealing import clean_up, commit
from psc_volumetric.archive.source import DOCUMENT_KEY, blob_blocks
from psc_volumetric.archive.stores import ArchiveStore, Target, is_zip_name

__all__ = ["PreparedArchive", "check_readable"]


class PreparedArchive:
    """What :meth:`ArchiveWriter.prepare` gives. Nothing is sealed until :meth:`commit`.

    Attributes
    ----------
    manifest : Manifest
        As it will be written; ``data`` are its bytes where they are not to be made anew.
    """

    def __init__(
        self, store: ArchiveStore, target: Target, manifest: Manifest, data: bytes | None = None
    ) -> None:
        self._store = store
        self._target = target
        self._data = data
        self.manifest = manifest

    def reader(self, *, device: str = "auto") -> ArchiveReader:
        """The archive as a reader will see it; every read is checked against the manifest."""
        return ArchiveReader(SealedStore(self._store, self.manifest), device=device)

    def commit(self) -> Manifest:
        """Write the manifest (and the zip file), put all on disk, tidy up.

        Raises
        ------
        StorageError
            Kind ``"target-exists"`` when another writer sealed other bytes.
        """
        commit(self._store, self.manifest, self._data)
        if is_zip_name(self._target):
            packing.pack(self._store, self._target)
            packing.remove_work_place(self._target)
        else:
            clean_up(self._store)
        return self.manifest


def check_readable(reader: ArchiveReader) -> None:
    """Read all but voxels with the reader's own decoders, so that what is sealed can be opened.

    Raises
    ------
    FormatError, PscError
        What a reader would refuse the archive for.
    """
    for name, spec in reader.variables.items():
        for position in spec.positions():
            reader.brick_index(name, position)
        reader.tile_table(name)
    for name in reader.metadata.get("coordinates", ()):
        reader.coordinate(name)
    for name in reader.arrays:
        reader.plain(name)
    for name in reader.groups:
        reader.group_attributes(name)
    if DOCUMENT_KEY in reader.manifest.entries:
        blobs = reader.source().blobs
        for name in blobs:
            for _ in blob_blocks(blobs, name):
                pass
