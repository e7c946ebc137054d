"""Reading at scale: ``python -m pipelines.development.benchmark_reading``.

Makes an archive with fast coders in a temporary folder, serves it on the loopback interface (a web
server, and moto's S3 server where that is installed), and prints what parts of it cost: bytes
beside those of index, levels and tiles, requests, time until the first picture, voxels per second
of one reader and of several at once.
"""

from __future__ import annotations

import multiprocessing
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from zarr.abc.buffer import Buffer

from pipelines.archiving.archive import archive
from pipelines.archiving.options import ArchiveOptions
from pipelines.archiving.plan import plan
from pipelines.restoring.decoded import touched
from psc_volumetric.archive.access import SealedStore, load_manifest
from psc_volumetric.archive.levels import level_number
from psc_volumetric.archive.reader import ArchiveReader
from psc_volumetric.archive.stores import open_store
from psc_volumetric.needed import byte_ranges

__all__ = ["main"]

NAME = "scan.psc.zarr"
S3_PORT = 5977
S3 = {
    "key": "test",
    "secret": "test",
    "client_kwargs": {"endpoint_url": f"http://127.0.0.1:{S3_PORT}"},
}
WAIT = 60  # seconds for a server to start


@dataclass
class Traffic:
    """What was asked of a store."""

    requests: int = 0
    nbytes: int = 0


def _volume(slices: int) -> np.ndarray[Any, Any]:
    """Like a CT scan: smooth shapes, noise, air around them."""
    z, y, x = np.ogrid[:slices, :512, :512]
    body = ((y - 256) / 200.0) ** 2 + ((x - 256) / 230.0) ** 2 < 1
    shapes = 300 * np.sin(x / 23) * np.cos(y / 31 + z / 9)
    noise = np.random.default_rng(0).normal(0, 12, (slices, 512, 512))
    return np.where(body, shapes + noise, -1000).astype("i2")


def _make(folder: Path, slices: int) -> Path:
    import nibabel

    nibabel.Nifti1Image(_volume(slices).T, np.eye(4)).to_filename(folder / "scan.nii")
    place = folder / "served" / NAME
    place.parent.mkdir()
    archive(plan(folder / "scan.nii", str(place), ArchiveOptions(max_error=8.0, coders="fast")))
    return place


class _Handler(BaseHTTPRequestHandler):
    """A file, or the part of it that is asked for."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        file = Path(sys.argv[1]) / unquote(self.path).lstrip("/")
        data = file.read_bytes() if file.is_file() else b""
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        first, last = (int(found[1]), int(found[2])) if found else (0, len(data) - 1)
        part = data[first : last + 1]
        self.send_response(206 if part else 404)
        self.send_header("Content-Range", f"bytes {first}-{first + len(part) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)


def _serve() -> None:
    """The web server: prints its port, serves the folder that it was given."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()


