"""A picture of the page that ``psc-archive view`` serves, for the guide.

    python -m pipelines.development.view_picture SOURCE [--out docs/view.png]

The source is archived without loss in a temporary folder, its page is served to a headless Chromium
of this machine, and drawn when all levels have arrived. The volume must be one that may be shown.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from pipelines.archiving.archive import archive
from pipelines.archiving.options import ArchiveOptions
from pipelines.archiving.plan import plan
from pipelines.development.report_picture import draw_page
from pipelines.viewing.server import ViewServer

__all__ = ["draw_view"]

WIDTH, HEIGHT = 1300, 1150  # pixels
OPTIONS = (
    # WebGL 2 on a machine without a graphics card, and time for what is fetched and drawn
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--virtual-time-budget=15000",
)


def draw_view(target: str, out: Path, *, width: int = WIDTH, height: int = HEIGHT) -> None:
    """Draw the page of an archive into a PNG file of few colours.

    Raises
    ------
    StorageError : kind ``"no-browser"``; or the page cannot be served.
    """
    with ViewServer(target) as server:
        draw_page(server.url, out, width=width, height=height, options=OPTIONS)


def main(
    source: Annotated[Path, typer.Argument(help="File or folder with one volume.")],
    out: Annotated[Path, typer.Option(help="The picture.")] = Path("docs/view.png"),
) -> None:
    """Draw the page that shows an archive of a volume."""
    with tempfile.TemporaryDirectory() as folder:
        target = f"{folder}/{source.name.split('.')[0]}.psc.zarr"
        archive(plan(source, target, ArchiveOptions(coders="fast")))
        draw_view(target, out)


if __name__ == "__main__":
    typer.run(main)
