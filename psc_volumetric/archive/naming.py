"""Names inside an archive: which are allowed, and how clashes between variables are settled."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Mapping, Sequence

from psc_volumetric.errors import ParameterError

__all__ = ["RESERVED", "check_name", "free_name", "settle_dims"]

RESERVED = frozenset(
    {
        "tiles",
        "preview",
        "source",
        "priors",
        "partial",
        "partial.json",
        "manifest.json",
        "README.txt",
        "zarr.json",
        "c",
    }
)
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}")


def check_name(name: str, *, what: str) -> None:
    """Refuse a name that cannot be a key of the tree (ParameterError)."""
    if not _NAME.fullmatch(name) or name.startswith("__"):
        raise ParameterError(
            f"{what} name {name!r}: expected letters, digits, '_', '.', '-', not beginning with "
            "'.', '-' or '__'",
            kind="bad-name",
        )
    if name in RESERVED:
        raise ParameterError(
            f"{what} name {name!r} is used by the archive itself",
            kind="reserved-name",
            hint="rename it; names in use are " + ", ".join(sorted(RESERVED)),
        )


def free_name(name: str, taken: Iterable[str]) -> str:
    """``name`` made a legal key, with ``_2``, ``_3`` ... behind it when it is taken."""
    plain = re.sub(r"[^A-Za-z0-9_.-]", "_", name).lstrip(".-_")[:200] or "array"
    used = set(taken) | RESERVED
    if plain not in used:
        return plain
    number = 2
    while f"{plain}_{number}" in used:
        number += 1
    return f"{plain}_{number}"


def settle_dims(
    variables: Mapping[str, Sequence[tuple[str, Hashable]]],
) -> dict[str, tuple[str, ...]]:
    """Axis names under which all variables fit one xarray dataset.

    Parameters
    ----------
    variables : mapping
        Variable name -> (axis name, what the axis is) per axis; axes are the same when both agree
        (size and coordinate values). Earlier variables keep their names; an axis that would give
        a known name another meaning gets ``_2``, ``_3`` ... behind it.

    Returns
    -------
    dict
        Variable name -> axis names.
    """
    known: dict[str, Hashable] = {}
    settled = {}
    for variable, axes in variables.items():
        names: list[str] = []
        for dim, meaning in axes:
            name, number = dim, 2
            while known.get(name, meaning) != meaning or name in names:
                name, number = f"{dim}_{number}", number + 1
            known[name] = meaning
            names.append(name)
        settled[variable] = tuple(names)
    return settled
