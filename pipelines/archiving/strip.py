"""A copy of an archive that says nothing about its source: values, geometry, types and units stay.

Left out are the headers, file names and kept originals in ``source/``, sizes and digests of the
source files, how and when the first archive was made, every attribute that is not on a short list,
text, and dates of scans. Bricks, previews, tile tables and networks are copied byte for byte, so
nothing is coded again; only values that were read out of a kept original are stored now, exactly.
What stays in the values themselves (a face in a head scan, text burnt into
an image) stays.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any

import psc_volumetric
from pipelines.archiving.created import created_now
from pipelines.archiving.locking import hold
from pipelines.archiving.stored_values import write_values
from pipelines.collection import refuse_folder
from pipelines.restoring.derived_source import DerivedSource, derived_source
from pipelines.scratch import scratch_folder
from psc_volumetric.archive.age import Recipient
from psc_volumetric.archive.attributes import checked_attributes
from psc_volumetric.archive.consolidated import with_copies
from psc_volumetric.archive.copying import begin_copy
from psc_volumetric.archive.hidden import HIDDEN_KEY, hide
from psc_volumetric.archive.layout import (
    ATTRIBUTE,
    FORMAT,
    METADATA_KEY,
    README_KEY,
    SPECIFICATION_PREFIX,
    VariableSpec,
    encode_json,
)
from psc_volumetric.archive.manifest import Entry, Manifest, sha256_hex
from psc_volumetric.archive.naming import node_path
from psc_volumetric.archive.prepared import PreparedArchive, check_readable
from psc_volumetric.archive.reader import ArchiveReader
from psc_volumetric.archive.skeleton import PlainCoordinate
from psc_volumetric.archive.source import write_source
from psc_volumetric.archive.stores import ArchiveStore
from psc_volumetric.errors import ParameterError
from psc_volumetric.extras import require

__all__ = ["StripReport", "head_of", "strip", "strip_lines"]

# What values mean and how they are stored; nothing that a person writes about a person.
KEPT_ATTRIBUTES = frozenset(
    """
    units standard_name long_name axis positive calendar world_axis cell_methods scale_factor
    add_offset _FillValue missing_value valid_min valid_max valid_range actual_range _Unsigned
    flag_values flag_masks flag_meanings modality slice_slope slice_intercept format spatial_unit
    time_unit intent_code lossy_before samples photometric_interpretation
    """.split()  # noqa: SIM905
)
# Medical sources: coordinates that are no dates. NetCDF keeps all that are numbers along one axis.
KEPT_COORDINATES = frozenset(
    """
    z y x t c echo_time trigger_time b_value slice_position inversion_time flip_angle
    """.split()  # noqa: SIM905
)
TYPES = "attribute_types"  # exact types of a node's attributes, see `archive.attributes`
COPIED = ("tiles/", "preview/", "priors/", SPECIFICATION_PREFIX)


@dataclass(frozen=True)
class StripReport:
    """What was written.

    Attributes
    ----------
    target : str
    restores_as : str
        Source format that the copy is restored to, ``"nifti"`` or ``"netcdf"``.
    variables : tuple of str
    bytes : int
    left_out : tuple of str
        Coordinates, arrays and attributes that are not in the copy, by name.
    original : str or None
        Digest of the first archive's manifest, when it was asked for.
    encrypted_for : int
        Keys that open what was left out, which is in the copy then.
    """

    target: str
    restores_as: str
    variables: tuple[str, ...]
    bytes: int
    left_out: tuple[str, ...]
    original: str | None
    encrypted_for: int = 0

    def to_dict(self) -> dict[str, Any]:
        """JSON-able record."""
        return {**asdict(self), "variables": list(self.variables), "left_out": list(self.left_out)}


@dataclass(frozen=True)
class _Copy:
    """The new tree on its way: what stays of the old one, and what has been written."""

    reader: ArchiveReader
    store: ArchiveStore
    entries: dict[str, Entry] = field(default_factory=dict)
    nodes: dict[str, dict[str, Any]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    def take(self, prefix: str) -> None:
        """Copy objects byte for byte, each checked against the old manifest."""
        for key, entry in self.reader.manifest.under(prefix).items():
            self.store.put(key, self.reader.sealed.read(key))
            self.entries[key] = entry

    def put(self, key: str, data: bytes) -> None:
        """Write an object of the copy's own."""
        self.store.put(key, data)
        self.entries[key] = Entry(len(data), sha256_hex(data))

    def put_node(self, path: str, document: dict[str, Any]) -> None:
        """Write the metadata of a node, of which the root will have a copy."""
        self.put(f"{path}/{METADATA_KEY}", encode_json(document))
        self.nodes[path] = document

    def attributes(self, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """The attributes of a node that stay, in both of their forms."""
        checked_attributes(given, f"{self.reader.name}: {name or METADATA_KEY}")
        own = copy.deepcopy(dict(given.get(ATTRIBUTE, {})))
        own[TYPES] = [row for row in own.get(TYPES, []) if _named(row) in KEPT_ATTRIBUTES]
        for attribute in sorted(set(given) - KEPT_ATTRIBUTES - {ATTRIBUTE}):
            self.left_out.append(f"{name}:{attribute}" if name else attribute)
        return {**{k: v for k, v in given.items() if k in KEPT_ATTRIBUTES}, ATTRIBUTE: own}


def _named(row: str | list[Any]) -> str:
    """The attribute that an entry of attribute types is about."""
    return row if isinstance(row, str) else str(row[0])


def strip(
    archive: str,
    target: str,
    *,
    link_original: bool = False,
    recipients: Sequence[Recipient] = (),
) -> StripReport:
    """Copy an archive without what identifies its source.

    Parameters
    ----------
    archive, target : str
        Path or URL; the target must not exist.
    link_original : bool
        Record the digest of the first archive's manifest, so that who has both can tell that they
        belong together.
    recipients : sequence of Recipient
        Whose keys open what is left out: it is in the copy then, encrypted. None: it is not.

    Raises
    ------
    StorageError : kind ``"target-exists"``, ``"target-locked"``.
    FormatError : the archive is damaged; nothing is sealed.
    ParameterError : kind ``"cannot-strip"``: no format could hold the values without the headers.
    """
    refuse_folder(archive)
    if recipients:
        require("sign", "encrypting headers")
    with ExitStack() as open_too:
        first = open_too.enter_context(ArchiveReader.open(archive))
        if not (first.variables or first.kept or first.arrays):
            raise ParameterError(
                f"{first.name}: expected values, found nothing but the source file itself, which a "
                "copy without headers leaves out",
                kind="cannot-strip",
                hint="take what identifies its source out of the file, and archive that",
            )
        open_too.enter_context(hold(target))
        reader = _with_values(first, target, open_too)
        left_out = list(first.arrays) if reader is not first else []
        original = first.manifest.digest if link_original else None
        head = head_of(first.manifest.digest, original, reader.mode, recipients)
        store = begin_copy(target, head)
        made = _Copy(reader, store, left_out=left_out)
        coordinates = _coordinates(made)
        derived = derived_source(
            list(reader.variables.values()), coordinates, _own_attributes(reader, coordinates)
        )
        _write(made, coordinates, derived, original, len(recipients))
        if recipients:
            made.put(HIDDEN_KEY, hide(first.sealed, made.entries, recipients))
        prepared = PreparedArchive(store, target, Manifest(made.entries))
        with prepared.reader() as copied:
            check_readable(copied)
        manifest = prepared.commit()
        return StripReport(
            target=target,
            restores_as=derived.kind,
            variables=tuple(reader.variables),
            bytes=manifest.size + len(manifest.to_bytes()),
            left_out=tuple(made.left_out),
            original=original,
            encrypted_for=len(recipients),
        )


def _with_values(first: ArchiveReader, target: str, open_too: ExitStack) -> ArchiveReader:
    """An archive that has its values in bricks: the one that is given, or one for the meantime."""
    if not first.kept:
        return first
    size = sum(kept.spec.nbytes for kept in first.kept.values())
    purpose = "storing the values that are read out of the original"
    folder = open_too.enter_context(scratch_folder(target, size, purpose=purpose))
    write_values(first, folder / "values.psc.zarr")
    return open_too.enter_context(ArchiveReader.open(folder / "values.psc.zarr"))


def head_of(
    manifest: str, original: str | None, mode: str, recipients: Sequence[Recipient] = ()
) -> bytes:
    """``partial.json`` of a copy that is not sealed: another archive is not mixed with it."""
    words = " ".join(["strip", manifest, str(original), *map(str, recipients)])
    document = {
        "format": FORMAT,
        "identity": sha256_hex(words.encode()),
        "created": None,
        "mode": mode,
        "variables": {},
    }
    return encode_json(document)


def _coordinates(made: _Copy) -> dict[str, PlainCoordinate]:
    """Numbers along one axis of a variable: those that stay, by name."""
    reader, kept = made.reader, {}
    medical = reader.metadata.get("provenance", {}).get("source_kind") != "netcdf"
    wanted = {name for spec in reader.variables.values() for name in spec.coordinates}
    for name in sorted({*reader.metadata.get("coordinates", ()), *reader.arrays}):
        found = reader.coordinate(name) if name in wanted else None
        plain = found is not None and found.values.dtype.kind in "iuf" and len(found.dims) == 1
        own = found is not None and found.dims == (name,)
        if found is not None and plain and own and not (medical and name not in KEPT_COORDINATES):
            kept[name] = found
        else:
            made.left_out.append(name)
    return kept


def _own_attributes(
    reader: ArchiveReader, coordinates: Mapping[str, PlainCoordinate]
) -> dict[str, dict[str, Any]]:
    """What stays of the attributes of variables and coordinates, with their types."""
    found: dict[str, Mapping[str, Any]] = {name: c.attrs for name, c in coordinates.items()}
    found |= {n: {**s.cf_attributes(), **s.attrs} for n, s in reader.variables.items()}
    return {
        name: {key: value for key, value in attrs.items() if key in KEPT_ATTRIBUTES}
        for name, attrs in found.items()
    }


def _write(
    made: _Copy,
    coordinates: Mapping[str, PlainCoordinate],
    derived: DerivedSource,
    original: str | None,
    keys: int,
) -> None:
    """Write all objects but the manifest, and what is encrypted for so many keys."""
    reader = made.reader
    for prefix in (*COPIED, README_KEY):
        made.take(prefix)
    for name in coordinates:
        node = node_path(name)
        made.take(f"{node}/c/")
        made.put_node(node, _node(made, name))
    for spec in reader.variables.values():
        made.take(f"{spec.node}/c/")
        made.put_node(spec.node, _variable(made, spec, coordinates, derived))
    said: dict[str, Any] = {} if original is None else {"original": original}
    said |= {"encrypted_for": keys} if keys else {}
    groups = _groups([*reader.variables, *coordinates])
    for path in groups:
        made.put_node(node_path(path), _node(made, path))
    root = _root(made, coordinates, derived, groups, said)
    image = reader.sealed.read_json(METADATA_KEY)["attributes"].get("ome")
    if image is not None and "ome" not in reader.attrs:  # viewers find the preview by it
        root["attributes"]["ome"] = image
    made.put(METADATA_KEY, encode_json(with_copies(root, made.nodes)))
    write_source(made.put, derived.kind, derived.document, derived.blobs, files=())


def _node(made: _Copy, name: str) -> dict[str, Any]:
    """``zarr.json`` of a plain array or a group."""
    document = made.reader.sealed.read_json(f"{node_path(name)}/{METADATA_KEY}")
    document["attributes"] = made.attributes(name, document.get("attributes", {}))
    return document


def _variable(
    made: _Copy,
    spec: VariableSpec,
    coordinates: Mapping[str, PlainCoordinate],
    derived: DerivedSource,
) -> dict[str, Any]:
    document = made.reader.sealed.read_json(f"{spec.node}/{METADATA_KEY}")
    attributes = made.attributes(spec.name, document["attributes"])
    own = attributes[ATTRIBUTE]
    own["coordinates"] = [name for name in own.get("coordinates", ()) if name in coordinates]
    own["parameters"] = {**own["parameters"], "volume": derived.volumes[spec.name]}
    if own["parameters"].pop("prompt", None) is not None:  # free text
        made.left_out.append(f"{spec.name}:prompt")
    document["attributes"] = attributes
    return document


def _groups(names: list[str]) -> list[str]:
    """Paths of all groups that these names lie in, without the root."""
    found = set()
    for name in names:
        while "/" in name:
            name = name.rpartition("/")[0]
            found.add(name)
    return sorted(found)


def _root(
    made: _Copy,
    coordinates: Mapping[str, PlainCoordinate],
    derived: DerivedSource,
    groups: list[str],
    said: Mapping[str, Any],
) -> dict[str, Any]:
    in_record = derived.kind == "netcdf"  # the record's own arrays, which a restore asks for
    document = made.reader.sealed.read_json(METADATA_KEY)
    attributes = made.attributes("", document["attributes"])
    old = attributes[ATTRIBUTE]
    attributes[ATTRIBUTE] = {
        "format": old["format"],
        "mode": old["mode"],
        "created": created_now(),
        "variables": old.get("variables", []),
        "coordinates": [] if in_record else list(coordinates),
        "arrays": list(coordinates) if in_record else [],
        "groups": groups,
        TYPES: old[TYPES],
        "priors": old.get("priors", []),
        "provenance": {
            "software": f"psc-archive {psc_volumetric.__version__}",
            "source_kind": "stripped",
            "stripped": dict(said),
        },
    }
    document["attributes"] = attributes
    return document


def strip_lines(report: StripReport) -> list[str]:
    """The outcome for people."""
    lines = [
        f"sealed    {report.target} ({report.bytes} bytes), without headers, names and digests of "
        "its source",
        f"          restores as {report.restores_as}: values, geometry, types and units",
    ]
    if report.original is not None:
        lines.append(f"          names the first archive by its manifest, {report.original}")
    if report.encrypted_for:
        lines.append(
            f"          what was left out is encrypted for {report.encrypted_for} key(s): "
            "restore --identity KEYFILE"
        )
    if report.left_out:
        shown = ", ".join(report.left_out[:8])
        more = f" and {len(report.left_out) - 8} more" if len(report.left_out) > 8 else ""
        lines.append(f"left out  {shown}{more}")
    return lines
