"""Files of a prior's bundle, parsed: what every kind of prior is made of (SPEC 6)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.errors import FormatError
from psc_volumetric.prior.program import Program

__all__ = [
    "ANALYSIS",
    "METADATA",
    "WEIGHTS",
    "Parts",
    "are_classes",
    "clip_of",
    "part",
    "read_analysis",
]

METADATA = "configs/metadata.json"
WEIGHTS = "models/integer.safetensors"
ANALYSIS = ("configs/analysis.json", "models/analysis.safetensors")


def part(description: Mapping[str, Any], key: str, kind: type) -> Any:
    """A value of the metadata; FormatError where it is missing or of another type."""
    value = description.get(key) if isinstance(description, dict) else None
    if not isinstance(value, kind):
        raise FormatError(
            f"prior metadata: expected {key!r} to be a {kind.__name__}, "
            f"found {type(value).__name__}",
            kind="bad-prior",
        )
    return value


@dataclass(frozen=True)
class Parts:
    """Files of a bundle, parsed and named by their digest."""

    metadata: dict[str, Any]
    digest: str
    tensors: Mapping[str, NDArray[Any]]
    files: Mapping[str, bytes]

    @property
    def description(self) -> dict[str, Any]:
        """The part of the metadata that is about the prior."""
        described: dict[str, Any] = self.metadata["psc_prior"]
        return described

    @property
    def identity(self) -> dict[str, Any]:
        """What the digest covers beside the tensors."""
        identity: dict[str, Any] = self.description["identity"]
        return identity

    def common(self, kind: str, outputs: int | None, *, reads: bool = False) -> dict[str, Any]:
        """What every kind has; FormatError for a network with other outputs, if they are known.

        ``reads``: it may read text, and have the steps for it.
        """
        program = Program.from_dict(part(self.identity, "network", dict), self.tensors)
        if program.has_tokens and not reads:
            raise FormatError(f"prior: a {kind} that reads text", kind="bad-prior")
        if bool(program.out_tile) != (outputs is None) or outputs not in (None, program.outputs):
            raise FormatError(
                f"prior: expected a {kind} with outputs {outputs}, found {program.outputs}",
                kind="bad-prior",
            )
        return {
            "kind": kind,
            "name": part(self.description, "name", str),
            "digest": self.digest,
            "metadata": self.metadata,
            "program": program,
            "_files": {name: bytes(self.files[name]) for name in (METADATA, WEIGHTS)},
        }

    def table(self, name: str, shape: tuple[int, ...], limit: int) -> NDArray[np.int64]:
        """A table of integers within +-limit."""
        array = self.tensors.get(name)
        if array is None or array.shape != shape or array.dtype.kind != "i":
            raise FormatError(
                f"prior: expected integer table {name} of shape {shape}", kind="bad-prior"
            )
        wide = array.astype(np.int64)
        if wide.size and max(int(wide.max()), -int(wide.min())) > limit:
            raise FormatError(f"prior: table {name} exceeds {limit}", kind="bad-prior")
        return wide


def clip_of(parts: Parts) -> tuple[int, int]:
    """Range of denoised samples; FormatError where it is none."""
    clip = part(parts.identity, "clip", list)
    if not all(isinstance(bound, int) for bound in clip):
        raise FormatError(f"prior: clip range {clip!r:.200}", kind="bad-prior")
    if len(clip) != 2 or not -(1 << 13) < clip[0] < clip[1] < 1 << 13:
        raise FormatError(f"prior: clip range {clip!r}", kind="bad-prior")
    return int(clip[0]), int(clip[1])


def are_classes(names: object, levels: int) -> bool:
    """Whether a value of the metadata is a list of different, non-empty names, or of none."""
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        return False
    return len(set(names)) == len(names) and (not names or levels % len(names) == 0)


def read_analysis(parts: Parts, shape: tuple[int, int], wanted: tuple[int, int]) -> Program | None:
    """The network from pixels to latents, where the bundle has one; what it says decides no bit.

    Parameters
    ----------
    parts : Parts
    shape, wanted : (channels, extent)
        Of what it sees, and of what it gives.

    Raises
    ------
    FormatError
        It does not fit the decoder (kind ``"bad-prior"``).
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    if not all(name in parts.files for name in ANALYSIS):
        return None
    described, weights = (parts.files[name] for name in ANALYSIS)
    try:
        program = Program.from_dict(json.loads(described), load(weights))
    except (ValueError, KeyError, RecursionError, SafetensorError) as error:
        raise FormatError(f"prior: analysis does not parse ({error})", kind="bad-prior") from error
    found = ((program.slices, program.tile), (program.outputs, program.out_tile))
    if found != (shape, wanted) or program.levels != 1:
        raise FormatError(
            f"prior: expected an analysis of {shape} to {wanted}, found {found[0]} to {found[1]}",
            kind="bad-prior",
        )
    return program
