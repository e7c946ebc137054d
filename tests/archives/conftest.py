"""Makes ``archives`` and the decoder written from the text importable."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path += [str(HERE.parent), str(HERE.parent / "reference")]
