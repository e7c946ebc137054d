"""The way from a command to the browser: a page that only this account can read.

The arguments of a program are seen by every account of a machine, and the address of a viewer has
the token that opens it. So the browser gets the name of a file instead, which leads there.
"""

from __future__ import annotations

import html
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from psc_volumetric.errors import StorageError

__all__ = ["doorway"]

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="refresh" content="0; url={address}">
<title>psc-archive</title>
<p><a href="{address}">Open the archive</a></p>
</html>
"""


@contextmanager
def doorway(url: str) -> Iterator[str]:
    """Write a page that leads to a URL; gives its ``file://`` address, and removes it at the end.

    Raises
    ------
    StorageError : kind ``"storage-failed"``: there is no place for it.
    """
    folder = _private_folder()
    try:
        yield _written(folder, url).as_uri()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _private_folder() -> Path:
    try:
        return Path(tempfile.mkdtemp(prefix="psc-archive-view-"))  # mode 0700
    except OSError as error:
        raise _no_place(error) from error


def _written(folder: Path, url: str) -> Path:
    page = folder / "open.html"
    try:
        page.touch(mode=0o600, exist_ok=False)
        page.write_text(PAGE.format(address=html.escape(url)), "utf-8")
    except OSError as error:
        raise _no_place(error) from error
    return page


def _no_place(error: OSError) -> StorageError:
    return StorageError(
        f"no page that opens the browser can be written ({error.strerror})",
        kind="storage-failed",
        hint="set TMPDIR to a folder of yours, or use --no-browser and open the address",
    )
