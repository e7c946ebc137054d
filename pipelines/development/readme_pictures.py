"""The two pictures of the README: a slice at its levels, and bytes beside those of peers.

    python -m pipelines.development.readme_pictures [SOURCE] [--folder docs] [--bpv 0.05,0.2]

``levels.png`` is drawn where a source is given, which must be a volume that may be shown;
``bytes.png`` always, from the tables of ``evaluation.md`` in the same folder. Each file says in its
text ``numbers`` what it shows, so that a test can tell whether it is still what the tables say.
"""

from __future__ import annotations

import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from pipelines.development.bytes_chart import draw_chart, shown_tables, tables_of
from pipelines.development.levels_picture import colours_of_levels, draw_levels, levels_of
from pipelines.evaluation.options import parse_numbers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["NUMBERS", "chart_numbers", "save_png"]

NUMBERS = "numbers"  # key of the text inside a PNG
DOTS = 150  # per inch


def chart_numbers(evaluation: str) -> str:
    """What the chart shows, as JSON, from the text of ``evaluation.md``."""
    return _json([asdict(table) for table in shown_tables(tables_of(evaluation))])


def save_png(
    figure: Figure, out: Path, numbers: str, colours: NDArray[np.uint8] | None = None
) -> None:
    """Write a figure in 256 colours, with the numbers that it shows as text inside.

    ``colours``, (n, 3), are taken where they are given, else those that suit the figure.
    """
    from PIL import Image, PngImagePlugin

    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DOTS)
    said = PngImagePlugin.PngInfo()
    said.add_text(NUMBERS, numbers)
    with Image.open(drawn) as image:
        plain = image.convert("RGB")
    if colours is None:
        small = plain.quantize(dither=Image.Dither.NONE)
    else:
        small = Image.fromarray(_nearest(np.asarray(plain), colours))
        small.putpalette(colours.tobytes())
    small.save(out, optimize=True, pnginfo=said)


def _nearest(pixels: NDArray[np.uint8], colours: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """For each pixel, (rows, columns, 3), which colour is nearest to it."""
    packed = pixels.astype(np.int64) @ (1, 256, 65536)
    _, first, place = np.unique(packed, return_index=True, return_inverse=True)
    seen = pixels.reshape(-1, 3)[first].astype(np.int64)
    gaps = np.square(seen[:, None] - colours.astype(np.int64)).sum(-1)
    chosen: NDArray[np.uint8] = gaps.argmin(1).astype(np.uint8)[place].reshape(packed.shape)
    return chosen


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def main(
    source: Annotated[
        Path | None, typer.Argument(help="File or folder with one volume; none: the chart alone.")
    ] = None,
    folder: Annotated[
        Path, typer.Option(help="Where evaluation.md is, and the pictures go.")
    ] = Path("docs"),
    bpv: Annotated[str, typer.Option(help="Rates of the lossy archives.")] = "0.05,0.2",
) -> None:
    """Draw the pictures of the README."""
    evaluation = (folder / "evaluation.md").read_text("utf-8")
    chart = draw_chart(shown_tables(tables_of(evaluation)))
    save_png(chart, folder / "bytes.png", chart_numbers(evaluation))
    if source is None:
        return
    levels = levels_of(source, parse_numbers(bpv, "--bpv"))
    titles = [level.title.replace("\n", ", ") for level in levels]
    save_png(draw_levels(levels), folder / "levels.png", _json(titles), colours_of_levels())
    typer.echo("\n".join(titles))


if __name__ == "__main__":
    typer.run(main)
