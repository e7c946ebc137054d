"""Makes ``tests.faults`` importable; it is no part of the four packages."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
