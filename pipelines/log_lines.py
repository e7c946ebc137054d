"""Log lines for programs: one JSON object a line, with fields in the place of sentences.

What may name a file or a person travels apart from the rest (`private`), so that one formatter
writes it and another, for logs that many may read, leaves it out.
"""

from __future__ import annotations

import datetime
import json
import logging
import math
from collections.abc import Mapping
from typing import Any

__all__ = ["JsonLines", "NamelessJsonLines", "tell"]

# Libraries whose messages are written by us, or hold nothing but numbers and ids of ours.
_NAMELESS = ("prefect", "uvicorn", "asyncio")


def tell(
    log: logging.Logger,
    event: str,
    *,
    level: int = logging.INFO,
    private: Mapping[str, Any] | None = None,
    **fields: Any,
) -> None:
    """Log something that happened.

    Parameters
    ----------
    log : Logger
        Of the module that tells it.
    event : str
        Stable word, for example ``"item"``; docs/operations.md lists them.
    level : int
        As in `logging`.
    private : mapping, optional
        What names files, archives or people, and sentences that do.
    **fields
        JSON-able; numbers and words of ours.
    """
    said = {**fields, **(private or {})}
    text = ", ".join(f"{name}={value}" for name, value in said.items() if value is not None)
    text = text.encode("utf-8", "replace").decode()  # names of files may be no text
    log.log(level, "%s: %s", event, text, extra={"told": (event, fields, dict(private or {}))})


class JsonLines(logging.Formatter):
    """One JSON object for each record: time (UTC), level, logger, event and its fields.

    Records of other origin have ``message``, and ``traceback`` where there is one.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Give the line without its end; ASCII."""
        moment = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        row: dict[str, Any] = {
            "time": moment.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        told = getattr(record, "told", None)
        row |= self.foreign(record) if told is None else self.of_ours(*told)
        return json.dumps(_finite(row), default=str, allow_nan=False)

    def of_ours(
        self, event: str, fields: Mapping[str, Any], private: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Fields of something told by `tell`."""
        return {"event": event, **fields, **private}

    def foreign(self, record: logging.LogRecord) -> dict[str, Any]:
        """Fields of any other record."""
        row = {"message": record.getMessage()}
        if record.exc_info and record.exc_info[0] is not None:
            row["traceback"] = self.formatException(record.exc_info)
        return row


class NamelessJsonLines(JsonLines):
    """The same for logs that many may read: no names of files, no sentences that may hold some.

    Of records that are not ours, and not known to be without names, stays the place in the code.
    """

    def of_ours(
        self, event: str, fields: Mapping[str, Any], private: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Fields without what is private."""
        return {"event": event, **fields}

    def foreign(self, record: logging.LogRecord) -> dict[str, Any]:
        """Message of a library without names; of others the place and the kind of error."""
        if record.name.split(".")[0] in _NAMELESS and not record.exc_info:
            return {"message": record.getMessage()}
        row: dict[str, Any] = {"place": f"{record.module}:{record.lineno}"}
        if record.exc_info and record.exc_info[0] is not None:
            row["error_type"] = record.exc_info[0].__name__
        return row


def _finite(value: Any) -> Any:
    """Copy with null in place of NaN and infinities, which JSON does not have."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
