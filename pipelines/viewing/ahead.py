"""The next slices of what is looked at, decoded while nobody asks for anything.

Exact levels are decoded slice after slice (`psc_volumetric.archive.unfinished`), so the next one
costs little, and nothing where it is there already. Only segments that are open are gone on with:
no byte of the archive is read for this, and their check bits are reached.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from pipelines.viewing.shelf import Shown
from psc_volumetric.archive.reader import Selection
from psc_volumetric.errors import InstallationError, PscError
from psc_volumetric.layers.planning import segments_of

__all__ = ["SlicesAhead"]

View = tuple[Shown, str, Selection, int]


class SlicesAhead:
    """One thread that goes on after the last slice that was asked for.

    It rests while slices are being asked for, and turns to the newest.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._asked = 0  # requests that are being answered
        self._last: View | None = None
        self._is_open = True
        self._thread: threading.Thread | None = None

    @contextmanager
    def after(self, shown: Shown, name: str, box: Selection, level: int) -> Iterator[None]:
        """Answer a request in the block; what follows it is decoded after that."""
        with self._changed:
            self._asked += 1
        try:
            yield
            with self._changed:
                self._last = (shown, name, box, level)
                if self._thread is None and self._is_open:
                    self._thread = threading.Thread(target=self._work, name="ahead", daemon=True)
                    self._thread.start()
        finally:
            with self._changed:
                self._asked -= 1
                self._changed.notify_all()

    def close(self) -> None:
        """Begin nothing more, and wait for the slice at work."""
        with self._changed:
            self._is_open = False
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: not self._is_open or (self._last and not self._asked)
                )
                if not self._is_open or self._last is None:
                    return
                view, self._last = self._last, None
            with suppress(PscError, InstallationError):  # who asks for the slice hears of it
                for following in slices_after(*view):
                    if not self._goes_on():
                        break
                    shown, name, _, level = view
                    shown.reader.read_region(name, following, level=level)

    def _goes_on(self) -> bool:
        """Wait while requests are answered; whether what was begun is still what is looked at."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_open or not self._asked)
            return self._is_open and self._last is None


def slices_after(shown: Shown, name: str, box: Selection, level: int) -> Iterator[Selection]:
    """Boxes of the slices behind one that lie in the same segments; none for other regions."""
    reader = shown.reader
    if name in reader.kept or len(box) < 3 or box[-3].stop - box[-3].start != 1:
        return
    spec = reader.spec(name)
    position, inside, _ = next(reader.parts(spec, box))
    if not reader.goes_on(name, position, inside, level):
        return
    index, (z, y, x) = reader.brick_index(name, position), inside
    segments = segments_of(index, level, inside)
    for further in range(1, index.valid[0] - z.start):
        here = (slice(z.start + further, z.stop + further), y, x)
        is_kept = reader.goes_on(name, position, here, level)
        if not is_kept or segments_of(index, level, here) != segments:
            return
        yield (*box[:-3], slice(box[-3].start + further, box[-3].stop + further), *box[-2:])
