"""The base methods there are, by name and by code. Part of the format (SPEC section 3.1).

A method is a folder beside this file with two objects: the class of its header fields, which parses
without any network library, and the method itself, loaded when something is coded or decoded.
:mod:`psc_volumetric.methods.entries` lists them.
"""

from __future__ import annotations

import importlib
from functools import cache, cached_property
from typing import Any, cast

from psc_volumetric.bitstream import index
from psc_volumetric.bitstream.header import BrickHeader
from psc_volumetric.bitstream.index import BrickIndex
from psc_volumetric.bitstream.methods import MethodFields
from psc_volumetric.bitstream.sections import ReadRange
from psc_volumetric.bitstream.versions import NEWER
from psc_volumetric.bitstream.wire import FieldReader
from psc_volumetric.errors import ParameterError, UnsupportedVersionError
from psc_volumetric.extras import require
from psc_volumetric.methods.entries import (
    AUTO,
    CODES,
    FIRST_FOREIGN_CODE,
    WITHOUT_FIELDS,
    Entry,
    find_entries,
)
from psc_volumetric.methods.protocol import BaseMethod

__all__ = ["AUTO", "CODES", "REGISTRY", "Entry", "Registry", "read_index"]


class Registry:
    """Methods by name and code (:class:`psc_volumetric.bitstream.methods.Methods`)."""

    @cached_property
    def entries(self) -> dict[str, Entry]:
        """Name -> entry, our own first, in the order of their codes.

        Raises
        ------
        ParameterError : kind ``"bad-method"``: an installed package claims a name or code that is
            taken or not for it.
        """
        return find_entries()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all base methods."""
        return tuple(self.entries)

    def entry(self, name: str) -> Entry:
        """The entry of a method; ParameterError (kind ``"bad-base"``) for an unknown name."""
        if name not in self.entries:
            raise ParameterError(
                f"base must be one of {', '.join(self.names)}, found {name!r}", kind="bad-base"
            )
        return self.entries[name]

    def method(self, name: str) -> BaseMethod:
        """The method behind a name, loaded at its first use.

        Raises
        ------
        ParameterError
            Unknown name (kind ``"bad-base"``).
        ExtraMissingError
            What it takes is not installed.
        """
        entry = self.entry(name)
        if entry.extra is not None:
            require(entry.extra, f"coding or decoding with method {name}")
        return cast(BaseMethod, _load(entry.method))

    def may_need_prior(self, base: str) -> bool:
        """Whether a method, ``"auto"`` or ``"none"`` codes bricks with a network where one fits."""
        if base == AUTO:
            return any(entry.needs_prior and entry.in_auto for entry in self.entries.values())
        return base in self.entries and self.entries[base].needs_prior

    def ending(self, base: str) -> str:
        """What the priors of a method have behind the name of their domain.

        ``"auto"`` codes with a posterior network where nobody names a prior.
        """
        named = "posterior" if base == AUTO else base
        return self.entries[named].priors if named in self.entries else ""

    def name_of(self, code: int) -> str:
        """Name of a method by its code in a header."""
        if code in WITHOUT_FIELDS:
            return WITHOUT_FIELDS[code]
        for entry in self.entries.values():
            if entry.code == code:
                return entry.name
        raise UnsupportedVersionError(
            f"brick header: unknown method {code}",
            kind="unknown-method",
            hint=NEWER
            if code < FIRST_FOREIGN_CODE
            else "install the package whose method wrote it",
        )

    def code_of(self, name: str) -> int:
        """Code of a method."""
        own = {known: code for code, known in WITHOUT_FIELDS.items()}
        return own[name] if name in own else self.entry(name).code

    def read_fields(self, name: str, data: FieldReader, header: BrickHeader) -> MethodFields | None:
        """Parse the header fields of a method; None for one that has none."""
        if name in WITHOUT_FIELDS.values():
            return None
        kind = _load(self.entry(name).fields)
        return cast(MethodFields, kind.read(data, header))


REGISTRY = Registry()


def read_index(read: ReadRange, size: int | None = None) -> BrickIndex:
    """Parse the header of a brick of any registered method.

    Parameters and errors are those of :func:`psc_volumetric.bitstream.index.read_index`.
    """
    return index.read_index(read, size, methods=REGISTRY)


@cache
def _load(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)
