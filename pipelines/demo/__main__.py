"""``python -m pipelines.demo``."""

from __future__ import annotations

from pipelines.demo.demo import main

if __name__ == "__main__":
    main()
