"""What a step of ``psc-archive view`` to the next level takes.

    python -m pipelines.development.benchmark_steps [--ways wavelet,av1]

One brick of 512 x 512 slices is archived in some ways. Each archive is opened by a viewer in a
process of its own, which is given a moment, as by a page that draws the preview, and is then asked
for a slice at each level for the first time, for the same slice again, and for its neighbour.
Prints seconds by the clock and of CPU time: the clock of a busy machine says little.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel
import numpy as np

from pipelines.archiving.archive import archive
from pipelines.archiving.options import ArchiveOptions
from pipelines.archiving.plan import plan
from psc_volumetric.archive.reader import ArchiveReader

__all__ = ["main"]

SIDE = 512
TIMEOUT_S = 600
TICKS = os.sysconf("SC_CLK_TCK")
WAYS = {
    "wavelet": ArchiveOptions(mode="lossy", base="wavelet", step=0.5),
    "av1": ArchiveOptions(mode="lossy", base="av1", step=0.5),
    "fast coders": ArchiveOptions(coders="fast", max_error=8),
    "lossless, default": ArchiveOptions(),
}


def _source(folder: Path, slices: int) -> Path:
    """Smooth values with noise."""
    rng = np.random.default_rng(0)
    z, y, x = np.ogrid[:slices, :SIDE, :SIDE]
    values = 400 * np.sin(y / 60) * np.cos(x / 50) + 3 * z + rng.normal(0, 10, (slices, SIDE, SIDE))
    path = folder / "volume.nii"
    nibabel.save(nibabel.Nifti1Image(values.astype(np.int16).T, np.eye(4)), path)
    return path


@contextmanager
def _viewing(target: str) -> Iterator[tuple[str, int]]:
    """Address and process of a viewer."""
    words = [sys.executable, "-m", "pipelines.cli", "view", target, "--json"]
    running = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        assert running.stdout is not None
        text = ""
        while not text.rstrip().endswith("}"):
            text += running.stdout.readline()
        yield json.loads(text)["url"], running.pid
    finally:
        running.terminate()
        running.wait(TIMEOUT_S)
        if running.stdout is not None:
            running.stdout.close()


def _cpu(pid: int) -> float:
    """Seconds of CPU time that a process has taken."""
    parts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(parts[11]) + int(parts[12])) / TICKS


def _settled(pid: int, patience_s: float) -> None:
    """Wait until a process does nothing."""
    end, before = time.monotonic() + patience_s, -1.0
    while time.monotonic() < end and _cpu(pid) != before:
        before = _cpu(pid)
        time.sleep(1.0)


def _measured(target: str, slices: int, patience_s: float) -> Iterator[str]:
    with ArchiveReader.open(target) as reader:
        levels = len(reader.info()["variables"]["image"]["levels"])
    with _viewing(target) as (url, pid):
        _settled(pid, patience_s)
        middle = slices // 2
        asked = [(f"level {level}, first", level, middle) for level in range(levels)]
        asked += [("again", levels - 1, middle), ("next slice", levels - 1, middle + 1)]
        for said, level, at in asked:
            box = f"{at}:{at + 1},0:{SIDE},0:{SIDE}"
            query = f"api/region?at=&variable=image&level={level}&box={box}"
            cpu, start = _cpu(pid), time.perf_counter()
            with urllib.request.urlopen(url + query, timeout=TIMEOUT_S) as answer:
                answer.read()
            yield f"{said} {time.perf_counter() - start:.2f} s ({_cpu(pid) - cpu:.2f} s of CPU)"


def main(slices: int = 24, ways: str = ",".join(WAYS), patience_s: float = 60.0) -> None:
    """Print what each way takes.

    Parameters
    ----------
    slices : int
        Of 512 x 512 voxels; 24 are a brick.
    ways : str
        Some of the ways, with commas.
    patience_s : float
        What a viewer gets before it is asked, at most.
    """
    say = sys.stdout.write
    cores = len(os.sched_getaffinity(0))
    say(f"{slices} slices; {cores} cores, load {os.getloadavg()[0]:.1f}\n")
    with tempfile.TemporaryDirectory() as name:
        source = _source(Path(name), slices)
        for number, way in enumerate(ways.split(",")):
            target = str(Path(name) / f"{number}.psc.zarr")
            archive(plan(source, target, WAYS[way]))
            say(f"{way}: {'; '.join(_measured(target, slices, patience_s))}\n")


if __name__ == "__main__":
    import typer

    typer.run(main)
