"""What can happen to an archive that was good: each a function that changes a tree, or does not
apply to it."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from functools import partial
from typing import Any

from psc_volumetric.archive.layout import ATTRIBUTE, MANIFEST_KEY, METADATA_KEY, README_KEY
from tests.faults.specimens import Specimen
from tests.faults.trees import Folder, Link, Tree, edit_json

__all__ = ["DAMAGES", "ZIP_DAMAGES", "DoesNotApply"]

Damage = Callable[[Tree, Specimen], None]


class DoesNotApply(Exception):
    """This archive has nothing that could be damaged this way."""


def _bytes(tree: Tree, key: str) -> bytes:
    data = tree[key]
    assert isinstance(data, bytes)
    return data


def _on(pick: Callable[[Specimen], str], change: Callable[[bytes], bytes]) -> Damage:
    """Change the bytes of one object."""

    def damage(tree: Tree, specimen: Specimen) -> None:
        key = pick(specimen)
        tree[key] = change(_bytes(tree, key))

    return damage


def _put(pick: Callable[[Specimen], str], what: Link | Folder | None) -> Damage:
    """Put something else in place of an object, or nothing."""

    def damage(tree: Tree, specimen: Specimen) -> None:
        if specimen.kind.zipped and what is not None:
            raise DoesNotApply
        del tree[pick(specimen)]
        if what is not None:
            tree[pick(specimen)] = what

    return damage


def _json(key: Callable[[Specimen], str], change: Callable[[dict[str, Any]], object]) -> Damage:
    def damage(tree: Tree, specimen: Specimen) -> None:
        edit_json(tree, key(specimen), change)

    return damage


def _flip(data: bytes, at: float, bit: int = 3) -> bytes:
    place = min(len(data) - 1, int(at * len(data)))
    return data[:place] + bytes([data[place] ^ (1 << bit)]) + data[place + 1 :]


def _zeros(data: bytes, at: float, count: int) -> bytes:
    place = int(at * len(data))
    stop = min(len(data), place + count)
    return data[:place] + bytes(stop - place) + data[stop:]


def _noise(data: bytes) -> bytes:
    return random.Random(len(data)).randbytes(len(data))


# --- which object ---------------------------------------------------------------------------------


def _brick(specimen: Specimen) -> str:
    return specimen.bricks[-1]


def _variable(specimen: Specimen) -> str:
    return f"{specimen.variables[-1]}/{METADATA_KEY}"


def _root(_: Specimen) -> str:
    return METADATA_KEY


def _manifest(_: Specimen) -> str:
    return MANIFEST_KEY


def _coordinate(specimen: Specimen, number: int = -1) -> str:
    name = specimen.coordinates[number]
    return next(key for key in sorted(specimen.tree) if key.startswith(f"{name}/c/"))


def _coordinate_json(specimen: Specimen) -> str:
    return f"{specimen.coordinates[-1]}/{METADATA_KEY}"


def _under(prefix: str, specimen: Specimen) -> str:
    found = [
        key for key in sorted(specimen.tree) if key.startswith(prefix) and not key.endswith(".json")
    ]
    if not found:
        raise DoesNotApply
    return found[0]


# --- several objects ------------------------------------------------------------------------------


def _swap(tree: Tree, specimen: Specimen) -> None:
    if len(specimen.bricks) < 2:
        raise DoesNotApply
    one, two = specimen.bricks[:2]
    tree[one], tree[two] = tree[two], tree[one]


def _copy_over(tree: Tree, specimen: Specimen) -> None:
    if len(specimen.bricks) < 2:
        raise DoesNotApply
    tree[specimen.bricks[0]] = tree[specimen.bricks[-1]]


def _twin_brick(tree: Tree, specimen: Specimen) -> None:
    """A brick of another archive, same place; sizes may differ."""
    key = specimen.bricks[-1]
    tree[key] = specimen.twin[key]


def _twin_brick_same_size(tree: Tree, specimen: Specimen) -> None:
    """A brick of another archive, same place and size, other values."""
    for key in specimen.bricks:
        mine, other = _bytes(tree, key), _bytes(specimen.twin, key)
        if len(mine) == len(other) and mine != other:
            tree[key] = other
            return
    raise DoesNotApply


def _twin_bricks(tree: Tree, specimen: Specimen) -> None:
    tree.update({key: specimen.twin[key] for key in specimen.bricks})


def _twin_metadata(tree: Tree, specimen: Specimen) -> None:
    tree[METADATA_KEY] = _bytes(specimen.twin, METADATA_KEY).replace(b'"source"', b'"sourcd"')


def _twin_manifest(tree: Tree, specimen: Specimen) -> None:
    tree[MANIFEST_KEY] = specimen.twin[MANIFEST_KEY]


def _swap_coordinates(tree: Tree, specimen: Specimen) -> None:
    if len(specimen.coordinates) < 2:
        raise DoesNotApply
    one, two = (_coordinate(specimen, number) for number in (0, -1))
    if tree[one] == tree[two]:
        raise DoesNotApply
    tree[one], tree[two] = tree[two], tree[one]


def _twin_coordinate(tree: Tree, specimen: Specimen) -> None:
    for number in range(len(specimen.coordinates)):
        key = _coordinate(specimen, number)
        if specimen.twin[key] != tree[key]:
            tree[key] = specimen.twin[key]
            return
    raise DoesNotApply


def _lose_array(tree: Tree, specimen: Specimen) -> None:
    for key in [key for key in tree if key.startswith(f"{specimen.coordinates[-1]}/")]:
        del tree[key]


def _lose_variable(tree: Tree, specimen: Specimen) -> None:
    for key in [key for key in tree if key.startswith(f"{specimen.variables[-1]}/")]:
        del tree[key]


def _foreign(tree: Tree, specimen: Specimen) -> None:
    tree[f"{specimen.variables[-1]}/c/9/9/9"] = b"not of this archive"


def _change_size_in_manifest(tree: Tree, specimen: Specimen) -> None:
    document = json.loads(_bytes(tree, MANIFEST_KEY))
    document["keys"][specimen.bricks[-1]]["size"] += 1
    tree[MANIFEST_KEY] = json.dumps(document).encode()


# --- edited metadata ------------------------------------------------------------------------------


def _grow_shape(document: dict[str, Any]) -> None:
    document["shape"][-1] += 1


def _shrink_shape(document: dict[str, Any]) -> None:
    document["shape"][-1] -= 1


def _other_type(document: dict[str, Any]) -> None:
    table = {"int16": "uint16", "uint16": "int16", "float32": "int32", "float64": "int64"}
    document["data_type"] = table[document["data_type"]]
    if document["data_type"].startswith("int"):
        document["fill_value"] = 0


def _fill(document: dict[str, Any]) -> None:
    document["fill_value"] = 7 if isinstance(document["fill_value"], int) else 7.0


def _attribute(name: str, value: object, document: dict[str, Any]) -> None:
    document["attributes"][name] = value


def _own(name: str, value: object, document: dict[str, Any]) -> None:
    document["attributes"][ATTRIBUTE][name] = value


def _swap_dims(document: dict[str, Any]) -> None:
    document["dimension_names"].reverse()


def _chunks(document: dict[str, Any]) -> None:
    shape = document["chunk_grid"]["configuration"]["chunk_shape"]
    shape[-1] = max(1, shape[-1] // 2)


def _plain_codec(document: dict[str, Any]) -> None:
    document["codecs"] = [{"name": "bytes", "configuration": {"endian": "little"}}]


def _endian(document: dict[str, Any]) -> None:
    document["codecs"][0] = {"name": "bytes", "configuration": {"endian": "big"}}


def _separator(document: dict[str, Any]) -> None:
    document["chunk_key_encoding"] = {"name": "v2", "configuration": {"separator": "."}}


DAMAGES: dict[str, Damage] = {
    "brick: bit of the header": _on(_brick, partial(_flip, at=0.02)),
    "brick: bit in the middle": _on(_brick, partial(_flip, at=0.5)),
    "brick: last bit": _on(_brick, partial(_flip, at=1.0, bit=0)),
    "brick: magic lost": _on(_brick, lambda data: b"\0" * 4 + data[4:]),
    "brick: 64 zeros inside": _on(_brick, partial(_zeros, at=0.4, count=64)),
    "brick: all zeros": _on(_brick, lambda data: bytes(len(data))),
    "brick: noise of the same size": _on(_brick, _noise),
    "brick: cut to half": _on(_brick, lambda data: data[: len(data) // 2]),
    "brick: cut by a byte": _on(_brick, lambda data: data[:-1]),
    "brick: empty": _on(_brick, lambda data: b""),
    "brick: a byte more": _on(_brick, lambda data: data + b"\0"),
    "brick: twice": _on(_brick, lambda data: data + data),
    "brick: lost": _put(_brick, None),
    "brick: a folder": _put(_brick, Folder()),
    "brick: a dangling link": _put(_brick, Link("nowhere")),
    "bricks: two swapped": _swap,
    "bricks: one in place of another": _copy_over,
    "bricks: one of another archive": _twin_brick,
    "bricks: one of another archive, same size": _twin_brick_same_size,
    "bricks: all of another archive": _twin_bricks,
    "root: lost": _put(_root, None),
    "root: cut": _on(_root, lambda data: data[: len(data) // 2]),
    "root: mode edited": _json(_root, partial(_own, "mode", "lossy-ish")),
    "root: variables edited": _json(_root, partial(_own, "variables", [])),
    "root: other sources": _twin_metadata,
    "variable: metadata lost": _put(_variable, None),
    "variable: larger shape": _json(_variable, _grow_shape),
    "variable: smaller shape": _json(_variable, _shrink_shape),
    "variable: another type": _json(_variable, _other_type),
    "variable: another fill value": _json(_variable, _fill),
    "variable: scale_factor edited": _json(_variable, partial(_attribute, "scale_factor", 0.5)),
    "variable: add_offset edited": _json(_variable, partial(_attribute, "add_offset", 11.0)),
    "variable: _FillValue edited": _json(_variable, partial(_attribute, "_FillValue", 3)),
    "variable: units edited": _json(_variable, partial(_attribute, "units", "furlong")),
    "variable: affine edited": _json(_variable, partial(_own, "affine", None)),
    "variable: axes renamed": _json(_variable, _swap_dims),
    "variable: other chunks": _json(_variable, _chunks),
    "variable: plain codec": _json(_variable, _plain_codec),
    "variable: other chunk names": _json(_variable, _separator),
    "variable: lost": _lose_variable,
    "coordinate: chunk lost": _put(_coordinate, None),
    "coordinate: bit": _on(_coordinate, partial(_flip, at=0.6)),
    "coordinate: empty": _on(_coordinate, lambda data: b""),
    "coordinate: another type": _json(_coordinate_json, _other_type),
    "coordinate: other byte order": _json(_coordinate_json, _endian),
    "coordinate: other chunk names": _json(_coordinate_json, _separator),
    "coordinate: lost": _lose_array,
    "coordinate: of another archive": _twin_coordinate,
    "coordinates: two swapped": _swap_coordinates,
    "manifest: lost": _put(_manifest, None),
    "manifest: bit": _on(_manifest, partial(_flip, at=0.5, bit=0)),
    "manifest: cut": _on(_manifest, lambda data: data[:-40]),
    "manifest: of another archive": _twin_manifest,
    "manifest: a size edited": _change_size_in_manifest,
    "source document: lost": _put(partial(_under, "source/document"), None),
    "source document: bit": _on(partial(_under, "source/document"), partial(_flip, at=0.5)),
    "source blobs: bit": _on(partial(_under, "source/document"), partial(_flip, at=0.95)),
    "tile table: bit": _on(partial(_under, "tiles/"), partial(_flip, at=0.5)),
    "preview: bit": _on(partial(_under, "preview/"), partial(_flip, at=0.5)),
    "readme: edited": _on(lambda _: README_KEY, lambda data: data + b"nonsense\n"),
    "a foreign object": _foreign,
}


def _in_directory(data: bytes) -> bytes:
    """A bit in the size field of the last entry of the zip file's directory."""
    return _flip_at(data, data.rfind(b"PK\x01\x02") + 24)


def _in_local_header(data: bytes) -> bytes:
    """A bit in the first member's own header."""
    return _flip_at(data, data.find(b"PK\x03\x04") + 26)


def _flip_at(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :]


ZIP_DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "zip: cut to half": lambda data: data[: len(data) // 2],
    "zip: cut by a byte": lambda data: data[:-1],
    "zip: first bytes lost": lambda data: data[7:],
    "zip: bit of a member": partial(_flip, at=0.3),
    "zip: bit of a size in the directory": _in_directory,
    "zip: bit of a local header": _in_local_header,
    "zip: bytes inserted": lambda data: data[: len(data) // 2] + b"x" * 9 + data[len(data) // 2 :],
    "zip: bytes behind": lambda data: data + b"x" * 9,
}
