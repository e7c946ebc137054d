"""SPEC-v1.md, sections 11.6 to 11.13: source files of a lossless archive, made again."""

from __future__ import annotations

import base64
import gzip
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from reference_decoder.archive import Archive
from reference_decoder.fields import Refused, require


def rebuild(archive: Archive) -> dict[str, bytes]:
    """Source files by name, of the kinds whose bytes follow from the text."""
    source = archive.source
    files = [file["name"] for file in source.files]
    kept = source.document.get("originals", {})
    if len(kept) == len(files):
        return {name: source.blobs[kept[str(n)]] for n, name in enumerate(files)}
    if source.kind == "nifti":
        return dict(zip(files, _nifti(archive), strict=True))
    if source.kind == "dicom":
        return dict(zip(files, _dicom(archive), strict=True))
    if source.kind == "fits":
        return dict(zip(files, [_fits(archive)], strict=True))
    if source.kind == "images" and "jpegxl" not in source.document:
        return dict(zip(files, _images(archive), strict=True))
    if source.kind == "trajectories" and not source.document["packed"]:
        return dict(zip(files, [_trajectory(archive)], strict=True))
    raise Refused(f"files of the kind {source.kind}")


# --- 11.7 ---------------------------------------------------------------------------------------


def _nifti(archive: Archive) -> list[bytes]:
    document, blobs = archive.source.document, archive.source.blobs
    values = archive.volume("image")
    if document["components"]:
        values = np.moveaxis(values, 0, -1)
    voxels = values.astype(document["dtype"]).tobytes()
    files = [blobs["head"] + voxels + blobs["tail"]]
    if len(document["names"]) == 2:
        files = [blobs["head"], blobs["image_head"] + voxels + blobs["tail"]]
    packed = [name.lower().endswith(".gz") for name in document["names"]]
    return [gzip.compress(f) if p else f for f, p in zip(files, packed, strict=True)]


# --- 11.8 ---------------------------------------------------------------------------------------


def _dicom(archive: Archive) -> list[bytes]:
    document, blobs = archive.source.document, archive.source.blobs
    frames: dict[tuple[int, int], np.ndarray] = {}
    rows, columns, samples = document["rows"], document["columns"], document["samples"]
    for volume in document["volumes"]:
        values = archive.volume(volume["name"])
        require(list(values.shape) == volume["shape"], "shape of a volume")
        planes = values.reshape(samples if samples > 1 else 1, -1, rows, columns)
        for k, owner in enumerate(volume["frames"]):
            if owner is not None:
                frames[owner[0], owner[1]] = planes[:, k]
    made = []
    for number, file in enumerate(document["files"]):
        require(file["native"], "a file that was not stored natively")
        own = np.stack([frames[number, frame] for frame in range(file["frames"])])
        words = _words(own, file, blobs)
        head, tail = (_piece(blobs["headers"], file[part]) for part in ("head", "tail"))
        made.append(head + _pixels(words, file, blobs) + tail)
    return made


def _piece(blob: bytes, place: list[int]) -> bytes:
    return blob[place[0] : place[1]]


def _words(values: np.ndarray, file: dict[str, Any], blobs: dict[str, bytes]) -> np.ndarray:
    """Values (frame, sample, row, column) as words, unsigned; floats as they are."""
    spare, stored = file["bits"]["spare"], file["bits"]["stored"]
    values = values.astype(file["bits"]["dtype"])
    if not spare:
        return values
    word = np.dtype(f"u{values.dtype.itemsize}")
    raw = values.view(word)
    words = raw & word.type((1 << stored) - 1)
    planes = _planes(values.shape, file, blobs)
    for k, rule in enumerate(spare):
        bit = {
            "0": lambda: word.type(0),
            "1": lambda: word.type(1),
            "s": lambda: (raw >> word.type(stored - 1)) & word.type(1),
            "p": lambda: planes.pop(0),
        }[rule]()
        words |= np.asarray(bit, word) << word.type(stored + k)
    return words


