"""Names inside an archive: the user's own, and the node of the tree that each one has.

SPEC section 11.2. A name is that of the source, any Unicode; a slash separates groups. Its node is
the same text unless Zarr or the archive itself could not have it there: then single characters
become ``%XX`` (``source`` is ``%73ource``), and what is too long for a file name is cut and gets a
digest. The rule gives different nodes to different names, so one never reads as another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Mapping, Sequence

from psc_volumetric.errors import ParameterError

__all__ = ["RESERVED", "check_name", "free_name", "group_of", "node_path", "settle_dims"]

RESERVED = frozenset(
    {
        "tiles",
        "preview",
        "source",
        "priors",
        "specification",
        "partial",
        "partial.json",
        "manifest.json",
        "README.txt",
    }
)
_RESERVED_ANYWHERE = frozenset({"c", "zarr.json"})
_LONGEST_NODE = 200  # bytes of UTF-8; file systems end at 255
_LONGEST_NAME = 4096


def check_name(name: str, *, what: str) -> None:
    """Refuse a name that no node can stand for (ParameterError, kind ``"bad-name"``)."""
    try:
        length = len(name.encode())
    except UnicodeEncodeError:
        length = 0
    if not 0 < length <= _LONGEST_NAME or not all(name.split("/")) or "\0" in name:
        raise ParameterError(
            f"{what} name {name!r}: expected 1 to {_LONGEST_NAME} bytes of Unicode text, groups "
            "separated by single slashes",
            kind="bad-name",
        )


def node_path(name: str) -> str:
    """Path of the node in the tree that a name stands for; different names, different nodes."""
    parts = name.split("/")
    return "/".join(_node(part, at_root=number == 0) for number, part in enumerate(parts))


def _node(part: str, *, at_root: bool) -> str:
    node = "".join(_escaped(c) if c in "%\\" or not c.isprintable() else c for c in part)
    taken = part in _RESERVED_ANYWHERE or (at_root and part in RESERVED)
    if taken or node.startswith((".", "__")):
        node = _escaped(node[0]) + node[1:]
    data = node.encode()
    if len(data) > _LONGEST_NODE:
        start = data[: _LONGEST_NODE - 20].decode(errors="ignore")
        node = f"{start}%~{hashlib.sha256(data).hexdigest()[:16]}"
    return node


def _escaped(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode())


def group_of(name: str) -> str:
    """The group a name lies in; ``""`` is the root."""
    return name.rpartition("/")[0]


def free_name(name: str, taken: Iterable[str]) -> str:
    """``name``, with ``_2``, ``_3`` ... behind it when it is taken."""
    used = set(taken)
    if name not in used:
        return name
    number = 2
    while f"{name}_{number}" in used:
        number += 1
    return f"{name}_{number}"


def settle_dims(
    variables: Mapping[str, Sequence[tuple[str, Hashable]]],
) -> dict[str, tuple[str, ...]]:
    """Axis names under which all variables of a group fit one xarray dataset.

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
    known: dict[tuple[str, str], Hashable] = {}
    settled = {}
    for variable, axes in variables.items():
        group, names = group_of(variable), list[str]()
        for dim, meaning in axes:
            name, number = dim, 2
            while known.get((group, name), meaning) != meaning or name in names:
                name, number = f"{dim}_{number}", number + 1
            known[group, name] = meaning
            names.append(name)
        settled[variable] = tuple(names)
    return settled
