"""What a flow tells, and to whom: numbers to Prefect, names to a file beside the target.

Prefect keeps artifacts, states and logs in a database that many may read. Which number is which
file therefore stands only in a names file, one for each run, in the folder ``<target>.names``, or
``<key>.names`` where archives have pseudonyms.
"""

from __future__ import annotations

import datetime
import json
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from inspect import iscoroutine
from pathlib import Path
from typing import Any

from prefect import Flow
from prefect.artifacts import create_markdown_artifact
from prefect.blocks.abstract import NotificationBlock
from prefect.blocks.core import Block
from prefect.blocks.webhook import Webhook
from prefect.client.schemas.objects import FlowRun, State
from prefect.runtime import flow_run as this_run
from prefect.utilities.asyncutils import run_coro_as_sync

from psc_volumetric.archive.stores import is_url, open_store

__all__ = ["NamesFile", "publish", "table", "tell_failure"]

log = logging.getLogger(__name__)

SHOWN_ROWS = 500
Row = Mapping[str, Any]


@dataclass(frozen=True)
class NamesFile:
    """Which number is which file, and how it ended; of one run.

    Attributes
    ----------
    folder : str
        ``<place>.names``; on a local disk only its owner may look into it.
    name : str
        Time and id of the run.
    """

    folder: str
    name: str

    @classmethod
    def of_this_run(cls, place: str) -> NamesFile:
        """The names file of the flow run that calls, beside its target or its key."""
        now = datetime.datetime.now(datetime.UTC)
        return cls(f"{place.rstrip('/')}.names", f"{now:%Y%m%dT%H%M%SZ}-{this_run.id}.json")

    @classmethod
    def nowhere(cls) -> NamesFile:
        """No file, for a run that found nothing to do: most runs every ten minutes are such."""
        return cls("", "")

    def write(self, rows: Iterable[Row]) -> None:
        """Write the file, or write it anew.

        Raises
        ------
        StorageError : it cannot be written.
        """
        if not self.folder:
            return
        if not is_url(self.folder):
            place = Path(self.folder.removeprefix("file://"))
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
        store = open_store(self.folder, write=True)
        try:
            store.set(self.name, json.dumps(list(rows), indent=1).encode())
        finally:
            store.close()


def table(rows: Sequence[Row]) -> str:
    """Rows as a table in Markdown, at most the first few hundred; a column for each key."""
    if not rows:
        return ""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [" | ".join(columns), " | ".join("---" for _ in columns)]
    lines += [" | ".join(_cell(row.get(key)) for key in columns) for row in rows[:SHOWN_ROWS]]
    more = len(rows) - SHOWN_ROWS
    text = "\n".join(f"| {line} |" for line in lines)
    return text + (f"\n\n{more} more rows are in the names file." if more > 0 else "")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}".replace(",", " ") if isinstance(value, int) else str(value)


def publish(
    key: str,
    title: str,
    totals: Row,
    failures: Iterable[str],
    items: Sequence[Row],
    names: NamesFile,
) -> None:
    """Leave one summary of the run with Prefect.

    Parameters
    ----------
    key : str
        Of the artifact; runs of a flow share it.
    title : str
        One line.
    totals : mapping
        Word -> number.
    failures : iterable of str
        Kind of the error of each item that failed.
    items : sequence of mapping
        One row for each item: numbers and words of ours, never names.
    names : NamesFile
        Said at the end, so that people find it.
    """
    parts = [f"# {title}", table([{"": word, "total": total} for word, total in totals.items()])]
    kinds = Counter(failures)
    if kinds:
        rows = [{"failures of kind": kind, "items": n} for kind, n in sorted(kinds.items())]
        parts.append(table(rows))
    where = f"`{names.name}` in the folder `.names` beside the target, or beside its key"
    parts += [table(items), f"Names: {where if names.name else 'none, nothing was to be done'}."]
    create_markdown_artifact(
        key=key, markdown="\n\n".join(part for part in parts if part), description=title
    )


def tell_failure(flow: Flow[Any, Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Tell people that a run failed or crashed: through the block that the run names, and the log.

    The parameter ``notify`` of a flow names a block of Prefect: ``"webhook/NAME"`` gets a JSON
    document, any notification block (``"slack-webhook/NAME"``, ``"custom-webhook/NAME"``) a text.
    """
    text = f"{flow.name}: run {flow_run.name} {state.name}. {state.message or ''}".strip()
    log.error("%s", text)
    wanted = flow_run.parameters.get("notify")
    if not wanted:
        return
    block = Block.load(wanted)
    if isinstance(block, Webhook):
        document = {
            "flow": flow.name,
            "run": flow_run.name,
            "id": str(flow_run.id),
            "state": state.name,
            "message": state.message,
        }
        run_coro_as_sync(block.call(document))
    elif isinstance(block, NotificationBlock):
        told: Any = block.notify(text, subject=f"{flow.name} {state.name}")
        if iscoroutine(told):  # Prefect's own blocks are told already
            run_coro_as_sync(told)
    else:
        log.error("block %r can neither notify nor be called", wanted)