@contextmanager
def _child(words: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    child = subprocess.Popen(
        [sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        yield child
    finally:
        child.terminate()
        child.wait(WAIT)


@contextmanager
def _on_the_web(place: Path) -> Iterator[tuple[str, None]]:
    script = "from pipelines.development.benchmark_reading import _serve; _serve()"
    with _child(["-c", script, str(place.parent)]) as child:
        assert child.stdout is not None
        yield f"http://127.0.0.1:{int(child.stdout.readline())}/{NAME}", None


@contextmanager
def _in_a_bucket(place: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    import fsspec

    script = f"from moto.server import main; main(['-H', '127.0.0.1', '-p', '{S3_PORT}'])"
    with _child(["-c", script]):
        files = fsspec.filesystem("s3", **S3)
        end = time.monotonic() + WAIT
        while True:
            try:
                files.mkdir("bench")
                break
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)
        files.put(str(place), f"bench/{NAME}", recursive=True)
        yield f"s3://bench/{NAME}", S3


def _opened(url: str, options: Any, traffic: Traffic) -> ArchiveReader:
    """A reader whose requests are counted."""
    far = open_store(url, options=options)
    real = far.store.get

    async def counting(*arguments: Any, **options: Any) -> Buffer | None:
        found = await real(*arguments, **options)
        traffic.requests += 1
        traffic.nbytes += 0 if found is None else len(found)
        return found

    far.store.get = counting  # type: ignore[method-assign]
    return ArchiveReader(SealedStore(far, load_manifest(far)))


def _asked(reader: ArchiveReader, box: tuple[slice, ...], level: Any) -> int:
    """Bytes of index, levels and tiles of a region."""
    spec, total = reader.spec("image"), 0
    for position in touched(spec, box):
        index = reader.brick_index("image", position)
        z, y, x = (
            slice(max(b.start, w.start) - b.start, min(b.stop, w.stop) - b.start)
            for b, w in zip(spec.box(position), box, strict=True)
        )
        ranges = byte_ranges(index, (z, y, x), level_number(index, level))
        total += index.header_size + sum(length for _, length in ranges)
    return total


def _parts(name: str, url: str, options: Any, slices: int) -> Iterator[str]:
    """Lines: what parts cost."""
    middle = slices // 2
    regions = {
        "one slice": (slice(middle, middle + 1), slice(0, 512), slice(0, 512)),
        "64 x 64 x 64": (slice(0, min(64, slices)), slice(200, 264), slice(200, 264)),
        "one voxel": (slice(middle, middle + 1), slice(300, 301), slice(300, 301)),
    }
    for what, box in regions.items():
        for level in ("bounded", "lossless"):
            traffic = Traffic()
            with _opened(url, options, traffic) as reader:
                opening = replace(traffic)
                start = time.perf_counter()
                reader.read("image", box, level=level)
                spent = time.perf_counter() - start
                requests = traffic.requests - opening.requests
                nbytes = traffic.nbytes - opening.nbytes
                ratio = nbytes / _asked(reader, box, level)
            yield (
                f"| {name} | {what}, {level} | {nbytes / 1e3:.1f} kB | {ratio:.2f} | {requests} | "
                f"{spent * 1e3:.0f} ms |"
            )


def _first_picture(url: str, options: Any) -> tuple[float, float]:
    """Seconds from opening to the smallest preview, and to a slice at the coarsest level."""
    start = time.perf_counter()
    with ArchiveReader.open(url, options=options) as reader:
        levels = [key for key in reader.manifest.under("preview/image/") if key.endswith("c/0/0/0")]
        small = min(levels, key=lambda key: reader.manifest.entries[key].size)
        reader.sealed.array(small.removesuffix("/c/0/0/0"))
        preview = time.perf_counter() - start
    start = time.perf_counter()
    with ArchiveReader.open(url, options=options) as reader:
        reader.read("image", (slice(3, 4), slice(0, 512), slice(0, 512)), level=0)
    return preview, time.perf_counter() - start


def _read_all(place: str, _: int) -> float:
    """Read a whole volume; seconds of it, without opening."""
    with ArchiveReader.open(place) as reader:
        reader.read("image", (slice(0, 1), slice(0, 512), slice(0, 512)))
        start = time.time()
        reader.read("image")
        return time.time() - start


def _speed(place: Path, readers: int, voxels: int) -> float:
    """Voxels per second, summed over readers in processes of their own."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(readers, mp_context=context) as pool:
        list(pool.map(partial(_read_all, str(place)), range(readers)))  # imports, compiled loops
        start = time.time()
        list(pool.map(partial(_read_all, str(place)), range(readers)))
        return readers * voxels / (time.time() - start)


def main(slices: int = 72, readers: int = 4) -> None:
    """Print the tables.

    Parameters
    ----------
    slices : int
        Of 512 x 512 voxels.
    readers : int
        Processes that read at once.
    """
    say = sys.stdout.write
    with tempfile.TemporaryDirectory() as name, ExitStack() as servers:
        place = _make(Path(name), slices)
        places: dict[str, tuple[str, Any]] = {"web": servers.enter_context(_on_the_web(place))}
        if find_spec("moto") is not None and find_spec("s3fs") is not None:
            places["S3"] = servers.enter_context(_in_a_bucket(place))
        say("| from | what | fetched | of index, level and tiles | requests | time |\n")
        say("|---|---|---|---|---|---|\n")
        for where, (url, options) in places.items():
            for line in _parts(where, url, options, slices):
                say(line + "\n")
        for where, (url, options) in places.items():
            first, second = (_first_picture(url, options) for _ in range(2))
            say(
                f"{where}: first preview {first[0]:.2f} s (again {second[0]:.2f} s), first slice "
                f"{first[1]:.2f} s (again {second[1]:.2f} s)\n"
            )
        for number in (1, readers):
            speed = _speed(place, number, slices * 512 * 512)
            say(f"{number} reader(s): {speed / 1e6:.1f} million voxels per second in all\n")


if __name__ == "__main__":
    import typer

    typer.run(main)
