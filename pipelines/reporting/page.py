"""One self-contained page about an archive."""

from __future__ import annotations

import os
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.checking.info import archive_info, shown_entries, size_text
from pipelines.checking.verify import verify_all
from pipelines.reporting.charts import HEIGHT, WIDTH, Bar, bars, nice_number
from pipelines.reporting.facts import VariableFacts, level_name, variable_facts
from pipelines.reporting.peers import peer_sizes
from pipelines.reporting.promises import promises
from pipelines.reporting.source import references_of
from psc_volumetric import extras
from psc_volumetric.archive import ArchiveReader
from psc_volumetric.archive.html import thumbnail
from psc_volumetric.errors import PscError, StorageError
from psc_volumetric.shipped import broken, shipped_text

if TYPE_CHECKING:
    import jinja2

__all__ = ["MOST_BYTES", "page_name", "report_page", "write_page"]

MOST_BYTES = 3_000_000
SHOWN = 6  # variables with pictures: those with the most bytes
TEMPLATE = "report.html.j2"
LONGEST_ATTRIBUTE = 120


def report_page(archive: str, source: Path | None = None, *, peers: bool = False) -> str:
    """Make the page.

    Parameters
    ----------
    archive : str
        Folder, zip file or URL.
    source : Path, optional
        File or folder that was archived: errors are then counted against it.
    peers : bool
        Also code each volume with PNG, JPEG XL and Zstandard, without loss.

    Returns
    -------
    str
        HTML of at most 3 MB that asks the network for nothing.

    Raises
    ------
    ExtraMissingError : Jinja2 is not installed.
    InstallationError : the template of the page is missing or cut.
    StorageError, FormatError : not an archive; damage inside is shown on the page.
    ParameterError : kind ``"not-its-source"``.
    """
    extras.require("report", "`psc-archive report`")
    import jinja2

    info = archive_info(archive)
    entries = shown_entries(info)
    names = sorted(entries, key=lambda n: -entries[n]["bytes"])[:SHOWN]
    with ArchiveReader.open(archive) as reader:
        specs = {name: reader.described(name) for name in names}
        given = references_of(source, specs) if source is not None else {}
        facts: list[VariableFacts] = []
        for name in names:
            found = variable_facts(reader, entries[name], name, given.get(name))
            if sum(f.nbytes for f in (*facts, found)) > MOST_BYTES * 9 // 10:
                found.rows = []
            found.instead = "" if found.rows else thumbnail(reader, specs[name])
            facts.append(found)
        sizes = {name: peer_sizes(reader, specs[name]) if peers else [] for name in names}
        attributes = {name: _attributes(specs[name].attrs) for name in names}
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.globals.update(
        size=size_text, number=nice_number, level_name=level_name, W=WIDTH, H=HEIGHT
    )
    return _template(environment).render(
        name=Path(archive.rstrip("/")).name,
        info=info,
        facts=facts,
        left_out=[name for name in entries if name not in names],
        parts=_parts(info),
        peers={name: _peer_bars(entries[name]["bytes"], found) for name, found in sizes.items()},
        attributes=attributes,
        promises=promises(info),
        findings=_findings(archive),
        has_source=source is not None,
    )


def _template(environment: jinja2.Environment) -> jinja2.Template:
    import jinja2

    place = files("pipelines.reporting") / TEMPLATE
    try:
        return environment.from_string(shipped_text(place))
    except jinja2.TemplateSyntaxError as error:
        raise broken(
            f"this installation: expected a template in {place}, found in line {error.lineno}: "
            f"{error.message}"
        ) from error


def page_name(archive: str) -> str:
    """What the page about an archive is called."""
    return Path(archive.rstrip("/")).name.split(".psc.")[0] + ".html"


def write_page(text: str, path: Path) -> None:
    """Put a page in its place, whole or not at all.

    Raises
    ------
    StorageError : kind ``"storage-failed"``.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(text, "utf-8")
        beside.replace(path)
    except OSError as error:
        with suppress(OSError):
            beside.unlink()
        raise StorageError(
            f"{path}: cannot write the page ({error.strerror})",
            kind="storage-failed",
            hint="give another place with --output",
        ) from error


def _parts(info: dict[str, Any]) -> list[Bar]:
    is_whole = info["kept"] or info["provenance"].get("source_kind") == "original"
    names = {
        "bricks": "voxels (bricks)",
        "tiles": "records of tiles",
        "preview": "preview",
        "source": "the source files" if is_whole else "headers of the source",
        "priors": "priors",
        "other": "metadata, coordinates, manifest",
    }
    total = info["bytes"]["total"] or 1
    return bars(
        [
            (said, info["bytes"][part], f"{size_text(info['bytes'][part])}, "
             f"{100 * info['bytes'][part] / total:.1f} %")
            for part, said in names.items()
            if info["bytes"][part]
        ]
    )  # fmt: skip


def _peer_bars(ours: int, peers: list[tuple[str, int]]) -> list[Bar]:
    if not peers:
        return []
    every = [("this archive, all levels", ours), *peers]
    return bars([(name, size, size_text(size)) for name, size in every])


def _attributes(attrs: Any) -> list[tuple[str, str]]:
    """Short technical facts; what identifies a person is never among an archive's attributes."""
    found = [(str(key), str(value)) for key, value in attrs.items()]
    return [(key, value) for key, value in found if len(value) <= LONGEST_ATTRIBUTE]


def _findings(archive: str) -> list[str]:
    """What a check of sizes and digests finds."""
    try:
        reports = verify_all(archive)
    except PscError as error:
        return [str(error)]
    return [finding.message for report in reports for finding in report.findings]
