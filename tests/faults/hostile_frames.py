"""Trajectories and videos made to hurt: one function each, writing one file into a folder."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from tests.adapters.trajectory_files import write as write_trajectory
from tests.faults.seed_files import write_video

__all__ = ["FRAMES"]

Writer = Callable[[Path], None]


def _changed(name: str, offset: int, data: bytes) -> Writer:
    """A good trajectory with some bytes replaced."""

    def write(folder: Path) -> None:
        path = write_trajectory(folder / name, frames=3)
        raw = bytearray(path.read_bytes())
        raw[offset : offset + len(data)] = data
        path.write_bytes(raw)

    return write


def _words(order: str, *values: int) -> bytes:
    return struct.pack(f"{order}{len(values)}i", *values)


def _dcd_atoms(count: int) -> Writer:
    """Another number of atoms, which stands behind the titles."""

    def write(folder: Path) -> None:
        path = write_trajectory(folder / "hostile.dcd", frames=3)
        raw = bytearray(path.read_bytes())
        at = 92 + 8 + int.from_bytes(raw[92:96], "little") + 4
        raw[at : at + 4] = _words("<", count)
        path.write_bytes(raw)

    return write


def _dcd_of_many_titles(folder: Path) -> None:
    """A record of titles that takes 2^31 - 1 bytes, of a file that is sparse."""
    _changed("hostile.dcd", 92, _words("<", (1 << 31) - 1))(folder)
    with (folder / "hostile.dcd").open("r+b") as file:
        file.truncate((1 << 31) + 200)


def _dcd_of_few_atoms(folder: Path) -> None:
    """A million frames of one atom."""
    path = write_trajectory(folder / "hostile.dcd", frames=1, atoms=1)
    raw = path.read_bytes()
    frame = raw[-(56 + 3 * 12) :]
    path.write_bytes(raw + frame * 1_000_000)


def _video(change: Callable[[bytes], bytes], name: str = "hostile.mp4") -> Writer:
    def write(folder: Path) -> None:
        write_video(folder / name)
        (folder / name).write_bytes(change((folder / name).read_bytes()))

    return write


def _list_of_files(folder: Path) -> None:
    """FFmpeg would show the frames of the neighbour."""
    write_video(folder / "neighbour.mp4")
    (folder / "hostile.mkv").write_text("ffconcat version 1.0\nfile 'neighbour.mp4'\n")


def _large_frames(data: bytes) -> bytes:
    """The sample entry and the track header say 32768 x 32768."""
    at = data.index(b"avc1") + 4 + 24
    return data[:at] + struct.pack(">HH", 1 << 15, 1 << 15) + data[at + 4 :]


def _many_samples(data: bytes) -> bytes:
    """A table of 2^31 - 1 sizes."""
    at = data.index(b"stsz") + 12
    return data[:at] + struct.pack(">I", (1 << 31) - 1) + data[at + 4 :]


def _many_key_frames(data: bytes) -> bytes:
    at = data.index(b"stss") + 8
    return data[:at] + struct.pack(">I", (1 << 32) - 1) + data[at + 4 :]


def _nested(data: bytes) -> bytes:
    """Boxes in boxes, 10,000 deep."""
    inside = b""
    for _ in range(10_000):
        inside = struct.pack(">I4s", len(inside) + 8, b"moov") + inside
    return data[:32] + inside


FRAMES: Mapping[str, Writer] = MappingProxyType(
    {
        "dcd: 2^31 - 1 atoms": _dcd_atoms((1 << 31) - 1),
        "dcd: -1 atoms": _dcd_atoms(-1),
        "dcd: all atoms are fixed": _changed("hostile.dcd", 40, _words("<", 40)),
        "dcd: record of -4 bytes": _changed("hostile.dcd", 92, _words("<", -4)),
        "dcd: titles of 2 GB": _dcd_of_many_titles,
        "dcd: a million frames of one atom": _dcd_of_few_atoms,
        "dcd: every 2^31 - 1 steps": _changed("hostile.dcd", 12, _words("<", *[(1 << 31) - 1] * 2)),
        "xtc: 2^31 - 1 atoms": _changed("hostile.xtc", 4, _words(">", (1 << 31) - 1)),
        "xtc: 0 atoms": _changed("hostile.xtc", 4, _words(">", 0)),
        "xtc: limits of 2^31": _changed("hostile.xtc", 60, _words(">", *[-(1 << 31)] * 3)),
        "xtc: limits the wrong way round": _changed(
            "hostile.xtc", 60, _words(">", *[1 << 30] * 3, *[-(1 << 30)] * 3)
        ),
        "xtc: smallest number 2^31 - 1": _changed("hostile.xtc", 84, _words(">", (1 << 31) - 1)),
        "xtc: frame of -1 bytes": _changed("hostile.xtc", 88, _words(">", -1)),
        "xtc: precision of NaN": _changed("hostile.xtc", 56, b"\x7f\xc0\0\0"),
        "xtc: noise for positions": _changed("hostile.xtc", 92, b"\xa5" * 100),
        "video: cut": _video(lambda data: data[: len(data) // 2]),
        "video: 32768 x 32768": _video(_large_frames),
        "video: 2^31 - 1 frames": _video(_many_samples),
        "video: 2^32 - 1 key frames": _video(_many_key_frames),
        "video: boxes 10000 deep": _video(_nested),
        "video: another container": _video(lambda data: data, "hostile.mkv"),
        "video: a playlist": lambda folder: (
            (folder / "hostile.mp4").write_text("#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n")
            and None
        ),
        "video: a list of files": _list_of_files,
    }
)
