"""What an archive holds, from its headers alone; no voxel is decoded and no network is loaded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from pipelines.archiving.choices import SUPERSEDES
from pipelines.checking.priors_outside import outside_text
from pipelines.collection import only_archive
from psc_volumetric.archive.foreseen import networks_named
from psc_volumetric.archive.outside import priors_outside
from psc_volumetric.archive.reader import ArchiveReader
from psc_volumetric.archive.stores import target_text
from psc_volumetric.errors import InstallationError, PscError
from psc_volumetric.methods.entries import AUTO

__all__ = [
    "archive_info",
    "chosen_text",
    "info_lines",
    "list_lines",
    "list_target",
    "methods_text",
    "reader_info",
    "shown_entries",
    "size_text",
]


def archive_info(archive: str) -> dict[str, Any]:
    """Summary of one archive in JSON types.

    Raises
    ------
    StorageError : nothing is there.
    FormatError : not an archive, not sealed, or damaged.
    ParameterError : a folder of archives.
    """
    archive = only_archive(archive)
    with ArchiveReader.open(archive) as reader:
        return {"archive": target_text(archive), **reader_info(reader)}


def reader_info(reader: ArchiveReader) -> dict[str, Any]:
    """The same of an archive that is open."""
    info = reader.info()
    info["priors_outside"] = list(priors_outside(reader))
    info["prior_names"] = _prior_names([*info["priors"], *info["priors_outside"]])
    for name, entry in info["variables"].items():
        _name_levels(entry)
        entry["networks"] = _networks(reader, name)
    return info


def _prior_names(digests: Sequence[str]) -> dict[str, str]:
    """Digest -> name, of those that ship with this package."""
    if not digests:
        return {}
    from psc_volumetric.prior.finding import installed

    try:
        known = {one.digest: name for name, one in installed().items()}
    except InstallationError:  # an archive has its own priors: it can be shown without ours
        return {}
    return {digest: known[digest] for digest in digests if digest in known}


def _networks(reader: ArchiveReader, variable: str) -> list[int]:
    """Numbers of the networks that streams name; none of a damaged brick, which `verify` tells."""
    try:
        return list(networks_named(reader, variable))
    except PscError:
        return []


def shown_entries(info: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Entries of all variables, of those too whose values are read out of the original."""
    return {**info["variables"], **info["kept"]}


def size_text(nbytes: float) -> str:
    """Bytes in the unit that people would take."""
    for unit in ("B", "kB", "MB", "GB"):
        if nbytes < 1000:
            return f"{nbytes:.0f} {unit}" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1000
    return f"{nbytes:.1f} TB"


def info_lines(info: dict[str, Any]) -> list[str]:
    """The summary for people."""
    sizes = info["bytes"]
    lines = [
        f"archive   {info['archive']}",
        f"format    {info['format']}, mode {info['mode']}, created {info['created']}",
        f"manifest  {info['manifest']}",
        f"source    {_source_text(info)}",
        f"size      {size_text(sizes['total'])} in {info['objects'] + 1} objects: bricks "
        f"{size_text(sizes['bricks'])}, priors {size_text(sizes['priors'])}, source "
        f"{size_text(sizes['source'])}, preview {size_text(sizes['preview'])}, tiles "
        f"{size_text(sizes['tiles'])}, metadata and arrays {size_text(sizes['other'])}",
        *_rate_lines(info),
        f"priors    {_priors_text(info, info.get('prior_names', {}))}",
        f"made by   {info['provenance'].get('software', 'unknown')}",
        *_superseded_lines(info["provenance"].get(SUPERSEDES)),
    ]
    options = info["provenance"].get("options")
    known = options if isinstance(options, dict) else {}
    asked, coders = str(known.get("base", AUTO)), str(known.get("coders", ""))
    for name, entry in info["variables"].items():
        lines += _variable_lines(name, entry, asked, coders)
    for name, entry in info["kept"].items():
        lines += ["", f"{name}: {entry['dtype']} ({_axes(entry)})", "  read out of the original"]
    return lines


def _superseded_lines(recorded: Any) -> list[str]:
    """The archive that this one supersedes."""
    if not isinstance(recorded, dict):
        return []
    created = f" of {recorded['created']}" if recorded.get("created") else ""
    return [f"replaces  the archive{created} with manifest {recorded.get('manifest')}"]


def _rate_lines(info: dict[str, Any]) -> list[str]:
    """Bits per voxel of all bytes, and the target that the archive had for it."""
    if info["bpv"] is None:
        return []
    targets = (entry["parameters"].get("target") for entry in info["variables"].values())
    wanted = next((value for kind, value in filter(None, targets) if kind == "bpv"), None)
    aim = "" if wanted is None else f", target {wanted:g} bpv"
    return [f"rate      {info['bpv']:.4g} bpv with all bytes{aim}"]