def _planes(shape: tuple, file: dict[str, Any], blobs: dict[str, bytes]) -> list[np.ndarray]:
    """Bits that are kept beside the values, one array for each, in order."""
    if file["planes"] is None:
        return []
    raw = np.frombuffer(zlib.decompress(_piece(blobs["bits"], file["planes"])), np.uint8)
    count = file["bits"]["spare"].count("p")
    pixels = int(np.prod(shape[1:]))
    bits = np.unpackbits(raw.reshape(shape[0], count, -1), axis=2)[:, :, :pixels]
    return [bits[:, k].reshape(shape) for k in range(count)]


def _pixels(words: np.ndarray, file: dict[str, Any], blobs: dict[str, bytes]) -> bytes:
    layout = file["layout"]
    word = np.dtype((">" if layout["big_endian"] else "<") + layout["word"])
    if words.dtype.kind != "f":
        word = np.dtype(f"{word.str[0]}u{word.itemsize}")
    order = layout["order"]
    if order == "bits":
        data = np.packbits(words.reshape(-1).astype(bool), bitorder="little").tobytes()
    elif order == "ybr422":
        luma = words[:, 0].reshape(*words.shape[:1], words.shape[2], -1, 2)
        fours = np.concatenate([luma, words[:, 1, :, ::2, None], words[:, 2, :, ::2, None]], -1)
        data = fours.astype(word).tobytes()
    elif order == "mosaic":
        grid, rows, columns = layout["grid"], layout["rows"], layout["columns"]
        sheet = np.zeros((grid * rows, grid * columns), word)
        for n, frame in enumerate(words[:, 0]):
            down, across = divmod(n, grid)
            sheet[down * rows : (down + 1) * rows, across * columns : (across + 1) * columns] = (
                frame
            )
        data = sheet.tobytes()
    else:
        axes = {"grey": (0, 2, 3, 1), "interleaved": (0, 2, 3, 1), "planar": (0, 1, 2, 3)}[order]
        data = words.transpose(axes).astype(word).tobytes()
    if layout["swapped"]:
        data += b"\0" * (len(data) % 2)
        data = np.frombuffer(data, "u1").reshape(-1, 2)[:, ::-1].tobytes()
    pixels = np.frombuffer(data, np.uint8).copy()
    if file["residue"] is not None:
        pixels ^= np.frombuffer(zlib.decompress(_piece(blobs["bits"], file["residue"])), np.uint8)
    for offset, byte in file["patches"]:
        pixels[offset] = byte
    return pixels.tobytes()


# --- 11.10 --------------------------------------------------------------------------------------


def _fits(archive: Archive) -> bytes:
    document, kept = archive.source.document, archive.source.blobs["kept"]
    data = b""
    for unit in document["hdus"]:
        data += _piece(kept, unit["header"] if unit["shown"] is None else unit["shown"])
        parts = b"".join(_part(archive, part) for part in unit["values"])
        padding = bytes(-len(parts) % 2880)
        data += parts + (_piece(kept, unit["rest"]) if unit["shown"] is None else padding)
    return gzip.compress(data) if document["names"][0].lower().endswith(".gz") else data


def _part(archive: Archive, part: dict[str, Any]) -> bytes:
    own = "volume" in part
    values = archive.volume(part["volume"]) if own else archive.array(part["array"])
    if part["flipped"]:
        word = np.dtype(f"u{values.dtype.itemsize}")
        values = values.view(word) ^ word.type(1 << (8 * word.itemsize - 1))
        return values.astype(word.newbyteorder(part["dtype"][0])).tobytes()
    return values.astype(part["dtype"]).tobytes()


# --- 11.12 --------------------------------------------------------------------------------------


def _images(archive: Archive) -> list[bytes]:
    document, kept = archive.source.document, archive.source.blobs["kept"]
    made = []
    for file in document["files"]:
        require(file["plain"], "pixels that do not lie plainly")
        pieces = []
        for part in file["parts"]:
            if "kept" in part:
                pieces.append(_piece(kept, part["kept"]))
                continue
            values = archive.volume(part["volume"])
            if part["index"] is not None:
                values = values[..., part["index"], :, :]
            if part["interleaved"] and values.ndim == 3:
                values = np.moveaxis(values, 0, -1)
            pieces.append(values.astype(part["dtype"]).tobytes())
        made.append(b"".join(pieces))
    return made


