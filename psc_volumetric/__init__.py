"""Exact, progressive compression of volumes with posterior sampling (PSC).

Arrays in, bytes out, and back to the same integers on every machine. Importing this package
loads no network library; :func:`encode_brick` and :func:`decode_brick` do when first needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from psc_volumetric.codec import BrickOptions, decode_brick, encode_brick

__all__ = ["BrickOptions", "__version__", "decode_brick", "encode_brick"]

__version__ = "0.2.0.dev0"


def __getattr__(name: str) -> Any:
    """Load the codec on first use, so that listing and parsing stay light."""
    if name in {"BrickOptions", "decode_brick", "encode_brick"}:
        from psc_volumetric import codec

        return getattr(codec, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