def _source_text(info: dict[str, Any]) -> str:
    stripped = info["provenance"].get("stripped")
    if stripped is None:
        return f"{info['source_files']} file(s), {size_text(info['source_bytes'])}"
    original = stripped.get("original")
    keys = stripped.get("encrypted_for")
    return (
        "left out (psc-archive strip)"
        + (f", encrypted for {keys} key(s)" if keys else "")
        + (f", first archive {original}" if original else "")
    )


def _axes(entry: dict[str, Any]) -> str:
    return ", ".join(f"{d} {n}" for d, n in zip(entry["dims"], entry["shape"], strict=True))


def _variable_lines(name: str, entry: dict[str, Any], asked: str, coders: str) -> list[str]:
    spacing = entry["spacing_mm"]
    where = "" if spacing is None else " x ".join(f"{s:.4g}" for s in spacing) + " mm (z, y, x)"
    chosen = chosen_text(entry)
    if not chosen and asked != AUTO and any(asked in m for m in entry["methods"]):
        chosen = f"{asked} was asked for"
    lines = [
        "",
        f"{name}: {entry['dtype']} ({_axes(entry)}) {entry['unit'] or ''}".rstrip(),
        f"  spacing {where}" if where else "  no spacing in mm",
        *_promise_lines(entry["parameters"], entry),
        f"  bricks  {entry['bricks']} of {' x '.join(map(str, entry['brick_shape']))}: "
        + methods_text(entry),
        *([f"  chosen  {chosen}"] if chosen else []),
        *(f"  network {_network_text(n, coders)}" for n in entry.get("networks", ())),
        f"  {'level':>12}{'bytes':>12}{'bpv':>10}{'rmse':>12}{'max error':>12}{'PSNR dB':>10}",
    ]
    for row in entry["levels"]:
        name = f"{row['level']} {row['name'] or ''}".rstrip()
        exact = "exact" if row["max_error"] == 0 else ""
        psnr = exact if row["psnr_db"] is None else f"{row['psnr_db']:.2f}"
        lines.append(
            f"  {name:>12}{row['bytes']:>12}{row['bpv']:>10.4f}{row['rmse']:>12.4g}"
            f"{row['max_error']:>12.4g}{psnr:>10}"
        )
    return lines + _coverage_lines(entry["levels"])


def methods_text(entry: dict[str, Any]) -> str:
    """How many bricks have which base method and which coders."""
    return ", ".join(f"{count} {name}" for name, count in entry["brick_methods"].items())


def chosen_text(entry: dict[str, Any]) -> str:
    """Why bricks have their base method, in words; empty where nothing was chosen."""
    sizes = sorted(entry["compared"].items(), key=lambda pair: pair[1])
    return "by bytes at equal error: " + ", ".join(f"{n} {b}" for b, n in sizes) if sizes else ""


def _network_text(number: int, coders: str) -> str:
    """A network of the context coder: where it is, and why bricks name it."""
    from psc_volumetric.coders.context.networks import known_networks
    from psc_volumetric.layers.coder_choice import WAITED_FOR

    try:
        ships = number < known_networks()
    except InstallationError:  # what does not need it can be shown without it
        ships = False
    where = "ships with psc-archive" if ships else "not in this psc-archive: a later one has it"
    bytes_of = {coder: f"{100 * (share - 1):.0f} %" for coder, share in WAITED_FOR.items()}
    why = f"where a sample says that it saves {bytes_of['neural']} of the bytes, of a refinement "
    why += bytes_of["neural-refinement"]
    if "neural" in coders:
        why = "its coder was asked for"
    return f"{number} of the context coder (SPEC 15.11; {where}), {why}"


def _priors_text(info: dict[str, Any], names: dict[str, str]) -> str:
    """Priors that are inside, and those that bricks need besides."""
    inside = ", ".join(_prior_text(digest, names) for digest in info["priors"]) or "none"
    lines = [outside_text(digest) for digest in info.get("priors_outside", ())]
    return "\n          ".join(lines if lines and not info["priors"] else [inside, *lines])


def _prior_text(digest: str, names: dict[str, str]) -> str:
    """A digest, with its name where this installation knows it."""
    return f"{digest[:16]} ({names[digest]})" if digest in names else digest[:16]


def _coverage_lines(levels: list[dict[str, Any]]) -> list[str]:
    """Share of voxels within 1, 2 and 3 sigma, for the levels where it was measured."""
    known = [(row["level"], row["coverage"]) for row in levels if row["coverage"]]
    shares = [f"{level}: " + " ".join(f"{100 * s:.1f}" for s in found) for level, found in known]
    return ["  within 1, 2, 3 sigma, % at level " + "; ".join(shares)] if known else []


