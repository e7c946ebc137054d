"""Write the archives that are kept for ever: ``python -m tests.archives.write``.

They go to ``tests/archives/v<format>``: those that are missing there, each with what it gives back
beside it. Nothing that is there is replaced: from format 1 on an archive that a later version does
not read as it was read on its day is a fault of that version.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

sys.path.insert(0, str(Path(__file__).parents[1]))

from archives.samples import SAMPLES, make, said
from psc_volumetric.bitstream.constants import FORMAT_VERSION

HERE = Path(__file__).parent


def write(target: Path, names: list[str]) -> int:
    """Make the archives of these names that are not there; returns the bytes of all that is."""
    target.mkdir(parents=True, exist_ok=True)
    for name in names:
        note = target / f"{name}.json"
        if note.exists():
            continue
        with tempfile.TemporaryDirectory() as scratch:
            made = make(name, Path(scratch))
            about = said(made, Path(scratch) / "restored")
            shutil.move(made, target / made.name)
        text = json.dumps({"archive": made.name, **about}, indent=1, sort_keys=True)
        note.write_text(text + "\n", encoding="utf-8")
    return sum(path.stat().st_size for path in target.rglob("*") if path.is_file())


def main(
    target: Annotated[Path, typer.Option(help="Folder to add to.")] = HERE / f"v{FORMAT_VERSION}",
    only: Annotated[list[str] | None, typer.Option(help="Only this one; may be repeated.")] = None,
) -> None:
    """Write archives of every kind, small and sealed."""
    if target == HERE / "v0":
        typer.echo("format 0 is experimental, its archives are not kept: name another --target")
        return
    nbytes = write(target, only or list(SAMPLES))
    typer.echo(f"{nbytes} bytes in {target}")


if __name__ == "__main__":
    typer.run(main)
