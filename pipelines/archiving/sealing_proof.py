"""The proof before an archive is sealed: restore it from what is on disk, compare with the source.

Without loss every restored file has to be what was promised of it, by digest. With loss the
restored files are read as the format's readers read them: the same metadata, and every value within
its bound. The source is read again for it, so a source that changed meanwhile is noticed. Where the
proof fails though the source is the same, the files are kept verbatim beside their values.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from adapters import isolation, keep_originals
from adapters.base import FileRecord, SourceItem
from adapters.errors import SourceError
from adapters.originals import BlobBytes, blocks_of
from adapters.source_files import file_records, source_paths
from pipelines.archiving.plan import ItemPlan, brick_prior
from pipelines.restoring.decoded import restored_volumes
from pipelines.restoring.proof import PROMISES, ProofError, promises_of, prove
from pipelines.restoring.restore import restore_info
from pipelines.scratch import scratch_folder
from psc_volumetric.archive.checking import verify
from psc_volumetric.archive.kept import KeptArray
from psc_volumetric.archive.kept_preview import Pictured
from psc_volumetric.archive.layout import VariableSpec
from psc_volumetric.archive.prepared import PreparedArchive
from psc_volumetric.archive.reader import ArchiveReader
from psc_volumetric.archive.source import SourceRecord, blob_blocks
from psc_volumetric.archive.writer import ArchiveWriter
from psc_volumetric.errors import FormatError, NumericalError

__all__ = ["PROOF", "check_unchanged", "prepared_with_proof"]

PROOF = "proof"  # key in the source document
_PACKED = {"nifti": ".nii", "fits": ".fits"}  # formats that gzip may be around


def prepared_with_proof(
    writer: ArchiveWriter, item: ItemPlan, source: SourceItem
) -> tuple[PreparedArchive, list[str]]:
    """Complete an unsealed archive and prove that it gives its source back.

    Parameters
    ----------
    writer : ArchiveWriter
        All bricks are written.
    item : ItemPlan
    source : SourceItem

    Returns
    -------
    prepared : PreparedArchive
        Ready to commit.
    notes : list of str
        What had to be done for it, in words.

    Raises
    ------
    SourceError : kind ``"source-changed"``; ``"not-provable"``: not even the original comes back.
    NumericalError : kind ``"self-test"``: a brick does not decode to its source.
    StorageError : a brick is not what was written; no room to restore to.
    """
    pictured = _read_kept(writer, item, source)
    how = "none" if item.options.no_proof else "restored"
    prepared = _prepared(writer, item, source, how, pictured)
    _check_kept(prepared, item, source)
    if item.options.no_proof:
        return prepared, ["not proven: what was written was not restored and compared"]
    wrong = _difference(prepared, item, source)
    check_unchanged(item, source.files)
    if wrong is None:
        return prepared, []
    _check_bricks(prepared)
    kept = keep_originals(source, item.candidate, every=True)
    prepared = _prepared(writer, item, kept, f"original kept: {wrong}", pictured)
    again = _difference(prepared, item, kept)
    if again is not None:
        raise SourceError(
            f"restoring does not give the source back ({again}), nor does its copy",
            kind="not-provable",
            path=item.candidate.paths[0],
            hint="check memory and disk of this machine, then report this",
        )
    return prepared, [f"the original is kept beside its values, because {wrong}"]


def _read_kept(writer: ArchiveWriter, item: ItemPlan, source: SourceItem) -> list[Pictured]:
    """Read all values out of the original as the archive will; keep what previews show of them.

    Raises
    ------
    SourceError : the reading process cannot read them; kind ``"not-provable"``: others were read.
    """
    volumes = {volume.name: volume for volume in source.volumes}
    files = sum(len(block) for name in _blobs_of(item) for block in blocks_of(source.blobs, name))
    blobs = BlobBytes(source.blobs)
    whole = sum(kept.spec.nbytes for kept in item.kept)
    found = []
    for kept in item.kept:
        one = Pictured(kept, files * kept.spec.nbytes // whole)
        array, volume = KeptArray(kept, blobs, item.target), volumes[kept.volume]
        for box, bricks in one.parts():
            wanted = volume.array[box]  # first: what breaks a library breaks the reading process
            values = array[box]
            if values.tobytes() != wanted.tobytes():
                raise _not_provable(item, kept.spec.name)
            for position, sample in bricks:
                part = values if sample is None else values[sample]
                part = part.reshape(one.spec.valid(position))
                writer.write_preview_part(one.spec, position, part)
        found.append(one)
    return found


def _blobs_of(item: ItemPlan) -> list[str]:
    """Blobs that values are read out of."""
    return sorted({blob for kept in item.kept for blob, _ in kept.places})


def _check_kept(prepared: PreparedArchive, item: ItemPlan, source: SourceItem) -> None:
    """Compare the kept files that the archive holds with those that values were read out of.

    Raises
    ------
    SourceError : kind ``"not-provable"``.
    """
    if not item.kept:
        return
    with prepared.reader() as reader:
        stored = reader.source().blobs
        wrong = [
            name
            for name in _blobs_of(item)
            if _digest(blob_blocks(stored, name)) != _digest(blocks_of(source.blobs, name))
        ]
    if wrong:
        raise _not_provable(item, wrong[0])


def _digest(blocks: Iterable[bytes]) -> bytes:
    found = hashlib.sha256()
    for block in blocks:
        found.update(block)
    return found.digest()


def _not_provable(item: ItemPlan, name: str) -> SourceError:
    return SourceError(
        f"values read out of the kept original differ from those of {name!r}",
        kind="not-provable",
        path=item.candidate.paths[0],
        hint="check memory and disk of this machine, then report this",
    )


def _check_bricks(prepared: PreparedArchive) -> None:
    """Decode every brick and compare it with what was to be coded: encoders leave that to us.

    Raises
    ------
    NumericalError : one decodes to something else (kind ``"self-test"``); nothing is sealed.
    """
    with prepared.reader() as reader:
        found = (f for f in verify(reader, deep=True) if f.kind != "foreign-key")
        for finding in found:
            raise NumericalError(
                f"what was coded does not decode to its source ({finding.message})",
                kind="self-test",
                hint="check memory and disk of this machine; `psc-archive doctor --conformance` "
                "tells whether it decodes as others do",
            )


def check_unchanged(item: ItemPlan, files: Sequence[FileRecord]) -> None:
    """Hash the source files once more.

    Raises
    ------
    SourceError : kind ``"source-changed"``.
    """
    paths = source_paths(files, item.candidate.paths)  # without copies that were left out
    seen = [[(f.size, f.sha256) for f in each] for each in (files, item.files, file_records(paths))]
    if seen[0] == seen[1] == seen[2]:
        return
    changed = (path for path, *found in zip(paths, *seen, strict=False) if len(set(found)) > 1)
    raise SourceError(
        "the file changed while it was archived; nothing was sealed",
        kind="source-changed",
        path=next(changed, item.candidate.paths[0]),
        hint="run the same command again when nothing writes to it any more",
    )


def _prepared(
    writer: ArchiveWriter,
    item: ItemPlan,
    source: SourceItem,
    proof: str,
    pictured: Sequence[Pictured],
) -> PreparedArchive:
    promises = promises_of(source, item.candidate.paths)
    document = {**source.document, PROMISES: promises, PROOF: proof}
    writer.write_source(source.kind, document, source.blobs, source.files)
    if item.prior is not None and not writer.outside and _some_brick_needs_prior(writer):
        writer.write_prior(brick_prior(item.prior))
    return writer.prepare(preview_bytes=item.options.preview_size, pictured=pictured)


def _some_brick_needs_prior(writer: ArchiveWriter) -> bool:
    """Whether a prior has to travel; none does where AV1 won every brick."""
    records = (
        writer.brick_state(name, position)
        for name, spec in writer.variables.items()
        for position in spec.positions()
    )
    return any(record is not None and record.prior is not None for record in records)


def _difference(prepared: PreparedArchive, item: ItemPlan, source: SourceItem) -> str | None:
    """How what is restored differs from what was promised, in words; None when it does not."""
    size = max(item.source_bytes, sum(record.size for record in source.files))
    with (
        scratch_folder(item.target, size) as scratch,
        prepared.reader(device=item.options.device) as reader,
    ):
        exact = restore_info(reader, _boxes(reader), None).lossless
        bounds = {v.volume: v.kept.max_error for v in item.variables if v.kept.mode == "bounded"}
        bounds |= {v.volume: 0.0 for v in item.variables if v.kept.mode == "lossless"}
        level = None if exact or bounds else 0
        info = restore_info(reader, _boxes(reader), level)
        record = reader.source()
        try:
            kept = {name: _whole(one.spec) for name, one in reader.kept.items()}
            with restored_volumes(reader, _boxes(reader) | kept, level) as volumes:
                written = isolation.restore_source(
                    record.kind,
                    record.document,
                    record.blobs,
                    volumes,
                    scratch / _quick_name(record),
                    info,
                )
            if exact:
                prove(record.kind, written, record.files, record.document[PROMISES])
                return None
            return isolation.difference(item.candidate, [file.path for file in written], bounds)
        except ProofError:
            return "the file made from its parts is not equal to it"
        except FormatError as error:
            return f"it cannot be decoded ({error.kind})"
        except SourceError as error:
            return f"it cannot be made from its parts ({error.message})"


def _quick_name(record: SourceRecord) -> str:
    """Name to restore to, without compression, which takes longer than all the rest."""
    names = [str(name).lower() for name in record.document.get("names", ())]
    packed = record.kind in _PACKED and bool(names) and names[0].endswith(".gz")
    if not packed or record.document.get("originals"):
        return "restored"
    return f"restored{_PACKED[record.kind]}" if len(names) == 1 else "restored.hdr"


def _boxes(reader: ArchiveReader) -> dict[str, tuple[slice, ...]]:
    return {name: _whole(spec) for name, spec in reader.variables.items()}


def _whole(spec: VariableSpec) -> tuple[slice, ...]:
    return tuple(slice(0, size) for size in spec.shape)
