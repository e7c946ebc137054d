"""What a power cut may take: ``python -m tests.faults.power``.

From the log of a run: which writes and names had been synced when something was promised. A file is
on the disk when it was synced after its last write; a name is, when its folder was synced after the
name was made. Promised is an archive when it is sealed (the manifest, or the zip file, gets its
name), and everything the command made when it ends; what the command removes must not be needed.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.faults.kill import CASES, Bench, bench
from tests.faults.runner import Runner, scratch_folder

__all__ = ["Disk", "unsynced_at_promises"]


class Disk:
    """Which files and names of a run are safe, operation by operation."""

    def __init__(self) -> None:
        self.written: set[str] = set()  # files with writes that no sync followed
        self.named: set[str] = set()  # names whose folder was not synced since
        self.files: set[str] = set()

    def apply(self, op: str, path: str, other: str) -> None:
        """Follow one operation."""
        if op in ("create", "mkdir"):
            if path not in self.files:
                self.named.add(path)
                self.files.add(path)
        elif op in ("write", "truncate"):
            self.written.add(path)
        elif op == "fsync":
            self.written.discard(path)
            self.named -= {name for name in self.named if str(Path(name).parent) == path}
        elif op in ("rename", "link"):
            self._move(path, other, keeps=op == "link")
        elif op in ("unlink", "rmdir"):
            self._forget(path)

    def _move(self, path: str, other: str, *, keeps: bool) -> None:
        for below in [name for name in self.files if name == path or name.startswith(f"{path}/")]:
            renamed = other + below[len(path) :]
            self.files.add(renamed)
            for group in (self.written, self.named):
                if below in group:
                    group.add(renamed)
            if not keeps:
                self._forget(below)
        self.files.add(other)
        self.named.add(other)

    def _forget(self, path: str) -> None:
        for group in (self.written, self.named, self.files):
            group.discard(path)

    def unsafe(self, top: str) -> list[str]:
        """What a cut now could take below ``top``, and of the names above it."""
        below = (top, f"{top}/")
        return sorted(
            name
            for name in self.written | self.named
            if (name == top or name.startswith(below[1])) and name in self.files
        )


def unsynced_at_promises(made: Bench) -> Iterator[str]:
    """What was promised and not synced in the undisturbed run of a case."""
    disk, target = Disk(), str(made.place / made.case.target)
    sealed = f"{target}/manifest.json" if Path(target).suffix == ".zarr" else target
    promised = made.case.restores
    for number, op, path, other in made.log:
        new = other if op in ("rename", "link") else path
        if new == sealed and op in ("rename", "link") and not made.case.restores:
            own = {sealed, f"{target}/partial.json"}
            for name in disk.unsafe(target):
                if name not in own and "/partial/" not in name and not name.endswith(".partial"):
                    yield f"operation {number}: sealed, but {_short(name, made)} is not synced"
            promised = True
        elif promised and op in ("unlink", "rmdir") and not path.endswith(".partial"):
            if sealed in disk.unsafe(target):
                yield f"operation {number}: {_short(path, made)} goes before the seal is synced"
            promised = False
        disk.apply(op, path, other)
    for name in disk.unsafe(target):
        yield f"at the end {_short(name, made)} is not synced"


def _short(path: str, made: Bench) -> str:
    return path.replace(f"{made.place}/", "")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--case", choices=[*CASES], action="append", help="default: all")
    arguments = parser.parse_args()
    folder, bad = scratch_folder("psc-power-"), False
    with Runner() as runner:
        for name in arguments.case or list(CASES):
            found = list(unsynced_at_promises(bench(CASES[name], runner, folder / name)))
            print(f"{name}: {len(found)} not synced")
            print("\n".join(found[:20]), file=sys.stderr)
            bad = bad or bool(found)
    shutil.rmtree(folder)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
