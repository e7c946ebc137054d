"""Quality levels by number or by name: bricks of one archive need not have the same levels."""

from __future__ import annotations

from psc_volumetric.bitstream.index import BrickIndex
from psc_volumetric.errors import ParameterError

__all__ = ["LEVEL_NAMES", "Level", "check_level", "is_exact_at", "level_number", "parse_level"]

Level = int | str | None

LEVEL_NAMES = ("preview", "bounded", "lossless")


def parse_level(text: str | None) -> Level:
    """A level from the command line: a number, or one of ``LEVEL_NAMES``.

    Raises
    ------
    ParameterError : something else (kind ``"bad-level"``).
    """
    if text is None:
        return None
    try:
        level: Level = int(text)
    except ValueError:
        level = text
    check_level(level)
    return level


def check_level(level: Level) -> None:
    """Refuse a level that no archive can have (ParameterError, kind ``"bad-level"``)."""
    if level is None or level in LEVEL_NAMES:
        return
    if isinstance(level, int) and not isinstance(level, bool) and level >= 0:
        return
    raise ParameterError(
        f"level must be a number >= 0 or one of {', '.join(LEVEL_NAMES)}, found {level!r}",
        kind="bad-level",
    )


def level_number(index: BrickIndex, level: Level) -> int:
    """Number of a level in one brick.

    Parameters
    ----------
    index : BrickIndex
    level : int, str or None
        A number (past the last one means the last), None for the last, ``"preview"`` for the
        best lossy level (the first level where a brick has none), ``"bounded"`` or ``"lossless"``
        for the level that keeps that promise; a level that is exact keeps any.

    Raises
    ------
    ParameterError : the brick does not keep this promise at any level (kind ``"no-such-level"``).
    """
    last = index.levels - 1
    if level is None:
        return last
    if isinstance(level, int):
        return min(level, last)
    if level == "preview":
        return max(0, index.base_levels - 1)
    kinds = [layer.kind for layer in index.layers]
    if level == "bounded" and "bounded" in kinds:
        return index.base_levels + kinds.index("bounded")
    if not index.is_exact:
        raise ParameterError(
            f"the archive has no level {level!r} in brick {index.position}",
            kind="no-such-level",
            hint="`psc-archive info` lists the levels; leave --level out for the best one",
        )
    return last


def is_exact_at(index: BrickIndex, level: Level) -> bool:
    """Whether a level has the bits of the source everywhere in the brick."""
    return index.is_exact and level_number(index, level) == index.levels - 1
