"""A picture of the page that ``psc-archive report`` makes, for the guide.

    python -m pipelines.development.report_picture SOURCE [--out docs/report.png] [--bpv 0.2]

The source is archived lossily in a temporary folder, its page is written beside the source's
values, and a headless Chromium of this machine draws the upper part of it. The volume must be one
that may be shown.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from shutil import which
from typing import Annotated

import typer

from pipelines.archiving.archive import archive
from pipelines.archiving.options import ArchiveOptions
from pipelines.archiving.plan import plan
from pipelines.reporting.page import report_page, write_page
from psc_volumetric.errors import StorageError

__all__ = ["draw_page"]

WIDTH, HEIGHT = 1100, 1500  # pixels
COLOURS = 192
TIMEOUT_S = 120
NAMES = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = ("--headless=new", "--no-sandbox", "--hide-scrollbars")


def draw_page(
    address: str,
    out: Path,
    *,
    width: int = WIDTH,
    height: int = HEIGHT,
    options: tuple[str, ...] = ("--disable-gpu",),
) -> None:
    """Draw the upper part of a page into a PNG file of few colours.

    Parameters
    ----------
    address : str
        URL of the page.
    width, height : int
        Of the window, in pixels.
    options : tuple of str
        More words for Chromium.

    Raises
    ------
    StorageError : kind ``"no-browser"``: there is no Chromium, or it draws nothing.
    """
    from PIL import Image

    browser = next(filter(None, map(which, NAMES)), None)
    if browser is None:
        raise StorageError(
            f"expected one of {', '.join(NAMES)} on this machine, found none",
            kind="no-browser",
            hint="install Chromium",
        )
    with tempfile.TemporaryDirectory() as folder:
        drawn = Path(folder) / "page.png"
        words = [f"--user-data-dir={folder}/profile", f"--screenshot={drawn}"]
        words += [f"--window-size={width},{height}", *options, address]
        done = subprocess.run(
            [browser, *OPTIONS, *words], capture_output=True, timeout=TIMEOUT_S, check=False
        )
        if not drawn.is_file():
            raise StorageError(
                f"{browser} drew nothing (exit code {done.returncode})", kind="no-browser"
            )
        with Image.open(drawn) as image:
            small = image.convert("RGB").quantize(
                COLOURS, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE
            )
        small.save(out, optimize=True)


def main(
    source: Annotated[Path, typer.Argument(help="File or folder with one volume.")],
    out: Annotated[Path, typer.Option(help="The picture.")] = Path("docs/report.png"),
    bpv: Annotated[float, typer.Option(help="Rate of the archive.")] = 0.2,
) -> None:
    """Draw the page about an archive of a volume."""
    options = ArchiveOptions(mode="lossy", bpv=bpv, base="wavelet")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        target = str(folder / source.name.split(".")[0]) + ".psc.zarr"
        archive(plan(source, target, options))
        page = folder / "report.html"
        write_page(report_page(target, source), page)
        draw_page(page.absolute().as_uri(), out)


if __name__ == "__main__":
    typer.run(main)
