"""Lists of held-out volumes, as paths below a data folder that is named on the command line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psc_volumetric.errors import ParameterError

__all__ = ["SET_NAMES", "Source", "load_sets", "plain_sources"]

SETS = Path(__file__).with_name("volume_sets")
SET_NAMES = tuple(sorted(path.stem for path in SETS.glob("*.json")))


@dataclass(frozen=True)
class Source:
    """A file or folder to evaluate.

    Attributes
    ----------
    path : Path
    group : str
        Set that averages are taken over; empty for files named by hand.
    title : str
        Name in tables; empty takes the names found in the file.
    variables : tuple of str
        Volumes of the file to take; empty takes all.
    """

    path: Path
    group: str = ""
    title: str = ""
    variables: tuple[str, ...] = ()


def plain_sources(paths: Sequence[Path]) -> list[Source]:
    """Files and folders named by hand, every volume of them."""
    return [Source(Path(path)) for path in paths]


def load_sets(names: Sequence[str], folder: Path | None) -> list[Source]:
    """Sources of sets.

    Parameters
    ----------
    names : sequence of str
        Names of shipped sets (`SET_NAMES`), or JSON files like them.
    folder : Path or None
        Data folder that the paths of the sets are relative to.

    Returns
    -------
    list of Source

    Raises
    ------
    ParameterError
        Without a folder (kind ``"no-data-folder"``), for an unknown set (``"unknown-set"``), one
        that is not of the form (``"bad-set"``), or a path that is not there (``"missing-data"``).
    """
    if not names:
        return []
    if folder is None:
        raise ParameterError(
            f"the sets {', '.join(names)} are lists of paths, and no folder was named",
            kind="no-data-folder",
            hint="add --data FOLDER",
        )
    return [source for name in names for source in _load(name, folder)]


def _load(name: str, folder: Path) -> list[Source]:
    path = Path(name) if name.endswith(".json") else SETS / f"{name}.json"
    if not path.is_file() or (path.parent == SETS and path.stem not in SET_NAMES):
        raise ParameterError(
            f"unknown set {name!r}; known are {', '.join(SET_NAMES)}, or a JSON file",
            kind="unknown-set",
        )
    try:
        document = json.loads(path.read_text("utf-8"))
        sources = [_source(str(document["name"]), entry, folder) for entry in document["volumes"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ParameterError(
            f"set {path.name}: expected an object with 'name' and 'volumes', each of them with "
            f"'path' and 'title', found otherwise: {error!r}",
            kind="bad-set",
        ) from error
    for source in sources:
        if not source.path.exists():
            raise ParameterError(
                f"set {path.name}: expected {source.path.relative_to(folder)} in the data folder, "
                "found nothing there",
                kind="missing-data",
                hint="docs/evaluation.md says where the volumes come from",
            )
    return sources


def _source(group: str, entry: dict[str, Any], folder: Path) -> Source:
    variables = tuple(str(name) for name in entry.get("variables", ()))
    return Source(folder / str(entry["path"]), group, str(entry["title"]), variables)
