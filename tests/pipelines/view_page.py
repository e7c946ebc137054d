"""The page of ``psc-archive view`` as a test drives it: controls are set, canvases are read."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

Pixels = np.ndarray[Any, np.dtype[Any]]
WAIT_S = 30
CANVAS = """
const canvas = document.querySelector(`canvas[data-plane="${arguments[0]}"]`);
const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
return [canvas.height, canvas.width, Array.from(data)];
"""
SET = """
const part = document.getElementById('controls').elements[arguments[0]];
part.value = arguments[1];
part.dispatchEvent(new Event('input', { bubbles: true }));
part.dispatchEvent(new Event('change', { bubbles: true }));
"""


class Page:
    """The page of one server, in a browser."""

    def __init__(self, browser: Any, url: str) -> None:
        self.browser = browser
        browser.get_log("browser")  # of pages before
        browser.get(url)

    def run(self, script: str, *words: object) -> Any:
        return self.browser.execute_script(script, *words)

    def text(self, name: str) -> str:
        return str(self.run("return document.getElementById(arguments[0]).textContent", name))

    def until(self, holds: Callable[[], bool]) -> None:
        end = time.monotonic() + WAIT_S
        while not holds():
            said = [self.text(name) for name in ("status", "trouble")]
            assert time.monotonic() < end, said
            time.sleep(0.02)

    def settled(self, level: int) -> Page:
        """Wait until all pictures are of a level."""

        def holds() -> bool:
            found = self.run(
                "return [...document.querySelectorAll('#panes canvas[data-plane]')]"
                ".map(c => c.dataset.level)"
            )
            is_level = bool(found) and all(one == str(level) for one in found)
            return is_level and self.text("status").startswith("shown")

        self.until(holds)
        return self

    def set(self, name: str, value: object) -> None:
        self.run(SET, name, str(value))

    def canvas(self, plane: str) -> Pixels:
        rows, columns, data = self.run(CANVAS, plane)
        return np.array(data, np.uint8).reshape(rows, columns, 4)[..., :3]

    def quiet(self) -> None:
        """Nothing was said on the console, and nothing came from elsewhere."""
        assert self.browser.get_log("browser") == []
        names = self.run("return performance.getEntriesByType('resource').map(e => e.name)")
        origin = self.run("return location.origin")
        assert all(name.startswith((origin, "data:", "blob:")) for name in names)
