"""What the default base of a lossy archive costs and gives beside the methods that it chooses from.

    python -m pipelines.development.benchmark_choice SOURCE ... --bpv 0.1

archives every source with each base, one command after another, and prints a table in Markdown: CPU
seconds of the command with all its children, bytes, PSNR, and what ``auto`` takes and gives over
the method that is best. Archives go into a temporary folder.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

BASES = ("auto", "wavelet", "av1")
PATIENCE_S = 3600.0
PROGRAM = [sys.executable, "-m", "pipelines.cli"]
HEAD = """| source | base | bases of the bricks | bytes | PSNR, dB | CPU, s |
|---|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Run:
    """One archive.

    Attributes
    ----------
    methods : str
        Base methods of its bricks.
    nbytes : int
    decibels : float
        PSNR, of the first variable.
    cpu_s : float
    """

    methods: str
    nbytes: int
    decibels: float
    cpu_s: float


def archived(source: Path, base: str, rate: float, folder: Path) -> Run:
    """Archive a source in a process of its own.

    Raises
    ------
    SystemExit : the command failed.
    """
    words = ["--mode", "lossy", "--bpv", str(rate), "--base", base, "--jobs", "1", "--json"]
    before = os.times()
    (report, *_) = _told("archive", str(source), str(folder), *words)["archives"]
    after = os.times()
    variables = _told("info", report["target"], "--json")["variables"].values()
    spent = after.children_user + after.children_system
    return Run(
        methods=", ".join(sorted({name for v in variables for name in v["brick_methods"]})),
        nbytes=report["archive_bytes"],
        decibels=report["variables"][0]["psnr_db"],
        cpu_s=spent - before.children_user - before.children_system,
    )


def _told(*words: str) -> dict[str, Any]:
    """What a command of this program says with ``--json``."""
    done = subprocess.run([*PROGRAM, *words], capture_output=True, timeout=PATIENCE_S, check=False)
    if done.returncode:
        raise SystemExit(done.stderr.decode())
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def summary(runs: dict[str, Run]) -> str:
    """What ``auto`` takes and gives over the best of the others."""
    best = max((base for base in runs if base != "auto"), key=lambda base: runs[base].decibels)
    auto = runs["auto"]
    return (
        f"auto over {best}: {auto.cpu_s / runs[best].cpu_s:.2f} times the CPU seconds, "
        f"{auto.decibels - runs[best].decibels:+.2f} dB"
    )


def main(
    sources: list[Path],
    bpv: Annotated[float, typer.Option(help="Bits per voxel of the whole archive.")] = 0.1,
    bases: Annotated[str, typer.Option(help="Base methods, by commas.")] = ",".join(BASES),
) -> None:
    """Print the table."""
    say = sys.stdout.write
    say(HEAD)
    for source in sources:
        runs = {}
        for base in bases.split(","):
            with tempfile.TemporaryDirectory() as folder:
                found = archived(source, base, bpv, Path(folder) / "a.psc.zarr")
            runs[base] = found
            say(f"| {source.name} | {base} | {found.methods} | {found.nbytes:,} ")
            say(f"| {found.decibels:.2f} | {found.cpu_s:.1f} |\n")
            sys.stdout.flush()
        if len(runs) > 1 and "auto" in runs:
            say(f"| | {summary(runs)} | | | | |\n")


if __name__ == "__main__":
    typer.run(main)
