"""Bytes of ours beside those of peers as a chart, from the tables of ``docs/evaluation.md``.

No number is typed here: what the tables of the section "Speeds" say is what is drawn.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from psc_volumetric.errors import ParameterError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["SHOWN_SPEEDS", "Table", "draw_chart", "shown_tables", "tables_of"]

SECTION = "## Speeds"
HEADING = re.compile(r"\| (?P<name>\S+), (?P<size>[\d.]+ MB) \| bytes \| to speed 1 \|")
DEFAULT = "speed 1"
SHOWN_SPEEDS = (DEFAULT, "speed 3", "speed 9")
TITLES = {
    "patient12_study1_T1W.nii.gz": "T1 head",
    "lidc-idri-0001": "chest CT",
    "hgt.nc": "geopotential height",
}
SIZE = (8.6, 2.9)  # inches
OURS, PEER, TEXT = "#0b5fa5", "#a9b0b7", "#1a1a1a"
LETTERS = 8.5  # points
ROOM = 1.75  # of a panel, to the longest bar, for what is written behind it


@dataclass(frozen=True)
class Table:
    """Bytes of one volume by each codec.

    Attributes
    ----------
    name : str
        File or folder of the volume.
    size : str
        Of its stored values, with unit.
    rows : tuple of (str, int)
        Codec and its bytes, as the table has them.
    """

    name: str
    size: str
    rows: tuple[tuple[str, int], ...]

    @property
    def title(self) -> str:
        """What the volume shows, and its size."""
        return f"{TITLES.get(self.name, self.name)}, {self.size}"

    def bytes_of(self, codec: str) -> int | None:
        """Bytes of one codec; None where the table has no row for it."""
        return dict(self.rows).get(codec)


def tables_of(text: str) -> list[Table]:
    """Read the tables with bytes in the section "Speeds" of the evaluation.

    Raises
    ------
    ParameterError : no such table, or one without the default speed (kind ``"no-table"``).
    """
    section = text.partition(f"\n{SECTION}\n")[2].partition("\n## ")[0]
    tables = []
    for block in section.split("\n\n"):
        heading = HEADING.match(block)
        if heading is not None:
            tables.append(Table(heading["name"], heading["size"], _rows(block)))
    if not tables or any(table.bytes_of(DEFAULT) is None for table in tables):
        raise ParameterError(
            f"expected tables of bytes with a row {DEFAULT!r} below {SECTION!r}, found "
            f"{', '.join(table.name for table in tables) or 'none'}",
            kind="no-table",
        )
    return tables


def _rows(block: str) -> tuple[tuple[str, int], ...]:
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in block.splitlines()[2:]]
    return tuple((cells[0], int(cells[1].replace(",", ""))) for cells in lines)


def shown_tables(tables: Sequence[Table]) -> list[Table]:
    """Leave out the speeds that are not drawn."""

    def is_shown(codec: str) -> bool:
        return codec in SHOWN_SPEEDS or not codec.startswith("speed ")

    return [
        Table(table.name, table.size, tuple(row for row in table.rows if is_shown(row[0])))
        for table in tables
    ]


def draw_chart(tables: Sequence[Table]) -> Figure:
    """Draw a panel of bars for each volume; a codec that a table lacks has a dash there."""
    from matplotlib.figure import Figure

    codecs = list(dict.fromkeys(codec for table in tables for codec, _ in table.rows))
    figure = Figure(figsize=SIZE, layout="constrained", facecolor="white")
    panels = figure.subplots(1, len(tables), sharey=True, squeeze=False)[0]
    for panel, table in zip(panels, tables, strict=True):
        _draw_panel(panel, table, codecs)
    panels[0].set_yticks(range(len(codecs)), [_label(codec) for codec in codecs], fontsize=LETTERS)
    panels[0].invert_yaxis()
    for text, codec in zip(panels[0].get_yticklabels(), codecs, strict=True):
        text.set_color(OURS if _is_ours(codec) else TEXT)
    figure.supxlabel(
        "bytes without loss: whole sealed archives of ours (blue), bare streams of others (grey); "
        "\N{EN DASH} not run",
        fontsize=LETTERS,
        color=TEXT,
    )
    return figure


def _draw_panel(panel: Any, table: Table, codecs: Sequence[str]) -> None:
    default = table.bytes_of(DEFAULT) or 1
    longest = max(nbytes for _, nbytes in table.rows)
    for place, codec in enumerate(codecs):
        nbytes = table.bytes_of(codec)
        if nbytes is None:
            panel.text(0, place, " \N{EN DASH}", va="center", fontsize=LETTERS, color=TEXT)
            continue
        panel.barh(place, nbytes, color=OURS if _is_ours(codec) else PEER, height=0.72)
        more = "" if codec == DEFAULT else f", {100 * (nbytes / default - 1):+.0f} %"
        panel.text(
            nbytes + 0.02 * longest,
            place,
            f"{nbytes / 1000:,.0f} kB{more}",
            va="center",
            fontsize=LETTERS - 1,
            color=TEXT,
        )
    panel.set_title(table.title, fontsize=LETTERS + 1, color=TEXT)
    panel.set_xlim(0, ROOM * longest)
    panel.tick_params(axis="y", length=0)
    panel.set_xticks([])
    for side in ("top", "right", "bottom"):
        panel.spines[side].set_visible(False)


def _is_ours(codec: str) -> bool:
    return codec in SHOWN_SPEEDS


def _label(codec: str) -> str:
    if codec == DEFAULT:
        return f"psc-archive, {codec}, the default"
    return f"psc-archive, {codec}" if _is_ours(codec) else codec
