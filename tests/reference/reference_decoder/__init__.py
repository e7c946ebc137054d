"""A second decoder, written from SPEC-v1.md alone: NumPy, the standard library and a Zstandard.

It imports nothing from psc_volumetric and is written to be read beside the text, section by
section, not to be fast. Its only inputs are the bytes of a brick, the files of a prior and the
shipped ``tables.safetensors``.
"""

from reference_decoder.brick import Decoded, decode, parse
from reference_decoder.fields import Refused

__all__ = ["Decoded", "Refused", "decode", "parse"]