def _promise_lines(parameters: dict[str, Any], entry: dict[str, Any]) -> list[str]:
    """Mode, bound, exact region and target of a variable."""
    mode, bound = parameters.get("mode"), parameters.get("max_error")
    if mode is None:
        return []
    text = f"  mode    {mode}"
    if bound is not None:
        text += f", no stored value off by more than {bound:g}"
        text += " at level bounded" if mode == "lossless" else ""
    text += f" ({parameters['reason']})" if parameters.get("reason") else ""
    lines = [text]
    if "exact_roi" in parameters:
        lines.append(f"  exact   in {parameters['exact_roi']}")
    kind, wanted = parameters.get("target", ("", 0.0))
    if kind == "psnr":
        found = entry["levels"][-1]["psnr_db"]
        shown = "no error" if found is None else f"{found:.4g} dB"
        lines.append(f"  target  {wanted:g} dB, reached {shown}")
    return lines


def _name_levels(entry: dict[str, Any]) -> None:
    """Add name and PSNR to every level.

    Names need all bricks to have the same layers over their base; constant bricks keep any promise.
    """
    kinds = {
        tuple(part.split(":")[0] for part in name.split("+")[1:])
        for name in entry["brick_methods"]
        if name != "constant"
    }
    if entry["parameters"].get("mode") == "lossless" and not any("bounded" in k for k in kinds):
        entry["parameters"] = {**entry["parameters"], "max_error": None}  # no brick has the level
    if kinds == {("bounded", "lossless"), ("lossless",)}:
        kinds = {("bounded", "lossless")}  # where that was not worth its bytes all levels are exact
    layers = kinds.pop() if len(kinds) == 1 else ()
    if "exact_roi" in entry["parameters"]:  # its last level is exact in that region only
        layers = tuple("exact roi" if kind == "lossless" else kind for kind in layers)
    rows, peak = entry["levels"], entry["parameters"].get("peak")
    for row in rows:
        above = row["level"] - (len(rows) - len(layers))
        row["name"] = layers[above] if above >= 0 else None
        error = row["rmse"]
        row["psnr_db"] = 20 * math.log10(peak / error) if peak and error else None


def list_target(
    target: str, *, where: Sequence[str] = (), sort: str = "name", reverse: bool = False
) -> list[dict[str, Any]]:
    """Variables of an archive, or the archives of a folder or bucket; see `catalogue`.

    Raises
    ------
    StorageError, FormatError : as for `archive_info`.
    ParameterError : as for `catalogue`.
    """
    from pipelines.checking.catalogue import catalogue  # much that one archive does not need

    rows = catalogue(target, where=where, sort=sort, reverse=reverse)
    if rows is not None:
        return rows
    info = archive_info(target)
    return [
        {
            "name": name,
            "dtype": entry["dtype"],
            "shape": entry["shape"],
            "dims": entry["dims"],
            "levels": len(entry["levels"]),
            "bytes": entry["bytes"],
            "bpv": entry["bpv"],
        }
        for name, entry in info["variables"].items()
    ] + [
        {"name": name, "dtype": entry["dtype"], "shape": entry["shape"], "dims": entry["dims"]}
        for name, entry in info["kept"].items()
    ]


def list_lines(rows: list[dict[str, Any]]) -> list[str]:
    """The listing for people, one line each."""
    if not rows:
        return ["no archives"]
    if any("state" in row for row in rows):
        return _aligned([_cells(row) for row in rows])
    lines = []
    for row in rows:
        size = "read out of the original"
        if "levels" in row:
            size = f"{row['levels']} levels, {size_text(row['bytes'])}, {row['bpv']:.3f} bpv"
        lines.append(f"{row['name']:<24} {row['dtype']:<8} ({_axes(row)})  {size}")
    return lines


def _cells(row: dict[str, Any]) -> list[str]:
    """What a line about an archive says, by columns."""
    shape = " x ".join(map(str, row.get("shape") or ()))
    spacing = " x ".join(f"{s:.3g}" for s in row.get("spacing_mm") or ())
    cells = [
        row["name"],
        row["mode"] if row["state"] == "sealed" else row["state"],
        row.get("kind") or "",
        f"{row.get('dtype') or ''} {shape}".strip(),
        f"{spacing} mm" if spacing else "",
        size_text(row["bytes"]) if "bytes" in row else "",
        f"{row['ratio']:.1f}:1" if row.get("ratio") else "",
        (row.get("created") or "")[:10],
        f"checked {row['checked'][:10]}" if row.get("checked") else "",
    ]
    if row.get("superseded_by"):
        cells.append(f"superseded by {row['superseded_by']}")
    if row.get("reason"):
        cells.append(f"{row['retired'][:10]} by {row['by']}: {row['reason']}")
    return cells


def _aligned(table: list[list[str]]) -> list[str]:
    most = max(map(len, table))
    padded = [row + [""] * (most - len(row)) for row in table]
    widths = [max(map(len, column)) for column in zip(*padded, strict=True)]
    used = [n for n, width in enumerate(widths) if width]
    return ["  ".join(row[n].ljust(widths[n]) for n in used).rstrip() for row in padded]