# --- 11.13 --------------------------------------------------------------------------------------


def _trajectory(archive: Archive) -> bytes:
    document, around = archive.source.document, archive.source.blobs["around"]
    values = archive.volume("positions").astype(document["order"] + "f4")
    made, at, moving = [around[: document["head"]]], document["head"], slice(None)
    fourth = 8 + 4 * document["atoms"] if document["fourth"] else 0
    for number in range(document["frames"]):
        frame = values[:, number]
        if number and document["moving"] < document["atoms"]:
            listed = made[0][-4 - 4 * document["moving"] : -4]
            moving = np.frombuffer(listed, document["order"] + "i4") - 1
            fourth = 8 + 4 * document["moving"] if document["fourth"] else 0
        runs = [axis[moving].tobytes() for axis in frame]
        gaps = [document["cell_bytes"] + 4, 8, 8, 4 + fourth]
        if document["format"] == "xtc":
            runs, gaps = [frame.T.tobytes()], [56, 0]
        for gap, run in zip(gaps, [*runs, b""], strict=True):
            made.append(around[at : at + gap] + run)
            at += gap
    return b"".join(made)


# --- 11.9 ---------------------------------------------------------------------------------------


def write_netcdf(archive: Archive, path: Path) -> None:
    """Types, values and attributes of a NetCDF archive, through the NetCDF library."""
    import netCDF4

    document = archive.source.document
    with netCDF4.Dataset(path, "w", format=document["data_model"]) as dataset:
        for record in document["groups"]:
            group = dataset if record["path"] == "/" else dataset.createGroup(record["path"])
            for dim in record["dims"]:
                group.createDimension(dim["name"], None if dim["unlimited"] else dim["size"])
            for enum in record["enums"]:
                group.createEnumType(np.dtype(enum["dtype"]), enum["name"], enum["members"])
            _attributes(group, record["attrs"])
            for variable in record["variables"]:
                _variable(archive, group, variable)


def _variable(archive: Archive, group: Any, record: dict[str, Any]) -> None:
    kind = record["type"]
    if kind == "string":
        kind = str
    elif kind.startswith("enum:"):
        home = group
        while kind[5:] not in home.enumtypes:
            home = home.parent
        kind = home.enumtypes[kind[5:]]
    else:
        kind = np.dtype(kind)
    stated = [entry for entry in record["attrs"] if entry["name"] == "_FillValue"]
    fill = _value(stated[0]) if stated else None if record["prefilled"] else False
    if isinstance(fill, bytes):
        fill = fill.decode("latin-1")
    made = group.createVariable(record["name"], kind, record["dims"], fill_value=fill)
    made.set_auto_maskandscale(False)
    made.set_auto_chartostring(False)
    _attributes(made, [entry for entry in record["attrs"] if entry["name"] != "_FillValue"])
    values = archive.volume(record["volume"]) if "volume" in record else None
    if values is None:
        values = archive.array(record["array"])
    if record.get("view"):
        values = values.astype(record["view"]).view(record["type"])
    if values.size:
        made[...] = values


def _attributes(holder: Any, entries: list[dict[str, Any]]) -> None:
    for entry in entries:
        if entry["type"] == "string":
            holder.setncattr_string(entry["name"], _value(entry))
        else:
            holder.setncattr(entry["name"], _value(entry))


def _value(entry: dict[str, Any]) -> Any:
    if entry["type"] == "string":
        return entry["value"]
    if entry["type"] == "char":
        return entry["value"].encode() if "value" in entry else base64.b64decode(entry["base64"])
    values = np.frombuffer(base64.b64decode(entry["base64"]), entry["type"])
    return values[0] if entry["scalar"] else values
